"""What a model process says about itself, as JSON: metadata, health, the repository, statistics.

Bodies of the small GET endpoints of V1 and V2, each a function from facts to bytes. Field names are those
of the Open Inference Protocol and of Triton's repository and statistics extensions; KServe's V1 where V2
has nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from penstock.protocols.codecs import ContentTypes
    from penstock.runtimes.base import TensorSpec

#: V2 extensions that every Penstock model process has.
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)

#: Where the ports describe themselves; the second is MLServer's.
OPENAPI_PATHS: Final = ("/v2/openapi.json", "/v2/docs/dataplane.json")

#: For who asks elsewhere.
MODELS_ARE_AT: Final = "Models are at /v1/models/NAME:predict and /v2/models/NAME/infer."

_encode = msgspec.json.Encoder().encode

ALIVE: Final = b'{"status":"alive"}'


class Duration(msgspec.Struct):
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


class BatchStats(msgspec.Struct):
    """Executions with one number of rows."""

    batch_size: int
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)


class InferenceStats(msgspec.Struct):
    """Per-request sums. `success` and `fail` are whole requests, the others parts of successful ones."""

    success: Duration = msgspec.field(default_factory=Duration)
    fail: Duration = msgspec.field(default_factory=Duration)
    queue: Duration = msgspec.field(default_factory=Duration)
    compute_input: Duration = msgspec.field(default_factory=Duration)
    compute_infer: Duration = msgspec.field(default_factory=Duration)
    compute_output: Duration = msgspec.field(default_factory=Duration)


class ModelStats(msgspec.Struct):
    """Statistics of one version of one model, in the shape of Triton's statistics extension.

    `last_inference` is milliseconds since the epoch; `inference_count` counts rows, `execution_count`
    calls of the model.
    """

    name: str
    version: str = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStats = msgspec.field(default_factory=InferenceStats)
    batch_stats: list[BatchStats] = msgspec.field(default_factory=list)


class IndexEntry(msgspec.Struct, frozen=True):
    """One version of one model in the repository index."""

    name: str
    version: str
    #: UNKNOWN, READY, UNAVAILABLE, LOADING or UNLOADING.
    state: str
    #: Why it is UNAVAILABLE; empty when there is nothing to say.
    reason: str = ""


def server_metadata(name: str, version: str, extensions: Sequence[str] = EXTENSIONS) -> bytes:
    """GET /v2"""
    return _encode({"name": name, "version": version, "extensions": extensions})


def live(value: bool = True) -> bytes:
    """GET /v2/health/live"""
    return b'{"live":true}' if value else b'{"live":false}'


def ready(value: bool) -> bytes:
    """GET /v2/health/ready"""
    return b'{"ready":true}' if value else b'{"ready":false}'


def models(names: Iterable[str]) -> bytes:
    """GET /v1/models and GET /v2/models"""
    return _encode({"models": list(names)})


def model_ready(name: str, value: bool) -> bytes:
    """GET /v1/models/M and GET /v2/models/M/ready"""
    return _encode({"name": name, "ready": value})


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    contents: ContentTypes | None = None,
) -> bytes:
    """GET /v2/models/M. `versions` are those that are loaded; left out when the model has none.

    `contents` is what its configuration says of content types, shown as MLServer shows it.
    """
    document: dict[str, Any] = {"name": name}
    if any(versions):
        document["versions"] = list(versions)
    document["platform"] = platform
    kinds = (contents.inputs, contents.outputs) if contents is not None else ({}, {})
    document["inputs"] = [_tensor(t, kinds[0]) for t in inputs]
    document["outputs"] = [_tensor(t, kinds[1]) for t in outputs]
    if contents is not None and contents.request:
        document["parameters"] = {"content_type": contents.request}
    return _encode(document)


def _tensor(spec: TensorSpec, kinds: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if spec.name in kinds:
        made["parameters"] = {"content_type": kinds[spec.name]}
    return made


def repository_index(entries: Iterable[IndexEntry], *, only_ready: bool = False) -> bytes:
    """POST /v2/repository/index"""
    return _encode([e for e in entries if e.state == "READY" or not only_ready])


def loaded(name: str) -> bytes:
    """POST /v2/repository/models/M/load, as KServe answers it"""
    return _encode({"name": name, "load": True})


def unloaded(name: str) -> bytes:
    """POST /v2/repository/models/M/unload, as KServe answers it"""
    return _encode({"name": name, "unload": True})


def statistics(stats: Iterable[ModelStats]) -> bytes:
    """GET /v2/models/M/stats and GET /v2/models/stats"""
    return _encode({"model_stats": list(stats)})
