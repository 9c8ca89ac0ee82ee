"""A graph made ready to run: names become positions, paths are parsed, and who waits for whom is known.

Made once when a graph comes or changes; a request only walks over it.
"""

from __future__ import annotations

import re
from typing import Any

from penstock.domain.conditions import Path, parse
from penstock.domain.graph import (
    Combine,
    Flow,
    Graph,
    Inputs,
    Join,
    Side,
    Source,
    Splitter,
    Step,
    Switch,
)
from penstock.domain.graph_check import find_cycle

#: Position of what is no step: the flow's own input.
REQUEST = -1


class Unit:
    """One step's value in a join, whole or some of its tensors."""

    __slots__ = ("inputs_side", "name", "renames", "sources", "step", "tensors")

    def __init__(self, name: str, step: int, inputs_side: bool, sources: list[Source]) -> None:
        self.name = name
        self.step = step
        self.inputs_side = inputs_side
        self.sources = sources
        #: Names of which one has to be there; empty: the whole value is wanted.
        self.tensors = (
            () if any(not s.tensor for s in sources) else tuple(s.tensor for s in sources)
        )
        self.renames = {old: new for s in sources for old, new in s.renames}


class Joined:
    """A compiled `Inputs`."""

    __slots__ = ("combine", "join", "plain", "units", "whole", "window_s")

    def __init__(self, inputs: Inputs, position: dict[str, int]) -> None:
        groups: dict[tuple[str, Side], list[Source]] = {}
        for source in inputs.sources or (Source(),):
            # The request has no two sides.
            side = source.side if source.step else Side.OUTPUTS
            groups.setdefault((source.step, side), []).append(source)
        self.units = [
            Unit(step, position[step] if step else REQUEST, side is Side.INPUTS, sources)
            for (step, side), sources in groups.items()
        ]
        self.join = inputs.join
        self.window_s = inputs.window_s
        self.combine = inputs.combine
        #: All it takes are steps' whole values.
        self.plain = (
            inputs.join is Join.INNER
            and inputs.window_s is None
            and not any(u.step == REQUEST or u.inputs_side or u.tensors for u in self.units)
        )
        #: The only source is one whole value, which is taken as it is.
        self.whole = (
            len(self.units) == 1
            and len(self.units[0].sources) == 1
            and not self.units[0].tensors
            and not self.units[0].renames
            and inputs.combine in (Combine.MERGE, Combine.FIRST, Combine.LAST)
        )

    def steps(self) -> set[int]:
        return {u.step for u in self.units if u.step != REQUEST}


class When:
    """A compiled `Condition`."""

    __slots__ = ("inputs_side", "negate", "path", "step")

    def __init__(self, path: Path, step: int, inputs_side: bool, negate: bool) -> None:
        self.path = path
        self.step = step
        self.inputs_side = inputs_side
        self.negate = negate


class CompiledStep:
    """A step with its surroundings."""

    __slots__ = (
        "action", "bounds", "conditions", "dependents", "gates", "index", "inputs", "name", "needed",
        "on_failure", "path", "series", "step", "triggers", "wanted_inputs", "when",
    )  # fmt: skip

    def __init__(self, flow: str, index: int, step: Step, position: dict[str, int]) -> None:
        self.step = step
        self.index = index
        self.name = step.name
        #: `FLOW.STEP`, for metrics and messages.
        self.path = f"{flow}.{step.name}"
        self.action = step.action
        self.on_failure = step.on_failure
        self.inputs = Joined(step.inputs, position)
        self.triggers = Joined(step.triggers, position) if step.triggers is not None else None
        self.when = [
            When(
                parse(c.path),
                position[c.step] if c.step else REQUEST,
                bool(c.step) and c.side is Side.INPUTS,
                c.negate,
            )
            for c in step.when
        ]
        self.gates = [(position[g.chooser], g.branch) for g in step.gates]
        #: Positions of the steps that may run once this one is settled, or has its input.
        self.dependents: list[int] = []
        #: Somebody takes what this step is given.
        self.wanted_inputs = False
        #: The output depends on it, so it need not go on once that is complete.
        self.needed = False
        #: A Switch's paths (None always matches), a Splitter's cumulative weights.
        self.conditions: list[Path | None] = []
        self.bounds: list[float] = []
        if isinstance(step.action, Switch):
            self.conditions = [parse(c) if c else None for c in step.action.conditions]
        elif isinstance(step.action, Splitter):
            total = 0.0
            for weight in step.action.weights:
                total += weight
                self.bounds.append(total / 100)
        #: Whoever measures keeps its metric children here.
        self.series: dict[str, Any] = {}

    def needs(self) -> set[int]:
        """Positions of the steps that this one waits for."""
        found = self.inputs.steps()
        if self.triggers is not None:
            found |= self.triggers.steps()
        found |= {w.step for w in self.when if w.step != REQUEST}
        return found | {chooser for chooser, _ in self.gates}

    def input_sides(self) -> set[int]:
        """Positions of the steps whose inputs this one takes."""
        joins = (self.inputs, self.triggers) if self.triggers is not None else (self.inputs,)
        found = {u.step for j in joins for u in j.units if u.inputs_side}
        return found | {w.step for w in self.when if w.inputs_side}


class CompiledFlow:
    """A flow's steps by position."""

    __slots__ = (
        "cyclic",
        "first",
        "flow",
        "max_revisits",
        "name",
        "output",
        "output_needs",
        "steps",
        "told_as_text",
    )

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.name = flow.name
        position = {s.name: i for i, s in enumerate(flow.steps)}
        self.steps = [CompiledStep(flow.name, i, s, position) for i, s in enumerate(flow.steps)]
        self.output = Joined(flow.output, position)
        self.output_needs = frozenset(self.output.steps())
        #: Each value that the output needs becomes JSON, all of it.
        self.told_as_text = self.output.plain and self.output.combine is Combine.OBJECT
        self.cyclic = bool(find_cycle(flow))
        self.max_revisits = flow.max_revisits or 0
        #: Steps that wait for no other.
        self.first = []
        for step in self.steps:
            needs = step.needs()
            if not needs:
                self.first.append(step.index)
            for other in needs:
                self.steps[other].dependents.append(step.index)
            for other in step.input_sides():
                self.steps[other].wanted_inputs = True
        for unit in self.output.units:
            if unit.inputs_side:
                self.steps[unit.step].wanted_inputs = True
        self._mark_needed()

    def _mark_needed(self) -> None:
        """Steps all of whose ways lead to the output. A step beside it is not, nor what only feeds that."""
        beside = {
            s.index for s in self.steps if not s.dependents and s.index not in self.output_needs
        }
        moved = True
        while moved:
            moved = False
            for step in self.steps:
                if step.index not in beside and any(d in beside for d in step.dependents):
                    beside.add(step.index)
                    moved = True
        for step in self.steps:
            step.needed = step.index not in beside


class Program:
    """A graph, compiled. The graph must be without problems (`graph_check.check`)."""

    __slots__ = ("_patterns", "entry", "flows", "graph", "key")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.key = graph.key
        self.flows = {f.name: CompiledFlow(f) for f in graph.flows}
        self.entry = self.flows[graph.flows[0].name]
        self._patterns = [re.compile(p, re.IGNORECASE) for p in graph.propagate]

    def propagated(self, header: str) -> bool:
        """Whether a header goes along to every call. `header` is in lower case."""
        return any(p.search(header) for p in self._patterns)


__all__ = ["REQUEST", "CompiledFlow", "CompiledStep", "Join", "Joined", "Program", "Unit", "When"]
