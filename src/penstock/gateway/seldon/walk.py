"""Which units of a Seldon V1 graph a request went through.

What its steps did becomes the answer's `routing` and `requestPath`; from these, when a feedback comes, follow
the units that had a part in the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.domain.graph import Call, Graph, OnFailure, Router, RunFlow, Splitter, Step
from penstock.graphs.actions import ALL_BRANCHES, NO_BRANCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.graphs.execution import Execution


class Walk:
    """Which units a request went through, by what its answer says of itself."""

    def __init__(self, graph: Graph) -> None:
        #: Path of a step -> its flow and itself; of flows that answer (not shadows).
        self.steps: dict[str, tuple[str, Step]] = {}
        self.shadows = {
            s.action.flow
            for f in graph.flows
            for s in f.steps
            if isinstance(s.action, RunFlow) and s.on_failure is OnFailure.SKIP
        }
        front = graph.flows[0].name if len(graph.flows) > 1 else ""
        #: Flow -> its steps by name, without the one that only divides requests.
        self.flows: dict[str, dict[str, Step]] = {}
        #: Node -> what it is, for those who ask.
        self.nodes: dict[str, dict[str, Any]] = {}
        for flow in graph.flows:
            if flow.name == front or flow.name in self.shadows:
                continue
            self.flows[flow.name] = {s.name: s for s in flow.steps}
            for step in flow.steps:
                self.steps[f"{flow.name}.{step.name}"] = (flow.name, step)
                call = call_of(step)
                if call is not None:
                    known = {"platform": "seldon", "service": call.service, "asked": str(call.verb)}
                    self.nodes.setdefault(node_of(step.name), known)
        self._learners = {flow: {s for f, s in graph.feedback if f == flow} for flow in self.flows}

    def meta(self, execution: Execution) -> dict[str, Any]:
        """`routing` and `requestPath` of a request that has ended."""
        routing: dict[str, int] = {}
        path: dict[str, str] = {}
        for record in execution.records or ():
            known = self.steps.get(record.path)
            if known is None or record.outcome != "ok":
                continue
            step = known[1]
            node = node_of(step.name)
            if record.branch is not None:
                branch = record.branch
                count = _branches(step)
                routing[node] = (
                    branch[0]
                    if len(branch) == 1
                    else NO_BRANCH
                    if not branch
                    else ALL_BRANCHES
                    if len(branch) == count
                    else branch[0]
                )
            call = call_of(step)
            if call is not None:
                path[node] = call.service
        meta: dict[str, Any] = {"requestPath": path}
        if routing:
            meta["routing"] = routing
        return meta

    def learners(self, meta: Mapping[str, Any]) -> list[str]:
        """Services of the units that get a feedback about an answer with this meta."""
        asked = set((meta.get("requestPath") or {}).values())
        routing = meta.get("routing") or {}
        found: dict[str, None] = {}
        known = [
            flow
            for flow, steps in self.flows.items()
            if any((c := call_of(s)) is not None and c.service in asked for s in steps.values())
        ]
        for flow in known or self.flows:
            steps = self.flows[flow]
            for name in self._learners[flow]:
                call = call_of(steps[name])
                if call is not None and _reached(steps, steps[name], routing):
                    found[call.service] = None
        return list(found)


def _reached(steps: Mapping[str, Step], step: Step, routing: Mapping[str, Any]) -> bool:
    """Whether a request with that routing came to the step. A router it says nothing of: it did."""
    for gate in step.gates:
        chooser = steps[gate.chooser]
        taken = routing.get(node_of(gate.chooser), ALL_BRANCHES)
        if taken not in (ALL_BRANCHES, gate.branch) or not _reached(steps, chooser, routing):
            return False
    return True


def _branches(step: Step) -> int:
    action = step.action
    if isinstance(action, Splitter):
        return len(action.weights)
    return action.branches if isinstance(action, Router) else 0


def call_of(step: Step) -> Call | None:
    """What a step asks of a service."""
    if isinstance(step.action, Call):
        return step.action
    return step.action.call if isinstance(step.action, Router) else None


def node_of(step: str) -> str:
    """The node that a step belongs to: `NODE`, or `NODE:VERB` for what it does after its first."""
    return step.partition(":")[0]
