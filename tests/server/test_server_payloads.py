"""Models that take the payload: bodies, streams, deadlines, hang-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import Served, error_of, serving

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import CallContext, PayloadRuntime, RawReply, StreamReply

Answer = Callable[[Any, CallContext], Any]


class Payload(PayloadRuntime):
    """A payload model around a coroutine of the test's."""

    platform = "test_payload"

    def __init__(self, answer: Answer, verbs: tuple[str, ...] = ("predict",)) -> None:
        self.answer = answer
        self.verbs = frozenset(verbs)
        self.started = self.stopped = 0

    async def start(self) -> None:
        self.started += 1

    async def call(self, payload: Any, context: CallContext) -> Any:
        return await self.answer(payload, context)

    async def stop(self) -> None:
        self.stopped += 1


def model(answer: Answer, **fields: Any) -> dict[str, Callable[[], Payload]]:
    return {"m": lambda: Payload(answer, **fields)}


async def predict(s: Served, body: Any = None, verb: str = "predict", **fields: Any) -> Any:
    fields = fields or {"json": {"instances": [1]} if body is None else body}
    return await s.client.post(f"/v1/models/m:{verb}", **fields)


async def test_a_model_is_started_and_stopped_once(tmp_path: Path) -> None:
    runtime = Payload(lambda p, c: None)
    async with serving(tmp_path, {"m": lambda: runtime}) as s:
        assert runtime.started == 1
        assert s.repository.get("m").probe == "not-tried"
        await s.repository.close()
    assert runtime.stopped == 1


async def test_v1_gets_the_json_object_and_answers_a_body(tmp_path: Path) -> None:
    async def answer(payload: Any, context: CallContext) -> Any:
        assert payload == {"instances": [1], "more": "keys"}
        assert (context.protocol, context.verb) == ("v1", "predict")
        assert context.headers["x-tenant"] == "blue"
        context.response_headers["x-answer"] = "42"
        context.response_headers["content-length"] = "999"  # not the model's to say
        return RawReply(b"<ok/>", "application/xml")

    async with serving(tmp_path, model(answer)) as s:
        reply = await predict(
            s, json={"instances": [1], "more": "keys"}, headers={"X-Tenant": "blue"}
        )
        assert reply.status_code == 200
        assert reply.content == b"<ok/>"
        assert reply.headers["content-type"] == "application/xml"
        assert reply.headers["x-answer"] == "42"
        assert reply.headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        (None, False),
        ("application/json; charset=utf-8", False),
        ("application/ld+json", False),
        ("application/octet-stream", False),
        ("application/x-www-form-urlencoded", False),
        ("image/png", True),
        ("text/plain", True),
    ],
)
async def test_a_body_of_another_type_comes_as_bytes(
    tmp_path: Path, content_type: str | None, raw: bool
) -> None:
    async def answer(payload: Any, context: CallContext) -> Any:
        return RawReply(type(payload).__name__.encode())

    async with serving(tmp_path, model(answer)) as s:
        headers = {} if content_type is None else {"content-type": content_type}
        reply = await predict(s, content=b'{"instances":[]}', headers=headers)
        assert reply.content == (b"bytes" if raw else b"dict")


async def test_v2_gets_a_request_and_answers_a_response(tmp_path: Path) -> None:
    async def answer(payload: Any, context: CallContext) -> Any:
        assert isinstance(payload, InferRequest)
        assert context.protocol == "v2"
        return InferResponse({"y": payload.as_numpy("x") + 1})

    async with serving(tmp_path, model(answer)) as s:
        reply = await s.v2([[1, 2]], id="i")
        assert reply.json() == {
            "model_name": "m",
            "model_version": "1",
            "id": "i",
            "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2, 3]}],
        }


async def test_explain_is_its_own_verb(tmp_path: Path) -> None:
    async def answer(payload: Any, context: CallContext) -> Any:
        return RawReply(context.verb.encode())

    async with serving(tmp_path, model(answer, verbs=("predict", "explain"))) as s:
        assert (await predict(s, verb="explain")).content == b"explain"
        assert (await predict(s)).content == b"predict"
    async with serving(tmp_path, model(answer)) as s:
        reply = await predict(s, verb="explain")
        assert reply.status_code == 501
        error_of(reply)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (InvalidInput("a name is missing"), 400, "a name is missing"),
        (ValueError("secret"), 500, "log has the details"),
        (7, 500, "int"),
        (InferResponse({"y": np.zeros(1)}), 500, "InferResponse"),
    ],
)
async def test_what_goes_wrong_has_a_status(
    tmp_path: Path, answer: Any, status: int, said: str, caplog: Any
) -> None:
    async def reply_with(payload: Any, context: CallContext) -> Any:
        if payload.get("good"):
            return RawReply(b"{}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with serving(tmp_path, model(reply_with)) as s:
        reply = await predict(s)
        assert reply.status_code == status
        assert said in error_of(reply)
        assert "secret" not in reply.text
        assert (await predict(s, {"good": True})).status_code == 200


async def test_a_header_that_would_not_stay_on_its_line_is_refused(tmp_path: Path) -> None:
    async def answer(payload: Any, context: CallContext) -> Any:
        context.response_headers["x-a"] = "1\r\nset-cookie: b"
        return RawReply(b"{}")

    async with serving(tmp_path, model(answer)) as s:
        reply = await predict(s)
        assert reply.status_code == 500
        assert "set-cookie" not in reply.headers


async def test_a_call_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    stopped = asyncio.Event()

    async def answer(payload: Any, context: CallContext) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving(tmp_path, model(answer), timeout_s=0.05) as s:
        reply = await predict(s)
        assert reply.status_code == 504
        assert stopped.is_set()
        assert s.hung == []


async def test_synchronous_code_that_hangs_is_reported(tmp_path: Path) -> None:
    gate = threading.Event()

    async def answer(payload: Any, context: CallContext) -> Any:
        assert context.run is not None
        await context.run(lambda: gate.wait(10))
        return RawReply(b"{}")

    async with serving(tmp_path, model(answer), timeout_s=0.05) as s:
        assert (await predict(s)).status_code == 504
        async with asyncio.timeout(30):
            while not s.hung:
                await asyncio.sleep(0.001)
        gate.set()


async def test_a_client_that_hangs_up_stops_the_call(tmp_path: Path) -> None:
    entered, stopped = asyncio.Event(), asyncio.Event()

    async def answer(payload: Any, context: CallContext) -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving(tmp_path, model(answer)) as s:
        _, writer = await s.raw()
        writer.write(POST)
        await asyncio.wait_for(entered.wait(), 10)
        writer.close()
        await asyncio.wait_for(stopped.wait(), 10)
        assert s.repository.get("m").calls == 0


async def test_overload_is_refused(tmp_path: Path) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def answer(payload: Any, context: CallContext) -> Any:
        entered.set()
        await gate.wait()
        return RawReply(b"{}")

    async with serving(tmp_path, model(answer), max_queue=1) as s:
        taken = asyncio.create_task(predict(s))
        await asyncio.wait_for(entered.wait(), 10)
        reply = await predict(s)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        gate.set()
        assert (await taken).status_code == 200
        assert (await predict(s)).status_code == 200


# -- streams

POST = (
    b'POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 17\r\n\r\n{"instances":[1]}'
)


def stream(*items: Any, closed: asyncio.Event | None = None) -> Answer:
    """A model that yields `items`; an exception among them is raised."""

    async def chunks() -> AsyncIterator[bytes]:
        try:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                    continue
                yield item
        finally:
            if closed is not None:
                closed.set()

    async def answer(payload: Any, context: CallContext) -> Any:
        return StreamReply(chunks(), "text/event-stream")

    return answer


async def test_a_stream_is_sent_as_it_comes(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(tmp_path, model(stream(b"one", gate, b"two"))) as s:
        reader, writer = await s.raw()
        writer.write(POST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"content-type: text/event-stream" in head.lower()
        assert await asyncio.wait_for(reader.readexactly(8), 10) == b"3\r\none\r\n"
        gate.set()  # the second is not made before the first was received
        assert await asyncio.wait_for(reader.readexactly(13), 10) == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.write(POST)  # the connection goes on
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()


async def test_an_empty_stream_is_an_empty_body(tmp_path: Path) -> None:
    async with serving(tmp_path, model(stream())) as s:
        reply = await predict(s)
        assert (reply.status_code, reply.content) == (200, b"")


async def test_a_stream_that_fails_at_once_has_a_status(tmp_path: Path) -> None:
    async with serving(tmp_path, model(stream(InvalidInput("no prompt")))) as s:
        reply = await predict(s)
        assert reply.status_code == 400
        assert "no prompt" in error_of(reply)


@pytest.mark.parametrize("fault", [RuntimeError("boom"), ModelError("boom")], ids=["any", "own"])
async def test_a_stream_that_breaks_does_not_look_complete(
    tmp_path: Path, fault: Exception
) -> None:
    async with serving(tmp_path, model(stream(b"part", fault))) as s:
        reader, writer = await s.raw()
        writer.write(POST)
        everything = await asyncio.wait_for(reader.read(), 10)
        assert b"part" in everything
        assert not everything.endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_client_that_hangs_up_ends_the_stream(tmp_path: Path) -> None:
    closed = asyncio.Event()
    async with serving(tmp_path, model(stream(b"one", asyncio.Event(), closed=closed))) as s:
        reader, writer = await s.raw()
        writer.write(POST)
        await asyncio.wait_for(reader.readuntil(b"one\r\n"), 10)
        writer.close()
        await asyncio.wait_for(closed.wait(), 10)


async def test_a_slow_reader_holds_the_model_back(tmp_path: Path) -> None:
    made = 0
    piece = bytes(64 * 1024)

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield piece

    async def answer(payload: Any, context: CallContext) -> Any:
        return StreamReply(chunks())

    async with serving(tmp_path, model(answer)) as s:
        reader, writer = await s.raw()
        writer.write(POST)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        before = -1
        while made != before:  # until it stands still
            before = made
            await asyncio.sleep(0.05)
        assert made < 100
        writer.close()
