"""Copies of requests to a revision that is tried out: sent, counted, and their answers dropped.

A copy goes out after the request itself and nothing waits for it. At most `MOST_AT_ONCE` are under way, with
`MOST_BYTES` of bodies together; what comes beyond is not copied, so a slow shadow costs a bounded amount of
memory and the primary nothing. A body that streams is copied piece by piece as it passes. A copy of it whose
shadow falls `MOST_UNSENT` behind is broken off (counted as `behind`): the primary's client is not slowed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from penstock.gateway.replicas import least_busy

if TYPE_CHECKING:
    from penstock.gateway.proxy import Forward
    from penstock.gateway.replicas import Replica
    from penstock.gateway.table import Target
    from penstock.http.client import ClientExchange, UpstreamError
    from penstock.http.head import ResponseHead
    from penstock.observe.metrics import Registry

#: Copies of one service under way at a time, and the bytes of whole bodies that they hold together.
MOST_AT_ONCE: Final = 64
MOST_BYTES: Final = 32 * 1024 * 1024
#: Bytes of a streamed body that may wait for the shadow to read.
MOST_UNSENT: Final = 1024 * 1024


class ShadowMetrics:
    """What became of copies."""

    def __init__(self, registry: Registry) -> None:
        labels = ("namespace", "service", "revision")
        self.requests = registry.counter(
            "penstock_gateway_shadow_requests",
            "Copies of requests, by the status of their answer, or why there was none.",
            (*labels, "status"),
        )
        self.seconds = registry.histogram(
            "penstock_gateway_shadow_seconds",
            "From a copy's start to the end of its answer.",
            labels,
        )


class Shadow:
    """Copies of one service's requests."""

    def __init__(
        self,
        key: tuple[str, str],
        target: Target | None,
        percent: int,
        metrics: ShadowMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        #: None until it is told (`aim`).
        self.target = target
        self.percent = percent
        self.labels: tuple[str, str, str] = (*key, target.revision if target is not None else "")
        self.metrics = metrics
        self.loop = loop
        self.under_way: set[Copy] = set()
        #: Bytes of whole bodies that are being sent.
        self.held_bytes = 0
        self._credit = 0

    def aim(self, target: Target) -> None:
        """Where copies go from now on."""
        self.target = target
        self.labels = (*self.labels[:2], target.revision)

    def count_for(self, revision: str, status: str) -> None:
        """Count a copy that was not made."""
        self.metrics.requests.labels(*self.labels[:2], revision, status).inc()

    def copy(self, forward: Forward) -> None:
        """Send a copy of a request that is all here, if it is this one's turn."""
        replica = self._turn(forward)
        if replica is None:
            return
        whole = forward.exchange.body or b""
        if self.held_bytes + len(whole) > MOST_BYTES:
            self.count("too large")
            return
        # The original's buffer is its connection's; it may be reused before the copy is out.
        body = bytes(whole)
        copy = Copy(self, replica, forward.plan.timeout_s, len(body))
        copy.upstream = replica.upstream.request(forward.plan.head, body, copy, method="POST")

    def stream(self, forward: Forward) -> Copy | None:
        """Begin a copy of a request whose body streams, if it is this one's turn; feed it the pieces."""
        replica = self._turn(forward)
        if replica is None:
            return None
        length = forward.exchange.head.content_length
        copy = Copy(self, replica, forward.plan.timeout_s)
        copy.upstream = replica.upstream.request(
            forward.plan.head,
            None,
            copy,
            more=True,
            chunked=length < 0,
            length=length if length >= 0 else None,
            method="POST",
        )
        return copy

    def _turn(self, forward: Forward) -> Replica | None:
        """The replica for a copy of this request; None when it gets none."""
        if forward.exchange.head.method != "POST" or (
            forward.plan.wanted and not forward.plan.soft
        ):
            return None
        if not self.due():
            return None
        if len(self.under_way) >= MOST_AT_ONCE:
            self.count("dropped")
            return None
        target = self.target
        replica = least_busy(target.replicas, target.concurrency) if target is not None else None
        if replica is None:
            self.count("no replica")
        return replica

    def due(self) -> bool:
        """Whether this one of the requests is to be copied."""
        self._credit += self.percent
        if self._credit < 100:
            return False
        self._credit -= 100
        return True

    def count(self, status: str) -> None:
        self.metrics.requests.labels(*self.labels, status).inc()


class Copy:
    """One copy under way (a sink of `penstock.http.client`)."""

    __slots__ = ("_held", "_replica", "_shadow", "_since", "_timer", "status", "upstream")

    def __init__(
        self, shadow: Shadow, replica: Replica, timeout_s: float, held_bytes: int = 0
    ) -> None:
        self._shadow = shadow
        self._held = held_bytes
        shadow.held_bytes += held_bytes
        shadow.under_way.add(self)
        self._replica = replica
        self._since = shadow.loop.time()
        self._timer = shadow.loop.call_later(timeout_s, self._expire)
        self.upstream: ClientExchange | None = None
        self.status = 0
        replica.outstanding += 1

    def feed(self, data: Any) -> None:
        """A piece of a streamed body. Never waits: a shadow that is too far behind loses the copy."""
        upstream = self.upstream
        if upstream is None or self not in self._shadow.under_way:
            return
        if not upstream.write(data) and upstream.unsent > MOST_UNSENT:
            self._give_up("behind")

    def end(self) -> None:
        """The streamed body is complete."""
        if self.upstream is not None and self in self._shadow.under_way:
            self.upstream.end()

    def abort(self) -> None:
        """The streamed body broke off."""
        self._give_up("incomplete")

    def on_response(self, head: ResponseHead, body: Any) -> None:
        self.status = head.status
        if body is not None:
            self.on_end()

    def on_data(self, data: Any) -> None:
        """Dropped."""

    def on_end(self) -> None:
        shadow = self._shadow
        shadow.metrics.seconds.labels(*shadow.labels).observe(shadow.loop.time() - self._since)
        self._finish(str(self.status))

    def on_error(self, exc: UpstreamError) -> None:
        if exc.phase == "connect":
            self._replica.mark_down()
        self._finish("lost")

    def _expire(self) -> None:
        self._give_up("timeout")

    def _give_up(self, status: str) -> None:
        self._finish(status)
        if self.upstream is not None:
            self.upstream.cancel()

    def _finish(self, status: str) -> None:
        shadow = self._shadow
        if self not in shadow.under_way:
            return
        shadow.under_way.discard(self)
        shadow.held_bytes -= self._held
        self._timer.cancel()
        self._replica.outstanding -= 1
        shadow.count(status)
