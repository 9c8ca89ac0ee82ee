"""Who may do now what takes a core for a while: import a framework, or load a model.

After a restart ten frameworks may be wanted at once, and a file of manifests asks for ten thousand replicas.
Side by side on two cores all of them are ready when the last one is, and a request that waits for one of them
waits for all. So only some run side by side, and who is next is decided when a place is free: those that a
request waits for, then those of what serves or shall be kept warm, then the others, each in the order they
came.

Those that a request waits for do not wait for the others' ends either: they have as many places of their own.
So at most twice as many run as there are places.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Rank(IntEnum):
    """Who goes first: the lowest."""

    #: A request waits for it.
    WAITED_FOR = 0
    #: A zygote that shall be kept warm, a replica of a service that has been serving.
    KEPT = 1
    #: Nobody has missed it yet.
    WANTED = 2


class Turns(Generic[T]):
    """Places for `most` at a time, and for `most` more that are waited for.

    Whatever happens costs the same however many wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: By rank, in the order they came. A plain dict would look for its first behind all that left.
        self._queues: dict[Rank, OrderedDict[T, Callable[[], None]]] = {
            rank: OrderedDict() for rank in Rank
        }
        self._waiting: dict[T, Rank] = {}
        self._running: dict[T, Rank] = {}

    @property
    def running(self) -> int:
        """How many have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def ask(self, who: T, begin: Callable[[], None], rank: Rank) -> None:
        """Call `begin`, which never raises, now or when there is a place; `who` has it until it leaves."""
        self._wait(who, begin, rank)
        self._next()

    def hurry(self, who: T) -> None:
        """Somebody waits for it. No-op when it has neither asked nor begun."""
        if who in self._running:
            self._running[who] = Rank.WAITED_FOR
        elif who in self._waiting:
            self._wait(who, self._forget(who), Rank.WAITED_FOR)
            self._next()

    def leave(self, who: T) -> None:
        """It needs no place any more. No-op when it has none."""
        if who in self._waiting:
            self._forget(who)
        if self._running.pop(who, None) is not None:
            self._next()

    def _wait(self, who: T, begin: Callable[[], None], rank: Rank) -> None:
        self._waiting[who] = rank
        self._queues[rank][who] = begin

    def _forget(self, who: T) -> Callable[[], None]:
        return self._queues[self._waiting.pop(who)].pop(who)

    def _next(self) -> None:
        while self._waiting:
            rank = next(r for r in Rank if self._queues[r])
            alike = list(self._running.values())
            taken = alike.count(Rank.WAITED_FOR) if rank is Rank.WAITED_FOR else len(alike)
            if taken >= self._most:
                return
            who, begin = self._queues[rank].popitem(last=False)
            del self._waiting[who]
            self._running[who] = rank
            begin()
