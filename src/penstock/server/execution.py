"""Where a predict call runs: in the event loop, in a worker thread, or awaited.

A hop to a thread and back costs more than a small model's whole predict, and a long predict in the loop
would leave health checks unanswered. So each model's calls are timed, by size of input, and a call that is
expected to take less than about a millisecond runs in the loop, any other in a worker thread (`workers`).
The batcher (`batching`) decides what is in a call and hands it over here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter, thread_time
from typing import Any, Final, TypeAlias, cast

import numpy as np

from penstock.errors import DeadlineExceeded, ModelError, PenstockError
from penstock.runtimes.base import Array, Arrays, Runtime
from penstock.server.workers import Hung, Job, Watchdog, Workers

log = logging.getLogger(__name__)

#: A call expected to be shorter runs in the loop. Everything else in the process waits that long.
INLINE_BELOW_S: Final = 0.001
#: Weight of the newest duration in the moving estimate.
NEWEST: Final = 0.2
#: A call in the loop that takes longer counts in full, and one in a thread is not tried in the loop.
OUTLIER_S: Final = 0.02
#: Calls in a thread before one is tried in the loop: at first, and at most after trials that failed.
FIRST_TRIAL: Final = 32
LAST_TRIAL: Final = 8192
#: Awaited calls that may be in flight at once; they wait for others, so they cost little.
AWAITED_AT_ONCE: Final = 64
#: numpy's kinds that have a place on the wire: bool, int, uint, float, object, bytes, text.
ENCODABLE_KINDS: Final = frozenset("biufOSU")

#: A model's answer after `checked`.
Outputs: TypeAlias = dict[str, Array]


class Call:
    """One call of a model: the inputs of its members in, outputs or one error out.

    `done` is called exactly once, in the loop. `started`, `joined` and `ended` are `perf_counter`
    seconds: taken up, inputs concatenated, answered.
    """

    __slots__ = (
        "done",
        "ended",
        "error",
        "joined",
        "nbytes",
        "outputs",
        "parameters",
        "parts",
        "rows",
        "started",
    )

    def __init__(
        self,
        parts: Sequence[Arrays],
        parameters: Mapping[str, Any],
        rows: int,
        nbytes: int,
        done: Callable[[Call], None],
    ) -> None:
        self.parts = parts
        self.parameters = parameters
        #: Rows that the answer must have; -1 when the model does not batch and any number will do.
        self.rows = rows
        #: Bytes of input, by which durations are remembered.
        self.nbytes = nbytes
        self.done = done
        self.outputs: Outputs | None = None
        self.error: PenstockError | None = None
        self.started = self.joined = self.ended = 0.0


def join(parts: Sequence[Arrays]) -> Arrays:
    """The members' inputs along axis 0, one copy; a single member's arrays as they are."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return {name: np.concatenate([p[name] for p in parts]) for name in first}


class _Size:
    """What is known of calls of about one size."""

    __slots__ = ("patience", "seconds", "until_trial")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.patience = self.until_trial = FIRST_TRIAL


class Estimate:
    """Moving estimates of a call's duration, one per power of two of its size in bytes.

    In a thread, a call's time has the waits for the interpreter's lock in it, which a busy loop makes ten
    times longer than the call. So a size whose calls need little processor time is tried in the loop now
    and then, ever more seldom as long as that is a disappointment.
    """

    __slots__ = ("_limit_s", "_sizes")

    def __init__(self, limit_s: float = INLINE_BELOW_S) -> None:
        self._limit_s = limit_s
        self._sizes: list[_Size | None] = [None] * 66

    def short(self, nbytes: int) -> bool:
        """Whether a call with `nbytes` of input should be over within the limit.

        What is not known is taken from the nearest smaller size, scaled up as if time grew with size; else
        from a larger one; and is not short when nothing is known.
        """
        bucket = nbytes.bit_length()
        known = self._sizes[bucket]
        if known is not None:
            return known.seconds < self._limit_s
        for b in range(bucket - 1, -1, -1):
            smaller = self._sizes[b]
            if smaller is not None:
                return smaller.seconds * (1 << (bucket - b)) < self._limit_s
        for larger in self._sizes[bucket + 1 :]:
            if larger is not None:
                return larger.seconds < self._limit_s
        return False

    def in_loop(self, nbytes: int, seconds: float) -> None:
        """A call ran in the loop and took `seconds`."""
        bucket = nbytes.bit_length()
        known = self._sizes[bucket]
        if known is None:
            self._sizes[bucket] = _Size(seconds)
        elif known.until_trial <= 0:
            self._judge_trial(known, seconds)
        else:
            # One slow call may be another process's doing; a really slow one is not taken chances with.
            if seconds < OUTLIER_S:
                seconds = min(seconds, 4 * known.seconds)
            known.seconds += NEWEST * (seconds - known.seconds)

    def in_thread(self, nbytes: int, seconds: float, cpu_s: float) -> None:
        """A call ran in a thread, took `seconds` and that thread's processor for `cpu_s`."""
        bucket = nbytes.bit_length()
        known = self._sizes[bucket]
        if known is None:
            self._sizes[bucket] = _Size(seconds)
            return
        known.seconds += NEWEST * (seconds - known.seconds)
        if known.seconds < self._limit_s:
            known.until_trial = known.patience
        elif cpu_s < self._limit_s and seconds < OUTLIER_S:
            known.until_trial -= 1
            if known.until_trial <= 0:
                known.seconds = 0.0  # the next one is the trial

    def _judge_trial(self, known: _Size, seconds: float) -> None:
        known.seconds = seconds
        if seconds < self._limit_s:
            known.patience = FIRST_TRIAL
        else:
            known.patience = min(2 * known.patience, LAST_TRIAL)
        known.until_trial = known.patience


class Executor:
    """Runs the calls of one loaded model. The caller keeps no more than `slots` of them going."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str,
        timeout_s: float,
        hung: Hung,
        watchdog: Watchdog | None = None,
        cores: int = 1,
        inline_below_s: float = INLINE_BELOW_S,
        on_thread_start: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.estimate = Estimate(inline_below_s)
        self._predict: Callable[[Arrays, Mapping[str, Any]], Any] = runtime.predict
        self._awaits = inspect.iscoroutinefunction(runtime.predict)
        self.slots = AWAITED_AT_ONCE if self._awaits else cores if runtime.reentrant else 1
        self._timeout_s = timeout_s
        self._watchdog = watchdog
        self._pulse = watchdog.pulse if watchdog is not None else None
        self._workers = Workers(
            name=name,
            threads=self.slots,
            timeout_s=timeout_s,
            hung=hung,
            on_thread_start=on_thread_start,
            pulse=self._pulse,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, call: Call) -> None:
        """Start `call`. When it is short, `call.done` has been called on return."""
        if self._awaits:
            if self._pulse is not None:
                self._pulse.enter()
            task = asyncio.get_running_loop().create_task(self._await(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        if self.estimate.short(call.nbytes):
            watchdog = self._watchdog
            if watchdog is not None:
                watchdog.enter(self.name, perf_counter())
                self._perform(call)
                watchdog.leave()
            else:
                self._perform(call)
            self.estimate.in_loop(call.nbytes, call.ended - call.started)
            call.done(call)
            return
        cpu_s = 0.0

        def work() -> None:
            nonlocal cpu_s
            before = thread_time()
            self._perform(call)
            cpu_s = thread_time() - before

        def finish() -> None:
            self.estimate.in_thread(call.nbytes, call.ended - call.started, cpu_s)
            call.done(call)

        self._workers.run(Job(work, finish))

    @property
    def late(self) -> bool:
        """Whether a call in a thread has taken longer than any request may."""
        return self._workers.late

    def close(self) -> None:
        """End the worker threads once their calls have ended; cancel awaited ones. No call after it."""
        self._workers.close()
        for task in self._tasks:
            task.cancel()

    def _perform(self, call: Call) -> None:
        call.started = call.joined = perf_counter()
        try:
            inputs = join(call.parts)
            call.joined = perf_counter()
            call.outputs = checked(self.name, self._predict(inputs, call.parameters), call.rows)
        except PenstockError as error:
            call.error = error
        except Exception as error:  # noqa: BLE001 the border between the platform and a user's model
            call.error = self._raised(error, call)
        except SystemExit as error:
            # In a worker thread it would end the thread, and the caller would wait for ever.
            call.error = self._raised(error, call)
        call.ended = perf_counter()

    async def _await(self, call: Call) -> None:
        call.started = call.joined = perf_counter()
        try:
            inputs = join(call.parts)
            call.joined = perf_counter()
            async with asyncio.timeout(self._timeout_s):
                answer = await cast("Awaitable[Any]", self._predict(inputs, call.parameters))
            call.outputs = checked(self.name, answer, call.rows)
        except PenstockError as error:
            call.error = error
        except TimeoutError:
            call.error = DeadlineExceeded(
                f"Model {self.name} did not answer within {self._timeout_s:g} s."
            )
        except asyncio.CancelledError:
            call.error = ModelError(f"Model {self.name} was unloaded while it ran.")
        except Exception as error:  # noqa: BLE001 the border between the platform and a user's model
            call.error = self._raised(error, call)
        finally:
            if self._pulse is not None:
                self._pulse.leave()
        call.ended = perf_counter()
        call.done(call)

    def _raised(self, error: BaseException, call: Call) -> ModelError:
        # A call with several members is repeated one by one: only the guilty one is worth a traceback.
        if len(call.parts) == 1:
            log.error("model %s raised in predict", self.name, exc_info=error)
        else:
            log.info("model %s raised %s for a batch", self.name, type(error).__name__)
        return ModelError(
            f"Model {self.name} raised {type(error).__name__}.",
            hint="The traceback is in the replica's log.",
        )


def checked(name: str, answer: object, rows: int) -> Outputs:
    """`answer` of model `name`, if it is one: named arrays, `rows` rows in each unless that is -1.

    Raises ModelError that says what it is instead.
    """
    if not isinstance(answer, Mapping):
        raise ModelError(
            f"Model {name} answered {type(answer).__name__} where named arrays are expected."
        )
    if not answer:
        raise ModelError(f"Model {name} answered no output at all.")
    for output, array in answer.items():
        if not isinstance(array, np.ndarray):
            raise ModelError(
                f"Model {name} answered {type(array).__name__} for output {output!r}, "
                "where an array is expected."
            )
        if array.dtype.kind not in ENCODABLE_KINDS:
            raise ModelError(
                f"Model {name} answered {array.dtype} for output {output!r}, "
                "which no protocol can carry."
            )
        if rows >= 0:
            have = array.shape[0] if array.ndim else None
            if have != rows:
                raise WrongRows(name, output, have, rows)
    return answer if type(answer) is dict else dict(answer)


class WrongRows(ModelError):
    """A batchable model answered another number of rows than it was given."""

    def __init__(self, model: str, output: str, have: int | None, rows: int) -> None:
        found = "a scalar" if have is None else _rows(have)
        super().__init__(
            f"Model {model} answered {found} in output {output!r} for {_rows(rows)} of input.",
            hint="A model whose rows depend on each other must not be batched.",
        )


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
