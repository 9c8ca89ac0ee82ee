"""Runs of flows with cycles: a step runs again whenever something new arrives for it.

Where steps feed each other, none is ever settled for good, so what counts is arrivals. Each step keeps what
has newly arrived from each of its sources; when its join is complete with new arrivals it takes them and
runs. So a loop body that joins any of its inputs runs once for the request and once for each time round; a
check that needs two values waits for both of the same round. A step may run once, and as often again as
`max_revisits` says; one time more fails the request. When nothing runs and nothing can start, outer joins
that have anything go on; after that the flow is over without an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.domain.graph import Answers, Join
from penstock.graphs.flow import DONE, READY, RUNNING, WAIT, FlowRun
from penstock.graphs.program import REQUEST, CompiledFlow, CompiledStep, Joined, Program, Unit
from penstock.graphs.results import Result
from penstock.graphs.values import Failure, Value, has_tensor

if TYPE_CHECKING:
    from penstock.graphs.execution import Execution


class CyclicRun(FlowRun):
    """A flow on its way, some of whose steps feed each other."""

    def __init__(
        self,
        execution: Execution,
        program: Program,
        flow: CompiledFlow,
        value: Value,
        done: Callable[[Result], None],
    ) -> None:
        super().__init__(execution, program, flow, value, done)
        count = len(flow.steps)
        self._runs = [0] * count
        #: Counts arrivals of each step's answers and inputs.
        self._answers = [0] * count
        self._inputs = [0] * count
        #: By (step or output, source): the arrival that was taken last.
        self._taken: dict[tuple[int, int, bool], int] = {}
        self._quiet = False
        #: Announcements on their way.
        self._news = 0

    def begin(self) -> None:
        self._sweep()

    # -- arrivals ---------------------------------------------------------------------------------

    def _arrival(self, step: int, inputs_side: bool) -> int:
        if step == REQUEST:
            return 1
        return self._inputs[step] if inputs_side else self._answers[step]

    def _fresh(self, index: int, step: int, inputs_side: bool) -> bool:
        return self._arrival(step, inputs_side) > self._taken.get((index, step, inputs_side), 0)

    def _take(self, index: int, step: int, inputs_side: bool) -> None:
        self._taken[index, step, inputs_side] = self._arrival(step, inputs_side)

    def ready(self, joined: Joined, index: int, triggers: bool) -> tuple[int, list[Unit]]:
        there: list[Unit] = []
        for unit in joined.units:
            if not self._fresh(index, unit.step, unit.inputs_side):
                continue
            value = self.value_of(unit)
            if unit.tensors and not any(has_tensor(value, t) for t in unit.tensors):
                self._take(
                    index, unit.step, unit.inputs_side
                )  # an answer without it: not for this one
                continue
            there.append(unit)
            if joined.join is Join.ANY:
                return READY, there
        if len(there) == len(joined.units):
            return READY, there
        # The request arrives once; what waits for it and for a loop gets it again with each round.
        if (
            joined.join is Join.INNER
            and there
            and all(
                u in there or (u.step == REQUEST and self._taken.get((index, REQUEST, False)))
                for u in joined.units
            )
        ):
            return READY, list(joined.units)
        if joined.join is Join.OUTER and there and self._quiet:
            return READY, there
        return WAIT, there

    def look(self, index: int) -> None:
        step = self.flow.steps[index]
        if self.over or self.state[index] == RUNNING:
            return
        for chooser, branch in step.gates:
            if not self._fresh(index, chooser, False):
                return
            if branch not in self.chosen.get(chooser, ()):
                self._drop(step)
                return
        at, units = self.ready(step.inputs, index, False)
        if at != READY:
            return
        triggers: list[Unit] = []
        if step.triggers is not None:
            at, triggers = self.ready(step.triggers, index, True)
            if at != READY:
                return
        for when in step.when:
            if when.step != REQUEST and not self._arrival(when.step, when.inputs_side):
                return
            if not self.holds(when):
                self._drop(step)
                return
        for unit in (*units, *triggers):
            self._take(index, unit.step, unit.inputs_side)
        for chooser, _ in step.gates:
            self._take(index, chooser, False)
        self._runs[index] += 1
        if self._runs[index] > 1 + self.flow.max_revisits:
            self.failed_revisits(step)
            return
        self._quiet = False
        self.start(step, units)

    def failed_revisits(self, step: CompiledStep) -> None:
        seldon = self.program.graph.answers is Answers.SELDON_V2
        failure = Failure(
            500,
            f"The step {step.path} was to run again more than {self.flow.max_revisits} times"
            f" for one request ({'maxStepRevisits' if seldon else 'maxRevisits'}).",
            reason="GraphLimit",
            step=step.path,
        )
        self.why[step.index] = failure.message
        self._told(step.index, "failed")
        self.finish(Result(failure=failure), "too many rounds")

    def _drop(self, step: CompiledStep) -> None:
        """What has arrived for a step is not for it this time."""
        for joined in (step.inputs, step.triggers):
            for unit in joined.units if joined is not None else ():
                if unit.step != REQUEST:
                    self._take(step.index, unit.step, unit.inputs_side)
        for chooser, _ in step.gates:
            self._take(step.index, chooser, False)

    # -- what happens -----------------------------------------------------------------------------

    def settle(self, step: CompiledStep, value: Value, outcome: str = "ok") -> None:
        self._answers[step.index] += 1
        super().settle(step, value, outcome)

    def started(self, step: CompiledStep) -> None:
        self._inputs[step.index] += 1
        self.announce(step.index)

    def announce(self, index: int) -> None:
        self._news += 1
        super().announce(index)

    def moved(self, index: int) -> None:
        self._news -= 1
        self._sweep()

    def _sweep(self) -> None:
        """Start what can start; when nothing runs and nothing can, let outer joins go on, then end."""
        if self._moves(quiet=False) or self._moves(quiet=True):
            return
        self.finish(Result(nothing=self.nothing()), "nothing is answered")

    def _moves(self, *, quiet: bool) -> bool:
        """Whether something runs or is about to, or all is over, after a look at everything."""
        self._quiet = quiet
        self.look_at_output()
        for index in range(len(self.flow.steps)):
            self.look(index)
        return self.over or self._news > 0 or RUNNING in self.state

    def nothing(self) -> str:
        never = [
            s.name
            for s in self.flow.steps
            if self.state[s.index] != DONE or not self._runs[s.index]
        ]
        return f"{', '.join(never) or 'the output'} never had all that is needed"

    def look_at_output(self) -> None:
        if not self.over and self.ready(self.flow.output, len(self.flow.steps), False)[0] == READY:
            super().look_at_output()
