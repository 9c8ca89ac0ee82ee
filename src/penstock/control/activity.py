"""When a service was last used, for those that may sleep.

Two things say so: a gateway's `Wake`, and gateways' request counters that moved since they were last read.
What is not known counts as used just now, so a fresh control plane puts nothing to sleep too early.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.control.clock import Clock
from penstock.control.metrics import counter_by
from penstock.observe.metrics import Snapshot

ServiceKey = tuple[str, str]

#: Counters and gauges of a gateway that show use, with namespace and service labels.
REQUESTS = "penstock_gateway_requests"
WAITING = "penstock_gateway_requests_waiting"


class Activity:
    """Monotonic times of last use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used: dict[ServiceKey, float] = {}
        self._counts: dict[ServiceKey, float] = {}

    def touch(self, key: ServiceKey) -> None:
        """It is used now."""
        self._used[key] = self._clock.monotonic()

    def idle_s(self, key: ServiceKey) -> float:
        """Seconds since it was last used; the first question counts as use."""
        now = self._clock.monotonic()
        return now - self._used.setdefault(key, now)

    def forget(self, key: ServiceKey) -> None:
        self._used.pop(key, None)
        self._counts.pop(key, None)

    def read(self, snapshot: Snapshot, wanted: Callable[[ServiceKey], bool]) -> None:
        """Compare gateways' counters with the last reading, for services that `wanted` picks."""
        counts = counter_by(snapshot, REQUESTS, ("namespace", "service"))
        waiting = counter_by(snapshot, WAITING, ("namespace", "service"))
        for labels, count in counts.items():
            key = (labels[0], labels[1])
            if wanted(key) and count != self._counts.get(key, 0.0):
                self._counts[key] = count
                self.touch(key)
        for labels, count in waiting.items():
            if count and wanted((labels[0], labels[1])):
                self.touch((labels[0], labels[1]))
