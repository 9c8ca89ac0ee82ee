"""The fields of KServe 0.20's InferenceService, v1beta1.

Source: reference of the API group serving.kserve.io, types InferenceServiceSpec, PredictorSpec, ModelSpec,
PredictorExtensionSpec and ComponentExtensionSpec. Blocks that are refused as a whole are maps without a
description here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from penstock.dialects.metadata import ObjectMeta
from penstock.dialects.pod import ContainerFields, Loose, PodFields
from penstock.dialects.schema import Spec
from penstock.domain.service import VersionPolicy


class StorageSpec(Spec):
    key: str | None = None
    path: str | None = None
    parameters: dict[str, str] | None = None
    schema_path: str | None = None


class StorageUri(Spec):
    uri: str
    mount_path: str | None = None


class FrameworkBlock(ContainerFields):
    """What `sklearn:` and its like contain: KServe's PredictorExtensionSpec and an inline container."""

    storage_uri: str | None = None
    storage: StorageSpec | None = None
    runtime_version: str | None = None
    protocol_version: Literal["v1", "v2", "grpc-v1", "grpc-v2"] | None = None
    confidential: Loose | None = None

    def runtime_options(self) -> dict[str, Any]:
        """Options for the runtime that the block's own fields say."""
        return {}

    def runs_without_files(self) -> bool:
        """True when there may be no storage at all."""
        return False

    def served_versions(self) -> VersionPolicy | None:
        """Which numbered folders are served, where the dialect has a word for it."""
        return None


class PyTorchBlock(FrameworkBlock):
    #: KFServing's way to serve a state dict: the class in the model's folder.
    model_class_name: str | None = None

    def runtime_options(self) -> dict[str, Any]:
        return {"modelClassName": self.model_class_name} if self.model_class_name else {}


class ModelFormat(Spec):
    name: Annotated[str, Field(min_length=1)]
    version: str | None = None


class ModelBlock(FrameworkBlock):
    model_format: ModelFormat
    runtime: str | None = None


class Batcher(Spec):
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    #: Milliseconds.
    max_latency: Annotated[int, Field(ge=0)] | None = None
    timeout: int | None = None


class ComponentFields(PodFields):
    """KServe's ComponentExtensionSpec with the pod fields that stand beside it."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    max_replicas: Annotated[int, Field(ge=0)] | None = None
    scale_target: Annotated[int, Field(ge=0)] | None = None
    scale_metric: Literal["cpu", "memory", "concurrency", "rps"] | None = None
    scale_metric_type: Literal["Utilization", "Value", "AverageValue"] | None = None
    auto_scaling: Loose | None = None
    container_concurrency: Annotated[int, Field(ge=0)] | None = None
    #: Seconds.
    timeout: Annotated[int, Field(ge=0)] | None = None
    canary_traffic_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    logger: Loose | None = None
    batcher: Batcher | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deployment_strategy: Loose | None = None


class Predictor(ComponentFields):
    name: str | None = None
    sklearn: FrameworkBlock | None = None
    xgboost: FrameworkBlock | None = None
    tensorflow: FrameworkBlock | None = None
    pytorch: PyTorchBlock | None = None
    triton: FrameworkBlock | None = None
    onnx: FrameworkBlock | None = None
    huggingface: FrameworkBlock | None = None
    pmml: FrameworkBlock | None = None
    lightgbm: FrameworkBlock | None = None
    paddle: FrameworkBlock | None = None
    model: ModelBlock | None = None
    storage_uris: list[StorageUri] | None = None
    storage_container_name: str | None = None
    worker_spec: Loose | None = None


class CanaryEntry(Spec):
    """A predictor that is tried: what is different from the stable one (see `canary`)."""

    predictor: Loose
    #: Of a hundred requests.
    traffic_percent: Annotated[int, Field(ge=0, le=100)]


class ExplainerBlock(FrameworkBlock):
    """An algorithm by its type, and its settings (texts, as KServe has them, or of their own kinds)."""

    type: str | None = None
    config: dict[str, Any] | None = None

    def runtime_options(self) -> dict[str, Any]:
        return {"type": self.type, "config": self.config or {}}

    def runs_without_files(self) -> bool:
        return True


class Transformer(ComponentFields):
    """KServe's: containers only."""

    storage_uris: list[StorageUri] | None = None


class Explainer(ComponentFields):
    alibi: ExplainerBlock | None = None
    art: Loose | None = None
    aix: Loose | None = None
    storage_uris: list[StorageUri] | None = None


class InferenceServiceSpec(Spec):
    predictor: Predictor
    transformer: Transformer | None = None
    explainer: Explainer | None = None
    canary: list[CanaryEntry] | None = None


class InferenceService(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: InferenceServiceSpec
    status: Loose | None = None


class Block(NamedTuple):
    """A framework block: the attribute it is read from, and the model format it means."""

    attribute: str
    format: str


#: Framework blocks by their name in the manifest; a dialect has those its Predictor has.
BLOCKS = {
    "sklearn": Block("sklearn", "sklearn"),
    "xgboost": Block("xgboost", "xgboost"),
    "tensorflow": Block("tensorflow", "tensorflow"),
    "pytorch": Block("pytorch", "pytorch"),
    "triton": Block("triton", "triton"),
    "onnx": Block("onnx", "onnx"),
    "huggingface": Block("huggingface", "huggingface"),
    "pmml": Block("pmml", "pmml"),
    "lightgbm": Block("lightgbm", "lightgbm"),
    "paddle": Block("paddle", "paddle"),
    "catboost": Block("catboost", "catboost"),
    "mlflow": Block("mlflow", "mlflow"),
    "python": Block("python", "python"),
}
