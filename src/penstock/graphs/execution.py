"""One request's way through a graph: its calls, its bounds, its end.

An `Execution` owns everything that runs for a request, however deep flows are inside of each other. It ends
once: with a value, with nothing (no step gave what the output needs), or with a failure; `cancel` ends it
without. What becomes ready is put into a queue and taken from there, so the stack does not grow with the
graph. All calls are on the event loop's thread.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from penstock.graphs.calls import Caller, Context, Done, Outcome, Under
from penstock.graphs.cyclic import CyclicRun
from penstock.graphs.flow import FlowRun
from penstock.graphs.results import Result, StepRecord
from penstock.graphs.values import Failure, Value

if TYPE_CHECKING:
    import asyncio

    from penstock.domain.graph import Call, CallUrl, Splitter
    from penstock.graphs.batches import Batches
    from penstock.graphs.inspection import Inspector
    from penstock.graphs.program import CompiledFlow, CompiledStep, Program

logger = logging.getLogger(__name__)


class Chooser(Protocol):
    """Knows the bandits of splitters."""

    def __call__(
        self, program: Program, step: CompiledStep, action: Splitter, context: Context
    ) -> int | None:
        """The branch of a splitter that has a bandit; the context hears of it."""


class Observer(Protocol):
    """Is told how steps end."""

    def step(self, program: Program, step: CompiledStep, outcome: str, seconds: float) -> None:
        """`outcome` is ok, skipped, failed, ignored (a failure that its flow bears) or canceled."""

    def value(self, program: Program, step: CompiledStep | None, given: bool, value: Value) -> None:
        """A step of the entry flow was `given` a value or answered it (None: the graph itself)."""


class Execution:
    """Runs a program for one request. `done` is called once, unless it is cancelled before."""

    def __init__(
        self,
        program: Program,
        value: Value,
        caller: Caller,
        context: Context,
        done: Callable[[Result], None],
        *,
        loop: asyncio.AbstractEventLoop,
        observer: Observer,
        batches: Batches | None = None,
        programs: Callable[[str], Program | None] = lambda key: None,
        chance: Callable[[], float] = random.random,
        bandits: Chooser | None = None,
        trace: bool = False,
        inspector: Inspector | None = None,
    ) -> None:
        self.program = program
        self.context = context
        self.loop = loop
        self.time = loop.time
        #: May be changed until it is started.
        self.observer = observer
        self.chance = chance
        self._bandits = bandits
        self.programs = programs
        #: By `perf_counter`: the loop's own clock may count milliseconds.
        self.since = perf_counter()
        #: In the order in which steps began or were skipped; None: nobody wants it.
        self.records: list[StepRecord] | None = [] if trace or inspector is not None else None
        #: Writes down what passes the steps; None: nobody wants it.
        self.inspector = inspector
        #: Is called when it has ended, after `done`; not when it is cancelled.
        self.after: Callable[[], None] | None = None
        self._value = value
        self._caller = caller
        self._done = done
        self._batches = batches
        self._queue: deque[Callable[[], None]] = deque()
        self._pumping = False
        self._under_way: dict[_Ask, None] = {}
        self._waiting: deque[_Ask] = deque()
        self._calls = 0
        self._max_parallel = program.graph.max_parallel
        self._max_calls = program.graph.max_calls
        self._root: FlowRun | None = None
        self._answered = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. `done` may be called before this returns only when no service has to be asked."""
        self.observer.value(self.program, None, True, self._value)
        self._root = self.run_flow(self.program, self.program.entry, self._value, self._ended)
        self.post(self._root.begin)

    def cancel(self) -> None:
        """Stop every call. Nothing is answered any more."""
        if self._over:
            return
        self._over = self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self._waiting.clear()
        for ask in list(self._under_way):
            ask.cancel()
        if self._root is not None:
            self._root.cancel("the request ended")

    @property
    def over(self) -> bool:
        """Nothing runs any more."""
        return self._over

    @property
    def answered(self) -> bool:
        """It has ended, or was cancelled; steps beside the output may be under way."""
        return self._answered

    def running(self) -> list[str]:
        """Paths of the steps whose calls are under way."""
        return [ask.step.path for ask in self._under_way]

    def _ended(self, result: Result) -> None:
        if self._answered:
            return
        self._answered = True
        if result.value is not None:
            self.observer.value(self.program, None, False, result.value)
        if self._under_way or self._waiting:
            # Steps that nobody waits for go on; they have until the request's own deadline.
            left_s = max(0.0, self.context.deadline - self.time())
            self._timer = self.loop.call_later(left_s, self.cancel)
        else:
            self._over = True
        self._done(result)
        if self.after is not None:
            self.after()

    # -- what flows use ---------------------------------------------------------------------------

    def run_flow(
        self,
        program: Program,
        flow: CompiledFlow,
        value: Value,
        done: Callable[[Result], None],
        depth: int = 0,
    ) -> FlowRun:
        """A run of a flow, to be begun. `depth` says how many it is inside of."""
        kind = CyclicRun if flow.cyclic else FlowRun
        run = kind(self, program, flow, value, done)
        run.depth = depth
        return run

    def post(self, work: Callable[[], None]) -> None:
        """Do `work` when what is being done is done."""
        self._queue.append(work)
        if self._pumping:
            return
        self._pumping = True
        queue = self._queue
        try:
            while queue:
                queue.popleft()()
        except Exception:
            # The request's border: what is wrong here must not reach the connection that an answer came by.
            logger.exception("the graph %s failed on a request", self.program.key)
            queue.clear()
            answered = self._answered
            self.cancel()
            if not answered:
                self._done(
                    Result(
                        failure=Failure(
                            500,
                            f"The graph {self.program.key} failed on this request; the gateway's log has"
                            " the details.",
                            reason="InternalError",
                        )
                    )
                )
        finally:
            self._pumping = False

    def learned(self, program: Program, step: CompiledStep, action: Splitter) -> int | None:
        """The branch that a splitter's bandit chooses; None where nobody learns."""
        if self._bandits is None:
            return None
        return self._bandits(program, step, action, self.context)

    def ask(self, step: CompiledStep, action: Call | CallUrl, value: Value, done: Done) -> Under:
        """Call a service for a step, as soon as the bounds allow it."""
        ask = _Ask(self, step, action, value, done)
        self._calls += 1
        if self._calls > self._max_calls:
            ask.over = True
            failure = Failure(
                500,
                f"The graph {self.program.key} called services more than {self._max_calls} times"
                " for one request.",
                reason="GraphLimit",
            )
            self.post(lambda: done(failure))
        elif len(self._under_way) < self._max_parallel:
            self._send(ask)
        else:
            self._waiting.append(ask)
        return ask

    def _send(self, ask: _Ask) -> None:
        self._under_way[ask] = None
        if ask.step.step.batch is not None and self._batches is not None:
            ask.under = self._batches.call(
                ask.step, ask.action, ask.value, self.context, ask.answered
            )
        else:
            ask.under = self._caller.call(ask.action, ask.value, self.context, ask.answered)

    def _left(self, ask: _Ask) -> None:
        """A call is over, or nobody wants it."""
        if self._under_way.pop(ask, ask) is ask:
            self._waiting = deque(a for a in self._waiting if a is not ask)
            return
        while self._waiting and len(self._under_way) < self._max_parallel:
            self._send(self._waiting.popleft())

    def _settled(self) -> None:
        if self._answered and not self._over and not self._under_way and not self._waiting:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()


class _Ask:
    """A call of a step, waiting or under way."""

    __slots__ = ("_done", "_execution", "action", "over", "step", "under", "value")

    def __init__(
        self,
        execution: Execution,
        step: CompiledStep,
        action: Call | CallUrl,
        value: Value,
        done: Done,
    ) -> None:
        self._execution = execution
        self._done = done
        self.step = step
        self.action = action
        self.value = value
        self.under: Under | None = None
        self.over = False

    def answered(self, outcome: Outcome) -> None:
        if self.over:
            return
        self.over = True
        execution = self._execution
        execution._left(self)
        execution.post(lambda: self._done(outcome))
        execution._settled()

    def cancel(self) -> None:
        if self.over:
            return
        self.over = True
        if self.under is not None:
            self.under.cancel()
        self._execution._left(self)
