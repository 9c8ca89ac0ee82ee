"""ServingRuntime and ClusterServingRuntime, KServe's (serving.kserve.io/v1alpha1) and Penstock's own.

A runtime applied from KServe's manifests is recognised by the image of its first container and runs the same
formats with the framework here. Penstock's own says so itself: `framework: sklearn`, with `options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.kserve.component import MOUNT_PATH
from penstock.dialects.metadata import ObjectMeta, check_metadata
from penstock.dialects.pod import Container, Loose, env_of
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.support import Table, no_effect
from penstock.domain.builtin_runtimes import FRAMEWORKS, frameworks_of_image
from penstock.domain.names import subdomain_problem
from penstock.domain.service import EMPTY, Protocol
from penstock.domain.serving_runtime import ServingRuntime, SupportedFormat
from penstock.domain.status import from_rfc3339
from penstock.errors import FieldProblem

__all__ = ["DIALECTS", "MOUNT_PATH", "OWN"]


class SupportedModelFormat(Spec):
    name: Annotated[str, Field(min_length=1)]
    version: str | None = None
    auto_select: bool | None = None
    priority: Annotated[int, Field(ge=1)] | None = None


class StorageHelper(Spec):
    disabled: bool | None = None


class BuiltInAdapter(Spec):
    server_type: str | None = None
    runtime_management_port: int | None = None
    mem_buffer_bytes: int | None = None
    model_loading_timeout_millis: int | None = None
    env: list[Loose] | None = None


class RuntimePodFields(Spec):
    volumes: list[Loose] | None = None
    node_selector: dict[str, str] | None = None
    affinity: Loose | None = None
    tolerations: list[Loose] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    image_pull_secrets: list[Loose] | None = None
    host_ipc: Annotated[bool | None, Field(alias="hostIPC")] = None
    scheduler_name: str | None = None
    resource_claims: list[Loose] | None = None


class WorkerSpec(RuntimePodFields):
    containers: Annotated[list[Container], Field(min_length=1)]
    pipeline_parallel_size: int | None = None
    tensor_parallel_size: int | None = None


class RuntimeSpec(RuntimePodFields):
    containers: list[Container] | None = None
    supported_model_formats: list[SupportedModelFormat] | None = None
    multi_model: bool | None = None
    disabled: bool | None = None
    protocol_versions: list[Literal["v1", "v2", "grpc-v1", "grpc-v2"]] | None = None
    worker_spec: WorkerSpec | None = None
    grpc_endpoint: str | None = None
    grpc_data_endpoint: str | None = None
    http_data_endpoint: str | None = None
    replicas: Annotated[int, Field(ge=0)] | None = None
    storage_helper: StorageHelper | None = None
    built_in_adapter: BuiltInAdapter | None = None


class OwnRuntimeSpec(RuntimeSpec):
    framework: str | None = None
    options: dict[str, Any] | None = None


class RuntimeManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: RuntimeSpec
    status: Loose | None = None


class OwnRuntimeManifest(RuntimeManifest):
    spec: OwnRuntimeSpec


_MODELMESH = "is for ModelMesh, which there is none of; one process runs per model"

TABLE = Table(
    (
        no_effect(
            "spec.{grpcEndpoint,grpcDataEndpoint,httpDataEndpoint,replicas,storageHelper,builtInAdapter}",
            _MODELMESH,
            only_processes=False,
        ),
        no_effect("spec.multiModel", _MODELMESH, only_processes=False, harmless=(False,)),
        no_effect(
            "spec.workerSpec",
            "models over several nodes are not supported; this runtime is never selected",
            only_processes=False,
        ),
    )
)


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """ServingRuntime -> `domain.ServingRuntime`; a namespace only where the kind has one."""
    own = manifest.get("apiVersion") == "penstock.dev/v1alpha1"
    model = OwnRuntimeManifest if own else RuntimeManifest
    namespaced = manifest.get("kind") == "ServingRuntime"
    _, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(model, manifest)
    if parsed is None:
        refuse(manifest, problems)
    spec = parsed.spec
    problems = check_metadata(
        parsed.metadata, name_problem=subdomain_problem, namespaced=namespaced
    )
    containers = spec.containers or []
    framework = getattr(spec, "framework", None)
    for i, container in enumerate(containers):
        if not container.name:
            problems.append(FieldProblem(path(("spec", "containers", i, "name")), "is required"))
    if framework is not None and framework not in FRAMEWORKS:
        problems.append(
            FieldProblem("spec.framework", f"must be one of {', '.join(sorted(FRAMEWORKS))}")
        )
    if not containers and framework is None:
        own_hint = " or framework" if own else ""
        problems.append(FieldProblem("spec.containers", f"is required{own_hint}"))
    problems += _priorities(spec.supported_model_formats or [])
    env, _ = env_of(containers[0].env if containers else None, ("spec", "containers", 0, "env"))
    if problems:
        refuse(manifest, problems)
    formats = tuple(
        SupportedFormat(f.name, f.version, bool(f.auto_select), f.priority)
        for f in spec.supported_model_formats or ()
    )
    frameworks: Mapping[str, str]
    if framework is not None:
        frameworks = MappingProxyType({f.name: framework for f in formats})
    elif containers:
        known = frameworks_of_image(containers[0].image or "")
        frameworks = MappingProxyType({f.name: known[f.name] for f in formats if f.name in known})
    else:
        frameworks = EMPTY
    raw = manifest["spec"]
    runtime = ServingRuntime(
        name=parsed.metadata.name or "",
        namespace=(parsed.metadata.namespace or "default") if namespaced else "",
        formats=formats,
        protocols=tuple(Protocol(p) for p in spec.protocol_versions or ()),
        disabled=bool(spec.disabled),
        multi_model=bool(spec.multi_model),
        multi_node=spec.worker_spec is not None,
        created=_created(parsed.metadata),
        frameworks=frameworks,
        options=MappingProxyType(dict(getattr(spec, "options", None) or {})),
        env=env if not frameworks else (),
        pod=MappingProxyType({k: raw[k] for k in _POD if raw.get(k) is not None}),
        labels=MappingProxyType(dict(spec.labels or {})),
        annotations=MappingProxyType(dict(spec.annotations or {})),
    )
    return Translation(runtime, tuple(warnings))


_POD = (
    "containers", "volumes", "nodeSelector", "affinity", "tolerations", "imagePullSecrets", "hostIPC",
    "schedulerName", "resourceClaims", "workerSpec",
)  # fmt: skip


def _priorities(formats: list[SupportedModelFormat]) -> list[FieldProblem]:
    """One priority per format name, as KServe's webhook wants it: selection looks at the first only."""
    problems = []
    seen: dict[str, int | None] = {}
    for i, f in enumerate(formats):
        if not f.auto_select:
            continue
        first = seen.setdefault(f.name, f.priority)
        if f.priority != first:
            problems.append(
                FieldProblem(
                    f"spec.supportedModelFormats[{i}].priority",
                    f"must be the same in every entry of {f.name}",
                )
            )
    return problems


def _created(meta: ObjectMeta) -> float:
    try:
        return from_rfc3339(meta.creation_timestamp or "")
    except ValueError:
        return 0.0


def _dialect(api_version: str, kind: str, model: type[RuntimeManifest]) -> Dialect:
    return Dialect(
        api_version=api_version,
        kind=kind,
        plural=kind.lower() + "s",
        singular=kind.lower(),
        short_names=(),
        namespaced=kind == "ServingRuntime",
        model=model,
        table=TABLE,
        translator=translate,
    )


DIALECTS = tuple(
    _dialect("serving.kserve.io/v1alpha1", kind, RuntimeManifest)
    for kind in ("ServingRuntime", "ClusterServingRuntime")
)
OWN = tuple(
    _dialect("penstock.dev/v1alpha1", kind, OwnRuntimeManifest)
    for kind in ("ServingRuntime", "ClusterServingRuntime")
)
