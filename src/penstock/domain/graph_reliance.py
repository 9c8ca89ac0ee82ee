"""Whether a graph answers all the same while some of the services that it names cannot.

A step whose failure its flow bears (KServe's Soft, `onFailure`) does not take the graph down with it, unless
its error is what clients would get. Each way that choosers and conditions may lead a request is walked
through twice, with all services there and without those that are gone: a way that ends well only with them
makes the graph depend on them. What a model answers to another one's error is taken to be an error, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import IntEnum
from itertools import product
from typing import Final, TypeAlias

from penstock.domain.graph import (
    Call,
    CallUrl,
    Combine,
    Flow,
    Graph,
    Inputs,
    Join,
    OnFailure,
    Router,
    RunFlow,
    RunGraph,
    Step,
    asked,
    branches,
)

_Key: TypeAlias = tuple[str, str]
#: A branch for each chooser, and for each step with conditions (1) whether they hold.
_Way: TypeAlias = dict[str, int]

#: Looks at steps that one flow may cost. Beyond, what may fail counts as what does.
_MOST_LOOKS: Final = 8192


class _Is(IntEnum):
    """What a step's value is."""

    OK = 0
    ERROR = 1
    ABSENT = 2


class _Failed(Exception):
    """The flow fails."""


def answers_without(graph: Graph, gone: Collection[_Key]) -> bool:
    """Whether requests are answered although the services and graphs `gone` (namespace, name) are not there.

    `graph` has no problems (`graph_check.check`).
    """
    return _Walk(graph, frozenset(gone)).holds(graph.flows[0])


class _Walk:
    def __init__(self, graph: Graph, gone: frozenset[_Key]) -> None:
        self._graph = graph
        self._gone = gone
        self._known: dict[str, bool] = {}

    def holds(self, flow: Flow) -> bool:
        """Whether a flow answers whatever it answers with everything there."""
        known = self._known.get(flow.name)
        if known is None:
            known = self._known[flow.name] = self._holds(flow)
        return known

    def _holds(self, flow: Flow) -> bool:
        lacking = frozenset(s.name for s in flow.steps if self._lacks(s))
        if not lacking:
            return True
        if any(s.name in lacking and s.on_failure is OnFailure.FAIL for s in flow.steps):
            return False
        ways = _ways(flow)
        if ways is None:
            return False
        for way in ways:
            if not _ends_well(flow, way, lacking) and _ends_well(flow, way, frozenset()):
                return False
        return True

    def _lacks(self, step: Step) -> bool:
        """Whether a step cannot do what it is there for."""
        if isinstance(step.action, RunFlow):
            inner = self._graph.flow(step.action.flow)
            return inner is not None and not self.holds(inner)
        return asked(step.action, self._graph.namespace) in self._gone


def _ways(flow: Flow) -> Iterator[_Way] | None:
    """The ways that requests may take; None when they are too many to be looked at."""
    names: list[str] = []
    counts: list[int] = []
    for step in flow.steps:
        count = branches(step.action)
        if count is not None:
            names.append(step.name)
            counts.append(count)
        if step.when:
            names.append(_conditions(step))
            counts.append(2)
    total = len(flow.steps)
    for count in counts:
        total *= count
        if total > _MOST_LOOKS:
            return None
    chosen = product(*(range(c) for c in counts))
    return (dict(zip(names, way, strict=True)) for way in chosen)


def _conditions(step: Step) -> str:
    """A name that no step has."""
    return f"{step.name}?"


def _ends_well(flow: Flow, way: _Way, lacking: frozenset[str]) -> bool:
    """Whether a request that goes this way is answered, and with no error."""
    values: dict[str, _Is] = {"": _Is.OK}
    try:
        _settle(flow, way, lacking, values)
    except _Failed:
        return False
    return _joined(flow.output, values, patient=False) is _Is.OK


def _settle(flow: Flow, way: _Way, lacking: frozenset[str], values: dict[str, _Is]) -> None:
    """Put what each step's value is into `values`; what never comes is absent."""
    waiting = list(flow.steps)
    patient = True
    while waiting:
        left = []
        for step in waiting:
            found = _value(step, way, step.name in lacking, values, patient)
            if found is None:
                left.append(step)
            else:
                values[step.name] = found
        if len(left) == len(waiting):
            if not patient:
                break  # steps that wait for each other
            patient = False
        else:
            patient = True
        waiting = left


def _value(step: Step, way: _Way, lacks: bool, values: dict[str, _Is], patient: bool) -> _Is | None:
    """What a step's value is; None when that is not known yet. _Failed."""
    for gate in step.gates:
        chooser = values.get(gate.chooser)
        if chooser is None:
            return None
        if chooser is _Is.ABSENT or way[gate.chooser] != gate.branch:
            return _Is.ABSENT
    given = _joined(step.inputs, values, patient) if step.inputs.sources else _Is.OK
    triggered = _joined(step.triggers, values, patient) if step.triggers is not None else _Is.OK
    if _Is.ABSENT in (given, triggered):
        return _Is.ABSENT
    if given is None or triggered is None:
        return None
    if step.when:
        looked = [values.get(c.step) for c in step.when]
        if None in looked:
            return None
        bad = any(
            is_ is not _Is.OK and not c.negate for is_, c in zip(looked, step.when, strict=True)
        )
        if bad or not way[_conditions(step)]:
            return _Is.ABSENT
    asks = isinstance(step.action, Call | CallUrl | Router | RunFlow | RunGraph)
    if not lacks and (given is _Is.OK or not asks):
        return given
    if step.on_failure is OnFailure.FAIL:
        raise _Failed
    return _Is.ERROR if step.on_failure is OnFailure.ANSWER else _Is.ABSENT


def _joined(inputs: Inputs, values: dict[str, _Is], patient: bool) -> _Is | None:
    """What several values make; None when not all that it waits for are known."""
    found = [values.get(s.step) for s in inputs.sources]
    there = [f for f in found if f is not None and f is not _Is.ABSENT]
    if inputs.join is Join.INNER:
        if _Is.ABSENT in found:
            return _Is.ABSENT
        if None in found:
            return None
    elif inputs.join is Join.OUTER and None in found and (patient or not there):
        return None
    elif not there:
        return None if None in found else _Is.ABSENT
    # Which of several is the first is not known.
    if inputs.join is not Join.ANY:
        if inputs.combine is Combine.FIRST:
            return there[0]
        if inputs.combine is Combine.LAST:
            return there[-1]
        if inputs.combine is Combine.OBJECT:
            return min(there)
    return max(there)
