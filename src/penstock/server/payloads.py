"""Requests to models that take the payload as their protocol has it: a user's own class.

Each request is a task, since a user's `predict` may await. What it answers is a body, or a stream that is
sent as it comes: the client's pace holds the model back, a client that hangs up stops it, and a stream that
breaks is a broken connection, never a response that looks complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from penstock.errors import (
    DeadlineExceeded,
    Internal,
    ModelError,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock.http.exchange import OPEN
from penstock.http.head import render_headers
from penstock.http.server import Exchange
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.runtimes.base import (
    CallContext,
    RawReply,
    RawRequest,
    ResponseStream,
    StreamReply,
)
from penstock.server.inference import CLIENT_GONE, Target, V2Infer
from penstock.server.loaded import Loaded

if TYPE_CHECKING:
    from penstock.server.application import Application

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")

#: Header fields that belong to the engine; a model cannot set them.
FRAMING: Final = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


class Payloads:
    """The payload calls under way in a process."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[int]] = set()

    def take(self, target: Target, loaded: Loaded, exchange: Exchange, began: float) -> None:
        """Start a call. Raises Unavailable when too many are under way."""
        limit = self._app.spec.max_queue
        if loaded.calls >= limit:
            raise Unavailable(
                f"Model {target.name} has {limit} requests under way.",
                hint="Try again in a moment.",
                retry_after_s=1.0,
            )
        loaded.enter()
        pulse = self._app.repository.pulse
        if pulse is not None:
            pulse.enter()
        task = asyncio.get_running_loop().create_task(self._run(target, loaded, exchange))
        self._tasks.add(task)

        def ended(task: asyncio.Task[int]) -> None:
            # Here and not in the task: one that is cancelled before its first step never runs at all.
            self._tasks.discard(task)
            exchange.on_abort = None
            loaded.leave()
            if pulse is not None:
                pulse.leave()
            status = CLIENT_GONE if task.cancelled() else task.result()
            loaded.statistics.answered(perf_counter() - began, error=status != 200)
            target.count(status, began)

        def aborted() -> None:
            task.cancel()

        task.add_done_callback(ended)
        exchange.on_abort = aborted

    async def _run(self, target: Target, loaded: Loaded, exchange: Exchange) -> int:
        """Answer a request, whatever happens; the status to count."""
        try:
            return await self._answer(target, loaded, exchange)
        except PenstockError as error:
            exchange.on_abort = None
            _send_or_break(target, exchange, error)
            return error.status
        except Exception:
            log.exception("a request to model %s failed", target.name)
            exchange.on_abort = None
            exchange.fault()
            return Internal.status

    async def _answer(self, target: Target, loaded: Loaded, exchange: Exchange) -> int:
        """Answer a request; the status to count."""
        model = loaded.payload
        workers = loaded.workers
        if model is None or workers is None:
            raise Internal(f"Model {target.name} takes no payloads.")
        raw = model.takes_raw and target.protocol in ("v1", "v2", "grpc")
        payload: Any = _raw_request(target, exchange) if raw else target.payload(exchange)
        context = CallContext(
            protocol="v2" if isinstance(target, V2Infer) and not raw else "v1",
            verb=target.verb,
            streams=target.takes_streams,
            headers=dict(_headers(exchange)),
            run=workers.call,
        )
        limit = self._app.spec.timeout_s
        asked = target.requested_s(exchange)
        if asked is not None:
            limit = min(limit, asked)
        try:
            async with asyncio.timeout(limit):
                reply = await target.ask(model, payload, context)
        except TimeoutError:
            raise _late(target.name, limit) from None
        extra = _response_headers(target.name, context.response_headers)
        if target.protocol == "grpc" and isinstance(reply, StreamReply | RawReply):
            raise Unsupported(
                f"Model {target.name} answers with a body of its own, which gRPC cannot carry.",
                hint="Call it over HTTP.",
            )
        if isinstance(reply, ResponseStream):
            if not isinstance(payload, InferRequest):
                raise Internal(f"Model {target.name} streams responses to no V2 request.")
            return await _stream_responses(target, exchange, payload, reply, extra, limit)
        if isinstance(reply, StreamReply):
            await _stream(target.name, exchange, reply, extra, limit)
        elif isinstance(reply, RawReply):
            exchange.send(200, _content_type(target.name, reply.content_type) + extra, reply.body)
        else:
            if not isinstance(payload, InferRequest) or not isinstance(reply, InferResponse):
                raise ModelError(
                    f"Model {target.name} answered {type(reply).__name__}, "
                    "which this protocol cannot carry."
                )
            target.answer(exchange, payload, reply, extra)
        return 200

    async def drain(self) -> None:
        """Return when every call has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _stream(
    name: str, exchange: Exchange, reply: StreamReply, extra: bytes, limit_s: float
) -> None:
    """Send the pieces as they come. The first may take `limit_s`, and so may each one after it."""
    headers = _content_type(name, reply.content_type) + extra
    drained = asyncio.Event()
    exchange.on_drain = drained.set
    chunks = reply.chunks
    started = False
    try:
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    chunk = await _next(chunks)
            except TimeoutError:
                raise _late(name, limit_s) from None
            if not started:
                # Only now: a model that fails before its first piece gets a status of its own.
                exchange.start(200, headers)
                started = True
            if chunk is None:
                break
            drained.clear()
            if chunk and not exchange.write(chunk):
                await drained.wait()
        exchange.end()
    finally:
        exchange.on_drain = None
        await _close(chunks)


async def _stream_responses(
    target: Target,
    exchange: Exchange,
    request: InferRequest,
    reply: ResponseStream,
    extra: bytes,
    limit_s: float,
) -> int:
    """Send the responses as they come, and how they ended. Each may take `limit_s`. The status to count."""
    drained = asyncio.Event()
    exchange.on_drain = drained.set
    responses = reply.responses
    exchange.start(200, target.stream_headers() + extra)
    failed: PenstockError | None = None
    try:
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    response = await _next(responses)
                if response is None:
                    break
                piece = target.stream_piece(request, response)
            except TimeoutError:
                failed = _late(target.name, limit_s)
                break
            except PenstockError as error:
                failed = error
                break
            drained.clear()
            if not exchange.write(piece):
                await drained.wait()
        exchange.write(target.stream_end(failed))
        exchange.end()
    finally:
        exchange.on_drain = None
        await _close(responses)
    return 200 if failed is None else failed.status


async def _close(iterator: AsyncIterator[Any]) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


async def _next(chunks: AsyncIterator[_Item]) -> _Item | None:
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        return None


def _raw_request(target: Target, exchange: Exchange) -> RawRequest:
    """The request unread. A body that was compressed or in an event is out of it by now."""
    if target.protocol == "grpc":
        raise Unsupported(
            f"Model {target.name} reads requests itself, which gRPC cannot carry.",
            hint="Call it over HTTP.",
        )
    kind = getattr(exchange, "content_type", None)
    if kind is None:
        kind = (exchange.head.get(b"content-type") or b"").decode("latin-1")
    return RawRequest(
        bytes(exchange.body or b""), kind, exchange.head.path, dict(_headers(exchange))
    )


def _headers(exchange: Exchange) -> Mapping[str, str]:
    memo = exchange.head.memo
    headers: Mapping[str, str] | None = memo.get("payload-headers")
    if headers is None:
        headers = {n.decode(): v.decode("latin-1") for n, v in exchange.head.headers}
        memo["payload-headers"] = headers
    return headers


def _response_headers(name: str, headers: Mapping[str, str]) -> bytes:
    fields = [(n, v) for n, v in headers.items() if n.lower() not in FRAMING]
    try:
        return render_headers(fields)
    except (ValueError, TypeError, AttributeError):
        raise ModelError(
            f"Model {name} set a response header that cannot be sent: a name and a value of plain "
            "text are expected."
        ) from None


def _content_type(name: str, value: str) -> bytes:
    return _response_headers(name, {"content-type": value})


def _late(name: str, limit_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"Model {name} did not answer within {limit_s:g} s.")


def _send_or_break(target: Target, exchange: Exchange, error: PenstockError) -> None:
    """An error's answer; where a stream has begun, the broken connection that says it is not whole."""

    if exchange.state == OPEN:
        target.send_error(exchange, error)
        return
    log.warning("a stream of model %s broke: %s", target.name, error)
    exchange.abort()
