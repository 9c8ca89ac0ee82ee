"""One run of a flow: which step is ready, which is skipped, and when the output is complete.

Each step is settled once. A step is looked at whenever something that it waits for is settled; what it finds
is one of three: it can start, it has to wait, or it will never start and is skipped. So a flow always comes
to an end when its calls do. Flows with cycles are run by `cyclic`, which looks at arrivals instead.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from penstock.domain.graph import (
    Combine,
    Join,
    OnFailure,
)
from penstock.errors import PenstockError
from penstock.graphs.actions import act
from penstock.graphs.program import REQUEST, CompiledFlow, CompiledStep, Joined, Program, Unit, When
from penstock.graphs.reading import as_instances, exists, target_of
from penstock.graphs.results import Result, StepRecord
from penstock.graphs.values import (
    Failure,
    Part,
    Several,
    Value,
    as_object,
    has_tensor,
    make_text,
    merge,
)

if TYPE_CHECKING:
    import asyncio

    from penstock.graphs.calls import Under
    from penstock.graphs.execution import Execution

#: What a step's state is.
WAITING, RUNNING, DONE, SKIPPED, STOPPED = range(5)
#: What a look at a join says.
READY, WAIT, NEVER = range(3)


class FlowRun:
    """A flow on its way for one request. `done` gets its result, once, unless it is cancelled."""

    def __init__(
        self,
        execution: Execution,
        program: Program,
        flow: CompiledFlow,
        value: Value,
        done: Callable[[Result], None],
    ) -> None:
        count = len(flow.steps)
        self.execution = execution
        #: Writes down what passes, where somebody asked and this graph's manifest allows it.
        self.inspector = execution.inspector if program.graph.inspect else None
        self.depth = 0
        #: Paths of the steps that it is inside of; empty where nobody wants to know.
        self.within = ""
        self.program = program
        self.flow = flow
        self.value = value
        self.done = done
        self.state = [WAITING] * count
        #: What each step was given, and answered.
        self.given: list[Value | None] = [None] * count
        self.values: list[Value | None] = [None] * count
        #: The branches that choosers took.
        self.chosen: dict[int, tuple[int, ...]] = {}
        self.why: dict[int, str] = {}
        #: The result is known; steps beside the output may go on.
        self.over = False
        #: Nothing may go on.
        self.stopped = False
        self.under: dict[int, Under | FlowRun] = {}
        self._since: dict[int, float] = {}
        self._records: dict[int, StepRecord] = {}
        #: Joins with a window: the timer, and whether the window is over. The output is at `count`.
        self._windows: dict[tuple[int, bool], asyncio.TimerHandle] = {}
        self._closed: set[tuple[int, bool]] = set()
        self.limits: dict[int, asyncio.TimerHandle] = {}

    # -- life -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look at the steps that wait for no other."""
        for index in self.flow.first:
            if not self.over:
                self.look(index)
        if not self.over:
            self.look_at_output()

    def cancel(self, why: str, *, beside: bool = True) -> None:
        """Stop what runs; with `beside` false, only what the output needed."""
        self.over = True
        self.stopped = self.stopped or beside
        for timer in self._windows.values():
            timer.cancel()
        for index in list(self.under):
            if beside or self.flow.steps[index].needed:
                self._stop(index, why)
        if beside:
            for timer in self.limits.values():
                timer.cancel()

    def _stop(self, index: int, why: str) -> None:
        under = self.under.pop(index)
        self.state[index] = STOPPED
        self.why[index] = why
        self.forget_limit(index)
        if isinstance(under, FlowRun):
            under.cancel(why)
        else:
            under.cancel()
        self._told(index, "canceled")

    # -- looking ----------------------------------------------------------------------------------

    def look(self, index: int) -> None:
        """Start or skip a step, or leave it waiting."""
        if self.state[index] != WAITING:
            return
        step = self.flow.steps[index]
        if self.over and (self.stopped or step.needed):
            return
        for chooser, branch in step.gates:
            state = self.state[chooser]
            if state < DONE:
                return
            taken = self.chosen.get(chooser)
            if taken is None:
                self.skip(index, f"{self.flow.steps[chooser].name} chose no branch")
                return
            if branch not in taken:
                self.skip(index, f"{self.flow.steps[chooser].name} chose another branch")
                return
        at, units = self.ready(step.inputs, index, False)
        if at == NEVER:
            self.skip(index, self.absent(step.inputs))
            return
        if step.triggers is not None:
            trigger, _ = self.ready(step.triggers, index, True)
            if trigger == NEVER:
                self.skip(index, f"its trigger: {self.absent(step.triggers)}")
                return
            at = max(at, trigger)
        if at == WAIT:
            return
        for when in step.when:
            holds = self.holds(when)
            if holds is None:
                return
            if not holds:
                said = "holds" if when.negate else "does not hold"
                self.skip(index, f"the condition {when.path.text} {said}")
                return
        self.start(step, units)

    def present(self, unit: Unit) -> bool | None:
        """Whether the unit's value is there; None: not known yet."""
        index = unit.step
        value: Value | None
        if index == REQUEST:
            value = self.value
        elif unit.inputs_side:
            value = self.given[index]
            if value is None:
                return False if self.state[index] >= DONE else None
        else:
            state = self.state[index]
            if state != DONE:
                return False if state > DONE else None
            value = self.values[index]
        assert value is not None  # noqa: S101 - a step that is done has one
        return not unit.tensors or any(has_tensor(value, t) for t in unit.tensors)

    def value_of(self, unit: Unit) -> Value:
        index = unit.step
        if index == REQUEST:
            return self.value
        value = self.given[index] if unit.inputs_side else self.values[index]
        assert value is not None  # noqa: S101 - only asked of what is present
        return value

    def ready(self, joined: Joined, index: int, triggers: bool) -> tuple[int, list[Unit]]:
        """READY, WAIT or NEVER, and the units whose values are taken."""
        there: list[Unit] = []
        unknown = False
        for unit in joined.units:
            known = self.present(unit)
            if known:
                there.append(unit)
                if joined.join is Join.ANY:
                    return READY, there
            elif known is None:
                unknown = True
            elif joined.join is Join.INNER:
                return NEVER, there
        if not unknown:
            return (READY if there else NEVER), there
        if joined.window_s is not None and there:
            key = (index, triggers)
            if key in self._closed:
                return (NEVER if joined.join is Join.INNER else READY), there
            if key not in self._windows:
                self._windows[key] = self.execution.loop.call_later(
                    joined.window_s, self._window_over, key
                )
        return WAIT, there

    def _window_over(self, key: tuple[int, bool]) -> None:
        self._closed.add(key)
        if self.over:
            return
        if key[0] == len(self.flow.steps):
            self.execution.post(self.look_at_output)
        else:
            self.execution.post(lambda: self.look(key[0]))

    def holds(self, when: When) -> bool | None:
        """Whether a condition holds; None: not known yet. Of an absent value, nothing exists."""
        value: Value | None
        if when.step == REQUEST:
            value = self.value
        elif when.inputs_side:
            value = self.given[when.step]
            if value is None and self.state[when.step] < DONE:
                return None
        else:
            if self.state[when.step] < DONE:
                return None
            value = self.values[when.step]
        if value is None:
            return False
        return exists(when.path, value) != when.negate

    def absent(self, joined: Joined) -> str:
        """Why a join will never be complete."""
        reasons = []
        for unit in joined.units:
            if self.present(unit):
                continue
            name = unit.name or "the request"
            if unit.step == REQUEST or self.state[unit.step] == DONE:
                reasons.append(f"{name} has no tensor {', '.join(unit.tensors)}")
            elif self.state[unit.step] < DONE:
                if joined.window_s is not None:  # else it is another one that never comes
                    reasons.append(f"{name} was not there within {joined.window_s:g} s")
            else:
                reasons.append(f"{name} gave nothing")
        return "; ".join(reasons)

    # -- a step -----------------------------------------------------------------------------------

    def combined(self, joined: Joined, units: list[Unit]) -> Value:
        """One value of what is there. Raises InvalidInput for what cannot be joined."""
        if joined.whole:
            return self.value_of(units[0])
        parts: list[Part] = []
        for unit in units:
            value = self.value_of(unit)
            parts += [
                Part(unit.name, value, s.tensor, s.rename, s.key, unit.renames)
                for s in unit.sources
                if not s.tensor or has_tensor(value, s.tensor)
            ]
        if joined.combine is Combine.OBJECT:
            return as_object(parts)
        if joined.combine is Combine.LIST:
            return Several(
                [p.key or p.step for p in parts],
                [v for p in parts if not isinstance(v := merge([p]), Several)],
            )
        if joined.combine is Combine.FIRST:
            parts = parts[:1]
        elif joined.combine is Combine.LAST:
            parts = parts[-1:]
        return merge(parts)

    def start(self, step: CompiledStep, units: list[Unit]) -> None:
        """Run a step whose inputs are there."""
        index = step.index
        execution = self.execution
        self.state[index] = RUNNING
        self._since[index] = perf_counter()
        action = step.action
        if execution.records is not None:
            since_s = self._since[index] - execution.since
            record = StepRecord(step.path, target_of(action), since_s, self.within)
            self._records[index] = record
            execution.records.append(record)
        try:
            value = self.combined(step.inputs, units)
            if step.step.predictions_as_instances:
                value = as_instances(value)
        except PenstockError as exc:
            self.failed(step, Failure(exc.status, f"{step.path}: {exc}", reason=exc.reason))
            return
        self.given[index] = value
        if self.inspector is not None:
            self._records[index].given = self.inspector.look(value)
        if self.flow is self.program.entry:
            execution.observer.value(self.program, step, True, value)
        self.started(step)
        limit_s = step.step.timeout_s
        if limit_s is not None:
            self.limits[index] = execution.loop.call_later(limit_s, self.late, step)
        act(self, step, action, value)

    def started(self, step: CompiledStep) -> None:
        """Some steps may want what this one is given, not what it answers."""
        if step.wanted_inputs:
            self.announce(step.index)

    def announce(self, index: int) -> None:
        """Have `moved` called for a step, in its turn."""
        self.execution.post(lambda: self.moved(index))

    def choose(self, step: CompiledStep, value: Value, taken: tuple[int, ...]) -> None:
        """A chooser has chosen; its value is what it was given."""
        self.chosen[step.index] = taken
        record = self._records.get(step.index)
        if record is not None:
            record.branch = taken
        self.settle(step, value)

    def answered(self, step: CompiledStep, outcome: Value | Failure) -> None:
        """A call of a step is over."""
        self.under.pop(step.index, None)
        if isinstance(outcome, Failure):
            if not outcome.step:
                outcome.step = step.path
            self.failed(step, outcome)
        else:
            self.settle(step, outcome)

    def late(self, step: CompiledStep) -> None:
        if self.state[step.index] != RUNNING:
            return
        under = self.under.pop(step.index, None)
        if isinstance(under, FlowRun):
            under.cancel("its time was over")
        elif under is not None:
            under.cancel()
        limit_s = step.step.timeout_s
        within = f" within {limit_s:g} s" if limit_s is not None else " in time"
        self.execution.post(
            lambda: self.failed(
                step,
                Failure(
                    504,
                    f"The step {step.path} did not answer{within}.",
                    reason="DeadlineExceeded",
                    step=step.path,
                ),
            )
        )

    # -- ends of steps ----------------------------------------------------------------------------

    def settle(self, step: CompiledStep, value: Value, outcome: str = "ok") -> None:
        """A step has its value."""
        index = step.index
        self.state[index] = DONE
        self.values[index] = value
        self.forget_limit(index)
        self._told(index, outcome)
        if self.inspector is not None:
            self._records[index].gave = self.inspector.look(value)
        if self.flow is self.program.entry:
            self.execution.observer.value(self.program, step, False, value)
        if self.flow.told_as_text and index in self.flow.output_needs:
            make_text(value)  # while others are waited for
        self.announce(index)

    def skip(self, index: int, why: str) -> None:
        """A step will never have a value."""
        self.state[index] = SKIPPED
        self.why[index] = why
        self._told(index, "skipped")
        self.announce(index)

    def failed(self, step: CompiledStep, failure: Failure) -> None:
        """A step failed: for its flow that is the end, or it is borne."""
        index = step.index
        self.forget_limit(index)
        if not failure.step:
            failure.step = step.path
        self.why[index] = failure.message
        if step.on_failure is OnFailure.ANSWER:
            self.settle(step, failure.as_body(), "ignored")
        elif step.on_failure is OnFailure.SKIP:
            self.state[index] = SKIPPED
            self._told(index, "ignored")
            self.announce(index)
        else:
            self.state[index] = STOPPED
            self._told(index, "failed")
            if self.inspector is not None and failure.body is not None:
                self._records[index].gave = self.inspector.look(failure.body)
            if not self.over:
                self.finish(Result(failure=failure), f"{step.name} failed")

    def forget_limit(self, index: int) -> None:
        timer = self.limits.pop(index, None)
        if timer is not None:
            timer.cancel()

    def _told(self, index: int, outcome: str) -> None:
        step = self.flow.steps[index]
        now = perf_counter()
        began = self._since.get(index, now)
        self.execution.observer.step(self.program, step, outcome, now - began)
        records = self.execution.records
        if records is None:
            return
        record = self._records.get(index)
        if record is None:
            since_s = now - self.execution.since
            record = StepRecord(step.path, target_of(step.action), since_s, self.within)
            records.append(record)
        record.ended_s = now - self.execution.since
        record.outcome = outcome
        record.detail = self.why.get(index, "")

    def moved(self, index: int) -> None:
        """Something that others wait for has happened."""
        for dependent in self.flow.steps[index].dependents:
            self.look(dependent)
        if not self.over and index in self.flow.output_needs:
            self.look_at_output()

    # -- the output -------------------------------------------------------------------------------

    def look_at_output(self) -> None:
        """End the flow if its output is complete, or never will be."""
        if self.over:
            return
        output = self.flow.output
        if output.plain and self._unsettled():
            return
        at, units = self.ready(output, len(self.flow.steps), False)
        if at == WAIT:
            return
        if at == NEVER:
            self.finish(Result(nothing=self.nothing()), "nothing is answered")
            return
        try:
            value = self.combined(output, units)
        except PenstockError as exc:
            failure = Failure(
                exc.status, f"{self.flow.name}: {exc}", reason=exc.reason, step=self.flow.name
            )
            self.finish(Result(failure=failure), "the output failed")
            return
        self.finish(Result(value), "the output is complete")

    def _unsettled(self) -> bool:
        """Whether values of steps are all that a plain join lacks."""
        state = self.state
        waiting = False
        for step in self.flow.output_needs:
            at = state[step]
            if at > DONE:
                return False
            if at < DONE:
                waiting = True
        return waiting

    def nothing(self) -> str:
        """Why no value came out."""
        told = [
            f"{self.flow.steps[i].name} was skipped ({why})"
            for i, why in sorted(self.why.items())
            if self.state[i] == SKIPPED
        ]
        more = f" and {len(told) - 8} more" if len(told) > 8 else ""
        return "; ".join(told[:8]) + more or self.absent(self.flow.output)

    def finish(self, result: Result, why: str) -> None:
        """The flow's end. Steps beside the output go on unless it failed."""
        self.cancel(why, beside=result.failure is not None)
        self.done(result)
