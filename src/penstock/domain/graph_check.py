"""What is wrong with a graph, found before anything runs.

`check` answers every problem with the place it has in the domain's form; a dialect turns that into its own
field's path. A graph without problems ends for every request: each step can start, nothing waits for
itself, every reference leads somewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from penstock.domain.conditions import BadCondition, parse
from penstock.domain.graph import (
    Call,
    CallUrl,
    Combine,
    External,
    Flow,
    Graph,
    Inputs,
    Join,
    RunFlow,
    RunGraph,
    Side,
    Source,
    Splitter,
    Step,
    Switch,
    Tensor,
    asked,
    branches,
)

#: Steps of one flow, and flows of one graph.
MAX_STEPS: Final = 256
MAX_FLOWS: Final = 256
#: How deep flows may be inside of each other.
MAX_DEPTH: Final = 32

_URL = re.compile(r"https?://[^/\s?#@]+(?:[/?][^\s#]*)?")


def _is_address(url: str) -> bool:
    """Whether a step may post to it: a host, perhaps a port that can be one, and no user."""
    if _URL.fullmatch(url) is None:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class GraphProblem:
    """A sentence, and where: flow, step (empty: the flow's output or the whole), part, and which one of it.

    `part` is `inputs`, `triggers`, `when`, `gates`, `conditions`, `weights`, `action`, `name`, `batch`,
    `timeout`, `output`, `steps`, `external`, `external triggers`, or empty; `index` counts within it.
    """

    message: str
    flow: str = ""
    step: str = ""
    part: str = ""
    index: int | None = None

    def __str__(self) -> str:
        where = [p for p in (self.flow, self.step, self.part) if p]
        at = f"[{self.index}]" if self.index is not None else ""
        return f"{'.'.join(where)}{at}: {self.message}" if where else self.message


def check(graph: Graph) -> list[GraphProblem]:
    """Every problem; none when the graph may run."""
    problems: list[GraphProblem] = []
    if not graph.flows:
        return [GraphProblem("the graph has no steps")]
    if len(graph.flows) > MAX_FLOWS:
        return [GraphProblem(f"{len(graph.flows)} nodes; at most {MAX_FLOWS} are possible")]
    names: set[str] = set()
    for flow in graph.flows:
        if flow.name in names:
            problems.append(GraphProblem(f"there are two of this name: {flow.name}", flow.name))
        names.add(flow.name)
        problems += _flow(graph, flow)
    problems += _nesting(graph)
    if graph.timeout_s <= 0 or not math.isfinite(graph.timeout_s):
        problems.append(GraphProblem("must be more than 0 seconds", part="timeout"))
    for i, pattern in enumerate(graph.propagate):
        try:
            re.compile(pattern)
        except re.error as exc:
            problems.append(
                GraphProblem(f"no regular expression: {exc}", part="propagate", index=i)
            )
    if graph.external is not None:
        problems += _external(graph, graph.external)
    return problems


def _external(graph: Graph, external: External) -> Iterator[GraphProblem]:
    for part, inputs in (("external", external.inputs), ("external triggers", external.triggers)):
        if inputs is None:
            continue
        if not inputs.sources:
            yield GraphProblem("names no graph", part=part)
        if inputs.window_s is not None and not 0 < inputs.window_s < math.inf:
            yield GraphProblem("the join window must be more than 0 seconds", part=part)
        given: set[str] = set()
        for i, source in enumerate(inputs.sources):
            if source.step.partition(".")[0] == graph.name:
                yield GraphProblem("a graph cannot be its own input", part=part, index=i)
            name = source.rename or source.tensor
            if name and name in given and inputs.join is Join.INNER and part == "external":
                yield GraphProblem(_SECOND.format(name), part=part, index=i)
            given.add(name)


_SECOND: Final = "a second tensor of the name {!r}; give one of them another name"


def _flow(graph: Graph, flow: Flow) -> Iterator[GraphProblem]:
    def told(
        message: str, step: str = "", part: str = "", index: int | None = None
    ) -> GraphProblem:
        return GraphProblem(message, flow.name, step, part, index)

    if not flow.steps:
        yield told("has no steps", part="steps")
    if len(flow.steps) > MAX_STEPS:
        yield told(f"{len(flow.steps)} steps; at most {MAX_STEPS} are possible", part="steps")
        return
    steps: dict[str, Step] = {}
    for i, step in enumerate(flow.steps):
        if not step.name:
            yield told("a step needs a name", part="steps", index=i)
        elif step.name in steps:
            yield told(f"there are two steps of the name {step.name}", part="steps", index=i)
        steps[step.name] = step
    known = True
    for step in flow.steps:
        for problem in _step(graph, flow, step, steps):
            known = known and not problem.message.startswith(_NO_STEP)
            yield problem
    for problem in _sources(flow, None, "output", flow.output, steps):
        known = known and not problem.message.startswith(_NO_STEP)
        yield problem
    if not flow.output.sources:
        yield told("nothing is answered: name the steps whose values are", part="output")
    if flow.max_revisits is not None and flow.max_revisits < 0:
        yield told("must be 0 or more", part="max_revisits")
    if not known:
        return
    cycle = find_cycle(flow)
    if cycle and flow.max_revisits is None:
        yield told(f"there is a cycle: {' -> '.join(cycle)}", cycle[0], "inputs")
    elif cycle:
        stuck = _never_start(flow)
        if stuck:
            yield told(
                "can never start: it waits for itself; in a cycle at least one step takes any of its inputs",
                stuck[0],
                "inputs",
            )


_NO_STEP: Final = "there is no step"


def _step(
    graph: Graph, flow: Flow, step: Step, steps: Mapping[str, Step]
) -> Iterator[GraphProblem]:
    def told(message: str, part: str, index: int | None = None) -> GraphProblem:
        return GraphProblem(message, flow.name, step.name, part, index)

    action = step.action
    if isinstance(action, Call) and not action.service:
        yield told("names no service", "action")
    elif isinstance(action, CallUrl) and not _is_address(action.url):
        yield told(
            "is no address: http://HOST[:PORT]/PATH is expected, without user or fragment", "action"
        )
    elif isinstance(action, RunFlow) and graph.flow(action.flow) is None:
        yield told(
            f"there is no node {action.flow!r}{_near(f.name for f in graph.flows)}", "action"
        )
    elif asked(action, graph.namespace) == (graph.namespace, graph.name):
        does = "run" if isinstance(action, RunGraph) else "call"
        yield told(f"a graph cannot {does} itself", "action")
    elif isinstance(action, Switch):
        for i, text in enumerate(action.conditions):
            if text:
                yield from _condition(text, flow.name, step.name, "conditions", i)
    elif isinstance(action, Splitter):
        yield from _weights(action.weights, flow.name, step.name)
    count = branches(action)
    if count is not None and count < 1:
        yield told("needs at least one branch", "action")
    yield from _sources(flow, step, "inputs", step.inputs, steps)
    if step.triggers is not None:
        yield from _sources(flow, step, "triggers", step.triggers, steps)
    for i, condition in enumerate(step.when):
        if condition.step and condition.step not in steps:
            yield told(f"{_NO_STEP} {condition.step!r}{_near(steps)}", "when", i)
        yield from _condition(condition.path, flow.name, step.name, "when", i)
    for i, gate in enumerate(step.gates):
        chooser = steps.get(gate.chooser)
        if chooser is None:
            yield told(f"{_NO_STEP} {gate.chooser!r}{_near(steps)}", "gates", i)
            continue
        of = branches(chooser.action)
        if of is None:
            yield told(f"the step {gate.chooser!r} chooses no branch", "gates", i)
        elif not 0 <= gate.branch < of:
            yield told(
                f"{gate.chooser!r} has {of} branches, none of them is {gate.branch}", "gates", i
            )
    if step.batch is not None:
        if step.batch.size < 1:
            yield told("size must be 1 or more", "batch")
        if not 0 < step.batch.window_s < math.inf:
            yield told("the window must be more than 0, or a half batch waits for ever", "batch")
        if not isinstance(step.action, Call | CallUrl):
            yield told("only a step that calls a service can be batched", "batch")
    if step.timeout_s is not None and not 0 < step.timeout_s < math.inf:
        yield told("must be more than 0 seconds", "timeout")


def _condition(text: str, flow: str, step: str, part: str, index: int) -> Iterator[GraphProblem]:
    try:
        parse(text)
    except BadCondition as exc:
        yield GraphProblem(f"no condition: {exc}", flow, step, part, index)


def _weights(weights: tuple[float, ...], flow: str, step: str) -> Iterator[GraphProblem]:
    for i, weight in enumerate(weights):
        if not 0 <= weight <= 100:  # false for NaN too
            yield GraphProblem("a weight is between 0 and 100", flow, step, "weights", i)
            return
    if weights and abs(sum(weights) - 100) > 1e-6:
        yield GraphProblem(f"weights add up to {sum(weights):g}, not 100", flow, step, "weights")


def _sources(
    flow: Flow, step: Step | None, part: str, inputs: Inputs, steps: Mapping[str, Step]
) -> Iterator[GraphProblem]:
    own = step.name if step is not None else ""

    def told(message: str, index: int | None = None) -> GraphProblem:
        return GraphProblem(message, flow.name, own, part, index)

    if inputs.window_s is not None and not 0 < inputs.window_s < math.inf:
        yield told("the join window must be more than 0 seconds")
    declared = _declared_inputs(step) if part == "inputs" else None
    given: dict[str, int] = {}
    whole = not inputs.sources
    for i, source in enumerate(inputs.sources):
        if source.step and source.step not in steps:
            yield told(f"{_NO_STEP} {source.step!r}{_near(steps)}", i)
            continue
        whole = whole or not source.tensor
        tensors = _tensors_of(flow, source, steps)
        if source.tensor and tensors is not None:
            found = next((t for t in tensors if t.name == source.tensor), None)
            whose = f"{source.step!r}" if source.step else "the request"
            if found is None:
                known = ", ".join(t.name for t in tensors) or "none"
                yield told(f"{whose} has no tensor {source.tensor!r}; it has {known}", i)
            elif declared is not None:
                yield from (told(m, i) for m in _mismatch(found, source, declared))
        elif source.tensor and declared is not None:
            name = source.rename or source.tensor
            if declared and name not in {t.name for t in declared}:
                known = ", ".join(t.name for t in declared)
                yield told(f"{own!r} takes no tensor {name!r}; it takes {known}", i)
        if source.tensor and inputs.combine is Combine.MERGE and inputs.join is Join.INNER:
            name = source.rename or source.tensor
            if name in given and step is not None and part == "inputs":
                yield told(_SECOND.format(name), i)
            given[name] = i
    if declared and not whole and inputs.combine is Combine.MERGE and inputs.join is Join.INNER:
        missing = [t.name for t in declared if t.name not in given]
        if missing:
            yield told(f"{own!r} also needs {', '.join(missing)}")


def _declared_inputs(step: Step | None) -> tuple[Tensor, ...] | None:
    return step.signature.inputs if step is not None and step.signature is not None else None


def _tensors_of(flow: Flow, source: Source, steps: Mapping[str, Step]) -> tuple[Tensor, ...] | None:
    if not source.step:
        return flow.inputs
    signature = steps[source.step].signature
    if signature is None:
        return None
    return signature.inputs if source.side is Side.INPUTS else signature.outputs


def _mismatch(found: Tensor, source: Source, declared: tuple[Tensor, ...]) -> Iterator[str]:
    name = source.rename or source.tensor
    wanted = next((t for t in declared if t.name == name), None)
    if wanted is None:
        if declared:
            known = ", ".join(t.name for t in declared)
            yield f"there is no input {name!r}; there is {known}"
        return
    if found.datatype and wanted.datatype and found.datatype != wanted.datatype:
        yield f"{source.tensor!r} is {found.datatype}, the input {name!r} takes {wanted.datatype}"
    elif found.shape is not None and wanted.shape is not None:
        one, other = list(found.shape), list(wanted.shape)
        fits = len(one) == len(other) and all(
            a == b or a < 0 or b < 0 for a, b in zip(one, other, strict=True)
        )
        if not fits:
            yield f"{source.tensor!r} has shape {one}, the input {name!r} takes {other}"


# -- what depends on what -------------------------------------------------------------------------------


def needs(step: Step) -> tuple[str, ...]:
    """Names of the steps that `step` waits for, each once."""
    found: dict[str, None] = {}
    triggers = step.triggers.sources if step.triggers is not None else ()
    for source in (*step.inputs.sources, *triggers):
        if source.step:
            found[source.step] = None
    for condition in step.when:
        if condition.step:
            found[condition.step] = None
    for gate in step.gates:
        found[gate.chooser] = None
    return tuple(found)


def find_cycle(flow: Flow) -> list[str]:
    """Names along one cycle, the first one again at the end; empty when there is none."""
    edges = {s.name: needs(s) for s in flow.steps}
    done: set[str] = set()
    for start in edges:
        if start in done:
            continue
        trail: list[str] = [start]
        on_trail = {start}
        iterators = [iter(edges[start])]
        while iterators:
            following = next(iterators[-1], None)
            if following is None:
                iterators.pop()
                left = trail.pop()
                on_trail.discard(left)
                done.add(left)
            elif following in on_trail:
                cycle = trail[trail.index(following) :]
                # Edges lead from a step to what it needs; data flows the other way.
                return [following, *reversed(cycle)]
            elif following not in done:
                trail.append(following)
                on_trail.add(following)
                iterators.append(iter(edges[following]))
    return []


def _never_start(flow: Flow) -> list[str]:
    """Steps whose inputs can never be there."""
    started: set[str] = set()

    def possible(inputs: Inputs) -> bool:
        there = [not s.step or s.step in started for s in inputs.sources]
        return all(there) if inputs.join is Join.INNER else not there or any(there)

    moved = True
    while moved:
        moved = False
        for step in flow.steps:
            if step.name in started:
                continue
            others = [c.step for c in step.when if c.step] + [g.chooser for g in step.gates]
            if (
                possible(step.inputs)
                and (step.triggers is None or possible(step.triggers))
                and all(o in started for o in others)
            ):
                started.add(step.name)
                moved = True
    return [s.name for s in flow.steps if s.name not in started]


def _nesting(graph: Graph) -> Iterator[GraphProblem]:
    """Flows that run each other in a circle, or too deep."""
    inside = {
        f.name: {s.action.flow: s.name for s in f.steps if isinstance(s.action, RunFlow)}
        for f in graph.flows
    }
    depths: dict[str, int] = {}
    for start in inside:
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(inside[start]))]
        trail = {start}
        while stack:
            name, following = stack[-1]
            inner = next(following, None)
            if inner is None:
                stack.pop()
                trail.discard(name)
                depths[name] = 1 + max((depths.get(i, 0) for i in inside[name]), default=0)
            elif inner in trail:
                yield GraphProblem(
                    f"the nodes run each other in a circle: {' -> '.join([*[n for n, _ in stack], inner])}",
                    name,
                    inside[name][inner],
                    "action",
                )
                return
            elif inner in inside and inner not in depths:
                stack.append((inner, iter(inside[inner])))
                trail.add(inner)
    deepest = max(depths.values(), default=0)
    if deepest > MAX_DEPTH:
        yield GraphProblem(f"nodes are {deepest} deep inside of each other; at most {MAX_DEPTH}")


def _near(known: Iterable[str]) -> str:
    names = [n for n in known if n]
    if not names:
        return ""
    more = ", ..." if len(names) > 8 else ""
    return f"; there is {', '.join(names[:8])}{more}"
