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
from time import perf_counter
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


class Estimate:
    """Moving estimates of a call's duration, one per power of two of its size in bytes."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: list[float | None] = [None] * 66

    def expect(self, nbytes: int) -> float | None:
        """Seconds a call with `nbytes` of input should take; None when nothing like it was seen.

        From the nearest smaller size it is scaled up as if time grew with size; a larger size's time is
        an upper bound.
        """
        bucket = nbytes.bit_length()
        known = self._seconds[bucket]
        if known is not None:
            return known
        for b in range(bucket - 1, -1, -1):
            smaller = self._seconds[b]
            if smaller is not None:
                return smaller * float(1 << (bucket - b))
        for larger in self._seconds[bucket + 1 :]:
            if larger is not None:
                return larger
        return None

    def add(self, nbytes: int, seconds: float) -> None:
        bucket = nbytes.bit_length()
        old = self._seconds[bucket]
        self._seconds[bucket] = seconds if old is None else old + NEWEST * (seconds - old)


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
        self.estimate = Estimate()
        self._predict: Callable[[Arrays, Mapping[str, Any]], Any] = runtime.predict
        self._awaits = inspect.iscoroutinefunction(runtime.predict)
        self.slots = AWAITED_AT_ONCE if self._awaits else cores if runtime.reentrant else 1
        self._timeout_s = timeout_s
        self._watchdog = watchdog
        self._inline_below_s = inline_below_s
        self._workers = Workers(
            name=name,
            threads=self.slots,
            timeout_s=timeout_s,
            hung=hung,
            on_thread_start=on_thread_start,
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, call: Call) -> None:
        """Start `call`. When it is short, `call.done` has been called on return."""
        if self._awaits:
            task = asyncio.get_running_loop().create_task(self._await(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        expected = self.estimate.expect(call.nbytes)
        if expected is not None and expected < self._inline_below_s:
            watchdog = self._watchdog
            if watchdog is not None:
                watchdog.enter(self.name, perf_counter())
                self._perform(call)
                watchdog.leave()
            else:
                self._perform(call)
            self._finish(call)
            return
        self._workers.run(Job(lambda: self._perform(call), lambda: self._finish(call)))

    @property
    def late(self) -> bool:
        """Whether a call in a thread has taken longer than any request may."""
        return self._workers.late

    def close(self) -> None:
        """End the worker threads once their calls have ended; cancel awaited ones. No call after it."""
        self._workers.close()
        for task in self._tasks:
            task.cancel()

    def _finish(self, call: Call) -> None:
        self.estimate.add(call.nbytes, call.ended - call.started)
        call.done(call)

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
