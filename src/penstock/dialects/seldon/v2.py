"""Seldon Core V2's Model and Server, mlops.seldon.io/v1alpha1.

Pipeline is in `pipeline`, Experiment in `experiment`.

A Model is a service: one of its `requirements` is the format, the others have to be capabilities that every
process here has. A Server is a serving runtime: it exists so that a Model may be pinned to it, and so that a
Model whose requirements it lacks is refused; processes are started per model all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from penstock.dialects import penstock
from penstock.dialects.base import Dialect, Manifest, Translation, refuse, unsaid
from penstock.dialects.conversion import Converted, translate_converted
from penstock.dialects.kserve import annotations as notes
from penstock.dialects.kserve.status import render_status as render_kserve
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.pod import CLUSTER, Loose
from penstock.dialects.schema import Spec, nearest, read
from penstock.dialects.seldon import experiment, pipeline
from penstock.dialects.support import Table, no_effect, refused
from penstock.domain import explainers
from penstock.domain.annotations import STOP
from penstock.domain.names import service_problem, subdomain_problem
from penstock.domain.service import Role
from penstock.domain.serving_runtime import ServingRuntime, SupportedFormat
from penstock.domain.status import ServiceStatus, from_rfc3339
from penstock.errors import FieldProblem

API_VERSION = "mlops.seldon.io/v1alpha1"

#: Capability -> framework of `penstock.runtimes`.
FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "sklearn": "sklearn",
        "xgboost": "xgboost",
        "lightgbm": "lightgbm",
        "catboost": "catboost",
        "mlflow": "mlflow",
        "huggingface": "huggingface",
        "onnx": "onnx",
        "pytorch": "torch",
        "tensorflow": "tensorflow",
    }
)
#: What Seldon's shipped servers can, by their ServerConfig.
CAPABILITIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mlserver": (
            "mlserver", "alibi-detect", "alibi-explain", "huggingface", "lightgbm", "mlflow",
            "python", "sklearn", "spark-mlib", "xgboost",
        ),
        "triton": (
            "triton", "dali", "fil", "onnx", "openvino", "python", "pytorch", "tensorflow",
            "tensorrt",
        ),
    }
)  # fmt: skip
#: Requirements that name a kind of server: each model has a process that does the same.
_SERVER_KINDS = ("mlserver", "triton")
PYTHON = "python"
_NOT_HERE = {
    "alibi-detect": "detectors are not supported",
    "alibi-explain": "is for a Model with an explainer block; it says the type and the model",
}
#: Parameters of MLServer's Hugging Face runtime that are options here.
_HUGGINGFACE = {"task": "task", "device": "device"}


class ModelParameter(Spec):
    name: str
    value: str


class ModelExplainer(Spec):
    #: Seldon's names: anchor_tabular, anchor_text, kernel_shap, ...
    type: str
    #: Whose answers are explained: a Model, or any service of the namespace.
    model_ref: str | None = None
    pipeline_ref: str | None = None


class ModelSpec(Spec):
    storage_uri: Annotated[str, Field(min_length=1)]
    model_type: str | None = None
    #: The folder of that number inside `storageUri`.
    artifact_version: Annotated[int, Field(ge=0)] | None = None
    schema_uri: str | None = None
    secret_name: str | None = None
    requirements: list[str] | None = None
    memory: Any = None
    server: str | None = None
    preloaded: bool | None = None
    dedicated: bool | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None
    min_replicas: Annotated[int, Field(ge=0)] | None = None
    max_replicas: Annotated[int, Field(ge=0)] | None = None
    logger: Loose | None = None
    explainer: ModelExplainer | None = None
    llm: Loose | None = None
    parameters: list[ModelParameter] | None = None
    dataflow: Loose | None = None


class ModelManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: ModelSpec
    status: Loose | None = None


class ServerSpec(Spec):
    server_config: Annotated[str, Field(min_length=1)]
    capabilities: list[str] | None = None
    extra_capabilities: list[str] | None = None
    image_overrides: Loose | None = None
    pod_spec: Loose | None = None
    stateful_set_persistent_volume_claim_retention_policy: Loose | None = None
    replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    deployment_strategy: Loose | None = None
    disable_auto_update: bool | None = None


class ServerManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: ServerSpec
    status: Loose | None = None


MODEL_TABLE = Table(
    (
        refused("spec.logger", "logging of payloads is not supported yet"),
        refused("spec.llm", "llm runtimes that refer to another model are not supported"),
        no_effect(
            "spec.schemaUri", "is not read (Seldon's scheduler does not read it either)",
            only_processes=False,
        ),
        no_effect(
            "spec.preloaded", "models are loaded from their storageUri", harmless=(False,)
        ),
        no_effect(
            "spec.dedicated", "every model has a process of its own in any case", harmless=(False,)
        ),
        no_effect("spec.dataflow", "there are no topics", only_processes=False),
    )
)  # fmt: skip

_PER_MODEL = "models have processes of their own; replicas are set on the Model"
SERVER_TABLE = Table(
    (
        no_effect(
            "spec.{imageOverrides,podSpec,statefulSetPersistentVolumeClaimRetentionPolicy,"
            "deploymentStrategy,disableAutoUpdate}",
            CLUSTER,
        ),
        no_effect(
            "spec.{replicas,minReplicas,maxReplicas}",
            _PER_MODEL,
            only_processes=False,
            harmless=(1,),
        ),
    )
)


def translate_model(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Model -> `Service`."""
    unsupported, warnings = MODEL_TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(ModelManifest, manifest)
    if parsed is None:
        refuse(manifest, problems + unsaid(unsupported, problems))
    spec = parsed.spec
    explains = spec.explainer is not None
    format_ = "explainer" if explains else _format(spec, unsupported)
    places = {
        "spec": "spec",
        "spec.predictor": "spec",
        "spec.predictor.model": "spec",
        "spec.predictor.model.resources.requests.memory": "spec.memory",
        "spec.predictor.model.modelFormat": "spec.requirements",
    }
    uri = spec.storage_uri
    if spec.artifact_version is not None:
        uri = f"{uri.rstrip('/')}/{spec.artifact_version}"
    model: dict[str, Any] = {
        "modelFormat": {"name": format_},
        "storageUri": uri,
        "protocolVersion": "v2",
    }
    if spec.server is not None:
        model["runtime"] = spec.server
    if spec.memory is not None:
        model["resources"] = {"requests": {"memory": spec.memory}}
    options = (
        _explainer(spec.explainer, spec, unsupported, warnings)
        if spec.explainer is not None
        else _options(spec, format_, unsupported)
    )
    if options:
        model["options"] = options
    annotations = dict(parsed.metadata.annotations or {})
    if spec.secret_name:
        annotations[notes.STORAGE_SECRET] = spec.secret_name
    low, high = _replicas(spec, annotations)
    predictor = {"minReplicas": low, "maxReplicas": high, "model": model}
    converted = Converted(
        {
            "apiVersion": penstock.DIALECT.api_version,
            "kind": "InferenceService",
            "metadata": {**manifest["metadata"], "annotations": annotations},
            "spec": {"predictor": predictor},
        },
        places,
    )
    return translate_converted(
        manifest,
        converted,
        penstock.translate,
        problems=unsupported,
        warnings=warnings,
        runs_containers=runs_containers,
    )


def _format(spec: ModelSpec, problems: list[FieldProblem]) -> str:
    """The requirement that is a format; what else is required must be so anyway.

    `python` is a model of Triton's or MLServer's own: their folder says what it is; so it does where only
    the kind of server is required.
    """
    at = [(f"spec.requirements[{i}]", r) for i, r in enumerate(spec.requirements or ())]
    if spec.model_type:
        at.append(("spec.modelType", spec.model_type))
    formats = [(place, r) for place, r in at if r in FORMATS]
    required = {r for _, r in at}
    if not formats and (PYTHON in required or required in ({"mlserver"}, {"triton"})):
        return "triton" if "triton" in required else "mlserver"
    for place, requirement in at:
        if requirement in FORMATS or requirement in (*_SERVER_KINDS, PYTHON):
            continue
        near = nearest(requirement, list(FORMATS))
        hint = f", did you mean {near}?" if near else f"; known are {', '.join(FORMATS)}"
        message = _NOT_HERE.get(requirement) or f"no server has the capability{hint}"
        problems.append(FieldProblem(place, message))
    if not formats and not problems:
        problems.append(
            FieldProblem("spec.requirements", f"must name a format: {', '.join(FORMATS)}")
        )
    for place, _ in formats[1:]:
        problems.append(FieldProblem(place, f"the model's format is {formats[0][1]} already"))
    return formats[0][1] if formats else "sklearn"


def _explainer(
    given: ModelExplainer,
    spec: ModelSpec,
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
) -> dict[str, Any]:
    """The options of an explainer that stands by itself; its parameters are the settings."""
    if not given.model_ref and not given.pipeline_ref:
        problems.append(FieldProblem("spec.explainer.modelRef", "is required"))
    elif given.model_ref and given.pipeline_ref:
        problems.append(
            FieldProblem("spec.explainer.pipelineRef", "modelRef says already what is explained")
        )
    for field, name in (("modelRef", given.model_ref), ("pipelineRef", given.pipeline_ref)):
        if name and (problem := service_problem(name)):
            problems.append(FieldProblem(f"spec.explainer.{field}", problem))
    kind = explainers.find(given.type)
    if kind is None:
        problems.append(FieldProblem("spec.explainer.type", explainers.unknown(given.type)))
        return {}
    if kind.looks_inside:
        problems.append(
            FieldProblem(
                "spec.explainer.type",
                f"{kind.name} looks into the model: give it to the service as its explainer",
            )
        )
    config = {p.name: p.value for p in spec.parameters or ()}
    ignored: list[FieldProblem] = []
    values, wrong = explainers.read(kind, config, warnings=ignored)
    names = [p.name for p in spec.parameters or ()]
    for told, found in ((problems, wrong), (warnings, ignored)):
        told += [FieldProblem(f"spec.parameters[{names.index(w.path)}]", w.message) for w in found]
    return {
        "type": kind.name,
        "config": values,
        "predictor": given.model_ref or given.pipeline_ref or "",
    }


def _options(spec: ModelSpec, format_: str, problems: list[FieldProblem]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if format_ == "mlserver" and spec.parameters:
        # What a runtime of one's own finds in its settings, beside what its folder says.
        return {"extra": {p.name: p.value for p in spec.parameters}}
    known = _HUGGINGFACE if format_ == "huggingface" else {}
    for i, parameter in enumerate(spec.parameters or ()):
        option = known.get(parameter.name)
        if option is None:
            listed = ", ".join(known) or "none"
            problems.append(
                FieldProblem(
                    f"spec.parameters[{i}].name", f"is not read for {format_}; known are {listed}"
                )
            )
        else:
            options[option] = parameter.value
    return options


def _replicas(spec: ModelSpec, annotations: dict[str, str]) -> tuple[int, int]:
    """Fixed unless a bound is given, as Seldon scales models with a bound only."""
    if spec.replicas == 0 and not spec.min_replicas:
        annotations[STOP] = "true"
    wanted = spec.replicas or spec.min_replicas or 1
    if spec.min_replicas is None and spec.max_replicas is None:
        return wanted, wanted
    # Seldon never goes below one replica.
    low = max(1, spec.min_replicas or 1)
    return low, spec.max_replicas or max(low, wanted)


def translate_server(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Server -> `ServingRuntime` with the formats that its capabilities name, selected by name only."""
    unsupported, warnings = SERVER_TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(ServerManifest, manifest)
    if parsed is None:
        refuse(manifest, problems + unsupported)
    meta = parsed.metadata
    problems = check_metadata(meta, name_problem=subdomain_problem, namespaced=True) + unsupported
    spec = parsed.spec
    shipped = CAPABILITIES.get(spec.server_config, ())
    capabilities = spec.capabilities or [*shipped, *(spec.extra_capabilities or ())]
    if not capabilities:
        problems.append(
            FieldProblem(
                "spec.capabilities",
                f"is required: the ServerConfig {spec.server_config} is not known here "
                f"({' and '.join(CAPABILITIES)} are)",
            )
        )
    if problems:
        refuse(manifest, problems)
    try:
        created = from_rfc3339(meta.creation_timestamp or "")
    except ValueError:
        created = 0.0
    frameworks = {c: FORMATS[c] for c in capabilities if c in FORMATS}
    return Translation(
        ServingRuntime(
            name=meta.name or "",
            namespace=meta.namespace or DEFAULT_NAMESPACE,
            formats=tuple(SupportedFormat(c) for c in frameworks),
            created=created,
            frameworks=MappingProxyType(frameworks),
        ),
        tuple(warnings),
    )


def render_model_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """ModelStatus: replicas and the condition ModelReady, beside what every service says."""
    rendered = render_kserve(manifest, status)
    predictor = status.components.get(Role.PREDICTOR)
    rendered["replicas"] = predictor.replicas if predictor is not None else 0
    rendered["availableReplicas"] = predictor.ready_replicas if predictor is not None else 0
    ready = next((c for c in rendered["conditions"] if c["type"] == "Ready"), None)
    if ready is not None:
        rendered["conditions"] = [*rendered["conditions"], {**ready, "type": "ModelReady"}]
    return rendered


MODEL = Dialect(
    api_version=API_VERSION,
    kind="Model",
    plural="models",
    singular="model",
    short_names=("mlm",),
    namespaced=True,
    model=ModelManifest,
    table=MODEL_TABLE,
    translator=translate_model,
    renderer=render_model_status,
)
SERVER = Dialect(
    api_version=API_VERSION,
    kind="Server",
    plural="servers",
    singular="server",
    short_names=("mls",),
    namespaced=True,
    model=ServerManifest,
    table=SERVER_TABLE,
    translator=translate_server,
)
DIALECTS = (MODEL, SERVER, pipeline.DIALECT, experiment.EXPERIMENT)

#: Kinds of the same group that are known and not served, and why.
LATER = {
    "ServerConfig": "servers' pods are for a cluster; a Server names what it can as capabilities",
    "SeldonRuntime": "configures Seldon's own components, which are not here",
    "SeldonConfig": "configures Seldon's own components, which are not here",
}
