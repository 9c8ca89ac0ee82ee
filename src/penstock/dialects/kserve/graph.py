"""KServe's InferenceGraph, serving.kserve.io/v1alpha1.

Every field of KServe 0.20 is known. Where KServe's router has a behaviour that nobody can want, what happens
here is decided and said in docs/how-to/graphs.md:

* a Soft step's failure is its answer (as there), and so is its status, if it was the last step (as there);
* a condition on the first step of a Sequence, which always answers 500 there, is refused;
* a Switch without a match answers 404, nested or not (there 500 when nested);
* a step of a Switch without a condition, which is never taken there, is refused;
* `data: $response.predictions`, documented there and ignored, is refused; mapPredictionsToInstances does it;
* an Ensemble takes any JSON (there only objects), and ends all its calls when one ends it;
* a `serviceUrl` that is a cluster's name of a service is that service where there is no cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.graph_fields import IN_GATEWAY, problems_of, render_status
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.support import Table, no_effect
from penstock.domain.graph import (
    Answers,
    Call,
    CallUrl,
    Combine,
    Condition,
    Flow,
    Gate,
    Graph,
    Inputs,
    Join,
    OnFailure,
    RunFlow,
    Source,
    Splitter,
    Step,
    Switch,
)
from penstock.domain.graph_check import GraphProblem
from penstock.domain.names import label_problem, service_problem
from penstock.errors import FieldProblem

API_VERSION = "serving.kserve.io/v1alpha1"
ROOT = "root"
#: The chooser of a Switch or Splitter node. No user's step can have the name.
CHOICE = "~choice"
#: Paths at which a model is asked for a prediction.
_PREDICT = re.compile(r"/v1/models/([^/:%]+):predict|/v2/models/([^/:%]+)/infer")
#: KServe's router has none; what nobody bounds would wait for ever.
TIMEOUT_S = 60.0
#: Headers that KServe's default configuration hands on.
PROPAGATED = ("^authorization$",)


class StepFields(Spec):
    renamed: ClassVar[Mapping[str, str]] = {"service": "serviceName"}

    name: str | None = None
    node_name: str | None = None
    service_name: str | None = None
    service_url: str | None = None
    data: Literal["$request", "$response"] | None = None
    weight: int | None = None
    condition: str | None = None
    dependency: Literal["Soft", "Hard"] | None = None
    map_predictions_to_instances: bool | None = None


class NodeFields(Spec):
    renamed: ClassVar[Mapping[str, str]] = {
        "routes": "steps",
        "nextRoutes": "steps, in a Sequence: they run one after the other",
    }

    router_type: Literal["Sequence", "Splitter", "Ensemble", "Switch"]
    steps: list[StepFields] | None = None


class RouterTimeouts(Spec):
    server_read: Annotated[int, Field(ge=0)] | None = None
    server_write: Annotated[int, Field(ge=0)] | None = None
    server_idle: Annotated[int, Field(ge=0)] | None = None
    #: Seconds that one call of a step may take.
    service_client: Annotated[int, Field(ge=1)] | None = None


class GraphSpec(Spec):
    nodes: dict[str, NodeFields]
    #: Seconds for the whole request.
    timeout: Annotated[int, Field(ge=1)] | None = None
    router_timeouts: RouterTimeouts | None = None
    resources: dict[str, Any] | None = None
    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    node_selector: dict[str, str] | None = None
    node_name: str | None = None
    service_account_name: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    scale_target: int | None = None
    scale_metric: str | None = None


class InferenceGraph(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: GraphSpec
    status: dict[str, Any] | None = None


TABLE = Table(
    (
        no_effect(
            "spec.{resources,affinity,tolerations,nodeSelector,nodeName,serviceAccountName}",
            IN_GATEWAY,
            only_processes=False,
        ),
        no_effect(
            "spec.{minReplicas,maxReplicas,scaleTarget,scaleMetric}",
            IN_GATEWAY,
            only_processes=False,
        ),
        no_effect(
            "spec.routerTimeouts.{serverRead,serverWrite,serverIdle}",
            "the gateways' own limits count; spec.timeout bounds a request",
            only_processes=False,
        ),
    )
)


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceGraph -> `Graph`."""
    problems, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, wrong = read(InferenceGraph, manifest)
    if parsed is None:
        refuse(manifest, wrong + problems)
    meta = parsed.metadata
    problems += check_metadata(meta, name_problem=service_problem, namespaced=True)
    spec = parsed.spec
    nodes = dict(sorted(spec.nodes.items(), key=lambda n: n[0] != ROOT))
    if ROOT not in nodes:
        problems.append(FieldProblem("spec.nodes", "needs a node of the name root"))
    for name, node in nodes.items():
        problems += _node_problems(name, node)
    if problems:
        refuse(manifest, problems)
    client_s = spec.router_timeouts.service_client if spec.router_timeouts else None
    limit_s = float(client_s) if client_s is not None else None
    graph = Graph(
        namespace=meta.namespace or DEFAULT_NAMESPACE,
        name=meta.name or "",
        flows=tuple(
            _flow(name, node, limit_s, on_cluster=runs_containers) for name, node in nodes.items()
        ),
        timeout_s=float(spec.timeout) if spec.timeout is not None else TIMEOUT_S,
        answers=Answers.KSERVE,
        propagate=PROPAGATED,
    )
    problems = problems_of(graph, lambda p: _locate(p, nodes))
    if problems:
        refuse(manifest, problems)
    warnings += _without_effect(nodes)
    warnings += [
        FieldProblem(path(("spec", "nodes", n)), "is not reached from root")
        for n in sorted(set(nodes) - _reached(nodes))
    ]
    return Translation(graph, tuple(warnings))


def _node_problems(name: str, node: NodeFields) -> list[FieldProblem]:
    """What is wrong with single fields of a node, in KServe's terms."""
    problems: list[FieldProblem] = []
    seen: set[str] = set()

    def wrong(message: str, index: int | None = None, field: str = "") -> None:
        at: tuple[int | str, ...] = ("spec", "nodes", name, "steps")
        if index is not None:
            at = (*at, index, *((field,) if field else ()))
        problems.append(FieldProblem(path(at), message))

    steps = node.steps or []
    if not steps:
        wrong("a node needs at least one step")
    for i, step in enumerate(steps):
        if step.name is not None and step.name in seen:
            wrong(f"there are two steps of the name {step.name}", i, "name")
        seen.add(step.name or "")
        if step.name == CHOICE:
            wrong(f"{CHOICE} is the name of what chooses", i, "name")
        said = [
            f
            for f, v in (
                ("nodeName", step.node_name),
                ("serviceName", step.service_name),
                ("serviceUrl", step.service_url),
            )
            if v
        ]
        if len(said) != 1:
            wrong(
                "must have exactly one of nodeName, serviceName and serviceUrl"
                + (f", not {' and '.join(said)}" if said else ""),
                i,
            )
        if step.service_name and (problem := service_problem(step.service_name)):
            wrong(problem, i, "serviceName")
        if node.router_type == "Splitter" and step.weight is None:
            wrong("is required in a Splitter", i, "weight")
        if node.router_type != "Splitter" and step.weight is not None:
            wrong(
                f"has a meaning in a Splitter only, this node is a {node.router_type}", i, "weight"
            )
        if node.router_type == "Switch" and not step.condition:
            wrong("is required in a Switch; @this always holds", i, "condition")
        if node.router_type == "Sequence" and i == 0 and step.condition:
            wrong(
                "the first step has no response before it to look at; use a Switch", i, "condition"
            )
        if node.router_type == "Ensemble" and step.condition:
            wrong(
                f"has a meaning in a Switch or Sequence, this node is a {node.router_type}",
                i,
                "condition",
            )
    return problems


def _without_effect(nodes: dict[str, NodeFields]) -> list[FieldProblem]:
    """What KServe's own examples say and its router does not read."""
    return [
        FieldProblem(
            path(("spec", "nodes", name, "steps", i, "condition")),
            "has no effect: a Splitter chooses by weights; a Switch looks at conditions",
        )
        for name, node in nodes.items()
        if node.router_type == "Splitter"
        for i, step in enumerate(node.steps or ())
        if step.condition
    ]


def _names(steps: list[StepFields]) -> list[str]:
    """Each step's name; one that has none gets one by its place that no other has."""
    taken = {s.name for s in steps}
    names = []
    for index, step in enumerate(steps):
        name = step.name or f"step-{index}"
        while not step.name and name in taken:
            name += "~"
        names.append(name)
    return names


def _within(url: str) -> Call | None:
    """The service that a cluster's address means: `http://NAME.NAMESPACE.svc[.cluster.local][/PATH]`.

    A path that asks for a prediction names the model; which protocol it is asked by is the body's matter.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None  # an address that is none, which the check says
    labels = (parts.hostname or "").split(".")
    if len(labels) < 3 or labels[2:] not in (["svc"], ["svc", "cluster", "local"]) or parts.query:
        return None
    name, namespace = labels[:2]
    if service_problem(name) or label_problem(namespace):
        return None
    asked = _PREDICT.fullmatch(parts.path)
    if asked is not None:
        model = asked[1] or asked[2]
        return Call(name, namespace, model="" if model == name else model)
    return Call(name, namespace, path=parts.path.rstrip("/"))


def _step(
    step: StepFields, name: str, limit_s: float | None, *, on_cluster: bool, **more: Any
) -> Step:
    action: Call | CallUrl | RunFlow
    if step.node_name:
        action = RunFlow(step.node_name)
    elif step.service_name:
        action = Call(step.service_name)
    else:
        url = step.service_url or ""
        action = (None if on_cluster else _within(url)) or CallUrl(url)
    return Step(
        name,
        action,
        on_failure=OnFailure.FAIL if step.dependency == "Hard" else OnFailure.ANSWER,
        timeout_s=None if step.node_name else limit_s,
        predictions_as_instances=bool(step.map_predictions_to_instances),
        **more,
    )


def _flow(name: str, node: NodeFields, limit_s: float | None, *, on_cluster: bool) -> Flow:
    given = node.steps or []
    names = _names(given)
    everyone = tuple(Source(names[i], key=s.name or str(i)) for i, s in enumerate(given))
    make = partial(_step, limit_s=limit_s, on_cluster=on_cluster)
    if node.router_type == "Sequence":
        steps = []
        for i, step in enumerate(given):
            before = names[i - 1] if i else ""
            previous = Inputs((Source(before),))
            steps.append(
                make(
                    step,
                    names[i],
                    inputs=previous if i and step.data == "$response" else Inputs(),
                    # One after the other, and none after one that was left out.
                    triggers=previous if i else None,
                    when=(Condition(step.condition, before),) if step.condition else (),
                )
            )
        return Flow(name, tuple(steps), Inputs(everyone, Join.OUTER, combine=Combine.LAST))
    if node.router_type == "Ensemble":
        steps = [make(s, names[i]) for i, s in enumerate(given)]
        return Flow(name, tuple(steps), Inputs(everyone, combine=Combine.OBJECT))
    chooser: Switch | Splitter
    if node.router_type == "Switch":
        chooser = Switch(tuple(s.condition or "" for s in given))
    else:
        chooser = Splitter(tuple(float(s.weight or 0) for s in given))
    steps = [
        Step(CHOICE, chooser),
        *(make(s, names[i], gates=(Gate(CHOICE, i),)) for i, s in enumerate(given)),
    ]
    return Flow(name, tuple(steps), Inputs(everyone, Join.ANY))


def _locate(problem: GraphProblem, nodes: dict[str, NodeFields]) -> tuple[int | str, ...]:
    """Where a problem of the graph is in the manifest."""
    if problem.flow not in nodes:
        return ("spec", "timeout") if problem.part == "timeout" else ("spec", "nodes")
    at: tuple[int | str, ...] = ("spec", "nodes", problem.flow)
    steps = nodes[problem.flow].steps or []
    if problem.step == CHOICE:
        if problem.part == "conditions" and problem.index is not None:
            return (*at, "steps", problem.index, "condition")
        if problem.part == "weights" and problem.index is not None:
            return (*at, "steps", problem.index, "weight")
        return (*at, "steps")
    names = _names(steps)
    if problem.step not in names:
        return (*at, "steps")
    index = names.index(problem.step)
    fields = {"when": "condition", "inputs": "data"}
    field = fields.get(problem.part, "")
    if problem.part == "action":
        step = steps[index]
        field = (
            "nodeName" if step.node_name else "serviceName" if step.service_name else "serviceUrl"
        )
    return (*at, "steps", index, *((field,) if field else ()))


def _reached(nodes: dict[str, NodeFields]) -> set[str]:
    """Names of the nodes that a request may come to."""
    reached: set[str] = set()
    todo = [ROOT]
    while todo:
        name = todo.pop()
        if name not in reached and name in nodes:
            reached.add(name)
            todo += [s.node_name for s in nodes[name].steps or () if s.node_name]
    return reached


DIALECT = Dialect(
    api_version=API_VERSION,
    kind="InferenceGraph",
    plural="inferencegraphs",
    singular="inferencegraph",
    short_names=("ig",),
    namespaced=True,
    model=InferenceGraph,
    table=TABLE,
    translator=translate,
    renderer=render_status,
    is_graph=True,
)
