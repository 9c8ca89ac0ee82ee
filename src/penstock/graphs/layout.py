"""Where the steps of a flow stand in a picture: in layers from left to right, so that edges point one way.

Layers by the longest way from the request (Sugiyama's method: edges that close a cycle are turned, long edges
go over places that are kept free in each layer, and the order in a layer follows the neighbours' mean
position, a few times to and fro). A graph whose long edges would need more places than anybody could look at
is `crowded`: its edges go straight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from penstock.domain.graph import (
    Builtin,
    CallUrl,
    Combine,
    External,
    Flow,
    HandOn,
    Inputs,
    Join,
    Router,
    RunFlow,
    RunGraph,
    Side,
    Splitter,
    Step,
    Switch,
    Verb,
)

#: Names that no step has, as long as what is shown of them is what follows the NUL.
REQUEST = "\0request"
ANSWER = "\0answer"
#: Times that the order of layers is improved.
_SWEEPS = 6
#: Places that long edges may take.
_MOST_PLACES = 4000


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured of a step: how often it ended how, and how long it takes, seconds."""

    outcomes: Mapping[str, float] = field(default_factory=dict)
    median_s: float | None = None
    p99_s: float | None = None


@dataclass(slots=True)
class Node:
    """A step, the request, the answer, or (without lines) a place that an edge passes."""

    name: str
    lines: tuple[str, ...] = ()
    #: `end`, `call`, `choice`, `join` or `pass`.
    kind: str = "call"
    layer: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """Data (or, dashed, only a trigger, condition or branch) from one node to another."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


@dataclass(slots=True)
class Diagram:
    """A flow, laid out. `layers` has node names in order; `paths` the nodes that an edge goes over."""

    title: str
    nodes: dict[str, Node]
    layers: list[list[str]]
    paths: list[tuple[Edge, list[str]]]
    #: Edges that close a cycle; they are told in words.
    back: list[Edge]
    crowded: bool = False


def shown(name: str) -> str:
    """A node's name, or any text of a user's, as it may go to a terminal and into XML."""
    name = name.removeprefix("\0")
    return name if name.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in name)


def layout(
    flow: Flow,
    numbers: Mapping[str, Numbers] | None = None,
    title: str = "",
    external: External | None = None,
) -> Diagram:
    """The picture of a flow; `numbers` by step name, `external` what it is run for besides requests."""
    nodes = {REQUEST: _node(REQUEST, _heard(external), "end")}
    for step in flow.steps:
        lines = [*_does(step), *_measured((numbers or {}).get(step.name))]
        nodes[step.name] = _node(step.name, lines, _kind(step))
    nodes[ANSWER] = _node(ANSWER, _how(flow.output), "end")
    edges, back = _turn(_edges(flow), list(nodes))
    _assign_layers(nodes, edges)
    layers: list[list[str]] = [[] for _ in range(1 + max(n.layer for n in nodes.values()))]
    for name, node in nodes.items():
        layers[node.layer].append(name)
    paths: list[tuple[Edge, list[str]]] = []
    places = sum(nodes[e.target].layer - nodes[e.source].layer - 1 for e in edges)
    crowded = places > _MOST_PLACES
    for number, edge in enumerate(edges):
        path = [edge.source]
        first = nodes[edge.target].layer if crowded else nodes[edge.source].layer + 1
        for layer in range(first, nodes[edge.target].layer):
            name = f"\0{number}.{layer}"
            nodes[name] = Node(name, kind="pass", layer=layer)
            layers[layer].append(name)
            path.append(name)
        paths.append((edge, [*path, edge.target]))
    _order(layers, paths)
    for layer_names in layers:
        for row, name in enumerate(layer_names):
            nodes[name].row = row
    return Diagram(shown(title or flow.name), nodes, layers, paths, back, crowded)


def _node(name: str, more: list[str], kind: str) -> Node:
    return Node(name, tuple(map(shown, (name, *more))), kind)


def _heard(external: External | None) -> list[str]:
    """Values of other graphs that stand for a request."""
    if external is None:
        return []
    said = [f"or {s.step}{'.' + s.tensor if s.tensor else ''}" for s in external.inputs.sources]
    if external.triggers is not None:
        said += [f"when {s.step}" for s in external.triggers.sources]
    return said


def _kind(step: Step) -> str:
    if isinstance(step.action, Switch | Splitter | Router):
        return "choice"
    return "join" if isinstance(step.action, HandOn) else "call"


def _does(step: Step) -> list[str]:
    """What a step does, where its name does not say it."""
    action = step.action
    more = []
    if isinstance(action, Switch):
        more.append("switch")
    elif isinstance(action, Splitter):
        more.append("split " + "/".join(f"{w:g}" for w in action.weights))
    elif isinstance(action, Router):
        more.append(f"router {action.call.service}")
    elif isinstance(action, RunFlow):
        more.append(f"node {action.flow}")
    elif isinstance(action, RunGraph):
        more.append(f"pipeline {action.graph}")
    elif isinstance(action, CallUrl):
        more.append(action.url if len(action.url) <= 32 else action.url[:31] + "…")
    elif isinstance(action, HandOn):
        more.append("join")
    elif isinstance(action, Builtin):
        more.append(action.unit.value)
    else:
        verb = "" if action.verb is Verb.PREDICT else f" {action.verb.value}"
        if action.service != step.name or verb:
            more.append(action.service + verb)
    more += _how(step.inputs)
    if step.batch is not None:
        more.append(f"batch {step.batch.size}")
    more += [f"{'unless' if c.negate else 'when'} {c.path}"[:32] for c in step.when]
    return more


def _how(inputs: Inputs) -> list[str]:
    """How inputs are joined, where that is not the usual way."""
    several = len({(s.step, s.side) for s in inputs.sources}) > 1
    said = [] if inputs.join is Join.INNER or not several else [inputs.join.value]
    if inputs.combine is not Combine.MERGE and several:
        said.append(inputs.combine.value)
    return [" ".join(said)] if said else []


def _measured(numbers: Numbers | None) -> list[str]:
    if numbers is None:
        return []
    lines = []
    total = sum(numbers.outcomes.values())
    if total:
        ran = numbers.outcomes.get("ok", 0)
        shares = [
            f"{o} {n / total:.0%}" for o, n in sorted(numbers.outcomes.items()) if o != "ok" and n
        ]
        lines.append(
            " ".join([f"{ran:.0f} ok" if not shares else f"ok {ran / total:.0%}", *shares])
        )
    if numbers.median_s is not None and numbers.p99_s is not None:
        lines.append(f"{_ms(numbers.median_s)} · p99 {_ms(numbers.p99_s)}")
    return lines


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"


def _edges(flow: Flow) -> list[Edge]:
    found: dict[tuple[str, str], tuple[list[str], bool]] = {}

    def add(source: str, target: str, label: str, dashed: bool) -> None:
        labels, all_dashed = found.get((source, target), ([], True))
        if label and label not in labels:
            labels.append(label)
        found[source, target] = (labels, all_dashed and dashed)

    def join(inputs: Inputs, target: str, dashed: bool) -> None:
        for s in inputs.sources:
            label = s.tensor if not s.rename else f"{s.tensor}→{s.rename}"
            label = label or ", ".join(f"{old}→{new}" for old, new in s.renames)
            if s.side is Side.INPUTS and s.step:
                label = f"inputs {label}".strip()
            add(s.step or REQUEST, target, label, dashed)

    choosers = {s.name: s.action for s in flow.steps}
    for step in flow.steps:
        join(step.inputs, step.name, False)
        if step.triggers is not None:
            join(step.triggers, step.name, True)
        for condition in step.when:
            if condition.step:
                add(condition.step, step.name, "", True)
        for gate in step.gates:
            add(gate.chooser, step.name, _branch(choosers[gate.chooser], gate.branch), True)
        if not step.inputs.sources and not step.gates:
            add(REQUEST, step.name, "", False)
    join(flow.output, ANSWER, False)
    return [
        Edge(s, t, shown(", ".join(labels)), dashed) for (s, t), (labels, dashed) in found.items()
    ]


def _branch(action: object, branch: int) -> str:
    if isinstance(action, Switch):
        return action.conditions[branch][:24] or "else"
    if isinstance(action, Splitter):
        return f"{action.weights[branch]:g}%"
    return str(branch)


def _turn(edges: list[Edge], names: list[str]) -> tuple[list[Edge], list[Edge]]:
    """Edges without those that close a cycle, and those."""
    following: dict[str, list[Edge]] = {n: [] for n in names}
    for edge in edges:
        following[edge.source].append(edge)
    state: dict[str, int] = {}
    back: list[Edge] = []
    for start in names:
        if start in state:
            continue
        state[start] = 1
        stack = [(start, iter(following[start]))]
        while stack:
            name, rest = stack[-1]
            found = next(rest, None)
            if found is None:
                state[name] = 2
                stack.pop()
            elif state.get(found.target) == 1:
                back.append(found)
            elif found.target not in state:
                state[found.target] = 1
                stack.append((found.target, iter(following[found.target])))
    closing = set(back)
    return [e for e in edges if e not in closing], back


def _assign_layers(nodes: dict[str, Node], edges: list[Edge]) -> None:
    """Each node one layer behind the last of those that it needs. The edges close no cycle."""
    following: dict[str, list[str]] = {}
    needs = dict.fromkeys(nodes, 0)
    for edge in edges:
        following.setdefault(edge.source, []).append(edge.target)
        needs[edge.target] += 1
    placed = [name for name, count in needs.items() if not count]
    for name in placed:
        for target in following.get(name, ()):
            nodes[target].layer = max(nodes[target].layer, nodes[name].layer + 1)
            needs[target] -= 1
            if not needs[target]:
                placed.append(target)
    nodes[ANSWER].layer = max(n.layer for n in nodes.values() if n.name != ANSWER) + 1


def _order(layers: list[list[str]], paths: list[tuple[Edge, list[str]]]) -> None:
    """Order each layer by the mean position of its neighbours."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for _, path in paths:
        for a, b in pairwise(path):
            before.setdefault(b, []).append(a)
            after.setdefault(a, []).append(b)
    position: dict[str, float] = {}
    for names in layers:
        position.update({n: i - (len(names) - 1) / 2 for i, n in enumerate(names)})
    for sweep in range(_SWEEPS):
        beside, order = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        for names in order:
            means = {
                n: sum(position[o] for o in beside[n]) / len(beside[n])
                if n in beside
                else position[n]
                for n in names
            }
            names.sort(key=means.__getitem__)
            position.update({n: i - (len(names) - 1) / 2 for i, n in enumerate(names)})
