"""Seldon Core V1's SeldonDeployment, machinelearning.seldon.io v1, v1alpha2 and v1alpha3.

A deployment of one model is a service: the implementation says the framework (or there is none, and the files
are a class for Seldon's Python wrapper), `modelUri` the files, `parameters` the options. It is rewritten as
Penstock's own InferenceService and translated there (`v1_reader`), so that defaults and checks are the
same; further predictors are named canaries of it. A graph of several nodes becomes an `Assembly`
(`v1_graph`): the graph, and one such service for each node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from penstock.dialects import penstock
from penstock.dialects.base import Dialect, Manifest, Translation, refuse, unsaid
from penstock.dialects.conversion import translate_converted
from penstock.dialects.kserve.status import render_status as render_kserve
from penstock.dialects.schema import read
from penstock.dialects.seldon import v1_explainer as explainer
from penstock.dialects.seldon.v1_fields import SeldonDeployment
from penstock.dialects.seldon.v1_graph import translate_graph
from penstock.dialects.seldon.v1_reader import NodeReader
from penstock.dialects.seldon.v1_support import TABLE
from penstock.dialects.seldon.v1_tree import means_graph as is_graph
from penstock.dialects.seldon.v1_tree import tree
from penstock.dialects.variants import Tried, together
from penstock.domain.service import Role
from penstock.domain.status import ServiceStatus, Transition, Truth
from penstock.errors import FieldProblem

#: Seldon's word for whether something answers.
_STATES = {Truth.TRUE: "Available", Truth.FALSE: "Failed", Truth.UNKNOWN: "Creating"}


def means_graph(manifest: Manifest) -> bool:
    """Whether the deployment has a predictor of several nodes. Also of what is no valid deployment."""
    spec = manifest.get("spec")
    predictors = spec.get("predictors") if isinstance(spec, Mapping) else None
    return isinstance(predictors, list) and any(
        isinstance(p, Mapping) and is_graph(p.get("graph")) for p in predictors
    )


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """SeldonDeployment -> `Service`, or `Assembly` where it has several nodes."""
    unsupported, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(SeldonDeployment, manifest)
    if parsed is None:
        refuse(manifest, problems + unsaid(unsupported, problems))
    predictors = manifest["spec"]["predictors"]
    graphs = means_graph(manifest)
    unsupported += _traffic_problems(predictors)
    if not graphs:
        unsupported += _beside_the_first(predictors, manifest["spec"].get("protocol"))
    if graphs:
        return translate_graph(manifest, unsupported, warnings, runs_containers=runs_containers)
    first = _first(predictors)

    def alone(index: int) -> Translation:
        # Each is told of with its own: what one more look at its containers finds takes a problem's place.
        problems = [p for p in unsupported if _of(p, predictors, first) == index]
        told = list(warnings) if index == first else []
        node = tree(predictors[index]["graph"], f"spec.predictors[{index}].graph", problems)
        converted = None
        if node is not None:
            converted = NodeReader(manifest, index, node, problems, told).convert()
        if converted is None:
            refuse(manifest, problems)
        return translate_converted(
            manifest,
            converted,
            penstock.translate,
            problems=problems,
            warnings=told,
            runs_containers=runs_containers,
        )

    if len(predictors) == 1:
        return alone(0)
    tried = [
        Tried(
            p["name"],
            100 if p.get("shadow") and not p.get("traffic") else p.get("traffic") or 0,
            partial(alone, i),
            f"spec.predictors[{i}].name",
            shadow=bool(p.get("shadow")),
            explainer=partial(explainer.beside, manifest, i),
        )
        for i, p in enumerate(predictors)
        if i != first
    ]
    return together(manifest, lambda: alone(first), tried, name=predictors[first]["name"])


def _of(problem: FieldProblem, predictors: Sequence[Any], first: int) -> int:
    """The predictor that has the problem; the first one has those of the whole."""
    return next(
        (i for i in range(len(predictors)) if problem.path.startswith(f"spec.predictors[{i}].")),
        first,
    )


def _traffic_problems(predictors: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """What Seldon's webhook says of names, traffic and shadows."""
    problems = []
    names = [p["name"] for p in predictors]
    shadows = [i for i, p in enumerate(predictors) if p.get("shadow")]
    split = [i for i in range(len(predictors)) if i not in shadows]
    for i, name in enumerate(names):
        if name in names[:i]:
            problems.append(FieldProblem(f"spec.predictors[{i}].name", "is the name of another"))
    if not split:
        problems.append(FieldProblem("spec.predictors[0].shadow", "somebody has to answer"))
        return problems
    problems += [
        FieldProblem(f"spec.predictors[{i}].shadow", "there is one shadow already")
        for i in shadows[1:]
    ]
    total = sum(predictors[i].get("traffic") or 0 for i in split)
    if total != 100 and (len(split) > 1 or total):
        at = f"spec.predictors[{split[-1]}].traffic"
        problems.append(FieldProblem(at, f"the traffic of all predictors is {total}, not 100"))
    return problems


def _first(predictors: Sequence[Mapping[str, Any]]) -> int:
    """Which one is the service: the first that answers."""
    return next((i for i, p in enumerate(predictors) if not p.get("shadow")), 0)


def _beside_the_first(
    predictors: Sequence[Mapping[str, Any]], protocol: str | None
) -> list[FieldProblem]:
    """What the others of several single models may not have: they are tried beside the first."""
    problems = []
    first = _first(predictors)
    main = predictors[first]
    for i, p in enumerate(predictors):
        if i == first:
            continue
        # Seldon's own requests name no model; those of the other protocols have the node's name in the path.
        if p["graph"]["name"] != main["graph"]["name"] and protocol not in (None, "", "seldon"):
            problems.append(
                FieldProblem(
                    f"spec.predictors[{i}].graph.name",
                    f"must be {main['graph']['name']}: the same requests, with the name in their "
                    f"path, go to each predictor",
                )
            )
        if _said_replicas(p) > _said_replicas(main):
            problems.append(
                FieldProblem(
                    f"spec.predictors[{i}].replicas", "must not be more than the first predictor's"
                )
            )
    return problems


def _said_replicas(predictor: Mapping[str, Any]) -> int:
    components: Sequence[Mapping[str, Any]] = predictor.get("componentSpecs") or ({},)
    said = components[0].get("replicas"), predictor.get("replicas")
    return next((int(r) for r in said if r is not None), 1)


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """SeldonDeploymentStatus: `state` and what belongs to it, beside conditions in Kubernetes' form."""
    rendered = render_kserve(manifest, status)
    if means_graph(manifest):
        return _graph_status(rendered, status)
    predictor = status.components.get(Role.PREDICTOR)
    wanted = predictor.replicas if predictor is not None else 0
    ready = predictor.ready_replicas if predictor is not None else 0
    if status.ready:
        state = "Available"
    elif status.transition in (Transition.BLOCKED, Transition.INVALID):
        state = "Failed"
    else:
        state = "Creating"
    rendered["state"] = state
    rendered["replicas"] = wanted
    if status.failure is not None:
        rendered["description"] = status.failure.message
    predictors = manifest["spec"].get("predictors") or ()
    names = [p.get("name", "") for p in predictors if not p.get("shadow")]
    service = manifest["metadata"].get("name", "")
    deployments: dict[str, dict[str, Any]] = {
        f"{service}-{names[0] if names else ''}": {"replicas": wanted, "availableReplicas": ready}
    }
    for canary in status.canaries:
        deployments[f"{service}-{canary.name}"] = {"status": str(canary.target)}
    for predictor_name, explains in status.explaining:
        deployments[explainer.service_name(service, predictor_name)] = {
            "explainerFor": predictor_name,
            "status": _STATES[explains],
        }
    rendered["deploymentStatus"] = deployments
    return rendered


def _graph_status(rendered: dict[str, Any], status: ServiceStatus) -> dict[str, Any]:
    """Of a graph: whether all of its nodes' services are ready. They have replicas, it has none."""
    rendered.pop("modelStatus", None)
    rendered.pop("components", None)
    ready = next((c for c in status.conditions if c.type == "Ready"), None)
    if status.ready:
        rendered["state"] = "Available"
    elif ready is not None and ready.status is Truth.FALSE:
        rendered["state"] = "Failed"
    else:
        rendered["state"] = "Creating"
    if ready is not None and ready.message:
        rendered["description"] = ready.message
    return rendered


DIALECTS = tuple(
    Dialect(
        api_version=f"machinelearning.seldon.io/{version}",
        kind="SeldonDeployment",
        plural="seldondeployments",
        singular="seldondeployment",
        short_names=("sdep",),
        namespaced=True,
        model=SeldonDeployment,
        table=TABLE,
        translator=translate,
        renderer=render_status,
        graph_if=means_graph,
    )
    for version in ("v1", "v1alpha3", "v1alpha2")
)
