"""Threads that run models' code, and the two ways to notice that a call never ends.

`Workers` keeps long calls out of the event loop and looks, from the loop, for a call that takes longer than
any request may. `Watchdog` is a thread that looks at the loop itself, where short calls run. Both only
report: whoever is told must end the process, since nothing gets a thread back from a call that hangs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from penstock.server.pulse import Pulse

T = TypeVar("T")

#: Told once that a call hangs, in words for the log and the replica's status.
Hung: TypeAlias = Callable[[str], None]


#: Looks of the watchdog that find no call, before it sleeps until there is one.
_IDLE_LOOKS: Final = 5


class OffLoop(Protocol):
    """Runs rare and long work, such as a load, where it does not hold up the loop."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


class Job:
    """Something that runs in a thread. `work` must not raise; `done` is called in the loop after it."""

    __slots__ = ("done", "started", "work")

    def __init__(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        self.work = work
        self.done = done
        #: `perf_counter` seconds; 0 while it waits for a thread.
        self.started = 0.0


class Workers:
    """Up to `threads` daemon threads for one model, started when first needed."""

    def __init__(
        self,
        *,
        name: str,
        threads: int,
        timeout_s: float,
        hung: Hung,
        on_thread_start: Callable[[], None] | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        """`pulse` is told of jobs, so that it beats while there are any."""
        self.name = name
        self._pulse = pulse
        self._limit = threads
        self._timeout_s = timeout_s
        self._hung = hung
        self._on_thread_start = on_thread_start
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._jobs: set[Job] = set()
        self._timer: asyncio.TimerHandle | None = None

    def run(self, job: Job) -> None:
        """Start `job` when a thread is free. The caller bounds how many wait."""
        if self._pulse is not None:
            self._pulse.enter()
        self._jobs.add(job)
        if len(self._jobs) > len(self._threads) < self._limit:
            thread = threading.Thread(
                target=self._serve, name=f"predict-{self.name}"[:15], daemon=True
            )
            self._threads.append(thread)
            thread.start()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        self._queue.put(job)

    async def call(self, work: Callable[[], Any]) -> Any:
        """What `work` returns or raises, from a thread. Cancelling leaves the thread to end by itself."""
        future: asyncio.Future[Any] = self._loop.create_future()
        result: list[Any] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                result.append(work())
            except BaseException as error:  # noqa: BLE001 raised again where it is awaited
                raised.append(error)

        def done() -> None:
            if future.done():
                return
            if not raised:
                future.set_result(result[0])
            elif isinstance(raised[0], (StopIteration, SystemExit, KeyboardInterrupt)):
                # None of them may pass through a future or the loop.
                future.set_exception(RuntimeError(f"{type(raised[0]).__name__} was raised"))
            else:
                future.set_exception(raised[0])

        self.run(Job(run, done))
        return await future

    @property
    def late(self) -> bool:
        """Whether a call has taken longer than any request may."""
        begun = [job.started for job in self._jobs if job.started]
        return bool(begun) and perf_counter() - min(begun) >= self._timeout_s

    def close(self) -> None:
        """Let the threads end after the jobs they have. No job after it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _ in self._threads:
            self._queue.put(None)

    def _serve(self) -> None:
        if self._on_thread_start is not None:
            self._on_thread_start()
        while True:
            job = self._queue.get()
            if job is None:
                return
            job.started = perf_counter()
            job.work()
            try:
                self._loop.call_soon_threadsafe(self._ended, job)
            except RuntimeError:  # the loop is closed: the process is on its way out
                return

    def _ended(self, job: Job) -> None:
        self._jobs.discard(job)
        if self._pulse is not None:
            self._pulse.leave()
        job.done()

    def _look(self) -> None:
        self._timer = None
        begun = [job.started for job in self._jobs if job.started]
        if not self._jobs:
            return
        left = (min(begun) + self._timeout_s - perf_counter()) if begun else self._timeout_s
        if left > 0:
            self._timer = self._loop.call_later(left + 0.001, self._look)
        else:
            self._hung(hung_message(self.name, self._timeout_s))


class Watchdog:
    """A thread that sees a call in the loop not end, when the loop itself can see nothing.

    It starts with the first such call, and sleeps while there are none: processes that nobody asks anything
    need no processor. `hung` is called from that thread, once.
    """

    def __init__(self, timeout_s: float, hung: Hung, *, pulse: Pulse | None = None) -> None:
        self._timeout_s = timeout_s
        self._hung = hung
        #: Told of calls, so that it beats as long as there are any.
        self.pulse = pulse
        #: Model and start of the call in the loop now. Written for each call, so it is one plain store.
        self._current: tuple[str, float] | None = None
        #: Whether a call has to wake (or start) the thread.
        self._asleep = True
        # Not an Event, whose waits are Python code and cost a forked process 0.1 MB.
        self._awake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def enter(self, name: str, now: float) -> None:
        self._current = (name, now)
        if self._asleep:
            self._wake()

    def leave(self) -> None:
        self._current = None

    @property
    def awake(self) -> bool:
        """Whether calls in the loop are looked after without waking anybody for it."""
        return not self._asleep

    def close(self) -> None:
        self._closed = True
        self._awake.put(None)

    def _wake(self) -> None:
        self._asleep = False
        if self.pulse is not None:
            self.pulse.stir()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        else:
            self._awake.put(None)

    def _watch(self) -> None:
        interval = min(1.0, self._timeout_s / 10)
        idle = 0
        while not self._closed:
            try:
                # By `close`, or by a call that has seen this asleep too late.
                self._awake.get(timeout=interval)
            except Empty:
                pass
            current = self._current
            if current is not None:
                idle = 0
                if perf_counter() - current[1] >= self._timeout_s:
                    self._hung(hung_message(current[0], self._timeout_s))
                    return
                continue
            idle += 1
            if idle < _IDLE_LOOKS or self._closed:
                continue
            self._asleep = True
            # A call that began before that line has not woken anybody.
            if self._current is None and not self._closed:
                self._awake.get()
            self._asleep = False
            idle = 0


def hung_message(name: str, timeout_s: float) -> str:
    return f"Model {name} did not return from predict within {timeout_s:g} s."


async def in_thread(work: Callable[[], T], /) -> T:
    """What `work` returns or raises, from a daemon thread of its own: it may take as long as it likes.

    A daemon thread, so that a load that never ends does not keep the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 raised again where it is awaited
            outcome: tuple[Callable[[Any], None], object] = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
