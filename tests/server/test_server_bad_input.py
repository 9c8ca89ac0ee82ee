"""Bad input: each fault has its status and says what it is, and the next good request is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from server_client import Served, error_of, serving
from server_models import Function, Gated
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.runtimes import find
from penstock.runtimes.base import LoadOptions, Runtime, TensorSpec


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of four features, in a folder."""
    folder = tmp_path_factory.mktemp("iris")
    x, y = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(x, y), folder / "model.joblib")
    return folder


def make(iris: Path) -> Callable[[], Any]:
    return lambda: find("sklearn").load(iris, LoadOptions(name="m"))


GOOD = [5.1, 3.5, 1.4, 0.2]


async def still_serves(s: Served) -> None:
    """Good requests of both protocols are answered, and nothing is left behind."""
    answer = await s.v1([GOOD])
    assert answer.json() == {"predictions": [0]}
    answer = await s.client.post("/v2/models/m/infer", json=v2(GOOD))
    assert answer.json()["outputs"][0]["data"] == [0]
    batcher = s.repository.get("m").batcher
    assert batcher is not None
    assert batcher.idle


def v2(data: Any, shape: Any = (1, 4), datatype: Any = "FP64", name: Any = "input-0") -> Any:
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


TWO_ROWS = v2(GOOD * 2, (2, 4), name="x")
V2_FAULTS: list[tuple[str, Any, int, str]] = [
    ("wrong width", v2([1, 2, 3], (1, 3)), 400, "4"),
    ("wrong rank", v2(GOOD, (4,)), 400, ""),
    ("wrong dtype", v2(["a", "b", "c", "d"], datatype="BYTES"), 400, ""),
    ("unknown dtype", v2(GOOD, datatype="FP128"), 400, "unknown datatype"),
    ("shape and data differ", v2([1, 2, 3]), 400, "4 elements"),
    ("negative size", v2(GOOD, (-1, 4)), 400, "shape"),
    ("two inputs", {"inputs": v2(GOOD)["inputs"] + v2(GOOD, name="x")["inputs"]}, 400, ""),
    ("rows differ", {"inputs": v2(GOOD)["inputs"] + TWO_ROWS["inputs"]}, 400, "number of rows"),
    ("out of range", v2([256, 0, 0, 0], datatype="UINT8"), 400, "UINT8"),
    ("too large for FP32", v2([1e300, 0, 0, 0], datatype="FP32"), 400, "FP32"),
    ("fraction for integers", v2([1.5, 0, 0, 0], datatype="INT32"), 400, "fraction"),
    ("boolean for numbers", v2([True, 0, 0, 0]), 400, ""),
    ("null", v2([None, 0, 0, 0]), 400, "null"),
    ("no inputs", {"inputs": []}, 400, "no inputs"),
    ("no data", {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64"}]}, 400, "no data"),
    ("inputs missing", {}, 400, "inputs"),
    ("a list", [1, 2], 400, ""),
    ("ragged", v2([[1, 2, 3, 4], [1, 2, 3]], (2, 4)), 400, ""),
    ("no rows", v2([], (0, 4)), 400, ""),
    ("unknown output", {**v2(GOOD), "outputs": [{"name": "nope"}]}, 400, "nope"),
]  # fmt: skip


V1_FAULTS: list[tuple[str, Any, int, str]] = [
    ("wrong width", {"instances": [[1, 2, 3]]}, 400, "4"),
    ("wrong rank", {"instances": [1, 2, 3, 4]}, 400, ""),
    ("text", {"instances": [["a", "b", "c", "d"]]}, 400, ""),
    ("ragged", {"instances": [[1, 2, 3, 4], [1, 2]]}, 400, "ragged"),
    ("no instances", {}, 400, "instances"),
    ("not a list", {"instances": 7}, 400, "list"),
    ("empty", {"instances": []}, 400, "empty"),
    ("a list", [[1, 2, 3, 4]], 400, "object"),
    ("null", {"instances": [[1, 2, None, 4]]}, 400, ""),
    ("objects that differ", {"instances": [{"a": 1}, {"b": 2}]}, 400, "row 1"),
]


FAULTS = [
    pytest.param(path, *fault[1:], id=f"{path[1:3]} {fault[0]}")
    for path, faults in (("/v2/models/m/infer", V2_FAULTS), ("/v1/models/m:predict", V1_FAULTS))
    for fault in faults
]


@pytest.mark.parametrize(("path", "body", "status", "said"), FAULTS)
async def test_a_request_that_is_wrong(
    tmp_path: Path, iris: Path, path: str, body: Any, status: int, said: str
) -> None:
    async with serving(tmp_path, {"m": make(iris)}) as s:
        answer = await s.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert said in error_of(answer)
        await still_serves(s)


RAW_FAULTS: list[tuple[str, str, bytes, str]] = [
    ("no JSON", "/v2/models/m/infer", b"hello", "JSON"),
    ("cut off", "/v2/models/m/infer", b'{"inputs":[{"name":"x"', "JSON"),
    ("empty body", "/v2/models/m/infer", b"", "JSON"),
    ("NaN", "/v2/models/m/infer", json.dumps(v2([float("nan"), 0, 0, 0])).encode(), "NaN"),
    ("Infinity", "/v2/models/m/infer", json.dumps(v2([float("inf"), 0, 0, 0])).encode(), "Infinity"),
    ("V1 NaN", "/v1/models/m:predict", b'{"instances":[[NaN,1,2,3]]}', "NaN"),
    ("V1 Infinity", "/v1/models/m:predict", b'{"instances":[[-Infinity,1,2,3]]}', "Infinity"),
    ("no UTF-8", "/v1/models/m:predict", b'{"instances":["\xff\xfe"]}', ""),
    ("too deep", "/v1/models/m:predict", b'{"instances":' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
    ("number too large", "/v1/models/m:predict", b'{"instances":[[1e999,1,2,3]]}', ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "said"), [f[1:] for f in RAW_FAULTS], ids=[f[0] for f in RAW_FAULTS]
)
async def test_a_body_that_cannot_be_read(
    tmp_path: Path, iris: Path, path: str, body: bytes, said: str
) -> None:
    async with serving(tmp_path, {"m": make(iris)}) as s:
        answer = await s.client.post(path, content=body)
        assert answer.status_code == 400, answer.text
        assert said in error_of(answer)
        await still_serves(s)


def binary(size: Any, parameters: Any = None) -> bytes:
    tensor = {
        "name": "input-0",
        "shape": [1, 4],
        "datatype": "FP64",
        "parameters": {"binary_data_size": size} if parameters is None else parameters,
    }
    return json.dumps({"inputs": [tensor]}).encode()


FOUR = np.array(GOOD).tobytes()
BINARY_FAULTS: list[tuple[str, bytes, bytes, str, str]] = [
    ("header is no number", binary(32), FOUR, "many", "no number"),
    ("header is negative", binary(32), FOUR, "-5", "no number"),
    ("header beyond the body", binary(32), FOUR, "100000", "but the body has"),
    ("header too short", binary(32), FOUR, "40", "JSON"),
    ("header too long", binary(32), FOUR, str(len(binary(32)) + 8), ""),
    ("truncated tensor", binary(32), FOUR[:24], "", "24 bytes follow"),
    ("bytes left over", binary(32), FOUR + b"1234", "", "36 bytes follow"),
    ("size and shape differ", binary(24), FOUR[:24], "", "32 bytes"),
    ("size is negative", binary(-1), FOUR, "", "number of bytes"),
    ("size is text", binary("32"), FOUR, "", "number of bytes"),
    ("no size", binary(0, {}), FOUR, "", "no data"),
    ("no header", binary(32), FOUR, "absent", ""),
]


@pytest.mark.parametrize(
    ("head", "tail", "header", "said"),
    [f[1:] for f in BINARY_FAULTS],
    ids=[f[0] for f in BINARY_FAULTS],
)
async def test_a_binary_request_that_does_not_add_up(
    tmp_path: Path, iris: Path, head: bytes, tail: bytes, header: str, said: str
) -> None:
    headers = {"Inference-Header-Content-Length": header or str(len(head))}
    async with serving(tmp_path, {"m": make(iris)}) as s:
        answer = await s.client.post(
            "/v2/models/m/infer",
            content=head + tail,
            headers={} if header == "absent" else headers,
        )
        assert answer.status_code == 400, answer.text
        assert said in error_of(answer)
        await still_serves(s)


async def test_nan_in_a_binary_tensor_is_the_models_to_refuse(tmp_path: Path, iris: Path) -> None:
    head = binary(32)
    async with serving(tmp_path, {"m": make(iris)}) as s:
        answer = await s.client.post(
            "/v2/models/m/infer",
            content=head + np.full(4, np.nan).tobytes(),
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert answer.status_code == 400
        assert "NaN" in error_of(answer)
        await still_serves(s)


async def test_one_bad_request_in_a_batch_does_not_cost_the_others(
    tmp_path: Path, iris: Path
) -> None:
    async with serving(tmp_path, {"m": make(iris)}) as s:
        head = binary(32)
        headers = {"Inference-Header-Content-Length": str(len(head))}
        bad = head + np.full(4, np.nan).tobytes()

        def ask(body: bytes) -> Any:
            return s.client.post("/v2/models/m/infer", content=body, headers=headers)

        answers = await asyncio.gather(
            *(ask(bad if i % 5 == 2 else head + FOUR) for i in range(20))
        )
        assert [a.status_code for a in answers] == [400 if i % 5 == 2 else 200 for i in range(20)]
        await still_serves(s)


async def test_an_oversized_body_is_413_before_it_is_read(tmp_path: Path, iris: Path) -> None:
    async with serving(tmp_path, {"m": make(iris)}, max_body_bytes=2000) as s:
        reader, writer = await s.raw()
        writer.write(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: 5000000000\r\n\r\n"
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 413 ")
        writer.close()
        answer = await s.v1([GOOD] * 500)
        assert answer.status_code == 413
        error_of(answer)
        await still_serves(s)


async def test_a_truncated_body_is_no_request(tmp_path: Path, iris: Path) -> None:
    async with serving(tmp_path, {"m": make(iris)}) as s:
        _, writer = await s.raw()
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 500\r\n\r\n"
            b'{"instances":'
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await still_serves(s)
        assert s.repository.get("m").statistics.document().inference_stats.fail.count == 0


# -- what models do


async def test_bytes_that_are_no_utf8_go_as_binary_and_not_as_json(tmp_path: Path) -> None:
    def predict(inputs: Any, parameters: Any) -> Any:
        out = np.empty(1, dtype=object)
        out[0] = b"\xff\xfe"
        return {"raw": out}

    model = Function(predict, batchable=False)
    async with serving(tmp_path, {"m": lambda: model}) as s:
        answer = await s.v2([[1, 2]])
        assert answer.status_code == 400
        assert "binary_data" in error_of(answer)
        answer = await s.v2(
            [[1, 2]], outputs=[{"name": "raw", "parameters": {"binary_data": True}}]
        )
        assert answer.status_code == 200
        assert answer.content.endswith(b"\x02\x00\x00\x00\xff\xfe")


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE
NONSENSE: list[tuple[str, Any, str]] = [
    ("None", None, "NoneType"),
    ("a number", 7, "int"),
    ("no outputs", {}, "no output"),
    ("a list", {"y": [1, 2]}, "list"),
    ("complex", {"y": np.zeros(1, complex)}, "complex128"),
    ("too many rows", {"y": np.zeros(3)}, "3 rows"),
    ("an object", {"y": np.array([object()], dtype=object)}, ""),
    ("a cycle", {"y": np.array([CYCLE], dtype=object)}, ""),
]


@pytest.mark.parametrize(
    ("answer", "said"), [f[1:] for f in NONSENSE], ids=[f[0] for f in NONSENSE]
)
async def test_a_model_that_answers_nonsense(tmp_path: Path, answer: Any, said: str) -> None:
    def predict(inputs: Any, parameters: Any) -> Any:
        return inputs if inputs["x"][0, 0] == 1 else answer

    class Takes(Function):
        inputs = (TensorSpec("x", "FP32", (-1, 2)),)

    async with serving(tmp_path, {"m": lambda: Takes(predict)}) as s:
        for reply in (await s.v2([[0, 0]]), await s.v1([[0, 0]])):
            assert reply.status_code == 500, reply.text
            assert said in error_of(reply)
        assert (await s.v2([[1, 1]])).status_code == 200
        assert (await s.v1([[1, 1]])).status_code == 200


async def test_an_answer_that_cannot_be_encoded_at_all_is_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async with serving(tmp_path, {"m": lambda: Function(lambda x, _: x)}) as s:
        for name, ask in (("encode_infer", s.v2), ("encode_predictions", s.v1)):
            with monkeypatch.context() as patch:
                patch.setattr(f"penstock.server.inference.{name}", lambda *_: 1 / 0)
                answer = await ask([[1, 1]])
            assert answer.status_code == 500
            assert "cannot be sent" in error_of(answer)
            assert "ZeroDivisionError" in caplog.text
            assert (await ask([[1, 1]])).status_code == 200


async def test_a_model_that_raises_is_500_without_the_callers_data(
    tmp_path: Path, caplog: Any
) -> None:
    def predict(inputs: Any, parameters: Any) -> Any:
        if inputs["x"][0, 0] == 13:
            raise RuntimeError(f"cannot digest {inputs['x'].tolist()}")
        return inputs

    model: Runtime = Function(predict)
    async with serving(tmp_path, {"m": lambda: model}) as s:
        answer = await s.v2([[13, 4711]])
        assert answer.status_code == 500
        assert "RuntimeError" in error_of(answer)
        assert "4711" not in answer.text
        assert "Traceback" in caplog.text
        assert "cannot digest" in caplog.text
        assert (await s.v2([[1, 1]])).status_code == 200


async def test_a_call_that_takes_too_long_is_504_for_all_who_wait(tmp_path: Path) -> None:
    model = Gated()
    async with serving(tmp_path, {"m": lambda: model}, timeout_s=0.2) as s:
        answers = await asyncio.gather(*(s.v2([[i, i]]) for i in range(4)))
        assert {a.status_code for a in answers} == {504}
        for answer in answers:
            error_of(answer)
        model.gate.release(5)
