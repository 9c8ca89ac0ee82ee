"""Who may import a framework now.

After a restart ten frameworks may be wanted at once, and each import is seconds of a core: side by side on
two cores all of them are ready when the last one is, and a request that waits for one of them waits for ten.
So as many import side by side as there are cores, and who is next is decided when a place is free: those that
a request waits for, then those that shall be kept warm, then the others, each in the order they came.

Those that a request waits for do not wait for the others' imports to end either: they have as many places of
their own. So at most twice as many imports run as there are cores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Rank(IntEnum):
    """Who goes first: the lowest."""

    WAITED_FOR = 0
    WARM = 1
    WANTED = 2


class Turns(Generic[T]):
    """Places for `most` at a time, and for `most` more that are waited for."""

    def __init__(self, most: int) -> None:
        self._most = most
        #: In the order they came.
        self._waiting: dict[T, tuple[Rank, Callable[[], None]]] = {}
        self._running: dict[T, Rank] = {}

    def ask(self, who: T, begin: Callable[[], None], rank: Rank) -> None:
        """Call `begin`, which never raises, now or when there is a place; `who` has it until it leaves."""
        self._waiting[who] = (rank, begin)
        self._next()

    def hurry(self, who: T) -> None:
        """Somebody waits for it. No-op when it has neither asked nor begun."""
        if who in self._running:
            self._running[who] = Rank.WAITED_FOR
        elif who in self._waiting:
            self._waiting[who] = (Rank.WAITED_FOR, self._waiting[who][1])
            self._next()

    def leave(self, who: T) -> None:
        """It needs no place any more. No-op when it has none."""
        self._waiting.pop(who, None)
        if self._running.pop(who, None) is not None:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            who = min(self._waiting, key=lambda w: self._waiting[w][0])
            rank, begin = self._waiting[who]
            alike = list(self._running.values())
            taken = alike.count(Rank.WAITED_FOR) if rank is Rank.WAITED_FOR else len(alike)
            if taken >= self._most:
                return
            del self._waiting[who]
            self._running[who] = rank
            begin()
