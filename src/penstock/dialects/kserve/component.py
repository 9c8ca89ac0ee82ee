"""One component of KServe's InferenceService: a predictor, a transformer or an explainer.

Validated fields in, a `domain.Component` out: its model or its containers, where its files are, how it
scales. What several components make together is in `kserve`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from penstock.dialects import accelerators as shares
from penstock.dialects.kserve import annotations as notes
from penstock.dialects.kserve import canary
from penstock.dialects.kserve.fields import (
    BLOCKS,
    Block,
    ComponentFields,
    FrameworkBlock,
    ModelBlock,
    StorageUri,
)
from penstock.dialects.metadata import (
    check_annotations,
    check_labels,
)
from penstock.dialects.model_args import read_args
from penstock.dialects.pod import POD_FIELDS, At, ResourceRequirements, env_of, resources_of
from penstock.dialects.priorities import priority_of
from penstock.dialects.replacing import recreates
from penstock.dialects.scaling_fields import Said, ScalingBlock, read_annotations, read_block
from penstock.dialects.schema import path
from penstock.domain.service import (
    EMPTY,
    Batching,
    Component,
    Container,
    Model,
    ModelFormat,
    Protocol,
    Resources,
    Role,
    ScaleMetric,
    Scaling,
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


#: What KServe calls the container of a transformer in the predictor's pod.
_COLLOCATED = "transformer-container"


def _beside(names: Sequence[str | None]) -> str:
    """Why containers of these names beside a model are refused."""
    if _COLLOCATED in names:
        return (
            "containers beside a model are not supported; a transformer in the predictor's process is a "
            "class: transformer {collocated: true, python: {class: FILE.py}} in penstock.dev/v1alpha1"
        )
    return "containers beside a model are not supported; a service has a model or containers"


class ComponentReader:
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
            self._wrong((*at, "containers"), _beside([c.name for c in given.containers or ()]))
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
        if variant is not None and (problem := canary.name_problem(variant)):
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
            "labels": frozen(given.labels),
            "annotations": frozen(given.annotations),
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
                options=frozen({**arguments.options, **block.runtime_options()}),
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
            parameters=frozen(spec.parameters),
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


def frozen(mapping: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A mapping that nobody changes; the empty one for None."""
    return MappingProxyType(dict(mapping)) if mapping else EMPTY
