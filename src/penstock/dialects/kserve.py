"""KServe's InferenceService, serving.kserve.io/v1beta1: every field of KServe 0.20 known, none ignored.

The fields are in `kserve_fields`, what is refused or has no effect in `kserve_support`, annotations in
`kserve_annotations`, the status in `kserve_status`. This file turns a validated manifest into a
`domain.Service`; Penstock's own dialect (`penstock`) does so with the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from penstock.dialects import accelerators as shares
from penstock.dialects import components, kserve_canary
from penstock.dialects import kserve_annotations as notes
from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.conversion import moved_back
from penstock.dialects.kserve_fields import (
    BLOCKS,
    Block,
    ComponentFields,
    FrameworkBlock,
    InferenceService,
    InferenceServiceSpec,
    ModelBlock,
    Predictor,
    StorageUri,
)
from penstock.dialects.kserve_status import render_status
from penstock.dialects.kserve_support import TABLE
from penstock.dialects.metadata import (
    DEFAULT_NAMESPACE,
    check_annotations,
    check_labels,
    check_metadata,
)
from penstock.dialects.model_args import read_args
from penstock.dialects.pod import POD_FIELDS, At, ResourceRequirements, env_of, resources_of
from penstock.dialects.priorities import priority_of
from penstock.dialects.replacing import recreates
from penstock.dialects.scaling_fields import Said, ScalingBlock, read_annotations, read_block
from penstock.dialects.schema import path, read
from penstock.dialects.support import Table
from penstock.domain.names import service_problem
from penstock.domain.service import (
    EMPTY,
    Batching,
    Canary,
    Component,
    Container,
    Model,
    ModelFormat,
    Protocol,
    Resources,
    Role,
    ScaleMetric,
    Scaling,
    Service,
    Storage,
)
from penstock.domain.storage_config import complete
from penstock.errors import FieldProblem, InvalidInput

#: Framework blocks whose servers speak v2 only at KServe, so v2 is what their users mean.
_V2_BLOCKS = frozenset(("triton", "onnx", "huggingface"))
_V2_FORMATS = frozenset(("triton", "vLLM"))
MOUNT_PATH = "/mnt/models"

#: URI schemes that KServe's users have and that nothing here can fetch.
_NO_SCHEME = {
    "oci": "models in container images are not supported",
    "oci+native": "models in container images are not supported",
    "oci+fetch": "models in container images are not supported",
    "modelscope": "ModelScope is not supported; copy the model to a folder or a bucket",
}


#: Blocks of KServe's servers for several models: without storage, TrainedModels are added to them.
HOSTS = frozenset(("sklearn", "xgboost", "lightgbm", "triton"))
_HOSTS = "there is none, so the service has no model of its own; it is one that TrainedModels are added to"


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceService -> `Service`."""
    return translate_service(InferenceService, TABLE, manifest, runs_containers=runs_containers)


def translate_hosting(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """The same, where a predictor may be without a model: one that TrainedModels are added to."""
    return translate_service(
        InferenceService, TABLE, manifest, runs_containers=runs_containers, hosts=True
    )


def translate_service(
    model: type[InferenceService],
    table: Table,
    manifest: Manifest,
    *,
    runs_containers: bool,
    hosts: bool = False,
) -> Translation:
    """Read `manifest` as `model`; all problems of fields, of values and of support together."""
    unsupported, warnings = table.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(model, manifest)
    if parsed is None:
        # What is refused is told too, unless the same path is already wrong for another reason.
        told = {p.path for p in problems}
        refuse(manifest, problems + [p for p in unsupported if p.path not in told])
    meta = parsed.metadata
    problems = check_metadata(meta, name_problem=service_problem, namespaced=True)
    problems += unsupported
    annotations = meta.annotations or {}
    problems += notes.problems(annotations, ("metadata", "annotations"))
    warnings += notes.warnings(annotations, ("metadata", "annotations"))
    spec = manifest["spec"]
    reader = _Reader(annotations, problems, warnings, spec["predictor"])
    reader.hosts = hosts
    predictor = reader.component(parsed.spec.predictor, ("spec", "predictor"))
    canaries: tuple[Canary, ...] = ()
    if predictor is not None and parsed.spec.canary:
        canaries = _canaries(
            type(parsed.spec.predictor),
            table,
            spec,
            predictor,
            annotations,
            problems,
            warnings,
            runs_containers=runs_containers,
        )
    around = {
        role: found
        for role in (Role.TRANSFORMER, Role.EXPLAINER)
        if predictor is not None
        and (found := _around(role, parsed.spec, spec, predictor, annotations, problems, warnings))
    }
    if problems or predictor is None:
        refuse(manifest, _without_repeats(problems))
    transformer = around.get(Role.TRANSFORMER)
    if transformer is not None and spec["transformer"].get("collocated"):
        predictor = components.collocated(predictor, transformer)
        canaries = tuple(
            replace(c, component=components.collocated(c.component, transformer)) for c in canaries
        )
        transformer = None
    service = Service(
        namespace=meta.namespace or DEFAULT_NAMESPACE,
        name=meta.name or "",
        predictor=predictor,
        canaries=canaries,
        transformer=transformer,
        explainer=around.get(Role.EXPLAINER),
        labels=_frozen(meta.labels),
        annotations=_frozen(meta.annotations),
        stopped=annotations.get(notes.STOP, "").lower() == "true",
    )
    return Translation(service, tuple(_without_repeats(warnings)))


def _around(
    role: Role,
    parsed: InferenceServiceSpec,
    spec: Mapping[str, Any],
    predictor: Component,
    annotations: Mapping[str, str],
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
) -> Component | None:
    """The transformer or the explainer; None when there is none, or the problems say why."""
    given: ComponentFields | None = getattr(parsed, role)
    if given is None:
        return None
    at = ("spec", str(role))
    transforms = role is Role.TRANSFORMER
    blocks = components.TRANSFORMER_BLOCKS if transforms else components.EXPLAINER_BLOCKS
    reader = _Reader(annotations, problems, warnings, spec[role])
    component = reader.component(given, at, role=role, blocks=blocks)
    if component is None or transforms:
        problems += components.collocation_problems(spec[role], at)
        return component and components.transformed(component, predictor)
    name = next((n for n, b in blocks.items() if getattr(given, b.attribute, None)), "")
    component, wrong = components.explained(component, name, (*at, name), predictor)
    problems += wrong
    return component


def _canaries(
    model: type[Predictor],
    table: Table,
    spec: Mapping[str, Any],
    stable: Component,
    annotations: Mapping[str, str],
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
    *,
    runs_containers: bool,
) -> tuple[Canary, ...]:
    """The named predictors of `spec.canary`, each merged over the stable one."""
    problems += kserve_canary.entry_problems(spec)
    found = []
    for i, entry in enumerate(spec["canary"]):
        at = ("spec", "canary", i, "predictor")
        places = {"spec.predictor": path(at)}
        given = entry["predictor"]
        # What the stable predictor says was looked at already.
        wrong, without_effect = table.check(
            {"spec": {"predictor": given}}, runs_containers=runs_containers
        )
        problems += [moved_back(p, places) for p in wrong]
        warnings += [moved_back(w, places) for w in without_effect]
        raw = kserve_canary.merged(spec["predictor"], given)
        raw.pop("canaryTrafficPercent", None)
        raw.pop("maxReplicas", None)
        parsed, misread = read(model, raw)
        if parsed is None:
            problems += [FieldProblem(f"{path(at)}.{p.path}", p.message) for p in misread]
            continue
        component = _Reader(annotations, problems, warnings, raw).component(parsed, at)
        if component is None:
            continue
        percent = entry["trafficPercent"]
        most = stable.scaling.min_replicas
        least = given.get("minReplicas")
        if least is None:
            least = kserve_canary.least_replicas(most, percent)
        elif least > most:
            problems.append(
                FieldProblem(
                    f"{path(at)}.minReplicas", f"must not be more than the stable one's {most}"
                )
            )
        component = replace(component, scaling=replace(stable.scaling, min_replicas=least))
        found.append(Canary(component, percent))
    return tuple(found)


class _Reader:
    """Components out of validated fields; collects problems and warnings."""

    #: A predictor may be without a model.
    hosts = False

    def __init__(
        self,
        annotations: Mapping[str, str],
        problems: list[FieldProblem],
        warnings: list[FieldProblem],
        raw: Mapping[str, Any],
    ) -> None:
        self._annotations = annotations
        #: The component as it was written.
        self._raw = raw
        self._problems = problems
        self._warnings = warnings

    def _wrong(self, at: At, message: str) -> None:
        self._problems.append(FieldProblem(path(at), message))

    def component(
        self,
        given: ComponentFields,
        at: At,
        *,
        role: Role = Role.PREDICTOR,
        blocks: Mapping[str, Block] = BLOCKS,
    ) -> Component | None:
        """The component; None when the problems say why there is none."""
        formats, blocks_given = blocks, dict[str, FrameworkBlock]()
        for name, known_block in formats.items():
            block = getattr(given, known_block.attribute, None)
            if block is not None:
                blocks_given[name] = block
        model: ModelBlock | None = getattr(given, "model", None)
        if model is not None:
            blocks_given["model"] = model
        has_containers = bool(given.containers)
        if has_containers and blocks_given:
            self._wrong(
                (*at, "containers"),
                "containers beside a model are not supported; a service has a model or containers",
            )
            return None
        if len(blocks_given) != 1 and not has_containers:
            known = [n for n, b in formats.items() if hasattr(given, b.attribute)]
            known += ["model"] if hasattr(given, "model") else []
            said = f", not {' and '.join(blocks_given)}" if blocks_given else ""
            one = f"exactly one of {', '.join(known)} and containers" if known else "containers"
            self._wrong(at, f"must have {one}{said}")
            return None
        scaling = self._scaling(given, at)
        variant: str | None = getattr(given, "name", None)
        if variant is not None and (problem := kserve_canary.name_problem(variant)):
            self._wrong((*at, "name"), problem)
        if given.labels:
            self._problems += check_labels(given.labels, (*at, "labels"))
        if given.annotations:
            self._problems += check_annotations(given.annotations, (*at, "annotations"))
            self._warnings += notes.warnings(given.annotations, (*at, "annotations"))
        account = given.service_account_name or given.service_account
        priority, problems = priority_of(given, at)
        self._problems += problems
        recreate, problems, warnings = recreates(
            given.deployment_strategy, (*at, "deploymentStrategy")
        )
        self._problems += problems
        self._warnings += warnings
        shared: dict[str, Any] = {
            "role": role,
            "name": variant,
            "batching": self._batching(given),
            "scaling": scaling,
            "timeout_s": float(given.timeout) if given.timeout else None,
            "canary_percent": given.canary_traffic_percent,
            "service_account": account,
            "priority": priority,
            "recreate": recreate,
            "labels": _frozen(given.labels),
            "annotations": _frozen(given.annotations),
        }
        if has_containers:
            return self._container(given, at, shared)
        name, block = next(iter(blocks_given.items()))
        format_name = formats[name].format if name in formats else ""
        return self._model(name, format_name, block, given, (*at, name), shared)

    def _model(
        self,
        name: str,
        format_name: str,
        block: FrameworkBlock,
        given: ComponentFields,
        at: At,
        shared: dict[str, Any],
    ) -> Component:
        if isinstance(block, ModelBlock):
            format_ = ModelFormat(block.model_format.name, block.model_format.version)
            runtime = block.runtime
        else:
            format_ = ModelFormat(format_name)
            runtime = None
        protocol = Protocol(block.protocol_version) if block.protocol_version else None
        if protocol is None and (
            name in _V2_BLOCKS
            or format_.name in _V2_FORMATS
            or (runtime is not None and runtime.endswith("mlserver"))
        ):
            protocol = Protocol.V2
        env, problems = env_of(block.env, (*at, "env"))
        self._problems += problems
        resources = self._resources(block.resources, (*at, "resources"), shared)
        arguments = read_args(format_.name, block.args or [], (*at, "args"))
        self._problems += arguments.problems
        self._warnings += arguments.warnings
        storage = self._storage(block, given, at, shared["service_account"], arguments.uri, format_)
        return Component(
            model=Model(
                format=format_,
                storage=storage,
                runtime=runtime,
                runtime_version=block.runtime_version,
                protocol=protocol,
                options=_frozen({**arguments.options, **block.runtime_options()}),
                served_name=arguments.served_name,
                versions=block.served_versions(),
            ),
            env=env,
            resources=resources,
            **shared,
        )

    def _resources(
        self, given: ResourceRequirements | None, at: At, shared: dict[str, Any]
    ) -> Resources:
        """What is asked for, with the share of a device that annotations say."""
        resources, problems = resources_of(given, at)
        self._problems += problems
        for said, where in (
            (shared["annotations"], ("spec", str(shared["role"]), "annotations")),
            (self._annotations, ("metadata", "annotations")),
        ):
            found, problems = shares.shared(resources, said, where)
            self._problems += problems
            if found is not resources:
                return found
        return resources

    def _storage(
        self,
        block: FrameworkBlock,
        given: ComponentFields,
        at: At,
        account: str | None,
        uri_of_args: str | None,
        format_: ModelFormat,
    ) -> Storage:
        uri, where = block.storage_uri, (*at, "storageUri")
        uris: list[StorageUri] | None = getattr(given, "storage_uris", None)
        if uris:
            where = (*at[:-1], "storageUris")
            first = uris[0]
            if uri is not None:
                self._wrong(where, "may not be given together with storageUri")
            if len(uris) > 1:
                self._wrong(where, "only one is supported yet; put the files into one folder")
            elif first.mount_path not in (None, MOUNT_PATH):
                self._wrong((*where, 0, "mountPath"), f"only {MOUNT_PATH} is supported yet")
            uri, where = first.uri, (*where, 0, "uri")
        spec = block.storage
        if uri is None and spec is None:
            uri = uri_of_args
        elif uri_of_args is not None:
            self._wrong((*at, "args"), "--model_id may not be given together with storageUri")
        if uri is not None:
            self._check_uri(uri, where)
        storage = Storage(
            uri=uri or "",
            secret=self._annotations.get(notes.STORAGE_SECRET),
            service_account=account,
        )
        if spec is None:
            if uri is None and not block.runs_without_files():
                if self.hosts and at[-1] in HOSTS:
                    self._warnings.append(FieldProblem(path(where), _HOSTS))
                else:
                    self._wrong(where, "is required: where are the model's files?")
            return storage
        if spec.path is not None and uri is not None:
            self._wrong((*at, "storage", "path"), "may not be given together with storageUri")
        storage = Storage(
            uri=storage.uri,
            key=spec.key,
            path=spec.path,
            parameters=_frozen(spec.parameters),
            secret=storage.secret,
            service_account=account,
        )
        if not storage.uri:
            if spec.path is None:
                self._wrong((*at, "storage", "path"), "is required without a storageUri")
            elif "type" in storage.parameters and not spec.key:
                try:
                    storage = complete(storage, {})
                except InvalidInput:
                    # The secret may say what the parameters leave out; whoever reads it will know.
                    return storage
        return storage

    def _check_uri(self, uri: str, at: At) -> None:
        scheme, separator, _ = uri.partition("://")
        if not uri.strip() or any(ord(c) < 32 for c in uri):
            self._wrong(at, "must not be empty")
        elif separator and scheme in _NO_SCHEME:
            self._wrong(at, _NO_SCHEME[scheme])
        elif uri.startswith("https://") and uri.endswith(".git"):
            self._wrong(at, "git repositories are not supported; use an archive's address")

    def _container(
        self, given: ComponentFields, at: At, shared: dict[str, Any]
    ) -> Component | None:
        containers = given.containers or []
        chosen = 0
        for i, container in enumerate(containers):
            if not container.image:
                self._wrong((*at, "containers", i, "image"), "is required")
            if container.name == "kserve-container":
                chosen = i
        container = containers[chosen]
        here = (*at, "containers", chosen)
        env, problems = env_of(container.env, (*here, "env"))
        self._problems += problems
        resources = self._resources(container.resources, (*here, "resources"), shared)
        port = 8080
        if container.ports:
            first = container.ports[0].get("containerPort")
            if not isinstance(first, int) or not 0 < first < 65536:
                self._wrong((*here, "ports", 0, "containerPort"), "must be a port number")
            else:
                port = first
        raw = self._raw
        pod = {f: raw[f] for f in POD_FIELDS if raw.get(f) is not None}
        return Component(
            container=Container(
                image=container.image or "",
                name=container.name or "kserve-container",
                command=tuple(container.command or ()),
                args=tuple(container.args or ()),
                port=port,
                pod_spec=MappingProxyType(pod),
            ),
            env=env,
            resources=resources,
            **shared,
        )

    def _scaling(self, given: ComponentFields, at: At) -> Scaling:
        said = Said()
        self._problems += read_annotations(self._annotations, ("metadata", "annotations"), said)
        self._problems += read_annotations(given.annotations or {}, (*at, "annotations"), said)
        block: ScalingBlock | None = getattr(given, "scaling", None)
        if block is not None:
            self._problems += read_block(block, (*at, "scaling"), said)
        low = given.min_replicas
        if low is None:
            low = 1 if said.low is None else said.low
        high = given.max_replicas or said.high or None
        if high is not None and high < low:
            self._wrong((*at, "maxReplicas"), f"must not be less than minReplicas ({low})")
        if self._annotations.get(notes.AUTOSCALER_CLASS) in notes.FIXED:
            high = max(1, low)
        metric = ScaleMetric(given.scale_metric or said.metric or ScaleMetric.CONCURRENCY)
        target = float(given.scale_target) if given.scale_target else said.target
        percents = metric in (ScaleMetric.CPU, ScaleMetric.MEMORY)
        if (
            percents
            and target is not None
            and target > 100
            and given.scale_metric_type in (None, "Utilization")
        ):
            self._wrong((*at, "scaleTarget"), f"must be 1 to 100 percent for {metric}")
        default = Scaling()
        window_s = said.window_s or default.window_s
        panic_s = said.panic_window_s
        if panic_s is None:
            panic_s = max(1.0, window_s * (said.panic_percent or 10.0) / 100)
        return Scaling(
            min_replicas=low,
            max_replicas=high,
            target=target,
            metric=metric,
            container_concurrency=given.container_concurrency or 0,
            window_s=window_s,
            panic_window_s=panic_s,
            scale_down_delay_s=said.scale_down_delay_s or 0.0,
            scale_to_zero_grace_s=said.scale_to_zero_grace_s,
        )

    @staticmethod
    def _batching(given: ComponentFields) -> Batching | None:
        batcher = given.batcher
        if batcher is None:
            return None
        return Batching(
            max_batch_size=batcher.max_batch_size or Batching().max_batch_size,
            max_latency_s=(batcher.max_latency or 0) / 1000,
        )


def _frozen(mapping: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping)) if mapping else EMPTY


def _without_repeats(problems: list[FieldProblem]) -> list[FieldProblem]:
    return list(dict.fromkeys(problems))


def check_update(old: Manifest, new: Manifest) -> list[FieldProblem]:
    """KServe's rules for changes: the deployment mode stays, a renamed predictor is a promotion."""
    problems = []

    def annotation(manifest: Manifest, key: str) -> str | None:
        return ((manifest.get("metadata") or {}).get("annotations") or {}).get(key)

    renamed = kserve_canary.promotion_problem(old.get("spec") or {}, new.get("spec") or {})
    if renamed is not None:
        problems.append(renamed)
    before, after = annotation(old, notes.DEPLOYMENT_MODE), annotation(new, notes.DEPLOYMENT_MODE)
    if old.get("status") and before and after and before != after:
        problems.append(
            FieldProblem(
                path(("metadata", "annotations", notes.DEPLOYMENT_MODE)),
                f"cannot change from {before}; delete the service and apply it again",
            )
        )
    return problems


def dialect(
    api_version: str,
    model: type[InferenceService] = InferenceService,
    translator: Callable[..., Translation] = translate,
) -> Dialect:
    """An InferenceService under another apiVersion."""
    return Dialect(
        api_version=api_version,
        kind="InferenceService",
        plural="inferenceservices",
        singular="inferenceservice",
        short_names=("isvc",),
        namespaced=True,
        model=model,
        table=TABLE,
        translator=translator,
        renderer=render_status,
        update_check=check_update,
    )


#: KServe 0.7 and newer, and KFServing 0.5 and 0.6, which had the same fields under its older group.
DIALECTS = (
    dialect("serving.kserve.io/v1beta1", translator=translate_hosting),
    dialect("serving.kubeflow.org/v1beta1"),
)
