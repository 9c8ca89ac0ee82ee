"""One question to many models: `POST /v2/query`, answered with every model's own answer and status.

Each model is asked by a request of this gateway's own that takes a client's way from its head on, so that
waking, shares, bandits, graphs, deadlines and metrics are as for any request. All of them have one deadline;
`AT_ONCE` are under way at a time, more as time passes. What the models answer is put together as it is, never
read and written anew. The answer is 200 when the question can be understood, whatever became of the models.
`question` reads the question; `exchange` is a model's part in it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.names import label_problem
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PenstockError,
    TooLarge,
)
from penstock.gateway.choosing import REVISION_HEADER
from penstock.gateway.proxy import error_answer, internal, refuse
from penstock.gateway.queries.exchange import ModelExchange
from penstock.gateway.queries.question import body_of, names_of, read, timeout_of
from penstock.gateway.resolve import HOP_BY_HOP, namespace_of, suffixed
from penstock.http.head import JSON_TYPE, parse_request_head
from penstock.http.limits import Limits

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.queries.question import Query

PATH: Final = "/v2/query"
#: How many models are asked at a time, to begin with.
AT_ONCE: Final = 64
#: With each of so many parts of its time twice as many are asked: those that hang hold up nobody.
PARTS: Final = 10
#: Bytes that all answers together may have.
MOST_BYTES: Final = 256 * 1024 * 1024

#: Which candidate of an experiment answered.
ROUTE: Final = b"x-seldon-route"
#: A service, as Seldon's clients call it, too (`NAME.pipeline`), and one revision of it (`NAME@latest`).
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,252})(@[A-Za-z0-9][A-Za-z0-9-]{0,127})?")
#: Fields of the client's that mean this question, not those that it becomes.
_OWN: Final = HOP_BY_HOP | {
    b"content-type", b"content-encoding", b"accept-encoding", b"inference-header-content-length",
    b"x-request-timeout-ms", b"seldon-model", b"penstock-namespace", b"x-penstock-component",
    REVISION_HEADER, b"x-penstock-route", ROUTE, b"cookie",
}  # fmt: skip
#: A client's head within its limits stays so with the lines that it gets here.
_LIMITS: Final = Limits(max_line=16384, max_head=2 * 65536, max_headers=200)
_TOLD: Final = frozenset(
    (REVISION_HEADER, ROUTE, b"x-penstock-arm", b"x-request-id", b"x-penstock-trace")
)
_encode: Final = msgspec.json.encode
_UNSET: Final = msgspec.UNSET


class _Answer(msgspec.Struct):
    """What of a model's answer is told."""

    outputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    predictions: msgspec.Raw | msgspec.UnsetType = _UNSET
    error: msgspec.Raw | msgspec.UnsetType = _UNSET
    id: msgspec.Raw | msgspec.UnsetType = _UNSET


_answer: Final = msgspec.json.Decoder(_Answer).decode


def handle(exchange: Any, gateway: Gateway, path: str) -> None:
    """Take a query whose body is here."""
    try:
        query = read(exchange)
        namespace = path.split("/")[2] if path != PATH else namespace_of(exchange.head)
        if label_problem(namespace):  # it becomes a part of each model's path
            raise InvalidInput(f"{namespace!r} is no namespace.")
        names = names_of(query, namespace, gateway)
        timeout_s = timeout_of(query, exchange.head)
        _Asking(exchange, gateway, namespace, names, query, timeout_s).begin()
    except PenstockError as exc:
        refuse(exchange, exc)


class _Asking:
    """One query between its arrival and its answer."""

    def __init__(
        self,
        exchange: Any,
        gateway: Gateway,
        namespace: str,
        names: list[str],
        query: Query,
        timeout_s: float,
    ) -> None:
        self._exchange = exchange
        self._gateway = gateway
        self._namespace = namespace
        self._names = names
        self._deadline = gateway.now() + timeout_s
        self._timeout_s = timeout_s
        self._is_v2 = query.inputs is not _UNSET
        self._body = body_of(query)
        self._fields = b"".join(
            b"%b: %b\r\n" % (name, value)
            for name, value in exchange.head.headers
            if name not in _OWN
        )
        head = exchange.head
        #: Behind each model's path: a trace, say, is asked for so.
        self._query = b"?" + head.query.encode("latin-1") if head.query else b""
        self._waiting = deque(range(len(names)))
        self._under_way: set[ModelExchange] = set()
        self._results: list[bytes] = [b""] * len(names)
        self._size = 0
        self._over = False
        self._starting = False
        self._at_once = AT_ONCE
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Ask the first of them, or answer when there is nobody to ask."""
        self._exchange.on_abort = self._gone
        self._go_on()
        self._widen_later()

    def _widen_later(self) -> None:
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s / PARTS, self._widen)

    def _widen(self) -> None:
        self._timer = None
        self._at_once *= 2
        self._go_on()
        self._widen_later()

    def _go_on(self) -> None:
        if self._starting:
            return  # an answer that came at once; the loop below goes on
        self._starting = True
        while self._waiting and len(self._under_way) < self._at_once and not self._over:
            index = self._waiting.popleft()
            try:
                self._ask(index)
            except Exception as exc:  # noqa: BLE001 - one model's border: the others are answered
                self._failed(index, internal(exc))
        self._starting = False
        if not self._waiting and not self._under_way and not self._over:
            self._end()
            body = b'{"results":[%b]}' % b",".join(self._results)
            self._exchange.send(200, JSON_TYPE, body)

    def _ask(self, index: int) -> None:
        name = self._names[index]
        left_s = self._deadline - self._gateway.now()
        found = _NAME.fullmatch(name)
        if found is None:
            self._failed(index, NotFound(f"Model with name {name!r} does not exist."))
            return
        if left_s <= 0:
            late = DeadlineExceeded(
                f"It was not asked: the query's {self._timeout_s:g} s were over."
            )
            self._failed(index, late)
            return
        model, revision = found[1], found[2] or ""
        table = self._gateway.table
        if table.get(self._namespace, model) is None:
            called = suffixed(model, self._namespace, table)
            model = called.name if called is not None else model
        verb = f"v2/models/{model}/infer" if self._is_v2 else f"v1/models/{model}:predict"
        raw = b"POST /serving/%b/%b/%b%b HTTP/1.0\r\nhost: query\r\n%b%bx-request-timeout-ms: %d\r\n%b" % (
            self._namespace.encode(), (model + revision).encode(), verb.encode(), self._query,
            self._fields, JSON_TYPE, max(1, round(left_s * 1000)),
            b"content-length: %d\r\n\r\n" % len(self._body),
        )  # fmt: skip
        since = perf_counter()
        inner = ModelExchange(
            parse_request_head(raw, _LIMITS),
            self._body,
            lambda one, status, headers, body: self._answered(
                index, since, one, status, headers, body
            ),
            self._room,
        )
        self._under_way.add(inner)
        self._gateway.handle(inner)  # type: ignore[arg-type]

    def _failed(self, index: int, exc: PenstockError) -> None:
        status, _, body = error_answer(exc)
        self._results[index] = _result(self._names[index], status, b"", body, 0.0)

    def _answered(
        self,
        index: int,
        since: float,
        inner: ModelExchange,
        status: int,
        headers: bytes,
        body: bytes,
    ) -> None:
        if inner not in self._under_way:
            return
        self._under_way.discard(inner)
        if self._over:
            return
        try:
            self._room(len(body) - inner.held)
            seconds = perf_counter() - since
            self._results[index] = _result(self._names[index], status, headers, body, seconds)
        except TooLarge as exc:
            self._failed(index, exc)
        except Exception as exc:  # noqa: BLE001 - one model's border: the others are answered
            self._failed(index, internal(exc))
        self._go_on()

    def _room(self, size: int) -> None:
        """Count bytes of answers that are kept. TooLarge."""
        if self._size + size > MOST_BYTES:
            raise TooLarge(f"The answers together are over {MOST_BYTES} bytes.")
        self._size += size

    def _gone(self) -> None:
        """The client hung up: nobody wants the answers."""
        self._end()
        self._waiting.clear()
        for inner in tuple(self._under_way):
            self._under_way.discard(inner)
            inner.hang_up()

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()


def _result(name: str, status: int, headers: bytes, body: bytes, seconds: float) -> bytes:
    """One model's entry in the answer."""
    members = [b'"model":%b,"status":%d' % (_encode(name), status)]
    if not body.isascii():
        # What is no UTF-8 in one answer would make all of them unreadable.
        body = body.decode("utf-8", "replace").encode()
    try:
        told = _answer(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        told = _Answer()
    if status >= 400:
        if told.error is not _UNSET:
            members.append(b'"error":%b' % bytes(told.error))
        else:
            text = body[:2000].decode("utf-8", "replace") or f"HTTP status {status}"
            members.append(b'"error":%b' % _encode(text))
    elif told.outputs is not _UNSET or told.predictions is not _UNSET:
        for field in ("outputs", "predictions"):
            value = getattr(told, field)
            if value is not _UNSET:
                members.append(b'"%b":%b' % (field.encode(), bytes(value)))
    else:
        members.append(b'"answer":%b' % _json(body))
    lines = {
        field: value
        for field, _, value in (line.partition(b": ") for line in headers.split(b"\r\n"))
        if field in _TOLD
    }
    if (revision := lines.get(REVISION_HEADER)) is not None:
        members.append(b'"revision":%b' % _encode(revision.decode("latin-1")))
    if (route := lines.get(ROUTE)) is not None:
        members.append(b'"route":%b' % _encode(route.decode("latin-1")))
    if (arm := lines.get(b"x-penstock-arm")) is not None:
        # By this the answer can be rewarded.
        members.append(b'"arm":%b' % _encode(arm.decode("latin-1")))
        members.append(b'"id":%b' % _encode(lines.get(b"x-request-id", b"").decode("latin-1")))
    elif told.id is not _UNSET and bytes(told.id)[:1] == b'"':
        members.append(b'"id":%b' % bytes(told.id))
    if (trace := lines.get(b"x-penstock-trace")) is not None:
        members.append(b'"trace":%b' % _json(trace))
    members.append(b'"seconds":%.6f' % seconds)
    return b"{%b}" % b",".join(members)


def _json(body: bytes) -> bytes:
    """A body as a JSON value: itself, or its text."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _encode(body.decode("utf-8", "replace"))
    return body.strip()


__all__ = ["PATH", "handle"]
