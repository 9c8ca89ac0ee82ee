"""What a step does once it has its input: ask a service, choose a branch, run a flow or a graph inside of it.

When steps may start, and what their ends mean for others, is `flow`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.domain.graph import (
    Answers,
    Builtin,
    BuiltinUnit,
    Call,
    CallUrl,
    HandOn,
    Router,
    RunFlow,
    RunGraph,
    Splitter,
    Switch,
)
from penstock.errors import PenstockError
from penstock.graphs import seldon
from penstock.graphs.reading import branch_in, exists
from penstock.graphs.values import Body, Failure, Several, Value, average

if TYPE_CHECKING:
    from penstock.graphs.flow import FlowRun
    from penstock.graphs.program import CompiledFlow, CompiledStep, Program
    from penstock.graphs.results import Result

#: How deep flows and graphs may be inside of each other. Within one graph, `graph_check` has looked.
MAX_GRAPHS: Final = 64
#: Seldon's: a router that takes all branches, or none.
ALL_BRANCHES: Final = -1
NO_BRANCH: Final = -2

_SIMPLE_MODEL: Final = {
    "data": {"names": ["class0", "class1", "class2"], "ndarray": [[0.1, 0.9, 0.5]]},
    "meta": {},
}


def act(run: FlowRun, step: CompiledStep, action: Any, value: Value) -> None:
    """Do what the step is for."""
    execution = run.execution
    index = step.index
    if isinstance(action, (Call, CallUrl)):
        run.under[index] = execution.ask(
            step, action, value, lambda outcome: run.answered(step, outcome)
        )
    elif isinstance(action, HandOn):
        run.settle(step, value)
    elif isinstance(action, Switch):
        _switch(run, step, action, value)
    elif isinstance(action, Splitter):
        learned = None
        if action.bandit is not None:
            learned = execution.learned(run.program, step, action)
        if learned is None:
            number = execution.chance()
            last = len(step.bounds) - 1
            learned = next((i for i, b in enumerate(step.bounds) if number < b), last)
        run.choose(step, value, (learned,))
    elif isinstance(action, Router):
        run.under[index] = execution.ask(
            step, action.call, value, lambda outcome: _routed(run, step, action, outcome)
        )
    elif isinstance(action, RunFlow):
        _run_flow(run, step, run.program, run.program.flows[action.flow], value)
    elif isinstance(action, RunGraph):
        _run_graph(run, step, action, value)
    elif isinstance(action, Builtin):
        try:
            made = _built_in(run, action.unit, value)
        except PenstockError as exc:
            run.failed(step, Failure(exc.status, f"{step.path}: {exc}", reason=exc.reason))
        else:
            run.settle(step, made)


def _built_in(run: FlowRun, unit: BuiltinUnit, value: Value) -> Value:
    if run.program.graph.answers is Answers.SELDON_V1:
        if unit is BuiltinUnit.AVERAGE:
            members = value.values if isinstance(value, Several) else (value,)
            return seldon.average(members)
        return seldon.simple_model(value)
    return average(value) if unit is BuiltinUnit.AVERAGE else Body.of(_SIMPLE_MODEL)


def _switch(run: FlowRun, step: CompiledStep, action: Switch, value: Value) -> None:
    for branch, path in enumerate(step.conditions):
        if path is None or exists(path, value):
            run.choose(step, value, (branch,))
            return
    if not action.must_match:
        run.choose(step, value, ())
        return
    run.failed(
        step,
        Failure(404, "None of the routes matched with the switch condition", reason="NoRoute"),
    )


def _routed(run: FlowRun, step: CompiledStep, action: Router, outcome: Value | Failure) -> None:
    if isinstance(outcome, Failure):
        run.answered(step, outcome)
        return
    branch = branch_in(outcome)
    if branch is None or not NO_BRANCH <= branch < action.branches:
        said = "no branch" if branch is None else f"branch {branch}"
        failure = Failure(
            500,
            f"The router {step.name} answered {said}; 0 to {action.branches - 1},"
            " -1 (all) or -2 (none) is expected.",
            reason="ModelError",
        )
        run.answered(step, failure)
        return
    run.under.pop(step.index, None)
    given = run.given[step.index]
    assert given is not None  # noqa: S101 - it was started with it
    taken: tuple[int, ...] = (branch,)
    if branch == ALL_BRANCHES:
        taken = tuple(range(action.branches))
    elif branch == NO_BRANCH:
        taken = ()
    run.choose(step, given, taken)


def _run_flow(
    run: FlowRun, step: CompiledStep, program: Program, flow: CompiledFlow, value: Value
) -> None:
    inner = run.execution.run_flow(
        program, flow, value, lambda result: _inner_ended(run, step, result), run.depth + 1
    )
    if run.execution.records is not None:
        inner.within = f"{run.within}/{step.path}" if run.within else step.path
    run.under[step.index] = inner
    run.execution.post(inner.begin)


def _run_graph(run: FlowRun, step: CompiledStep, action: RunGraph, value: Value) -> None:
    key = f"{action.namespace or run.program.graph.namespace}/{action.graph}"
    program = run.execution.programs(key)
    if program is None:
        run.failed(step, Failure(404, f"{step.path}: there is no graph {key}.", reason="NotFound"))
        return
    if run.depth >= MAX_GRAPHS:
        why = f"{step.path}: graphs run each other more than {MAX_GRAPHS} deep."
        run.failed(step, Failure(500, why, reason="GraphLimit"))
        return
    if step.index not in run.limits:
        run.limits[step.index] = run.execution.loop.call_later(
            program.graph.timeout_s, run.late, step
        )
    _run_flow(run, step, program, program.entry, value)


def _inner_ended(run: FlowRun, step: CompiledStep, result: Result) -> None:
    run.under.pop(step.index, None)
    if result.value is not None:
        run.settle(step, result.value)
    elif result.failure is not None:
        if isinstance(step.action, RunGraph):
            result.failure.step = f"{step.path}/{result.failure.step}"
        run.failed(step, result.failure)
    else:
        run.forget_limit(step.index)
        run.skip(step.index, result.nothing)
