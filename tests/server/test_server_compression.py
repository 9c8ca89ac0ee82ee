"""Answers are compressed for who asks for one coding, and for nobody else."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import serving
from server_models import Doubler, Function

from penstock.server.compression import INLINE_BYTES, LEAST_BYTES, wanted

ROWS = [[float(i), 1.0] for i in range(100)]
LARGE = [[float(i % 7), 1.0] for i in range(INLINE_BYTES // 4)]


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        (None, None),
        ("gzip", b"gzip"),
        ("Deflate", b"deflate"),
        ("gzip;q=1.0, identity;q=0.5", b"gzip"),
        ("gzip;q=0", None),
        ("deflate, gzip;q=0", b"deflate"),
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        ("br", None),
        ("*", None),
        ("identity", None),
        ("", None),
    ],
)
def test_one_coding_alone_is_a_wish(value: str | None, coding: bytes | None) -> None:
    headers = () if value is None else ((b"accept-encoding", value.encode()),)
    head: Any = type("Head", (), {"get": lambda _, name: dict(headers).get(name)})()
    assert wanted(head) == coding


async def raw(s: Any, rows: Any, coding: str, **request: Any) -> tuple[dict[str, str], bytes]:
    data = {"inputs": [{"name": "x", "shape": [len(rows), 2], "datatype": "FP32", "data": rows}]}
    asked = s.client.build_request(
        "POST",
        "/v2/models/m/infer",
        json={**data, **request},
        headers={"accept-encoding": coding},
    )
    answer = await s.client.send(asked, stream=True)
    packed = b"".join([piece async for piece in answer.aiter_raw()])
    await answer.aclose()
    assert answer.status_code == 200
    return dict(answer.headers), packed


@pytest.mark.parametrize("rows", [ROWS, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
async def test_answers_are_compressed(tmp_path: Path, rows: Any, coding: str, unpack: Any) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        headers, packed = await raw(s, rows, coding)
        assert headers["content-encoding"] == coding
        assert headers["vary"] == "accept-encoding"
        assert int(headers["content-length"]) == len(packed)
        (output,) = json.loads(unpack(packed))["outputs"]
        assert output["data"] == (np.array(rows, np.float32) * 2).ravel().tolist()


async def test_binary_answers_are_compressed_whole(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        headers, packed = await raw(s, ROWS, "gzip", parameters={"binary_data_output": True})
        unpacked = gzip.decompress(packed)
        text = unpacked[: int(headers["inference-header-content-length"])]
        tensor = np.frombuffer(unpacked[len(text) :], np.float32)
        assert tensor.tolist() == (np.array(ROWS, np.float32) * 2).ravel().tolist()


async def test_small_answers_errors_and_what_libraries_say_are_left_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        for rows, coding in (([[1.0, 2.0]], "gzip"), (ROWS, "gzip, deflate")):
            headers, packed = await raw(s, rows, coding)
            assert "content-encoding" not in headers
            json.loads(packed)
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        answer = await s.client.post(
            "/v2/models/m/infer",
            json={**body, "outputs": [{"name": "n" * 400}]},
            headers={"accept-encoding": "gzip"},
        )
        assert answer.status_code == 400
        assert len(answer.content) > LEAST_BYTES
        assert "content-encoding" not in answer.headers


async def test_v1_and_events_are_compressed_too(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        headers = {"accept-encoding": "gzip"}
        answer = await s.client.post(
            "/v1/models/m:predict", json={"instances": ROWS}, headers=headers
        )
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["predictions"][1] == [2.0, 2.0]
        event = {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-specversion": "1.0"}
        answer = await s.client.post(
            "/v1/models/m:predict", json={"instances": ROWS}, headers={**headers, **event}
        )
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["ce-type"] == "io.kserve.inference.response"
        assert answer.json()["predictions"][1] == [2.0, 2.0]


async def test_a_client_that_hangs_up_while_its_answer_is_compressed_harms_nobody(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, {"m": lambda: Function(lambda i, _: {"y": i["x"]})}) as s:
        body = json.dumps(
            {"inputs": [{"name": "x", "shape": [len(LARGE), 2], "datatype": "FP32", "data": LARGE}]}
        ).encode()
        reader, writer = await s.raw()
        writer.write(
            b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\naccept-encoding: gzip\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()
        del reader
        headers, _ = await raw(s, LARGE, "gzip")
        assert headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", {"inputs": ROWS}),
        ("/api/v1.0/predictions", {"data": {"ndarray": ROWS}}),
        (
            "/predict",
            {"data": {"tensor": {"shape": [100, 2], "values": [v for row in ROWS for v in row]}}},
        ),
    ],
)
async def test_other_protocols_are_compressed_too(tmp_path: Path, path: str, body: Any) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.post(path, json=body, headers={"accept-encoding": "gzip"})
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()
        answer = await s.client.post(path, content=b"{", headers={"accept-encoding": "gzip"})
        assert answer.status_code == 400
