"""How long to wait before something that ended is started again.

The first restart is immediate: most endings are accidents (a kill, an out-of-memory), and a replica that is
back within a second is worth more than caution. Those that follow are spaced out, and a run that was healthy
for long enough makes the next ending a first one again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Delays in seconds: `first_s`, then `second_s` doubling up to `most_s`."""

    first_s: float
    second_s: float
    most_s: float

    def delay_s(self, ended: int) -> float:
        """Delay after the `ended`-th ending in a row (1 is the first)."""
        if ended <= 1:
            return self.first_s
        return float(min(self.most_s, self.second_s * 2.0 ** min(ended - 2, 30)))


#: Of a process that ended: at once, 1, 2, 4 ... 60 s.
RESTART = Schedule(0.0, 1.0, 60.0)
#: Of one that said it cannot work (a broken model file): the same files will hardly load in a second.
RETRY_FAILED = Schedule(60.0, 120.0, 600.0)


class Endings:
    """Counts endings in a row; a run of `healthy_s` and more starts the count anew."""

    def __init__(self, healthy_s: float) -> None:
        self._healthy_s = healthy_s
        self._restarts = 0
        self._failures = 0

    def next_delay_s(self, *, failed: bool, healthy_for_s: float) -> float:
        """Seconds to wait now. `failed`: it said that it cannot work; else it just ended."""
        if healthy_for_s >= self._healthy_s:
            self.reset()
        if failed:
            self._failures += 1
            return RETRY_FAILED.delay_s(self._failures)
        self._failures = 0
        self._restarts += 1
        return RESTART.delay_s(self._restarts)

    def reset(self) -> None:
        """Forget what was: somebody asked for a fresh try."""
        self._restarts = self._failures = 0
