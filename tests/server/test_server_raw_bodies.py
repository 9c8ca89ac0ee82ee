"""A class that reads requests itself: any bytes of any type in, bytes of its own type out."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_client import error_of, serving

from penstock.runtimes.base import LoadOptions
from penstock.runtimes.custom import framework
from penstock.sdk import discovery

MODEL = '''
import penstock
from penstock import RawReply, RawRequest


class Turn(penstock.Model):
    """Turns bytes around; says what it saw in headers."""

    def predict(self, request: RawRequest, response_headers):
        response_headers["x-seen"] = f"{request.content_type}|{request.path}|{request.headers['x-more']}"
        if request.body == b"raise":
            raise ValueError("secret")
        if request.body == b"refuse":
            raise penstock.InvalidInput("no picture")
        if request.body == b"text":
            return "text"
        if request.body == b"rows":
            return [1, 2]
        if request.body == b"wrong":
            return RawReply("no bytes", "image/png")
        if request.body == b"line":
            return RawReply(b"", "image/png\\r\\nx-evil: 1")
        return RawReply(request.body[::-1], "image/x-turned")

    def example(self):
        return RawRequest(b"abc", headers={"x-more": ""})
'''
STREAM = """
import penstock


class Stream(penstock.Model):
    def predict(self, request: penstock.RawRequest):
        for i in range(0, len(request.body), 2):
            yield request.body[i : i + 2]
"""
PREPARED = """
import penstock


class Prepared(penstock.Model):
    def preprocess(self, request: penstock.RawRequest):
        return {"instances": [len(request.body)]}

    def predict(self, payload):
        return {"predictions": payload["instances"]}
"""


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    discovery._folders.clear()
    for name in set(sys.modules) - modules:
        if name == "model" or name.startswith("penstock_model"):
            del sys.modules[name]


def model(tmp_path: Path, text: str = MODEL) -> dict[str, Callable[[], Any]]:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.py").write_text(text)
    return {"m": lambda: framework.load(folder, LoadOptions("m"))}


V1, V2 = "/v1/models/m:predict", "/v2/models/m/infer"
MORE = {"x-more": "y"}


@pytest.mark.parametrize("path", [V1, V2, "/v2/models/m/versions/1/infer"])
@pytest.mark.parametrize(
    "kind", ["image/png", "application/json", "text/csv; charset=latin1", None]
)
async def test_bytes_of_any_type_go_in_and_out(tmp_path: Path, path: str, kind: str | None) -> None:
    async with serving(tmp_path, model(tmp_path)) as s:
        assert s.repository.get("m").probe == "answered"
        body = bytes(range(256)) * 1000
        headers = MORE if kind is None else {**MORE, "content-type": kind}
        answer = await s.client.post(path, content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.content == body[::-1]
        assert answer.headers["content-type"] == "image/x-turned"
        assert answer.headers["x-seen"] == f"{kind or ''}|{path}|y"


async def test_what_else_it_may_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path)) as s:
        for path in (V1, V2):
            answer = await s.client.post(path, content=b"text", headers=MORE)
            assert (answer.text, answer.headers["content-type"]) == (
                "text",
                "text/plain; charset=utf-8",
            )
            answer = await s.client.post(path, content=b"rows", headers=MORE)
            assert answer.json() == {"predictions": [1, 2]}
            answer = await s.client.post(path, content=b"", headers=MORE)
            assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"raise", 500, "failed in predict: ValueError."),
        (b"refuse", 400, "no picture"),
        (b"wrong", 500, "is no bytes"),
        (b"line", 500, "header that cannot be sent"),
    ],
)
async def test_what_goes_wrong_is_said(tmp_path: Path, body: bytes, status: int, says: str) -> None:
    async with serving(tmp_path, model(tmp_path)) as s:
        answer = await s.client.post(V1, content=body, headers=MORE)
        assert answer.status_code == status
        assert says in error_of(answer)
        assert "secret" not in answer.text
        assert "x-evil" not in answer.headers


async def test_bodies_are_bounded_packed_or_not(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path), max_body_bytes=10_000) as s:
        answer = await s.client.post(V1, content=bytes(10_001), headers=MORE)
        assert answer.status_code == 413
        packed = gzip.compress(bytes(1_000_000))
        headers = {**MORE, "content-encoding": "gzip"}
        answer = await s.client.post(V1, content=packed, headers=headers)
        assert answer.status_code == 413
        answer = await s.client.post(V1, content=gzip.compress(b"ab"), headers=headers)
        assert answer.content == b"ba"


async def test_an_events_data_has_its_own_type(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path)) as s:
        event = {"id": "1", "source": "s", "type": "t", "specversion": "1.0"}
        body = {**event, "datacontenttype": "image/png", "data_base64": "YWI="}
        headers = {**MORE, "content-type": "application/cloudevents+json"}
        answer = await s.client.post(V1, content=json.dumps(body), headers=headers)
        assert answer.headers["x-seen"] == f"image/png|{V1}|y"
        assert answer.json()["datacontenttype"] == "image/x-turned"
        assert answer.json()["data_base64"] == "YmE="


async def test_a_generator_streams_its_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path, STREAM)) as s:
        for path in (V1, V2):
            answer = await s.client.post(path, content=b"abcde")
            assert answer.content == b"abcde"
            assert answer.headers["transfer-encoding"] == "chunked"


async def test_preprocess_may_be_what_reads(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path, PREPARED)) as s:
        answer = await s.client.post(V1, content=b"abc", headers={"content-type": "image/png"})
        assert answer.json() == {"predictions": [3]}


async def test_grpc_cannot_carry_it(tmp_path: Path) -> None:
    async with serving(tmp_path, model(tmp_path)) as s:
        answer = await s.client.post(
            "/inference.GRPCInferenceService/ModelInfer",
            content=b"\0\0\0\0\3\x0a\1m",
            headers={"content-type": "application/grpc", "te": "trailers"},
        )
        assert answer.headers["grpc-status"] == "12"
        assert "reads%20requests" in answer.headers["grpc-message"] or (
            "reads requests" in answer.headers["grpc-message"]
        )


async def test_no_more_are_under_way_than_may_be(tmp_path: Path) -> None:
    slow = """
import asyncio
import penstock


class Slow(penstock.Model):
    async def predict(self, request: penstock.RawRequest):
        await asyncio.Event().wait()
"""
    async with serving(tmp_path, model(tmp_path, slow), max_queue=2) as s:
        loaded = s.repository.get("m")
        waiting = [asyncio.create_task(s.client.post(V1, content=b"1")) for _ in range(2)]
        while loaded.calls < 2:
            await asyncio.sleep(0)
        answer = await s.client.post(V1, content=b"2")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        for task in waiting:
            task.cancel()
        while loaded.calls:
            await asyncio.sleep(0)
