"""A service and its components: what somebody wants served, whatever dialect said so.

A `Service` is the unit a user names. It has a predictor and, perhaps, a transformer and an explainer;
each is a `Component` that runs one model (from files) or one container. Everything in a `Component` that
decides what runs goes into a revision's digest (see `revision`); scaling and traffic do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from penstock.domain.priority import Priority
from penstock.domain.traffic import Traffic


class Empty(Mapping[str, Any]):
    """A mapping with nothing in it, hashable so that a dataclass takes it as a default in Python 3.11."""

    __slots__ = ()

    def __getitem__(self, key: str) -> NoReturn:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"


EMPTY: Mapping[str, Any] = Empty()


class Role(StrEnum):
    """What a component does for its service."""

    PREDICTOR = "predictor"
    TRANSFORMER = "transformer"
    EXPLAINER = "explainer"


class Protocol(StrEnum):
    """Inference protocols, by KServe's names. Every Penstock model process speaks v1 and v2."""

    V1 = "v1"
    V2 = "v2"
    GRPC_V1 = "grpc-v1"
    GRPC_V2 = "grpc-v2"


class ScaleMetric(StrEnum):
    """What autoscaling holds near its target."""

    CONCURRENCY = "concurrency"
    RPS = "rps"
    CPU = "cpu"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A framework's name and, perhaps, the major version the model was written with."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Storage:
    """Where model files come from and whose credentials open it.

    `key`, `path` and `parameters` are KServe's `storage` block; `secret` names a Secret in the service's
    namespace. No credential itself is ever held here.
    """

    uri: str
    key: str | None = None
    path: str | None = None
    parameters: Mapping[str, str] = EMPTY
    secret: str | None = None
    service_account: str | None = None


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One environment variable: a value, or a reference into a Secret of the same namespace."""

    name: str
    value: str | None = None
    secret_name: str | None = None
    secret_key: str | None = None
    #: An absent Secret or key leaves the variable unset instead of failing the replica.
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits. CPU in cores, memory in bytes, GPU in devices; None means not said."""

    cpu_request: float | None = None
    cpu_limit: float | None = None
    memory_request_bytes: int | None = None
    memory_limit_bytes: int | None = None
    gpu: float | None = None
    #: Memory of the device, where not all of it or a fraction is asked for.
    gpu_memory_bytes: int | None = None
    #: The resource name the GPUs were asked by, e.g. `nvidia.com/gpu`.
    gpu_resource: str | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """Server-side batching, work-conserving: an idle model runs at once, arrivals gather while it runs."""

    #: Most rows in one call of the model.
    max_batch_size: int = 32
    #: How long an idle model may wait for company, seconds. 0 never waits.
    max_latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas, and by what signal the number moves."""

    min_replicas: int = 1
    max_replicas: int | None = None
    target: float | None = None
    metric: ScaleMetric = ScaleMetric.CONCURRENCY
    #: Hard limit of requests in one replica at a time; 0 is no limit.
    container_concurrency: int = 0
    #: Load is averaged over this long; over the panic window when that asks for twice the replicas.
    window_s: float = 60.0
    panic_window_s: float = 6.0
    #: Replicas are taken away when fewer were enough for this long.
    scale_down_delay_s: float = 0.0
    #: The last replica goes after this long without a request; None is the platform's setting.
    scale_to_zero_grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the numbered version folders are served: the newest `latest`, all, or those named."""

    latest: int | None = 1
    all: bool = False
    specific: tuple[str, ...] = ()
    #: (label, version): names that requests may use instead of numbers, as TensorFlow Serving's.
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model in files, and how to run it."""

    format: ModelFormat
    storage: Storage
    #: ServingRuntime by name; None selects one by format (see runtime_selection).
    runtime: str | None = None
    runtime_version: str | None = None
    protocol: Protocol | None = None
    #: Options for the runtime: `method`, `modelClassName`, `modelClassKwargs`, a pipeline's task, ...
    options: Mapping[str, Any] = EMPTY
    #: The model's name on the wire where it differs from the service's (`--model_name`).
    served_name: str | None = None
    #: Which numbered folders are served; None is the newest.
    versions: VersionPolicy | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A user's own container. Only backends that run images can honour it."""

    image: str
    name: str = "kserve-container"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    port: int = 8080
    #: The pod spec as the user wrote it, for backends that hand it to a kubelet.
    pod_spec: Mapping[str, Any] = EMPTY


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a service; exactly one of `model` and `container` is set."""

    role: Role
    model: Model | None = None
    container: Container | None = None
    #: Variant name (KServe 0.20's `predictor.name`); None for the only one.
    name: str | None = None
    env: tuple[EnvVar, ...] = ()
    args: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    batching: Batching | None = None
    scaling: Scaling = field(default_factory=Scaling)
    timeout_s: float | None = None
    #: Options of a transformer's class that runs in the predictor's own process, from the model's files;
    #: empty: there is none.
    around: Mapping[str, Any] = EMPTY
    #: KServe's revision canary: percent of traffic for the newest revision; None is 100 once Ready.
    canary_percent: int | None = None
    service_account: str | None = None
    priority: Priority = Priority()  # noqa: RUF009 - frozen
    #: A new revision's replicas start when the old ones have been told to end, not beside them.
    recreate: bool = False
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY


@dataclass(frozen=True, slots=True)
class Canary:
    """A named predictor that is tried beside the service's own; its `component` has a name."""

    component: Component
    #: Of a hundred requests.
    percent: int


@dataclass(frozen=True, slots=True)
class Service:
    """A named endpoint: a predictor, perhaps with a transformer and an explainer around it."""

    namespace: str
    name: str
    predictor: Component
    transformer: Component | None = None
    explainer: Component | None = None
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    traffic: Traffic = field(default_factory=Traffic)
    canaries: tuple[Canary, ...] = ()
    #: The service that this one's model is added to: reached under its address, too.
    parent: str = ""
    #: True when the user asked for the workloads to be removed while the object stays.
    stopped: bool = False
    #: Where each of several predictors is explained by itself: its name, and the service that explains it,
    #: which asks that predictor alone. Empty: the component `explainer` does, for the first one.
    explainers: tuple[tuple[str, str], ...] = ()
    #: Manifests of those services, of Penstock's own dialect.
    parts: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def entry(self) -> Role:
        """The component that gets a client's requests."""
        return Role.TRANSFORMER if self.transformer is not None else Role.PREDICTOR

    def components(self) -> tuple[Component, ...]:
        """The components that are present, predictor first; canaries are more of the predictor."""
        return tuple(c for c in (self.predictor, self.transformer, self.explainer) if c is not None)
