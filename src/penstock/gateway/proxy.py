"""One request on its way: from the client's exchange to a replica and back.

The common case is short: the whole request is here, a replica is free, the whole answer comes in one
piece; that path allocates this object, and copies the answer's head and body once to join them. Everything
else (bodies that stream, replicas that are down, sleeping services, deadlines, clients that hang up) is
the same object taking a longer way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    PenstockError,
    ReplicaLost,
    Unavailable,
)
from penstock.gateway.choosing import REVISION_HEADER
from penstock.gateway.resolve import HOP_BY_HOP

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.replicas import Replica
    from penstock.gateway.resolve import Plan
    from penstock.gateway.shadow import Copy
    from penstock.gateway.table import Service, Target
    from penstock.http.client import ClientExchange, UpstreamError
    from penstock.http.head import ResponseHead
    from penstock.http.server import Exchange

logger = logging.getLogger(__name__)

#: Bodies up to this size are taken in whole before they are sent on, so that they can be sent again to
#: another replica when the first cannot be reached; larger ones stream.
GATHER_BYTES: Final = 128 * 1024

#: Share of a service's time limit after which a request without an answer says that the replica hangs.
HANGS: Final = 0.95

_encode = msgspec.json.encode


def error_answer(exc: PenstockError) -> tuple[int, bytes, bytes]:
    """Status, header lines and body for an error, in the shape that V1 and V2 share."""
    headers = b"content-type: application/json\r\n"
    if isinstance(exc, Unavailable):
        headers += b"retry-after: %d\r\n" % max(1, round(exc.retry_after_s or 1))
    return exc.status, headers, _encode({"error": str(exc)})


class Forward:
    """A request between its arrival and the end of its answer."""

    __slots__ = (
        "_attempts", "_consumed", "_gateway", "_started", "_streaming", "_upstream",
        "body_bytes", "deadline", "done", "exchange", "plan", "queued", "replica",
        "sent_at", "service", "since", "target",
    )  # fmt: skip

    #: When it was sent, if it waited before; not set for the others.
    sent_at: float

    def __init__(
        self, gateway: Gateway, exchange: Exchange, plan: Plan, service: Service, now: float
    ) -> None:
        self._gateway = gateway
        self.exchange = exchange
        self.plan = plan
        self.service = service
        self.since = now
        self.deadline = now + plan.timeout_s
        self.target: Target | None = None
        self.replica: Replica | None = None
        self._upstream: ClientExchange | None = None
        self._attempts = 0
        self._started = False
        self._consumed = False
        self._streaming = False
        self.done = False
        self.queued = False
        self.body_bytes = 0
        exchange.on_abort = self._client_gone

    # -- towards the replica ----------------------------------------------------------------------

    def dispatch(self) -> bool:
        """Send to a replica that is free; False when there is none now."""
        target = self.target
        if target is None or self._attempts:
            service = self.service
            chosen = self.plan.wanted or service.learner is not None
            target = self.aim() if chosen else service.pick_target()
            self.target = target
            if target is None:
                return False
        replica = target.pick()
        if replica is None:
            return False
        self.replica = replica
        replica.outstanding += 1
        exchange = self.exchange
        body = exchange.body
        if body is not None:
            self._upstream = replica.upstream.request(
                self.plan.head, body, self, method=exchange.head.method
            )
            shadow = self.service.shadow
            if shadow is not None and not self._attempts:
                shadow.copy(self)
        else:
            self._stream_out(replica)
        return True

    def aim(self) -> Target | None:
        """The target that shall answer; None when there is none now."""
        wanted = self.plan.wanted
        service = self.service
        target = service.named(wanted) if wanted else service.pick_target()
        if wanted and self.plan.soft and (target is None or target.pick() is None):
            return service.pick_target()
        return target

    def _stream_out(self, replica: Replica) -> None:
        exchange = self.exchange
        self._streaming = True
        upstream = self._upstream = replica.upstream.request(
            self.plan.head,
            None,
            self,
            more=True,
            chunked=exchange.head.content_length < 0,
            length=exchange.head.content_length if exchange.head.content_length >= 0 else None,
            method=exchange.head.method,
        )
        upstream.on_drain = exchange.resume_reading
        if not self._consumed:
            self._consumed = True
            shadow = self.service.shadow
            copy = shadow.stream(self) if shadow is not None else None
            exchange.receive(_BodySink(self) if copy is None else _CopiedBodySink(self, copy))

    # -- what the replica answers (penstock.http.client's sink) ---------------------------------------

    def on_response(self, head: ResponseHead, body: Any) -> None:
        target = self.target
        assert target is not None  # noqa: S101 - a response comes from a replica of a target
        exchange = self.exchange
        if body is not None and head.content_length >= 0:
            raw = head.memo.get(target.lines)
            if raw is None:
                raw = head.memo[target.lines] = render_response(head, target.lines)
            request = exchange.head
            if request.keep_alive and request.minor:
                exchange.send_raw(raw + body if len(body) < 65536 else (raw, body))
            else:
                exchange.send(head.status, render_fields(head, target.lines), body)
            self._finish(head.status)
        elif body is not None:
            exchange.send(head.status, render_fields(head, target.lines), body)
            self._finish(head.status)
        else:
            self._started = True
            exchange.on_drain = self._resume_upstream
            exchange.start(
                head.status,
                render_fields(head, target.lines),
                length=head.content_length if head.content_length >= 0 else None,
            )

    def on_data(self, data: Any) -> None:
        if not self.exchange.write(data) and self._upstream is not None:
            self._upstream.pause()

    def _resume_upstream(self) -> None:
        if self._upstream is not None and not self.done:
            self._upstream.resume()

    def on_end(self) -> None:
        status = self._upstream.status if self._upstream is not None else 200
        self.exchange.end()
        self._finish(status)

    def on_error(self, exc: UpstreamError) -> None:
        replica = self.replica
        assert replica is not None  # noqa: S101 - an error comes from a replica
        replica.outstanding -= 1
        self.replica = None
        self._upstream = None
        if exc.phase != "response":
            # Nobody there, or somebody who went: whoever is there next may not have loaded yet.
            replica.mark_down()
        if self.done:
            return
        if self._started:
            # The head is out: breaking the connection is the only honest end.
            self.exchange.abort()
            self._finish(502)
            return
        if exc.retryable and not self._consumed:
            self._attempts += 1
            self._gateway.place(self)
            return
        logger.warning("%s: %s", replica.address, exc)
        self.fail(
            ReplicaLost(
                f"The model process of {self.service.key} ended the connection before it answered.",
                hint="`penstock logs` shows why; the request may be sent again.",
            )
        )

    # -- ends -------------------------------------------------------------------------------------

    def fail(self, exc: PenstockError) -> None:
        """Answer with an error; breaks the connection when an answer has begun."""
        if self.done:
            return
        if self._started:
            self.exchange.abort()
        else:
            self.exchange.send(*error_answer(exc))
        self._finish(exc.status)

    def expire(self) -> None:
        """The deadline passed."""
        service = self.service
        if self.queued:
            why = f"No replica of {service.key} was ready within {self.plan.timeout_s:g} s."
        else:
            why = f"{service.key} did not answer within {self.plan.timeout_s:g} s."
        # Where the caller set a shorter one, the service's is of no use to it.
        own = self.plan.timeout_s >= service.route.timeout_s
        self.fail(DeadlineExceeded(why, hint=raises_limit(service) if own else None))

    def service_gone(self) -> None:
        """The service was deleted while this request waited."""
        self.fail(NotFound(f"The service {self.service.key} was deleted."))

    def body_lost(self) -> None:
        """The client broke off, or broke the protocol, in the middle of its body."""
        if not self.done:
            self._finish(499)

    def _client_gone(self) -> None:
        if not self.done:
            self._finish(499)

    def drop(self) -> None:
        """Let go of everything without an answer."""
        self._finish(500)

    def _finish(self, status: int) -> None:
        """Count, free the replica, drop what is still under way. Called once."""
        self.done = True
        gateway = self._gateway
        del gateway.active[self]
        replica = self.replica
        if replica is not None:
            replica.outstanding -= 1
            self.replica = None
            if status == 504 or replica.doubted:
                self._judge(replica, status)
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            if not upstream.done:
                upstream.cancel()
        if self.queued:
            gateway.unqueue(self)
        gateway.count(self, status)
        if self.service.waiting:
            gateway.flush(self.service)

    def _judge(self, replica: Replica, status: int) -> None:
        """Whether `replica` hangs, by how this request ended there.

        One that took all the time that the service allows, with no byte of an answer, is taken for
        hanging: the model process will see it too and end, and requests sent to it meanwhile would be
        lost with it. A client's own shorter deadline says nothing, and neither does time spent waiting.
        """
        if status == 504:
            # Set for requests that waited, which is rare; all others were sent as they came.
            sent_at = getattr(self, "sent_at", self.since)
            if not self._started and self._gateway.now() - sent_at >= (
                HANGS * self.service.route.timeout_s
            ):
                replica.doubt()
        elif status not in (499, 502):
            replica.trust()

    # -- a streamed body --------------------------------------------------------------------------

    def send_chunk(self, data: Any) -> None:
        if self._upstream is not None and not self._upstream.write(data):
            self.exchange.pause_reading()

    def send_end(self) -> None:
        if self._upstream is not None:
            self._upstream.end()


class _BodySink:
    """Receives a streamed request body for a `Forward`."""

    __slots__ = ("_forward",)

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def on_data(self, data: Any) -> None:
        self._forward.send_chunk(data)

    def on_end(self) -> None:
        self._forward.send_end()

    def on_abort(self, exc: Exception) -> None:
        self._forward.body_lost()


class _CopiedBodySink(_BodySink):
    """The same, for a body that a shadow gets too."""

    __slots__ = ("_copy",)

    def __init__(self, forward: Forward, copy: Copy) -> None:
        super().__init__(forward)
        self._copy = copy

    def on_data(self, data: Any) -> None:
        self._copy.feed(data)
        super().on_data(data)

    def on_end(self) -> None:
        self._copy.end()
        super().on_end()

    def on_abort(self, exc: Exception) -> None:
        self._copy.abort()
        super().on_abort(exc)


def render_fields(head: ResponseHead, own: bytes) -> bytes:
    """Header lines to pass on, and our `own`, without the framing that the engine writes."""
    named: set[bytes] = set()
    connection = head.get(b"connection")
    if connection is not None:
        named = {token.strip().lower() for token in connection.split(b",")}
    lines = [
        b"%b: %b\r\n" % (name, value)
        for name, value in head.headers
        if name not in HOP_BY_HOP and name not in named and name != REVISION_HEADER
    ]
    lines.append(own)
    return b"".join(lines)


def render_response(head: ResponseHead, own: bytes) -> bytes:
    """A complete head for a body of the length that `head` declares."""
    first = head.raw[: head.raw.index(b"\r\n")]
    # The status line's version is ours to say, whatever the replica spoke.
    return b"HTTP/1.1%b\r\n%bcontent-length: %d\r\n\r\n" % (
        first[8:],
        render_fields(head, own),
        head.content_length,
    )


def raises_limit(service: Service) -> str:
    """What to change in the manifest where the time that a component has is too short."""
    return f"spec.{service.route.component}.timeout raises the limit."


def refuse(exchange: Exchange, exc: PenstockError) -> None:
    """Answer a request that never became a `Forward`."""
    exchange.send(*error_answer(exc))


def internal(exc: Exception) -> PenstockError:
    logger.error("a request failed in the gateway", exc_info=exc)
    return Internal("The gateway failed on this request; its log has the details.")
