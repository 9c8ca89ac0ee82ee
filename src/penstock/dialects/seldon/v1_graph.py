"""A SeldonDeployment of several nodes: a graph, and a service for each node that has a process.

A predictor becomes a flow. Its nodes are steps in the order in which Seldon's engine walks them: a node's own
input first (predict, or transform-input), then its children (one that a router chooses, all that a combiner
puts together, or the only one), then its output (transform-output). Several predictors share the requests by
their traffic in a flow before them; copies for a shadow run beside it and nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.dialects import penstock
from penstock.dialects.base import Manifest, Translation, refuse, unsaid
from penstock.dialects.conversion import Converted, translate_converted
from penstock.dialects.graph_fields import problems_of
from penstock.dialects.metadata import DEFAULT_NAMESPACE
from penstock.dialects.seldon import v1_explainer as explainer
from penstock.dialects.seldon.v1_reader import TIMEOUTS, NodeReader, part_name
from penstock.dialects.seldon.v1_servers import (
    POLICIES,
    policy_of_image,
    typed_parameters,
)
from penstock.dialects.seldon.v1_tree import Node, nodes, tree
from penstock.domain.assembly import Assembly
from penstock.domain.bandit import Bandit
from penstock.domain.graph import (
    Action,
    Answers,
    Builtin,
    BuiltinUnit,
    Call,
    Combine,
    Flow,
    Gate,
    Graph,
    HandOn,
    Inputs,
    Join,
    OnFailure,
    Router,
    RunFlow,
    Source,
    Splitter,
    Step,
    Verb,
    Wire,
)
from penstock.errors import FieldProblem, InvalidManifest

#: The flow in front of several predictors, and the steps in it that divide requests.
FRONT: Final = ":traffic"
#: What comes after a node's name in the steps that are not its first.
_AFTER: Final = ":"
#: Models and routers get feedback; other units where their methods say so.
_LEARN: Final = (Verb.PREDICT, Verb.ROUTE)


def translate_graph(
    manifest: Manifest,
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
    *,
    runs_containers: bool,
) -> Translation:
    """The `Assembly` of a deployment that was read. InvalidManifest with everything that is wrong."""
    metadata = manifest["metadata"]
    name = metadata.get("name") or ""
    predictors: Sequence[Mapping[str, Any]] = manifest["spec"]["predictors"]
    reading = _Reading(manifest, problems, warnings, runs_containers)
    for index, predictor in enumerate(predictors):
        reading.predictor(index, predictor)
    flows = reading.flows
    if problems:
        refuse(manifest, list(dict.fromkeys(problems)))
    if len(predictors) > 1:
        flows.insert(0, _front(predictors))
    graph = Graph(
        metadata.get("namespace") or DEFAULT_NAMESPACE,
        name,
        tuple(flows),
        timeout_s=_timeout_s(manifest),
        answers=Answers.SELDON_V1,
        propagate=("",),
        feedback=tuple(reading.learners),
        explainers=tuple(reading.explainers),
    )
    found = problems_of(graph, lambda problem: ("spec", "predictors"))
    if found:
        refuse(manifest, found)
    return Translation(
        Assembly(graph, tuple(reading.parts.values())), tuple(dict.fromkeys(warnings))
    )


@dataclass
class _Reading:
    """The predictors of one deployment, one after the other, and what is wrong with them."""

    manifest: Manifest
    problems: list[FieldProblem]
    warnings: list[FieldProblem]
    runs_containers: bool
    flows: list[Flow] = field(default_factory=list)
    #: Predictor and step of each unit that gets feedback.
    learners: list[tuple[str, str]] = field(default_factory=list)
    #: Predictor and service of each explainer.
    explainers: list[tuple[str, str]] = field(default_factory=list)
    #: Manifests of the nodes' services, by name.
    parts: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def predictor(self, index: int, predictor: Mapping[str, Any]) -> None:
        """Take in one predictor: its flow, and a service for each node with a process."""
        problems = self.problems
        at = f"spec.predictors[{index}]"
        routers = _routers(predictor, at, problems)
        root = tree(predictor["graph"], f"{at}.graph", problems, routers)
        if root is None:
            return
        every = nodes(root)
        names = frozenset(n.name for n in every)
        _containers(predictor, at, names, problems)
        for node in every:
            if node.needs_process:
                self._part(index, predictor["name"], node, names)
        if explainer.explains(predictor):
            self._explainer(index, predictor["name"], every)
        compiler = _Compiler(self._name, predictor["name"])
        self.flows.append(compiler.flow(root))
        self.learners += [(predictor["name"], step) for step in compiler.learners]

    @property
    def _name(self) -> str:
        return self.manifest["metadata"].get("name") or ""

    def _part(self, index: int, predictor: str, node: Node, names: frozenset[str]) -> None:
        """The service of one node."""
        problems = self.problems
        part = part_name(self._name, predictor, node.name)
        told: list[FieldProblem] = []
        reader = NodeReader(
            self.manifest,
            index,
            node,
            problems,
            told,
            part=part,
            others=names - {node.name} or names,
        )
        converted = reader.convert()
        if converted is None:
            return
        if part in self.parts and not any(p.path == f"{node.at}.name" for p in problems):
            problems.append(
                FieldProblem(f"{node.at}.name", f"its service would be a second {part}")
            )
        self._add(part, converted, told)

    def _explainer(self, index: int, predictor: str, every: list[Node]) -> None:
        """The service of what explains the predictor's answers."""
        part = explainer.service_name(self._name, predictor)
        told: list[FieldProblem] = []
        converted = explainer.convert(self.manifest, index, every, self.problems, told)
        if part in self.parts:
            at = f"spec.predictors[{index}].explainer"
            message = f"its service would be a second {part}; give the node another name"
            self.problems.append(FieldProblem(at, message))
        self.explainers.append((predictor, part))
        self._add(part, converted, told)

    def _add(self, part: str, converted: Converted, told: list[FieldProblem]) -> None:
        """Take in a service, as its own dialect reads it."""
        self.parts[part] = converted.manifest
        try:
            translated = translate_converted(
                self.manifest,
                converted,
                penstock.translate,
                warnings=told,
                runs_containers=self.runs_containers,
            )
        except InvalidManifest as exc:
            self.problems += unsaid(exc.problems, self.problems)
        else:
            self.warnings += translated.warnings


def _routers(predictor: Mapping[str, Any], at: str, problems: list[FieldProblem]) -> dict[str, str]:
    """Built-in units by the names of their containers, where Seldon's own image does what one does."""
    found: dict[str, str] = {}
    for i, component in enumerate(predictor.get("componentSpecs") or ()):
        for j, container in enumerate((component.get("spec") or {}).get("containers") or ()):
            policy = policy_of_image(container.get("image"))
            if policy:
                found[container.get("name") or ""] = policy
                image = f"{at}.componentSpecs[{i}].spec.containers[{j}].image"
                problems[:] = [p for p in problems if p.path != image]
    return found


def _containers(
    predictor: Mapping[str, Any], at: str, names: frozenset[str], problems: list[FieldProblem]
) -> None:
    """Containers that belong to no node."""
    for i, component in enumerate(predictor.get("componentSpecs") or ()):
        for j, container in enumerate((component.get("spec") or {}).get("containers") or ()):
            if container.get("name") not in names:
                problems.append(
                    FieldProblem(
                        f"{at}.componentSpecs[{i}].spec.containers[{j}]",
                        "is the container of no node of the graph; nodes have theirs by name",
                    )
                )


def _timeout_s(manifest: Manifest) -> float:
    spec = manifest["spec"]
    said = {**(manifest["metadata"].get("annotations") or {}), **(spec.get("annotations") or {})}
    for key in TIMEOUTS:
        text = said.get(key, "")
        if text.isdigit() and 0 < int(text) <= 86_400_000:
            return int(text) / 1000
    return Graph("", "", ()).timeout_s


def _front(predictors: Sequence[Mapping[str, Any]]) -> Flow:
    """Predictors by their traffic; a shadow beside them."""
    sharing = [p for p in predictors if not p.get("shadow")]
    steps: list[Step] = []
    if len(sharing) > 1:
        weights = tuple(float(p.get("traffic") or 0) for p in sharing)
        steps.append(Step("traffic", Splitter(weights)))
    for i, p in enumerate(sharing):
        gates = (Gate("traffic", i),) if len(sharing) > 1 else ()
        steps.append(Step(f"predictor{_AFTER}{p['name']}", RunFlow(p["name"]), gates=gates))
    for p in predictors:
        if not p.get("shadow"):
            continue
        percent = float(p.get("traffic") or 100)
        gates = ()
        if percent < 100:
            steps.append(Step("copies", Splitter((percent, 100 - percent))))
            gates = (Gate("copies", 0),)
        steps.append(
            Step(
                f"shadow{_AFTER}{p['name']}",
                RunFlow(p["name"]),
                gates=gates,
                on_failure=OnFailure.SKIP,
            )
        )
    sources = tuple(Source(f"predictor{_AFTER}{p['name']}") for p in sharing)
    return Flow(FRONT, tuple(steps), Inputs(sources, join=Join.OUTER, combine=Combine.FIRST))


class _Compiler:
    """Makes one predictor's flow."""

    def __init__(self, deployment: str, predictor: str) -> None:
        self._deployment = deployment
        self._predictor = predictor
        self._steps: list[Step] = []
        self._names: set[str] = set()
        #: Steps of the units that get feedback.
        self.learners: list[str] = []

    def flow(self, root: Node) -> Flow:
        last = self._visit(root, "", ())
        return Flow(self._predictor, tuple(self._steps), Inputs((Source(last),)))

    def _visit(self, node: Node, source: str, gates: tuple[Gate, ...]) -> str:
        """Add the node's steps; the name of the one that has its answer."""
        current = source
        for verb in (Verb.PREDICT, Verb.TRANSFORM_INPUT):
            if verb in node.verbs:
                current = self._add(node, verb, self._action(node, verb), (current,), gates)
                break
        if Verb.ROUTE in node.verbs:
            router = self._add(node, Verb.ROUTE, self._router(node), (current,), gates)
            outs = [
                self._visit(child, current, (Gate(router, i),))
                for i, child in enumerate(node.children)
            ]
            # A router that takes no branch (-2) answers what it was given.
            current = self._join(node, (*outs, router), gates)
        elif Verb.AGGREGATE in node.verbs:
            outs = [self._visit(child, current, gates) for child in node.children]
            action = self._action(node, Verb.AGGREGATE)
            current = self._add(node, Verb.AGGREGATE, action, outs, gates, Combine.LIST)
        else:
            for child in node.children:
                current = self._visit(child, current, gates)
        if Verb.TRANSFORM_OUTPUT in node.verbs:
            action = self._action(node, Verb.TRANSFORM_OUTPUT)
            current = self._add(node, Verb.TRANSFORM_OUTPUT, action, (current,), gates)
        if not current:
            # It only hands on what it was given.
            current = self._add(node, Verb.PREDICT, HandOn(), ("",), gates)
        return current

    def _add(
        self,
        node: Node,
        verb: Verb,
        action: Action,
        sources: Sequence[str],
        gates: tuple[Gate, ...],
        combine: Combine = Combine.FIRST,
    ) -> str:
        name = node.name if node.name not in self._names else f"{node.name}{_AFTER}{verb}"
        self._names.add(name)
        inputs = Inputs(tuple(Source(s) for s in sources), combine=combine)
        self._steps.append(Step(name, action, inputs=inputs, gates=gates))
        asks = isinstance(action, Call | Router)
        if asks and (verb in _LEARN or Verb.SEND_FEEDBACK in node.verbs):
            self.learners.append(name)
        return name

    def _join(self, node: Node, sources: Sequence[str], gates: tuple[Gate, ...]) -> str:
        name = f"{node.name}{_AFTER}children"
        inputs = Inputs(tuple(Source(s) for s in sources), join=Join.OUTER, combine=Combine.FIRST)
        self._steps.append(Step(name, HandOn(), inputs=inputs, gates=gates))
        return name

    def _call(self, node: Node, verb: Verb) -> Call:
        service = part_name(self._deployment, self._predictor, node.name)
        return Call(service, verb=verb, wire=Wire.SELDON)

    def _action(self, node: Node, verb: Verb) -> Action:
        if node.implementation == "SIMPLE_MODEL":
            return Builtin(BuiltinUnit.SIMPLE_MODEL)
        if node.implementation == "AVERAGE_COMBINER":
            return Builtin(BuiltinUnit.AVERAGE)
        return self._call(node, verb)

    def _router(self, node: Node) -> Action:
        count = len(node.children)
        if node.implementation == "SIMPLE_ROUTER":
            return Splitter((100.0, *(0.0 for _ in range(count - 1))))
        if node.implementation == "RANDOM_ABTEST":
            values = typed_parameters(node.given.get("parameters") or (), "", [])
            first = float(values.get("ratioA", 0.5)) * 100
            return Splitter((first, 100 - first))
        policy = POLICIES.get(node.implementation)
        if policy is not None:
            values = typed_parameters(node.given.get("parameters") or (), "", [])
            bandit = Bandit(
                policy, epsilon=float(values.get("epsilon", 0.1)), seed=values.get("seed")
            )
            names = str(values.get("branch_names") or "")
            arms = names.split(":") if names else [c.name for c in node.children]
            return Splitter(tuple(100 / count for _ in arms), bandit, tuple(arms))
        return Router(self._call(node, Verb.ROUTE), count)
