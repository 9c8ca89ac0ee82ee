"""Copies of requests to a revision that is tried out: sent, counted, and their answers dropped.

A copy goes out after the request itself and nothing waits for it. At most `MOST_AT_ONCE` are under way; what
comes beyond is not copied, so a slow shadow costs a bounded amount of memory and the primary nothing.
Bodies that stream are not copied: nobody has them whole.
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

#: Copies of one service under way at a time, and the body that each may hold.
MOST_AT_ONCE: Final = 64
MOST_BYTES: Final = 128 * 1024


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
        target: Target,
        percent: int,
        metrics: ShadowMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.target = target
        self.percent = percent
        self.labels = (*key, target.revision)
        self.metrics = metrics
        self.loop = loop
        self.under_way: set[Copy] = set()
        self._credit = 0

    def copy(self, forward: Forward) -> None:
        """Send a copy of a request that is all here, if it is this one's turn."""
        if forward.exchange.head.method != "POST" or (
            forward.plan.wanted and not forward.plan.soft
        ):
            return
        self._credit += self.percent
        if self._credit < 100:
            return
        self._credit -= 100
        if len(self.under_way) >= MOST_AT_ONCE:
            self.count("dropped")
            return
        replica = least_busy(self.target.replicas, self.target.concurrency)
        if replica is None:
            self.count("no replica")
            return
        whole = forward.exchange.body or b""
        if len(whole) > MOST_BYTES:
            self.count("too large")  # a gRPC message, which is whole whatever its size
            return
        # The original's buffer is its connection's; it may be reused before the copy is out.
        body = bytes(whole)
        copy = Copy(self, replica, forward.plan.timeout_s)
        self.under_way.add(copy)
        copy.upstream = replica.upstream.request(forward.plan.head, body, copy, method="POST")

    def count(self, status: str) -> None:
        self.metrics.requests.labels(*self.labels, status).inc()


class Copy:
    """One copy under way (a sink of `penstock.http.client`)."""

    __slots__ = ("_replica", "_shadow", "_since", "_timer", "status", "upstream")

    def __init__(self, shadow: Shadow, replica: Replica, timeout_s: float) -> None:
        self._shadow = shadow
        self._replica = replica
        self._since = shadow.loop.time()
        self._timer = shadow.loop.call_later(timeout_s, self._expire)
        self.upstream: ClientExchange | None = None
        self.status = 0
        replica.outstanding += 1

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
        if self.upstream is not None:
            self.upstream.cancel()
        self._finish("timeout")

    def _finish(self, status: str) -> None:
        shadow = self._shadow
        if self not in shadow.under_way:
            return
        shadow.under_way.discard(self)
        self._timer.cancel()
        self._replica.outstanding -= 1
        shadow.count(status)
