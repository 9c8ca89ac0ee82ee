"""The newest changes of something, in memory, for watches that are not far behind.

Numbers have no gaps, so the place of a change can be computed. A watch is a position and no queue: a slow one
costs nobody anything, and is told to begin anew when what it has not seen is gone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar

from penstock.store.base import Expired

T = TypeVar("T")
#: Changes that a watch takes at a time.
_BATCH = 500


class Ring(Generic[T]):
    """`add` changes; `follow` them. On one loop."""

    def __init__(self, newest: int, size: int) -> None:
        """`newest` is the number of the last change before the ring's first."""
        self.newest = newest
        self._kept: deque[T] = deque(maxlen=size)
        self._wakeups: set[asyncio.Event] = set()
        self._closed = False

    def add(self, changes: Sequence[T]) -> None:
        """The next changes, in order."""
        if not changes:
            return
        self._kept.extend(changes)
        self.newest += len(changes)
        self._wake()

    def close(self) -> None:
        """End what follows."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.set()

    async def follow(self, since: int) -> AsyncGenerator[tuple[int, T], None]:
        """(number, change) after `since`, for ever. Raises Expired."""
        wakeup = asyncio.Event()
        self._wakeups.add(wakeup)
        try:
            while not self._closed:
                wakeup.clear()
                first = self.newest - len(self._kept) + 1
                if since > self.newest or since < first - 1:
                    raise Expired(f"version {since} is not kept: {first - 1} to {self.newest} are")
                if since == self.newest:
                    await wakeup.wait()
                    continue
                start = since + 1 - first
                for change in list(itertools.islice(self._kept, start, start + _BATCH)):
                    since += 1
                    yield since, change
        finally:
            self._wakeups.discard(wakeup)
