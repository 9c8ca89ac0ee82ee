"""The loop that runs controllers: a queue of keys, not of events.

Whatever happens to a service - its manifest was written, a replica died, a fetch ended, a timer fired -
says only "look at this key again". A controller then compares all that is observed with what is wanted
and acts on the difference. So a lost, doubled or reordered event costs nothing, a burst of a hundred
events about one key is one look, and a restart is the same as a look at every key.

The rules that make it safe:

- one key is never looked at by two tasks at a time; a key that is enqueued meanwhile is looked at once
  more afterwards;
- different keys run side by side, at most `concurrency` of them, so one slow service holds up no other;
- a look that raises is repeated with back-off, per key, and the failure is logged once per message;
- a look has a deadline: a backend that never answers costs one retry, not one slot for ever;
- a key that somebody waits for (a request to a sleeping service) goes before those that wait their turn,
  also where it is looked at already and has to be once more;
- a key that is new (`begin`) goes behind all that are known already: while thousands of manifests are taken,
  those that are Ready become so for everybody, and go to sleep in time. It goes on all the same: one look in
  so many is for what is new;
- keys about which nothing happened (`sweep`: all of them after a start) go last, few at a time, and one at a
  time while somebody waits: with ten thousand services, news need not wait for all of them. They go on all
  the same: one look in so many is theirs;
- while people wait for an answer (`giving_way`), few looks run side by side: a thousand manifests are taken
  at the pace at which they can be stored, not at that at which they can be started.

Feeding the queue is `control.feeds`' part, looking is `control.services`'.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from penstock.control.clock import Clock, Timer
from penstock.errors import Conflict, PenstockError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

#: Looks that run side by side while they give way.
FEW = 2
#: Looks of a sweep that run side by side.
SWEEP = 4
#: One look in so many is a sweep's, whatever else there is to do.
SWEEP_EVERY = 16
#: One look in so many is for a new key while there are others.
NEW_EVERY = 8


class _Turn(IntEnum):
    """When a key is looked at: the lowest first."""

    HURRIED = 0
    ENQUEUED = 1
    NEW = 2
    SWEPT = 3


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between repeated failures: `first_s`, doubling, up to `most_s`."""

    first_s: float = 0.5
    most_s: float = 300.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 is the first)."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))


class Loop(Generic[K]):
    """Runs `reconcile(key)` for every key that was enqueued.

    `reconcile` answers when to look again without a reason, in seconds, or None.
    """

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        clock: Clock | None = None,
        concurrency: int = 16,
        backoff: Backoff = Backoff(),
        deadline_s: float = 60.0,
        on_stuck: Callable[[K, BaseException], None] | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._clock = clock or Clock()
        self._concurrency = concurrency
        self._backoff = backoff
        self._deadline_s = deadline_s
        self._on_stuck = on_stuck
        self._queues: dict[_Turn, deque[K]] = {turn: deque() for turn in _Turn}
        #: Keys that wait for a look, once each; one that was moved up is in several queues.
        self._waiting: dict[K, _Turn] = {}
        self._waits: Counter[_Turn] = Counter()
        self._running: dict[K, tuple[asyncio.Task[None], _Turn]] = {}
        self._runs: Counter[_Turn] = Counter()
        self._again: dict[K, _Turn] = {}  # enqueued while running
        self._since_swept = 0
        self._since_new = 0
        self._timers: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._said: dict[K, str] = {}
        #: How many somebodies there are that looks give way to.
        self._guests = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        #: Looks taken and looks that raised, for metrics.
        self.looks = 0
        self.failed = 0

    def hurry(self, key: K) -> None:
        """Look at `key` before those that are waiting."""
        self._enqueue(key, _Turn.HURRIED)

    def enqueue(self, key: K) -> None:
        """Look at `key` soon."""
        self._enqueue(key, _Turn.ENQUEUED)

    def begin(self, key: K) -> None:
        """Look at `key`, of which nothing is there yet, after those that are enqueued."""
        self._enqueue(key, _Turn.NEW)

    def sweep(self, keys: Iterable[K]) -> None:
        """Look at each of `keys` when there is little else to do."""
        for key in keys:
            self._enqueue(key, _Turn.SWEPT)

    def _enqueue(self, key: K, turn: _Turn) -> None:
        if self._closed:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        if key in self._running:
            self._again[key] = min(turn, self._again.get(key, turn))
            return
        before = self._waiting.get(key)
        if before is not None and before <= turn:
            return
        if before is not None:
            self._waits[before] -= 1
        self._waiting[key] = turn
        self._waits[turn] += 1
        self._queues[turn].append(key)
        self._idle.clear()
        self._pump()

    def enqueue_after(self, key: K, delay_s: float) -> None:
        """Look at `key` in `delay_s` seconds, or sooner if something else asks for it."""
        if self._closed:
            return
        due = self._clock.monotonic() + delay_s
        pending = self._timers.get(key)
        if pending is not None:
            if pending[0] <= due:
                return
            pending[1].cancel()
        self._timers[key] = (due, self._clock.call_later(delay_s, lambda: self.enqueue(key)))

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Run few looks at a time meanwhile."""
        self._guests += 1
        try:
            yield
        finally:
            self._guests -= 1
            if not self._guests:
                self._pump()

    @property
    def depth(self) -> int:
        """Keys that wait for a look."""
        return len(self._waiting)

    async def settled(self) -> None:
        """Wait until no key waits or runs (timers do not count)."""
        await self._idle.wait()

    async def close(self) -> None:
        """Cancel what runs and forget what waits."""
        self._closed = True
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for queue in self._queues.values():
            queue.clear()
        self._waiting.clear()
        self._waits.clear()
        running = [task for task, _ in self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._idle.set()

    def _pump(self) -> None:
        while not self._closed and (turn := self._next()) is not None:
            key = self._queues[turn].popleft()
            if self._waiting.get(key) is not turn:
                continue  # it was moved up
            del self._waiting[key]
            self._waits[turn] -= 1
            self._since_swept = 0 if turn is _Turn.SWEPT else self._since_swept + 1
            waits = turn is not _Turn.NEW and self._waits[_Turn.NEW]
            self._since_new = self._since_new + 1 if waits else 0
            task = asyncio.get_running_loop().create_task(self._look(key))
            self._running[key] = (task, turn)
            self._runs[turn] += 1
            task.add_done_callback(lambda _, key=key: self._done(key))  # type: ignore[misc]

    def _next(self) -> _Turn | None:
        """Whose turn it is; None when enough runs."""
        running = len(self._running)
        if self._waits[_Turn.HURRIED]:
            # Who hurries gives way to nobody, and waits for no slot that others have.
            return _Turn.HURRIED if running < self._concurrency + FEW else None
        if running >= (min(FEW, self._concurrency) if self._guests else self._concurrency):
            return None
        somebody = self._waits[_Turn.ENQUEUED] or self._waits[_Turn.NEW]
        if self._waits[_Turn.SWEPT]:
            alone = self._guests or self._runs[_Turn.HURRIED]
            overdue = self._since_swept >= SWEEP_EVERY and not self._runs[_Turn.SWEPT]
            if overdue or (not somebody and self._runs[_Turn.SWEPT] < (1 if alone else SWEEP)):
                return _Turn.SWEPT
        if self._waits[_Turn.NEW] and (
            not self._waits[_Turn.ENQUEUED] or self._since_new >= NEW_EVERY - 1
        ):
            return _Turn.NEW
        return _Turn.ENQUEUED if somebody else None

    def _done(self, key: K) -> None:
        _, turn = self._running.pop(key)
        self._runs[turn] -= 1
        again = self._again.pop(key, None)
        if again is not None:
            self._enqueue(key, again)
        self._pump()
        if not self._running and not self._waiting:
            self._idle.set()

    async def _look(self, key: K) -> None:
        self.looks += 1
        self._again.pop(key, None)  # what was enqueued before this look began, it will see
        try:
            async with asyncio.timeout(self._deadline_s):
                again_s = await self._reconcile(key)
        except Conflict:
            # Somebody else wrote first: their change is (or will be) in the queue; look soon.
            self._retry(key, None)
        except Exception as exc:  # noqa: BLE001 - the border of a task: log, back off, go on
            self.failed += 1
            self._retry(key, exc)
        else:
            self._failures.pop(key, None)
            self._said.pop(key, None)
            if again_s is not None:
                self.enqueue_after(key, again_s)

    def _retry(self, key: K, exc: Exception | None) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = self._backoff.delay_s(failures)
        if exc is not None:
            said = f"{type(exc).__name__}: {exc}"
            if self._said.get(key) != said:
                self._said[key] = said
                expected = isinstance(exc, PenstockError | TimeoutError)
                log.error(
                    "%s: %s; again in %.1f s",
                    key,
                    said if not isinstance(exc, TimeoutError) else "took too long",
                    delay_s,
                    exc_info=None if expected else exc,
                )
            if self._on_stuck is not None:
                self._on_stuck(key, exc)
        self.enqueue_after(key, delay_s)
