"""Requests in front of one loaded model: gathered into batches, started, and given their rows back.

The queue is work-conserving: an idle model runs at once, and whatever arrives while it runs is the next
batch. Nothing waits for company unless the manifest says so (`max_latency_s`). Starting is put off to the
end of the loop's iteration, so that all requests that were readable in the same poll share a call; that
costs a lone request nothing. What may share a batch is told by `pending`; a batch runs in `execution`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from math import inf
from time import perf_counter
from typing import Any, Final, Protocol

from penstock.errors import DeadlineExceeded, PenstockError, Unavailable
from penstock.runtimes.base import Arrays
from penstock.server.execution import Call, WrongRows
from penstock.server.pending import Done, Pending, answer, describe, share_out

#: Rows in a call when the manifest says nothing.
DEFAULT_ROWS: Final = 32
#: Bytes of input in a call when the manifest says nothing: beyond it copying costs more than a call saves.
DEFAULT_BYTES: Final = 1 << 18


class Runs(Protocol):
    """What the batcher needs of an executor."""

    name: str
    slots: int

    def run(self, call: Call) -> None: ...


class Observer(Protocol):
    """Who is told about calls, for statistics and metrics."""

    def called(self, call: Call, members: list[Pending]) -> None:
        """A call ended; `members` are those it was started for."""

    def dropped(self, pending: Pending) -> None:
        """A request will not be answered by the model: cancelled, or its deadline passed."""


class Batcher:
    """Gathers requests for one executor.

    `max_rows` and `max_bytes` bound a call of several requests; one request alone may be larger.
    `batches=False` gives every request a call of its own. At most `max_queue` requests wait or run.
    """

    def __init__(
        self,
        executor: Runs,
        *,
        batches: bool = True,
        max_rows: int = DEFAULT_ROWS,
        max_bytes: float = DEFAULT_BYTES,
        max_latency_s: float = 0.0,
        max_queue: int = 1024,
        timeout_s: float = 60.0,
        observer: Observer | None = None,
    ) -> None:
        self._executor = executor
        self._batches = batches
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_latency_s = max_latency_s if batches else 0.0
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._free = executor.slots
        #: Waiting requests by what may share a call, oldest group first; each at its first arrival's turn.
        self._groups: OrderedDict[Hashable, deque[Pending]] = OrderedDict()
        #: Members of a call that failed, to be run one by one.
        self._alone: deque[Pending] = deque()
        #: Requests in the queue that still want an answer.
        self.waiting = 0
        #: Members of calls that run now.
        self._running: dict[Call, list[Pending]] = {}
        self._in_calls = 0
        self._start: asyncio.Handle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = inf
        self._closed: PenstockError | None = None
        self._idle: asyncio.Future[None] | None = None

    # -- coming in

    def submit(
        self,
        arrays: Arrays,
        parameters: Mapping[str, Any],
        done: Done,
        *,
        timeout_s: float | None = None,
    ) -> Pending:
        """Queue a request; `done` gets its answer, never before this returns.

        Raises InvalidInput when the inputs disagree on their number of rows, Unavailable when the queue is
        full or closed: `done` is not called then.
        """
        if self._closed is not None:
            raise self._closed
        if self.waiting + self._in_calls >= self._max_queue:
            raise Unavailable(
                f"Model {self._executor.name} has {self._max_queue} requests under way.",
                hint="Try again in a moment.",
                retry_after_s=1.0,
            )
        now = perf_counter()
        rows = -1
        nbytes = 0
        key: Hashable = None
        if self._batches:
            if len(arrays) == 1 and not parameters:
                # By far the most common request: spare it the loop.
                for name, array in arrays.items():
                    shape = array.shape
                    if shape:
                        rows = shape[0]
                        nbytes = array.nbytes
                        key = (name, array.dtype, shape[1:])
            else:
                rows, key = describe(arrays, parameters)
        if not nbytes:
            for array in arrays.values():
                nbytes += array.nbytes
        limit = self._timeout_s
        if timeout_s is not None and timeout_s < limit:
            limit = timeout_s
        pending = Pending(self, arrays, parameters, rows, nbytes, done, now, now + limit)
        if key is None:
            key = pending
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = group = deque()
        group.append(pending)
        self.waiting += 1
        if self._free:
            if self._start is None:
                if self._max_latency_s > 0.0 and not self._full(group):
                    self._start = self._loop.call_later(self._max_latency_s, self._begin)
                else:
                    self._start = self._loop.call_soon(self._begin)
            elif self._max_latency_s > 0.0 and self._full(group):
                self._start.cancel()
                self._start = self._loop.call_soon(self._begin)
        if pending.deadline < self._sweep_at and (not self._free or self._max_latency_s > 0.0):
            self._arm(pending.deadline)
        return pending

    def forget(self, pending: Pending) -> None:
        """A pending request was cancelled; leave it where it is, it is skipped when its turn comes."""
        if self._observer is not None:
            self._observer.dropped(pending)
        if pending.queued:
            self.waiting -= 1
            # Its inputs may be large and its turn far off.
            pending.arrays = {}
            if not self.waiting:
                self._groups.clear()
                self._alone.clear()
                self._settle()

    # -- running

    def _full(self, group: deque[Pending]) -> bool:
        rows = 0
        for pending in group:
            rows += pending.rows
            if rows >= self._max_rows or pending.rows < 0:
                return True
        return False

    def _begin(self) -> None:
        """Start calls while there is something to run and a free slot; one short call at a time."""
        self._start = None
        now = perf_counter()
        while self._free and (self._groups or self._alone):
            members = self._take(now)
            if not members:
                continue
            call = self._call(members)
            self._free -= 1
            self._in_calls += len(members)
            self._running[call] = members
            self._executor.run(call)
            if call not in self._running:
                # It ran in the loop. Others may have become readable meanwhile: serve them before the next.
                self._again()
                return
            self._arm_for_running(members)
        if not self._running and not self._groups and not self._alone:
            self._settle()

    def _again(self) -> None:
        if self._start is not None or not self._free or not (self._groups or self._alone):
            return
        if self._max_latency_s > 0.0 and not self._alone:
            group = next(iter(self._groups.values()))
            wait = group[0].arrived + self._max_latency_s - perf_counter()
            if wait > 0 and not self._full(group):
                self._start = self._loop.call_later(wait, self._begin)
                return
        self._start = self._loop.call_soon(self._begin)

    def _take(self, now: float) -> list[Pending]:
        """The members of the next call; empty when all whose turn it was are gone."""
        if self._alone:
            pending = self._alone.popleft()
            if not self._still_wanted(pending, now):
                return []
            pending.queued = False
            self.waiting -= 1
            return [pending]
        key, group = self._groups.popitem(last=False)
        members: list[Pending] = []
        rows = nbytes = 0
        max_rows, max_bytes = self._max_rows, self._max_bytes
        while group:
            pending = group[0]
            if members and (rows + pending.rows > max_rows or nbytes + pending.nbytes > max_bytes):
                # To the back: other groups have their turn first.
                self._groups[key] = group
                break
            group.popleft()
            if (pending.done is None or pending.deadline <= now) and not self._still_wanted(
                pending, now
            ):
                continue
            pending.queued = False
            members.append(pending)
            rows += pending.rows
            nbytes += pending.nbytes
            if rows >= max_rows and group:
                self._groups[key] = group
                break
        self.waiting -= len(members)
        return members

    def _still_wanted(self, pending: Pending, now: float) -> bool:
        if pending.done is None:
            return False
        if pending.deadline <= now:
            self._expire(pending)
            self.waiting -= 1
            return False
        return True

    def _call(self, members: list[Pending]) -> Call:
        first = members[0]
        if len(members) == 1:
            return Call((first.arrays,), first.parameters, first.rows, first.nbytes, self._ended)
        rows = nbytes = 0
        parts: list[Arrays] = []
        for pending in members:
            rows += pending.rows
            nbytes += pending.nbytes
            parts.append(pending.arrays)
        return Call(parts, first.parameters, rows, nbytes, self._ended)

    def _ended(self, call: Call) -> None:
        members = self._running.pop(call, None)
        if members is None:
            return
        self._free += 1
        self._in_calls -= len(members)
        if self._observer is not None:
            self._observer.called(call, members)
        error = call.error
        outputs = call.outputs
        if error is not None:
            self._failed(members, error)
        elif len(members) == 1:
            pending = members[0]
            if pending.done is not None:
                answer(pending, outputs, None)
        elif outputs is not None:
            share_out(members, outputs)
        self._again()
        if not self._running and not self.waiting:
            self._settle()

    def _failed(self, members: list[Pending], error: PenstockError) -> None:
        wanted = [p for p in members if p.done is not None]
        if len(members) == 1 or isinstance(error, (WrongRows, DeadlineExceeded)):
            for pending in wanted:
                answer(pending, None, error)
            return
        # One of them is at fault, and only that one shall hear of it.
        for pending in wanted:
            pending.queued = True
        self._alone.extend(wanted)
        self.waiting += len(wanted)

    # -- deadlines

    def _arm_for_running(self, members: list[Pending]) -> None:
        earliest = min(p.deadline for p in members)
        if self._sweeper is None:
            for group in self._groups.values():
                for pending in group:
                    earliest = min(earliest, pending.deadline)
            for pending in self._alone:
                earliest = min(earliest, pending.deadline)
        if earliest < self._sweep_at:
            self._arm(earliest)

    def _arm(self, deadline: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = deadline
        # The loop's clock counts milliseconds: one more, so that the deadline has passed by then.
        self._sweeper = self._loop.call_later(
            max(0.0, deadline - perf_counter()) + 0.001, self._sweep
        )

    def _sweep(self) -> None:
        """Answer everyone whose deadline has passed, whether it waits or runs."""
        self._sweeper = None
        self._sweep_at = inf
        now = perf_counter()
        earliest = inf
        for members in list(self._running.values()):
            for pending in members:
                if pending.done is None:
                    continue
                if pending.deadline <= now:
                    self._expire(pending)
                else:
                    earliest = min(earliest, pending.deadline)
        for group in (*self._groups.values(), self._alone):
            for pending in group:
                if pending.done is None:
                    continue
                if pending.deadline <= now:
                    self._expire(pending)
                    pending.arrays = {}
                    self.waiting -= 1
                else:
                    earliest = min(earliest, pending.deadline)
        if earliest < inf:
            self._arm(earliest)

    def _expire(self, pending: Pending) -> None:
        if self._observer is not None:
            self._observer.dropped(pending)
        answer(
            pending,
            None,
            DeadlineExceeded(
                f"Model {self._executor.name} did not answer within "
                f"{pending.deadline - pending.arrived:.3g} s."
            ),
        )

    # -- the end

    def abandon(self, error: PenstockError) -> None:
        """Answer everybody with `error`, running or waiting, and take no more."""
        self._closed = error
        everybody = [p for members in self._running.values() for p in members]
        for group in self._groups.values():
            everybody.extend(group)
        everybody.extend(self._alone)
        self._running.clear()
        self._groups.clear()
        self._alone.clear()
        self.waiting = 0
        for pending in everybody:
            if pending.done is not None:
                answer(pending, None, error)
        self._settle()

    def running(self) -> list[Pending]:
        """Requests whose call runs now. For the watchdog's thread, so it takes a copy."""
        return [p for members in list(self._running.values()) for p in members]

    @property
    def idle(self) -> bool:
        return not self._running and not self.waiting

    async def drain(self) -> None:
        """Take no more and return when everything that was taken is answered."""
        if self._closed is None:
            self._closed = Unavailable(
                f"Model {self._executor.name} is being unloaded.", retry_after_s=1.0
            )
        if self.idle:
            return
        if self._idle is None:
            self._idle = self._loop.create_future()
        await asyncio.shield(self._idle)

    def _settle(self) -> None:
        if self._sweeper is not None and self._closed is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._idle is not None and not self._idle.done() and self.idle:
            self._idle.set_result(None)
