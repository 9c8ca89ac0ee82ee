"""A gRPC call on its way to a replica and back: HTTP/1.1 there, with status and trailers in a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.errors import (
    DeadlineExceeded,
    PenstockError,
)
from penstock.gateway.choosing import REVISION_HEADER
from penstock.gateway.proxy import Forward, raises_limit
from penstock.gateway.resolve import (
    HOP_BY_HOP,
)
from penstock.protocols.grpc.wire import (
    CONTENT_TYPE,
    from_http,
    read_status,
    reply_error,
)

if TYPE_CHECKING:
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead, ResponseHead


#: Fields that are not for the model process: messages go there uncompressed.
_OWN_FIELDS: Final = frozenset({b"grpc-encoding", b"grpc-accept-encoding"})
#: The HTTP status under which a gRPC status is counted.
_HTTP: Final = {
    0: 200, 1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
    14: 503, 16: 401,
}  # fmt: skip


def render_call(
    head: RequestHead, service: Service, size: int, more: tuple[bytes, bytes] | None = None
) -> bytes:
    """The head to send on; `more` is a field that takes the place of the client's."""
    lines = [f"POST {head.path} HTTP/1.1\r\nhost: {service.name}.{service.namespace}\r\n".encode()]
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in head.headers
        if name not in HOP_BY_HOP and name not in _OWN_FIELDS and (more is None or name != more[0])
    ]
    if more is not None:
        lines.append(b"%b: %b\r\n" % more)
    lines.append(b"content-length: %d\r\n\r\n" % size)
    return b"".join(lines)


class GrpcForward(Forward):
    """A call between its arrival and the end of its answer."""

    __slots__ = ("_status", "_trailers")

    def on_response(self, head: ResponseHead, body: Any) -> None:
        target = self.target
        assert target is not None  # noqa: S101 - a response comes from a replica of a target
        key = ("grpc", target.lines)
        known = head.memo.get(key)
        if known is None:
            known = head.memo[key] = answer_of(head, target.lines)
        fields, trailers, status = known
        if body is not None:
            self.exchange.send(200, fields, body if status == 200 else b"", trailers)  # type: ignore[call-arg]
            self._finish(status)
            return
        self._started = True
        self._trailers = trailers
        self._status = status
        self.exchange.on_drain = self._resume_upstream
        self.exchange.start(200, fields)

    def on_data(self, data: Any) -> None:
        if self._status == 200:
            super().on_data(data)

    def on_end(self) -> None:
        self.exchange.end(self._trailers)  # type: ignore[call-arg]
        self._finish(self._status)

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        if self._started:
            self.exchange.abort()
        else:
            reply_error(self.exchange, exc)
        self._finish(exc.status)

    def expire(self) -> None:
        limit_s = self.deadline - self.since
        what = "was ready" if self.queued else "answered"
        hint = raises_limit(self.service) if limit_s >= self.plan.timeout_s else None
        self.fail(
            DeadlineExceeded(
                f"No replica of {self.service.key} {what} in {limit_s:g} s.", hint=hint
            )
        )


def answer_of(head: ResponseHead, own_lines: bytes) -> tuple[bytes, bytes, int]:
    """Header lines (ours among them), trailer lines and the HTTP status to count, for an answer."""
    fields = [CONTENT_TYPE]
    trailers = []
    for name, value in head.headers:
        line = b"%b: %b\r\n" % (name, value)
        if name in (b"grpc-status", b"grpc-message", b"grpc-status-details-bin"):
            trailers.append(line)
        elif name not in HOP_BY_HOP and name not in (
            b"content-type", b"grpc-accept-encoding", REVISION_HEADER,
        ):  # fmt: skip
            fields.append(line)
    fields.append(own_lines)
    status = head.get(b"grpc-status")
    if status is None:
        lines = from_http(head.status)
        return b"".join(fields), lines, _HTTP.get(read_status(lines)[0], 500)
    number = int(status) if status.isdigit() and len(status) < 4 else 2
    return b"".join(fields), b"".join(trailers), _HTTP.get(number, 500)
