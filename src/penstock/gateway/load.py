"""What each service had to do, told to the control plane once a second, for its autoscaler.

Costs requests nothing: the request-seconds of a period are the durations that the metrics' histograms added
up meanwhile, and by how much the requests under way have grown older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from penstock.domain.routes import Load, ServiceLoad

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway

EVERY_S: Final = 1.0
#: Services in one message; the channel's lines are short.
MOST: Final = 200


class LoadMeter:
    """Reads a gateway's own numbers; `begin` sends them on each second until `close`."""

    def __init__(self, gateway: Gateway, send: Callable[[Load], None]) -> None:
        self._gateway = gateway
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        #: By service: requests ended, their seconds, and the age of those under way, at the last reading.
        self._before: dict[str, tuple[float, float, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._tick)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self.begin()
        for message in self.read():
            self._send(message)

    def read(self) -> Iterator[Load]:
        """The load since the last reading, in as many messages as it takes."""
        now = self._loop.time()
        seconds, self._at = now - self._at, now
        services = list(self._services(now))
        for first in range(0, max(1, len(services)), MOST):
            yield Load(0.0 if first else seconds, tuple(services[first : first + MOST]))

    def _services(self, now: float) -> Iterator[ServiceLoad]:
        ended = self._gateway.ended()
        ages: dict[str, list[float]] = {}
        for forward in self._gateway.active:
            of = ages.setdefault(forward.service.key, [0, 0.0, 0])
            of[0] += 1
            of[1] += now - forward.since
            of[2] += forward.queued
        before, self._before = self._before, {}
        for key in ended.keys() | ages.keys():
            requests, duration_s = ended.get(key, (0.0, 0.0))
            in_flight, age_s, waiting = ages.get(key, (0, 0.0, 0))
            self._before[key] = (requests, duration_s, age_s)
            old = before.get(key, (0.0, 0.0, 0.0))
            more = requests - old[0]
            # Ended requests' seconds count whole; what they had before this period is taken off again.
            request_s = duration_s - old[1] + age_s - old[2]
            if more or in_flight or old[2]:
                yield ServiceLoad(key, max(0.0, request_s), int(more), int(in_flight), int(waiting))
