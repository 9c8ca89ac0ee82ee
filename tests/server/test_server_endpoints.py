"""Endpoints: paths, methods, documents, statuses; what a client of V1 or V2 sees."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import error_of, serving
from server_models import Doubler, Function, Gated

from penstock import __version__
from penstock.domain.service import VersionPolicy
from penstock.runtimes.base import TensorSpec
from penstock.server.batching import Batcher


async def test_the_process_says_what_it_is(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler, "other": Doubler}) as s:
        get = s.client.get
        assert (await get("/")).json() == {"status": "alive"}
        assert (await get("/v1/models")).json() == {"models": ["m", "other"]}
        assert (await get("/v2/models")).json() == {"models": ["m", "other"]}
        assert (await get("/v1/models/m")).json() == {"name": "m", "ready": True}
        assert (await get("/v2/models/m/ready")).json() == {"name": "m", "ready": True}
        assert (await get("/v2/models/m/versions/1/ready")).json() == {"name": "m", "ready": True}
        assert (await get("/v2/health/live")).json() == {"live": True}
        assert (await get("/v2/health/ready")).json() == {"ready": True}
        about = (await get("/v2")).json()
        assert about["version"] == __version__
        assert "binary_tensor_data" in about["extensions"]
        assert (await get("/v2/models/m")).json() == {
            "name": "m",
            "versions": ["1"],
            "platform": "test_doubler",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }


async def test_a_head_request_has_no_body_and_a_slash_at_the_end_is_forgiven(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.head("/v2/health/live")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await s.client.get("/v2/models/m/")).status_code == 200


async def test_both_protocols_predict(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.v2([[1, 2], [3, 4]], id="seven")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {
            "model_name": "m",
            "model_version": "1",
            "id": "seven",
            "outputs": [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [2, 4, 6, 8]}],
        }
        answer = await s.v1([[1, 2], [3, 4]])
        assert answer.json() == {"predictions": [[2, 4], [6, 8]]}


async def test_binary_tensors_go_in_and_out(tmp_path: Path) -> None:
    x = np.arange(20000, dtype=np.float32).reshape(-1, 2)
    head = {
        "inputs": [
            {
                "name": "x",
                "shape": list(x.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": x.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.post(
            "/v2/models/m/infer",
            content=text + x.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(text))},
        )
        assert answer.status_code == 200
        length = int(answer.headers["inference-header-content-length"])
        data = np.frombuffer(answer.content[length:], np.float32).reshape(x.shape)
        np.testing.assert_array_equal(data, x * 2)


async def test_requests_at_once_share_calls_whatever_their_protocol(tmp_path: Path) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}) as s:
        first = asyncio.create_task(s.v2([[0, 0]]))
        assert await asyncio.to_thread(model.entered.acquire, timeout=10)
        others = [asyncio.create_task(s.v2([[i, i]])) for i in range(1, 4)]
        batcher = s.repository.get("m").batcher
        assert batcher is not None
        await until(lambda: batcher.waiting == 3)
        model.gate.release(2)
        answers = [(await t).json()["outputs"][0]["data"] for t in (first, *others)]
        assert answers == [[2 * i, 2 * i] for i in range(4)]
        assert model.calls == [1, 3]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nowhere", 404, None),
        ("GET", "/v2/models/m/nowhere", 404, None),
        ("GET", "/v2/models/a/b/infer", 404, None),
        ("POST", "/v1/models/m:summarize", 404, None),
        ("GET", "/v2/models/m/infer", 405, "POST"),
        ("GET", "/v1/models/m:predict", 405, "POST"),
        ("POST", "/v2/health/live", 405, "GET, HEAD"),
        ("DELETE", "/v2/models/m", 405, "GET, HEAD"),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("GET", "/v2/models/none", 404, None),
        ("GET", "/v1/models/none", 404, None),
        ("GET", "/v2/models/none/ready", 404, None),
        ("GET", "/v2/models/m/versions/9", 404, None),
        ("GET", "/v2/models/m/versions/9/stats", 404, None),
        ("POST", "/v2/models/none/infer", 404, None),
        ("POST", "/v2/models/m/versions/9/infer", 404, None),
        ("POST", "/v1/models/none:predict", 404, None),
        ("POST", "/v1/models/m:explain", 501, None),
        ("POST", "/v2/repository/models/none/load", 404, None),
        ("POST", "/v2/repository/models/none/unload", 404, None),
    ],
)
async def test_what_is_not_there_is_an_error_in_one_shape(
    tmp_path: Path, method: str, path: str, status: int, allow: str | None
) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.request(method, path, content=b"" if method == "GET" else b"{}")
        assert answer.status_code == status
        assert answer.headers.get("allow") == allow
        assert error_of(answer)
        assert (await s.v2([[1, 2]])).status_code == 200


async def test_an_unknown_model_is_named_in_kserves_words(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.v1([[1, 2]], name="other")
        assert error_of(answer) == "Model with name other does not exist."


async def test_names_are_percent_decoded(tmp_path: Path) -> None:
    async with serving(tmp_path, {"my model": Doubler}) as s:
        answer = await s.v1([[1, 2]], name="my%20model")
        assert answer.json() == {"predictions": [[2, 4]]}


async def test_not_ready_until_loaded_and_probed(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    class Slow(Doubler):
        def example(self) -> Any:
            entered.set()
            assert gate.wait(10)
            return super().example()

    async with serving(tmp_path, {"m": Slow}, load=False) as s:
        loading = asyncio.create_task(s.repository.load("m"))
        assert await asyncio.to_thread(entered.wait, 10)
        get = s.client.get
        assert (await get("/v2/health/live")).status_code == 200
        answer = await get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
        answer = await get("/v2/models/m/ready")
        assert (answer.status_code, answer.json()) == (503, {"name": "m", "ready": False})
        for answer in (await get("/v1/models/m"), await s.v2([[1, 2]]), await s.v1([[1, 2]])):
            assert answer.status_code == 503
            assert "Model with name m is not ready." in error_of(answer)
        gate.set()
        await loading
        assert (await get("/v2/health/ready")).status_code == 200
        assert (await s.v2([[1, 2]])).status_code == 200


async def test_a_draining_process_is_live_and_not_ready(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        s.app.draining = True
        assert (await s.client.get("/v2/health/ready")).status_code == 503
        assert (await s.client.get("/v2/health/live")).status_code == 200


async def test_versions_have_their_own_paths(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
        (folder / version / "x").write_text("x")
    made = iter([3, 5])

    def model() -> Function:
        factor = next(made)
        return Function(lambda x, _: {"y": x["x"] * factor})

    async with serving(
        tmp_path,
        {"m": model},
        paths={"m": folder},
        fields={"versions": VersionPolicy(all=True)},
    ) as s:
        answer = await s.v2([[1, 1]])
        assert answer.json()["model_version"] == "2"
        assert answer.json()["outputs"][0]["data"] == [5, 5]
        answer = await s.v2([[1, 1]], name="m/versions/1")
        assert answer.json()["model_version"] == "1"
        assert answer.json()["outputs"][0]["data"] == [3, 3]
        assert (await s.client.get("/v2/models/m")).json()["versions"] == ["1", "2"]


async def test_a_version_goes_by_its_labels(tmp_path: Path) -> None:
    """TensorFlow Serving's `/v1/models/M/labels/L`: the call, the status and the metadata."""
    folder = tmp_path / "models"
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
    made = iter((3, 5))

    def model() -> Function:
        factor = next(made)
        return Function(lambda x, _: {"y": next(iter(x.values())) * factor})

    labels = (("canary", "2"), ("stable", "1"))
    async with serving(
        tmp_path,
        {"m": model},
        paths={"m": folder},
        fields={"versions": VersionPolicy(all=True, labels=labels)},
    ) as s:
        for label, version, factor in (("stable", "1", 3), ("canary", "2", 5)):
            path = f"/v1/models/m/labels/{label}"
            answer = await s.client.post(f"{path}:predict", json={"instances": [[1, 1]]})
            assert answer.json()["predictions"] == [[factor, factor]], answer.text
            status = (await s.client.get(path)).json()["model_version_status"]
            assert [v["version"] for v in status] == [version]
            metadata = (await s.client.get(f"{path}/metadata")).json()
            assert metadata["model_spec"]["version"] == version
        answer = await s.client.post(
            "/v1/models/m/labels/old:predict", json={"instances": [[1, 1]]}
        )
        assert answer.status_code == 404
        assert "label old. Its labels are canary, stable." in answer.json()["error"]


async def test_the_repository_lists_loads_and_unloads(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler, "n": Doubler}, load=False) as s:
        post = s.client.post
        assert (await s.client.get("/v2/health/ready")).status_code == 200  # empty, as asked
        answer = await post("/v2/repository/index")
        assert [(e["name"], e["state"]) for e in answer.json()] == [
            ("m", "UNAVAILABLE"),
            ("n", "UNAVAILABLE"),
        ]
        assert (await s.v2([[1, 2]])).status_code == 503
        answer = await post("/v2/repository/models/m/load")
        assert (answer.status_code, answer.json()) == (200, {"name": "m", "load": True})
        assert (await s.v2([[1, 2]])).status_code == 200
        answer = await post("/v2/repository/index", json={"ready": True})
        assert answer.json() == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
        answer = await post(
            "/v2/repository/models/m/unload", json={"parameters": {"unload_dependents": False}}
        )
        assert (answer.status_code, answer.json()) == (200, {"name": "m", "unload": True})
        assert (await s.v2([[1, 2]])).status_code == 503
        answer = await post("/v2/repository/models/m/load", json={"parameters": {"config": "{}"}})
        assert answer.status_code == 501
        assert "'config'" in error_of(answer)


async def test_a_load_that_fails_says_why_and_changes_nothing(tmp_path: Path) -> None:
    broken = False

    def model() -> Doubler:
        if broken:
            raise ValueError("torn file")
        return Doubler()

    async with serving(tmp_path, {"m": model}) as s:
        broken = True
        answer = await s.client.post("/v2/repository/models/m/load")
        assert answer.status_code == 500
        assert "ValueError: torn file" in error_of(answer)
        assert (await s.v2([[1, 2]])).status_code == 200


async def test_a_reload_under_load_loses_no_request(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        stop = False
        statuses: list[int] = []

        async def ask() -> None:
            while not stop:
                statuses.append((await s.v2([[1, 2]])).status_code)

        askers = [asyncio.create_task(ask()) for _ in range(4)]
        for _ in range(5):
            assert (await s.client.post("/v2/repository/models/m/load")).status_code == 200
        stop = True
        await asyncio.gather(*askers)
        assert set(statuses) == {200}


async def test_statistics_have_tritons_shape(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        await s.v2([[1, 2]])
        await s.v2([[1, 2], [3, 4], [5, 6]])
        await s.v2([["a", 2]])  # never gets to the model
        for path in ("/v2/models/m/stats", "/v2/models/m/versions/1/stats", "/v2/models/stats"):
            (stats,) = (await s.client.get(path)).json()["model_stats"]
            assert (stats["name"], stats["version"]) == ("m", "1")
            assert stats["inference_count"] == 4
            assert stats["execution_count"] == 2
            assert stats["inference_stats"]["success"]["count"] == 2
            assert stats["inference_stats"]["success"]["ns"] > 0
            assert stats["inference_stats"]["queue"]["count"] == 2
            assert [b["batch_size"] for b in stats["batch_stats"]] == [1, 3]
            assert stats["last_inference"] > 1_600_000_000_000


async def test_metrics_count_by_protocol_and_status(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        await s.v2([[1, 2]])
        await s.v2([[1, 2]])
        await s.v1([[1, 2]])
        await s.v1("nonsense")
        await s.v1([[1, 2]], name="x" * 50)
        text = (await s.client.get("/metrics")).text
        labels = 'model="m",namespace="default"'
        assert f'penstock_requests_total{{{labels},protocol="v2",revision="r1"' in text
        counted = {
            line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("penstock_requests_total")
        }
        assert sorted(counted.values()) == [1, 1, 1, 2]
        assert "xxxx" not in text  # names from outside are no labels
        assert "penstock_request_seconds_bucket" in text
        assert "penstock_queue_seconds_bucket" in text
        assert "penstock_predict_seconds_bucket" in text
        assert "penstock_batch_rows_bucket" in text
        assert "penstock_model_load_seconds_bucket" in text
        (memory,) = [
            line for line in text.splitlines() if line.startswith("penstock_process_private_bytes")
        ]
        assert float(memory.rsplit(" ", 1)[1]) > 1_000_000
        document = (await s.client.get("/metrics.json")).json()
        assert document["penstock_requests_total"]["kind"] == "counter"


async def test_a_client_that_hangs_up_is_not_computed_for(tmp_path: Path) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}) as s:
        first = asyncio.create_task(s.v2([[0, 0]]))
        assert await asyncio.to_thread(model.entered.acquire, timeout=10)
        _, writer = await s.raw()
        body = b'{"instances":[[1,1]]}'
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        batcher: Batcher | None = s.repository.get("m").batcher
        assert batcher is not None
        await until(lambda: batcher.waiting == 1)
        writer.close()
        await until(lambda: batcher.waiting == 0)
        model.gate.release(2)
        assert (await first).status_code == 200
        assert (await s.v2([[2, 2]])).status_code == 200
        assert sum(model.calls) == 2
        text = (await s.client.get("/metrics")).text
        assert 'status="499"' in text


async def test_overload_is_503_with_retry_after(tmp_path: Path) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}, max_queue=2) as s:
        taken = [asyncio.create_task(s.v2([[0, 0]]))]
        assert await asyncio.to_thread(model.entered.acquire, timeout=10)
        taken.append(asyncio.create_task(s.v2([[1, 1]])))
        batcher = s.repository.get("m").batcher
        assert batcher is not None
        await until(lambda: batcher.waiting == 1)
        answer = await s.v2([[9, 9]])
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        error_of(answer)
        model.gate.release(2)
        assert [(await t).status_code for t in taken] == [200, 200]
        model.gate.release()
        assert (await s.v2([[9, 9]])).status_code == 200


async def test_the_callers_deadline_is_kept(tmp_path: Path) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}) as s:
        answer = await s.client.post(
            "/v1/models/m:predict",
            json={"instances": [[1, 1]]},
            headers={"x-request-timeout-ms": "50"},
        )
        assert answer.status_code == 504
        assert "within 0.05 s" in error_of(answer)
        model.gate.release(2)
        assert (await s.v1([[1, 1]])).status_code == 200
        for wrong in ("0", "-5", "soon", "1.5"):
            answer = await s.client.post(
                "/v1/models/m:predict",
                json={"instances": [[1, 1]]},
                headers={"x-request-timeout-ms": wrong},
            )
            assert answer.status_code == 400
            assert "x-request-timeout-ms" in error_of(answer)


async def test_the_process_is_told_of_a_call_that_hangs_after_its_callers_were_answered(
    tmp_path: Path,
) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}, timeout_s=0.1) as s:
        answer = await s.v1([[1, 1]])
        assert answer.status_code == 504
        error_of(answer)
        await until(lambda: bool(s.hung))
        assert "did not return from predict within 0.1 s" in s.hung[0]
        assert (await s.client.get("/v2/health/live")).status_code == 200
        model.gate.release()


@pytest.mark.parametrize(
    ("coding", "content", "status", "message"),
    [
        ("gzip", gzip.compress(b'{"instances": [[1, 2]]}'), 200, ""),
        ("deflate", zlib.compress(b'{"instances": [[1, 2]]}'), 200, ""),
        ("identity", b'{"instances": [[1, 2]]}', 200, ""),
        ("br", b"\x1f\x8b", 501, "content-encoding"),
        ("gzip, gzip", b"", 501, "content-encoding"),
        ("gzip", b"\x1f\x8b", 400, "cut off"),
        ("gzip", b"no gzip", 400, "no valid compressed data"),
        ("gzip", gzip.compress(b'{"instances": [[1, 2]]}')[:-9], 400, "cut off"),
        ("gzip", gzip.compress(bytes(1 << 20)), 413, "over"),
    ],
    ids=["gzip", "deflate", "identity", "br", "twice", "short", "other", "cut off", "bomb"],
)
async def test_a_compressed_body_is_unpacked_or_refused_and_never_misread(
    tmp_path: Path, coding: str, content: bytes, status: int, message: str
) -> None:
    async with serving(tmp_path, {"m": Doubler}, max_body_bytes=100_000) as s:
        answer = await s.client.post(
            "/v1/models/m:predict", content=content, headers={"content-encoding": coding}
        )
        assert answer.status_code == status
        assert message in (error_of(answer) if status != 200 else "")


async def test_requested_outputs_choose_and_order(tmp_path: Path) -> None:
    model = Function(lambda x, _: {"a": x["x"], "b": x["x"] * 2, "c": x["x"] * 3})
    async with serving(tmp_path, {"m": lambda: model}) as s:
        answer = await s.v2([[1, 1]], outputs=[{"name": "c"}, {"name": "a"}])
        assert [o["name"] for o in answer.json()["outputs"]] == ["c", "a"]
        answer = await s.v2([[1, 1]], outputs=[{"name": "nope"}])
        assert answer.status_code == 400
        assert "'nope'" in error_of(answer)


async def test_bfloat16_outputs_are_called_that(tmp_path: Path) -> None:
    class Half(Function):
        outputs = (TensorSpec("y", "BF16", (-1, 2)),)

    async with serving(tmp_path, {"m": lambda: Half(lambda x, _: {"y": x["x"]})}) as s:
        (output,) = (await s.v2([[1, 2]])).json()["outputs"]
        assert (output["datatype"], output["data"]) == ("BF16", [1, 2])


async def test_bfloat16_that_only_answers_show_is_called_that_from_the_first_one_on(
    tmp_path: Path,
) -> None:
    class Learning(Function):
        datatypes: dict[str, str] | None = None

    def half(x: Any, _: object) -> Any:
        learning.datatypes["y"] = "BF16"
        return {"y": x["x"]}

    learning = Learning(half)
    learning.datatypes = {}
    async with serving(tmp_path, {"m": lambda: learning}) as s:
        for _ in range(2):
            (output,) = (await s.v2([[1, 2]])).json()["outputs"]
            assert (output["datatype"], output["data"]) == ("BF16", [1, 2])


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        reader, writer = await s.raw()
        for i in range(20):
            body = b'{"instances":[[%d,0]]}' % i
            writer.write(
                b"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        for i in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
            assert answer == {"predictions": [[2.0 * i, 0.0]]}
        writer.close()


async def test_many_connections_at_once_get_each_their_own_rows(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:

        async def ask(i: int) -> None:
            for j in range(20):
                value = float(100 * i + j)
                if j % 3:
                    answer = await s.v2([[value, -value]] * (1 + j % 4))
                    assert answer.json()["outputs"][0]["data"] == [2 * value, -2 * value] * (
                        1 + j % 4
                    )
                else:
                    answer = await s.v1([[value, -value]])
                    assert answer.json() == {"predictions": [[2 * value, -2 * value]]}

        await asyncio.gather(*(ask(i) for i in range(24)))
        batcher = s.repository.get("m").batcher
        assert batcher is not None
        assert batcher.idle


async def until(condition: Any) -> None:
    """Wait for something the other side of a socket will bring about."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
