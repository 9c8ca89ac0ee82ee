"""Seldon Core V1's SeldonDeployment, where its graph is one prepackaged server.

Such a deployment is a service: the server's implementation says the framework, `modelUri` the files,
`parameters` the options. It is rewritten as Penstock's own InferenceService and translated there, so that
defaults and checks are the same. What needs several predictors, several nodes or containers is refused by
its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from penstock.dialects import kserve_annotations as notes
from penstock.dialects import penstock
from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.conversion import Converted, moved_rows, translate_converted
from penstock.dialects.kserve_status import render_status as render_kserve
from penstock.dialects.kserve_support import TABLE as KSERVE_TABLE
from penstock.dialects.pod import CLUSTER
from penstock.dialects.schema import nearest, path, read
from penstock.dialects.seldon_v1_fields import PARAMETER_TYPES, SeldonDeployment
from penstock.dialects.support import Table, no_effect, refused
from penstock.dialects.variants import Tried, together
from penstock.domain.service import Role
from penstock.domain.status import ServiceStatus, Transition
from penstock.errors import FieldProblem

_PREDICTOR = "spec.predictors.*"
_POD = f"{_PREDICTOR}.componentSpecs.*.spec"
_NO_ORCHESTRATOR = "there is no orchestrator beside the model; the gateway does its work"

TABLE = Table(
    (
        refused(
            f"{_PREDICTOR}.graph.children",
            "graphs of several nodes are not supported yet; one model per deployment is",
            harmless=([],),
        ),
        refused(
            f"{_PREDICTOR}.graph.methods",
            "methods are for graphs of several nodes, which are not supported yet",
            harmless=([], ["TRANSFORM_INPUT"]),
        ),
        refused(f"{_PREDICTOR}.graph.logger", "logging of payloads is not supported yet"),
        no_effect(
            f"{_PREDICTOR}.graph.endpoint", "the gateway finds the model by itself", harmless=({},)
        ),
        no_effect(f"{_PREDICTOR}.graph.storageInitializerImage", CLUSTER),
        refused(
            f"{_PREDICTOR}.explainer.{{containerSpec,resources}}",
            "an explainer has no container of its own here",
            harmless=({},),
        ),
        refused(
            f"{_PREDICTOR}.explainer.initParameters",
            "is for Alibi's classes; settings of Penstock's explainers go into config",
            harmless=("", "{}"),
        ),
        refused(
            f"{_PREDICTOR}.explainer.{{serviceAccountName,envSecretRefName}}",
            "an explainer's files are opened with the credentials of the model's",
            harmless=("",),
        ),
        no_effect(
            f"{_PREDICTOR}.explainer.endpoint",
            "the gateway finds the model by itself",
            harmless=({},),
        ),
        no_effect(f"{_PREDICTOR}.explainer.storageInitializerImage", CLUSTER),
        refused(
            f"{_PREDICTOR}.ssl", "certificates are the gateway's own", harmless=({},)
        ),
        no_effect(
            f"{_PREDICTOR}.{{svcOrchSpec,engineResources}}", _NO_ORCHESTRATOR, harmless=({},)
        ),
        no_effect(f"{_PREDICTOR}.progressDeadlineSeconds", CLUSTER),
        refused(
            f"{_PREDICTOR}.componentSpecs.*.{{hpaSpec,kedaSpec}}",
            "scaling by cpu or by a queue is not supported; set replicas",
            harmless=({},),
        ),
        no_effect(
            f"{_PREDICTOR}.componentSpecs.*.{{pdbSpec,metadata}}", CLUSTER, harmless=({},)
        ),
        refused(
            "spec.serverType",
            "reading requests from Kafka is not supported",
            harmless=("rpc",),
        ),
        no_effect(
            "spec.{oauth_key,oauth_secret}",
            "is not read (Seldon stopped reading it too)",
            only_processes=False,
        ),
        *(
            row
            for row in moved_rows(
                KSERVE_TABLE,
                {"spec.predictor": _POD, "spec.predictor.sklearn": f"{_POD}.containers.*"},
                SeldonDeployment,
            )
            # The container of a node has to have the node's name.
            if row.fields != f"{_POD}.containers.*.name"
        ),
    )
)  # fmt: skip


class _Server(NamedTuple):
    """A prepackaged server: the block it is, and what its parameters mean."""

    block: str
    #: Parameter -> option of the runtime; None: known, without effect.
    parameters: Mapping[str, str | None]


_SERVERS = {
    "SKLEARN_SERVER": _Server("sklearn", {"method": "method"}),
    "XGBOOST_SERVER": _Server("xgboost", {}),
    "MLFLOW_SERVER": _Server("mlflow", {"xtype": None}),
    "TENSORFLOW_SERVER": _Server(
        "tensorflow",
        {
            "signature_name": "signature",
            "model_name": "model_name",
            "model_input": None,
            "model_output": None,
        },
    ),
    "TRITON_SERVER": _Server("triton", {}),
    "HUGGINGFACE_SERVER": _Server(
        "huggingface",
        {
            "task": "task",
            "pretrained_model": "pretrained_model",
            "device": "device",
            "batch_size": "batchSize",
        },
    ),
}
#: Known to Seldon, and why they are not here.
_OTHER_SERVERS = {
    "TEMPO_SERVER": "Tempo's pipelines are not supported",
    "SIMPLE_MODEL": "is Seldon's own stub for tests",
    "SIMPLE_ROUTER": "graphs of several nodes are not supported yet",
    "RANDOM_ABTEST": "graphs of several nodes are not supported yet",
    "AVERAGE_COMBINER": "graphs of several nodes are not supported yet",
}
_V2 = ("v2", "kfserving")


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """SeldonDeployment -> `Service`."""
    unsupported, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(SeldonDeployment, manifest)
    if parsed is None:
        told = {p.path for p in problems}
        refuse(manifest, problems + [p for p in unsupported if p.path not in told])
    predictors = manifest["spec"]["predictors"]
    unsupported += _traffic_problems(predictors)
    first = next((i for i, p in enumerate(predictors) if not p.get("shadow")), 0)

    def alone(index: int) -> Translation:
        problems = list(unsupported) if index == first else []
        told = list(warnings) if index == first else []
        reader = _Reader(manifest, problems, told, index)
        converted = reader.convert()
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
        )
        for i, p in enumerate(predictors)
        if i != first
    ]
    return together(manifest, lambda: alone(first), tried)


def _traffic_problems(predictors: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """What Seldon's webhook says of names, traffic and shadows; and what only one predictor may have."""
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
    first = predictors[split[0]]
    for i, p in enumerate(predictors):
        if i == split[0]:
            continue
        if p["graph"]["name"] != first["graph"]["name"]:
            problems.append(
                FieldProblem(
                    f"spec.predictors[{i}].graph.name",
                    f"must be {first['graph']['name']}: the same requests go to each predictor",
                )
            )
        if p.get("explainer", {}).get("type"):
            problems.append(
                FieldProblem(
                    f"spec.predictors[{i}].explainer", "only the first predictor's is supported"
                )
            )
        if _said_replicas(p) > _said_replicas(first):
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


class _Reader:
    """The own InferenceService that a validated SeldonDeployment means; collects problems and warnings."""

    def __init__(
        self,
        manifest: Manifest,
        problems: list[FieldProblem],
        warnings: list[FieldProblem],
        index: int,
    ) -> None:
        self._manifest = manifest
        self._spec: Mapping[str, Any] = manifest["spec"]
        self._problems = problems
        self._warnings = warnings
        self._predictor: Mapping[str, Any] = self._spec["predictors"][index]
        self._at = f"spec.predictors[{index}]"
        self._places = {"spec": self._at, "spec.predictor": self._at}
        self._args: list[str] = []

    def _wrong(self, at: str, message: str) -> None:
        self._problems.append(FieldProblem(at, message))

    def convert(self) -> Converted | None:
        given = self._predictor
        graph = given["graph"]
        server = self._server(graph)
        if server is None:
            return None
        self._protocol(graph)
        predictor: dict[str, Any] = {}
        block = self._pod(given, graph["name"], predictor)
        self._places.setdefault(f"spec.predictor.{server.block}", f"{self._at}.graph")
        annotations = dict((self._manifest["metadata"].get("annotations")) or {})
        self._files(graph, server, block, predictor, annotations)
        options = self._options(graph, server, block)
        if self._args:
            block["args"] = [*(block.get("args") or ()), *self._args]
        if options:
            block["options"] = options
        if self._spec.get("protocol") in _V2:
            block["protocolVersion"] = "v2"
        self._replicas(given, predictor, annotations)
        self._annotations(given, predictor, annotations)
        if given.get("labels"):
            predictor["labels"] = given["labels"]
        predictor[server.block] = block
        spec = {"predictor": predictor, **self._explainer(given.get("explainer") or {})}
        return Converted(
            {
                "apiVersion": penstock.DIALECT.api_version,
                "kind": "InferenceService",
                "metadata": {**self._manifest["metadata"], "annotations": annotations},
                "spec": spec,
            },
            self._places,
        )

    def _server(self, graph: Mapping[str, Any]) -> _Server | None:
        at = f"{self._at}.graph"
        if graph.get("type") not in (None, "MODEL", "UNKNOWN_TYPE"):
            self._wrong(f"{at}.type", "only a MODEL is supported; graphs are not supported yet")
        name = graph.get("implementation")
        if name is None or name == "UNKNOWN_IMPLEMENTATION":
            self._wrong(
                f"{at}.implementation",
                "is required: containers with Seldon's wrapper are not supported; known are "
                + ", ".join(_SERVERS),
            )
            return None
        server = _SERVERS.get(name)
        if server is None:
            near = nearest(name, [*_SERVERS, *_OTHER_SERVERS])
            hint = f"did you mean {near}?" if near else f"known are {', '.join(_SERVERS)}"
            self._wrong(
                f"{at}.implementation", _OTHER_SERVERS.get(name) or f"unknown server; {hint}"
            )
        return server

    def _protocol(self, graph: Mapping[str, Any]) -> None:
        protocol = self._spec.get("protocol")
        if self._spec.get("transport") == "grpc" and protocol not in _V2:
            self._wrong(
                "spec.transport",
                "gRPC is served with protocol v2; Seldon's own calls are REST only",
            )
        if protocol in (*_V2, "tensorflow"):
            # In these protocols the node's name is in the path. `metadata.name` would be the default.
            self._args.append(f"--model_name={graph['name']}")

    def _pod(
        self, given: Mapping[str, Any], node: str, predictor: dict[str, Any]
    ) -> dict[str, Any]:
        """The pod's fields into `predictor`; returns those of the node's container."""
        block: dict[str, Any] = {}
        for i, component in enumerate(given.get("componentSpecs") or ()):
            at = f"{self._at}.componentSpecs[{i}].spec"
            pod = component.get("spec") or {}
            for key, value in pod.items():
                if key != "containers" and value is not None:
                    predictor[key] = value
                    self._places[f"spec.predictor.{key}"] = f"{at}.{key}"
            containers = pod.get("containers") or ()
            for j, container in enumerate(containers):
                here = f"{at}.containers[{j}]"
                name = container.get("name")
                if name == node or (name is None and len(containers) == 1):
                    block = {k: v for k, v in container.items() if k != "name"}
                    implementation = given["graph"]["implementation"]
                    server = _SERVERS[implementation]
                    self._places[f"spec.predictor.{server.block}"] = here
                else:
                    self._wrong(here, f"only the container {node} of the graph's node is supported")
        return block

    def _files(
        self,
        graph: Mapping[str, Any],
        server: _Server,
        block: dict[str, Any],
        predictor: dict[str, Any],
        annotations: dict[str, str],
    ) -> None:
        at = f"{self._at}.graph"
        self._places[f"spec.predictor.{server.block}.storageUri"] = f"{at}.modelUri"
        if graph.get("modelUri"):
            block["storageUri"] = graph["modelUri"]
        if graph.get("serviceAccountName"):
            predictor["serviceAccountName"] = graph["serviceAccountName"]
            self._places["spec.predictor.serviceAccountName"] = f"{at}.serviceAccountName"
        if graph.get("envSecretRefName"):
            annotations[notes.STORAGE_SECRET] = graph["envSecretRefName"]

    def _options(
        self, graph: Mapping[str, Any], server: _Server, block: dict[str, Any]
    ) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if server.block == "sklearn" and self._spec.get("protocol") not in _V2:
            # The default of Seldon's own server; protocol v2 means MLServer, which predicts.
            options["method"] = "predict_proba"
        for i, parameter in enumerate(graph.get("parameters") or ()):
            at = f"{self._at}.graph.parameters[{i}]"
            name, text = parameter["name"], parameter["value"]
            if name not in server.parameters:
                known = ", ".join(server.parameters) or "none"
                near = nearest(name, list(server.parameters))
                hint = f"did you mean {near}?" if near else f"known are {known}"
                self._wrong(f"{at}.name", f"unknown parameter of {graph['implementation']}; {hint}")
                continue
            try:
                value = PARAMETER_TYPES[parameter["type"]](text)
            except (ValueError, KeyError):
                self._wrong(f"{at}.value", f"is no {parameter['type']}")
                continue
            option = server.parameters[name]
            if option is None:
                message = "the model itself says what goes in and comes out"
                self._warnings.append(FieldProblem(at, message))
            elif option == "model_name":
                self._args = [f"--model_name={value}"]
            elif option == "pretrained_model":
                if "storageUri" in block:
                    self._wrong(at, "may not be given together with modelUri")
                block["storageUri"] = f"hf://{value}"
            else:
                options[option] = value
        return options

    def _explainer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """An explainer by its type, none when there is no type: Seldon's operator ignores it then too."""
        at = f"{self._at}.explainer"
        if not given.get("type"):
            return {}
        block = {"type": given["type"], "config": given.get("config") or {}}
        if given.get("modelUri"):
            block["storageUri"] = given["modelUri"]
        replicas = given.get("replicas") or 1
        self._places |= {
            "spec.explainer": at,
            "spec.explainer.alibi": at,
            "spec.explainer.alibi.storageUri": f"{at}.modelUri",
        }
        return {"explainer": {"minReplicas": replicas, "maxReplicas": replicas, "alibi": block}}

    def _replicas(
        self, given: Mapping[str, Any], predictor: dict[str, Any], annotations: dict[str, str]
    ) -> None:
        components = given.get("componentSpecs") or ()
        said = [
            components[0].get("replicas") if components else None,
            given.get("replicas"),
            self._spec.get("replicas"),
        ]
        replicas = next((r for r in said if r is not None), 1)
        if replicas == 0:
            annotations[notes.STOP] = "true"
            replicas = 1
        predictor["minReplicas"] = predictor["maxReplicas"] = replicas

    def _annotations(
        self, given: Mapping[str, Any], predictor: dict[str, Any], metadata: Mapping[str, str]
    ) -> None:
        merged: dict[str, str] = {}
        for at, found in (
            ("spec.annotations", self._spec.get("annotations") or {}),
            (f"{self._at}.annotations", given.get("annotations") or {}),
        ):
            merged |= found
            self._without_effect(at, found)
        self._without_effect("metadata.annotations", metadata)
        if merged:
            predictor["annotations"] = merged

    def _without_effect(self, at: str, annotations: Mapping[str, str]) -> None:
        for key in annotations:
            if key.startswith("seldon.io/"):
                message = "Seldon's annotations have no effect here"
                self._warnings.append(FieldProblem(at + path((key,)), message))


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """SeldonDeploymentStatus: `state` and what belongs to it, beside conditions in Kubernetes' form."""
    rendered = render_kserve(manifest, status)
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
    rendered["deploymentStatus"] = deployments
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
    )
    for version in ("v1", "v1alpha3", "v1alpha2")
)
