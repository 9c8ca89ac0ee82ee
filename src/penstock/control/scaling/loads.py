"""What gateways say about their load, averaged over windows; and when a service was last used.

Each gateway sends once a second how many request-seconds and requests each of its active services had since
its last message (`domain.routes.Load`). The average over a window is the sum of the request-seconds over the
sum of the seconds that the messages cover, per gateway, so that it does not matter when messages arrive. A
gateway that ended keeps its share until the window has passed it.

Memory is bounded by the services that are active within their windows, not by those that exist.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from penstock.control.clock import Clock
from penstock.domain.routes import Load
from penstock.domain.service import Role
from penstock.domain.workload import component_key

ServiceKey = tuple[str, str]

#: A gateway that was silent for longer is not heard.
SILENT_S = 5.0
#: Longest window that is kept.
LONGEST_S = 3600.0
DEFAULT_KEEP_S = 60.0


@dataclass(frozen=True, slots=True)
class Average:
    """Requests at a time and requests a second, over a window."""

    concurrency: float = 0.0
    rps: float = 0.0


@dataclass(slots=True)
class _Sample:
    at: float
    gateway: int
    request_s: float
    requests: int


@dataclass(slots=True)
class _Now:
    at: float
    in_flight: int
    waiting: int


class Loads:
    """Load by service. Times are the clock's monotonic seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._samples: dict[ServiceKey, deque[_Sample]] = {}
        self._now: dict[ServiceKey, dict[int, _Now]] = {}
        #: (time, seconds covered) of each gateway's messages.
        self._covered: dict[int, deque[tuple[float, float]]] = {}
        self._last: dict[int, float] = {}
        self._used: dict[ServiceKey, float] = {}
        self._keep: dict[ServiceKey, float] = {}

    # -- what is heard ------------------------------------------------------------------------------

    def take(self, gateway: int, load: Load) -> None:
        """A gateway's message. `gateway` names the connection, not the process."""
        now = self._clock.monotonic()
        covered = self._covered.setdefault(gateway, deque())
        if load.seconds > 0:
            covered.append((now, load.seconds))
            while covered[0][0] <= now - LONGEST_S:
                covered.popleft()
            self._last[gateway] = now
        for s in load.services:
            namespace, _, name = s.key.partition("/")
            key = (namespace, name)
            samples = self._samples.setdefault(key, deque())
            samples.append(_Sample(now, gateway, s.request_s, s.requests))
            keep_s = self._keep.get(key, DEFAULT_KEEP_S)
            while samples[0].at <= now - keep_s:
                samples.popleft()
            if s.in_flight or s.waiting:
                self._now.setdefault(key, {})[gateway] = _Now(now, s.in_flight, s.waiting)
            else:
                self._quiet(key, gateway)
            if s.requests or s.in_flight or s.waiting:
                self._used[key] = now

    def hung_up(self, gateway: int) -> None:
        """A gateway's connection ended: nothing is under way there any more."""
        self._last.pop(gateway, None)
        for key in [k for k, by in self._now.items() if gateway in by]:
            self._quiet(key, gateway)

    def _quiet(self, key: ServiceKey, gateway: int) -> None:
        by_gateway = self._now.get(key)
        if by_gateway is not None:
            by_gateway.pop(gateway, None)
            if not by_gateway:
                del self._now[key]

    def touch(self, key: ServiceKey) -> None:
        """It is used now."""
        self._used[key] = self._clock.monotonic()

    def keep(self, key: ServiceKey, window_s: float) -> None:
        """How long samples of a service are of use."""
        if window_s == DEFAULT_KEEP_S:
            self._keep.pop(key, None)
        else:
            self._keep[key] = min(window_s, LONGEST_S)

    def forget(self, key: ServiceKey) -> None:
        for by_key in (self._samples, self._now, self._used, self._keep):
            by_key.pop(key, None)

    # -- what is asked ------------------------------------------------------------------------------

    def idle_s(self, key: ServiceKey) -> float:
        """Seconds since a service was last used; one that is first asked about counts as used."""
        now = self._clock.monotonic()
        return now - self._used.setdefault(key, now)

    def used_at(self, key: ServiceKey) -> float:
        """When it was last used; -inf when that is not known."""
        return self._used.get(key, float("-inf"))

    def under_way(self, key: ServiceKey) -> tuple[int, int]:
        """(requests under way, of them waiting), as last heard."""
        by_gateway = self._now.get(key)
        if by_gateway is None:
            return 0, 0
        return (
            sum(n.in_flight for n in by_gateway.values()),
            sum(n.waiting for n in by_gateway.values()),
        )

    def busy(self, namespace: str, service: str) -> bool:
        """Requests of a service or one of its components are under way."""
        return any((namespace, component_key(service, role)) in self._now for role in Role)

    def heard(self, expected: int, connected: int) -> bool:
        """All gateways that there should be are connected and have spoken lately."""
        since = self._clock.monotonic() - SILENT_S
        speaking = sum(at >= since for at in self._last.values())
        return connected >= expected and speaking >= connected

    @property
    def covered_s(self) -> float:
        """Since when there is something to hear, seconds ago."""
        return self._clock.monotonic() - self._began

    def average(self, key: ServiceKey, window_s: float) -> Average:
        """Over the last `window_s` seconds, all gateways together."""
        samples = self._samples.get(key)
        if not samples:
            return Average()
        now = self._clock.monotonic()
        since = now - window_s
        sums: dict[int, list[float]] = {}
        for s in reversed(samples):
            if s.at <= since:
                break
            of = sums.setdefault(s.gateway, [0.0, 0.0])
            of[0] += s.request_s
            of[1] += s.requests
        concurrency = rps = 0.0
        for gateway, (request_s, requests) in sums.items():
            seconds = self._seconds(gateway, since) if gateway in self._last else window_s
            if seconds > 0:
                concurrency += request_s / seconds
                rps += requests / seconds
        return Average(concurrency, rps)

    def _seconds(self, gateway: int, since: float) -> float:
        total = 0.0
        for at, seconds in reversed(self._covered.get(gateway, ())):
            if at <= since:
                break
            total += seconds
        return total

    def prune(self) -> None:
        """Drop what no window reaches any more."""
        now = self._clock.monotonic()
        for key, samples in list(self._samples.items()):
            keep_s = self._keep.get(key, DEFAULT_KEEP_S)
            while samples and samples[0].at <= now - keep_s:
                samples.popleft()
            if not samples:
                del self._samples[key]
        for gateway, covered in list(self._covered.items()):
            if gateway not in self._last and (not covered or covered[-1][0] <= now - LONGEST_S):
                del self._covered[gateway]
