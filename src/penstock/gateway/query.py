"""One question to many models: `POST /v2/query`, answered with every model's own answer and status.

Each model is asked by a request of this gateway's own that takes a client's way from its head on, so that
waking, shares, bandits, graphs, deadlines and metrics are as for any request. All of them have one deadline;
`AT_ONCE` are under way at a time. What the models answer is put together as it is, never read and written
anew. The answer is 200 when the question can be understood, whatever became of the models.
"""

from __future__ import annotations

import re
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from penstock.domain.names import label_problem
from penstock.domain.selectors import LabelSelector
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PenstockError,
    TooLarge,
)
from penstock.gateway.choosing import REVISION_HEADER
from penstock.gateway.proxy import error_answer, internal, refuse
from penstock.gateway.resolve import HOP_BY_HOP, namespace_of, suffixed
from penstock.http.head import JSON_TYPE, parse_request_head
from penstock.http.limits import Limits
from penstock.protocols.content_coding import plain_body

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.gateway.gateway import Gateway
    from penstock.http.head import RequestHead

PATH: Final = "/v2/query"
#: Models of one query, and how many of them are asked at a time.
MOST_MODELS: Final = 1000
AT_ONCE: Final = 64
#: Bytes that all answers together may have.
MOST_BYTES: Final = 256 * 1024 * 1024
DEFAULT_TIMEOUT_S: Final = 60.0
MOST_TIMEOUT_S: Final = 3600.0

#: A service, as Seldon's clients call it, too (`NAME.pipeline`), and one revision of it (`NAME@latest`).
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,252})(@[A-Za-z0-9][A-Za-z0-9-]{0,127})?")
#: Fields of the client's that mean this question, not those that it becomes.
_OWN: Final = HOP_BY_HOP | {
    b"content-type", b"content-encoding", b"accept-encoding", b"inference-header-content-length",
    b"x-request-timeout-ms", b"seldon-model", b"penstock-namespace", b"x-penstock-component",
    REVISION_HEADER, b"x-penstock-route", b"x-seldon-route", b"cookie",
}  # fmt: skip
#: A client's head within its limits stays so with the lines that it gets here.
_LIMITS: Final = Limits(max_line=16384, max_head=2 * 65536, max_headers=200)
_TOLD: Final = (REVISION_HEADER, b"x-penstock-arm", b"x-request-id", b"x-penstock-trace")
_encode: Final = msgspec.json.encode
_UNSET: Final = msgspec.UNSET


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """The question's body."""

    models: list[str] | msgspec.UnsetType = _UNSET
    #: V2's id, which every answer has again.
    id: str | msgspec.UnsetType = _UNSET
    #: Labels, as Kubernetes' list calls take them.
    selector: str | msgspec.UnsetType = _UNSET
    #: V2's input tensors, or V1's rows.
    inputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    instances: msgspec.Raw | msgspec.UnsetType = _UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = _UNSET
    #: V2's requested outputs.
    outputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    #: Seconds that all of it may take.
    timeout: float | None = None


class _Answer(msgspec.Struct):
    """What of a model's answer is told."""

    outputs: msgspec.Raw | msgspec.UnsetType = _UNSET
    predictions: msgspec.Raw | msgspec.UnsetType = _UNSET
    error: msgspec.Raw | msgspec.UnsetType = _UNSET
    id: msgspec.Raw | msgspec.UnsetType = _UNSET


class _Binary(msgspec.Struct, frozen=True):
    """What in parameters asks for raw tensors."""

    binary_data: bool = False
    binary_data_output: bool = False


class _Output(msgspec.Struct):
    parameters: _Binary = _Binary()


_decode: Final = msgspec.json.Decoder(Query).decode
_binary: Final = msgspec.json.Decoder(_Binary).decode
_outputs: Final = msgspec.json.Decoder(list[_Output]).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_answer: Final = msgspec.json.Decoder(_Answer).decode


def handle(exchange: Any, gateway: Gateway, path: str) -> None:
    """Take a query whose body is here."""
    try:
        query = _read(exchange)
        namespace = path.split("/")[2] if path != PATH else namespace_of(exchange.head)
        if label_problem(namespace):  # it becomes a part of each model's path
            raise InvalidInput(f"{namespace!r} is no namespace.")
        names = _names(query, namespace, gateway)
        timeout_s = _timeout_s(query, exchange.head)
        _Asking(exchange, gateway, namespace, names, query, timeout_s).begin()
    except PenstockError as exc:
        refuse(exchange, exc)


def _read(exchange: Any) -> Query:
    try:
        query = _decode(plain_body(exchange.head, exchange.body))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"The body is no query: {exc}.") from None
    if (query.models is _UNSET) == (query.selector is _UNSET):
        raise InvalidInput("A query has either `models` or a `selector`.")
    if (query.inputs is _UNSET) == (query.instances is _UNSET):
        raise InvalidInput("A query has either `inputs` (V2) or `instances` (V1).")
    for field, first in (
        ("inputs", b"["),
        ("instances", b"["),
        ("parameters", b"{"),
        ("outputs", b"["),
    ):
        value = getattr(query, field)
        if value is not _UNSET and bytes(value)[:1] != first:
            kind = "a list" if first == b"[" else "an object"
            raise InvalidInput(f"`{field}` has to be {kind}.")
    if query.outputs is not _UNSET and query.inputs is _UNSET:
        raise InvalidInput("`outputs` are asked for beside `inputs` (V2).")
    if query.inputs is not _UNSET:
        _refuse_binary(query)
    elif query.parameters is not _UNSET and "instances" in _parsed(_members, query.parameters):
        raise InvalidInput("`parameters` stand beside `instances`, and cannot have that name.")
    return query


def _refuse_binary(query: Query) -> None:
    """One document has all answers, so none of them can be raw bytes behind it."""
    asked = []
    if query.parameters is not _UNSET:
        asked.append(_parsed(_binary, query.parameters).binary_data_output)
    if query.outputs is not _UNSET:
        asked += [o.parameters.binary_data for o in _parsed(_outputs, query.outputs)]
    if any(asked):
        raise InvalidInput(
            "A query's answers are JSON; binary outputs cannot be asked for.",
            hint="Leave out binary_data and binary_data_output.",
        )


def _parsed(decode: Callable[[bytes], T], raw: msgspec.Raw) -> T:
    try:
        return decode(bytes(raw))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"The body is no query: {exc}.") from None


def _names(query: Query, namespace: str, gateway: Gateway) -> list[str]:
    if not isinstance(query.selector, str):
        assert query.models is not _UNSET  # noqa: S101 - `_read` has looked
        names = list(dict.fromkeys(query.models))
        if not names:
            raise InvalidInput("`models` is empty.")
    else:
        selector = LabelSelector.parse(query.selector)
        services = gateway.table.services(namespace)
        names = sorted(s.name for s in services if selector.matches(dict(s.route.labels)))
    if len(names) > MOST_MODELS:
        raise InvalidInput(f"{len(names)} models are asked; at most {MOST_MODELS} can be at once.")
    return names


def _timeout_s(query: Query, head: RequestHead) -> float:
    timeout_s = DEFAULT_TIMEOUT_S if query.timeout is None else query.timeout
    if not 0 < timeout_s <= MOST_TIMEOUT_S:
        raise InvalidInput(f"`timeout` is in seconds, more than 0 and at most {MOST_TIMEOUT_S:g}.")
    asked = head.get(b"x-request-timeout-ms")
    if asked is not None:
        if not asked.isdigit() or len(asked) > 12 or not int(asked):
            raise InvalidInput(
                "The header x-request-timeout-ms is not a whole number of milliseconds above 0."
            )
        timeout_s = min(timeout_s, int(asked) / 1000)
    return timeout_s


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
        self._body = _body_of(query)
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

    def begin(self) -> None:
        """Ask the first of them, or answer when there is nobody to ask."""
        self._exchange.on_abort = self._gone
        self._go_on()

    def _go_on(self) -> None:
        if self._starting:
            return  # an answer that came at once; the loop below goes on
        self._starting = True
        while self._waiting and len(self._under_way) < AT_ONCE and not self._over:
            self._ask(self._waiting.popleft())
        self._starting = False
        if not self._waiting and not self._under_way and not self._over:
            self._over = True
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
            if not self._room(len(body) - inner.held):
                self._failed(index, _too_large())
            else:
                seconds = perf_counter() - since
                self._results[index] = _result(self._names[index], status, headers, body, seconds)
        except Exception as exc:  # noqa: BLE001 - one model's border: the others are answered
            self._failed(index, internal(exc))
        self._go_on()

    def _room(self, size: int) -> bool:
        """Whether so many bytes more of answers may be kept."""
        if self._size + size > MOST_BYTES:
            return False
        self._size += size
        return True

    def _gone(self) -> None:
        """The client hung up: nobody wants the answers."""
        self._over = True
        self._waiting.clear()
        for inner in tuple(self._under_way):
            self._under_way.discard(inner)
            inner.hang_up()


def _too_large() -> TooLarge:
    return TooLarge(f"The answers together are over {MOST_BYTES} bytes.")


def _body_of(query: Query) -> bytes:
    """The body that every model gets."""
    if query.inputs is not _UNSET:
        members = [b'"inputs":%b' % bytes(query.inputs)]
        if query.id is not _UNSET:
            members.append(b'"id":%b' % _encode(query.id))
        for name in ("parameters", "outputs"):
            value = getattr(query, name)
            if value is not _UNSET:
                members.append(b'"%b":%b' % (name.encode(), bytes(value)))
        return b"{%b}" % b",".join(members)
    assert query.instances is not _UNSET  # noqa: S101 - `_read` has looked
    members = [b'"instances":%b' % bytes(query.instances)]
    if query.parameters is not _UNSET:
        inside = bytes(query.parameters)[1:-1].strip()
        members += [inside] if inside else []
    return b"{%b}" % b",".join(members)


def _result(name: str, status: int, headers: bytes, body: bytes, seconds: float) -> bytes:
    """One model's entry in the answer."""
    members = [b'"model":%b,"status":%d' % (_encode(name), status)]
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


class ModelExchange:
    """A request of the gateway's own, as its handler sees one: no connection, its answer goes to `done`."""

    __slots__ = (
        "_done", "_headers", "_pieces", "_room", "_status", "body", "head", "held", "on_abort", "on_drain",
    )  # fmt: skip

    scheme = "http"
    peer = ""

    def __init__(
        self,
        head: RequestHead,
        body: bytes,
        done: Callable[[ModelExchange, int, bytes, bytes], None],
        room: Callable[[int], bool],
    ) -> None:
        self.head = head
        self.body = body
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        #: Bytes of the answer that `room` was asked for.
        self.held = 0
        self._done: Callable[[ModelExchange, int, bytes, bytes], None] | None = done
        self._room = room
        self._status = 0
        self._headers = b""
        self._pieces: list[Any] = []

    def gather(self, callback: Callable[[ModelExchange], None]) -> None:
        """The body is here."""
        callback(self)

    def receive(self, sink: Any) -> None:
        """The body is here."""
        sink.on_data(self.body)
        sink.on_end()

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def send(self, status: int, headers: bytes, body: Any = b"") -> None:
        """The whole answer."""
        pieces = body if isinstance(body, list | tuple) else (body,)
        self._end(status, headers, b"".join(map(bytes, pieces)))

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        """The head of an answer that comes in pieces."""
        self._status, self._headers = status, headers

    def write(self, data: Any) -> bool:
        """A piece. More than all answers may have ends it."""
        if self._done is None:
            return True
        if self._room(len(data)):
            self.held += len(data)
            self._pieces.append(bytes(data))
        else:
            self.hang_up()
            self._end(*error_answer(_too_large()))
        return True

    def end(self) -> None:
        """The last piece was written."""
        self._end(self._status, self._headers, b"".join(self._pieces))

    def abort(self) -> None:
        """An answer broke off."""
        self._end(502, b"", _encode({"error": "The answer broke off."}))

    def hang_up(self) -> None:
        """Nobody waits any more."""
        gone, self.on_abort = self.on_abort, None
        if gone is not None:
            gone()

    def _end(self, status: int, headers: bytes, body: bytes) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, status, headers, body)


__all__ = ["MOST_MODELS", "PATH", "handle"]
