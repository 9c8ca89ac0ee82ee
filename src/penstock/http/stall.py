"""How long a peer has taken nothing of what waits to be written to it."""

from __future__ import annotations


class WriteStall:
    """Told now and then how much waits, says for how long nothing of it went."""

    __slots__ = ("_since", "_waiting")

    def __init__(self) -> None:
        self._waiting = 0
        self._since = 0.0

    def seconds(self, waiting: int, now: float) -> float:
        """Seconds up to `now` (a monotonic clock's) in which of the `waiting` bytes none were taken."""
        if not waiting or waiting < self._waiting or not self._waiting:
            self._since = now
        self._waiting = waiting
        return now - self._since
