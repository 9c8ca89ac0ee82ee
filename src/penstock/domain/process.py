"""What a model process is told: the message from control plane to backend to process.

A backend starts one process per replica and hands it one `ProcessSpec`, as JSON (`encode`/`decode`). It
holds no reference to the control plane: paths are local and verified, secrets are resolved for this
replica only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.domain.declared import Declared, DeclaredClasses
from penstock.domain.devices import DeviceRequest, DeviceShare
from penstock.domain.service import Batching, VersionPolicy


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model in a process: a name on the wire, a framework, and a local folder or file."""

    name: str
    #: Name of a module in `penstock.runtimes` (sklearn, onnx, custom, ...).
    framework: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    batching: Batching | None = None
    #: For a transformer in its predictor's process: the predictor's name here. Only the transformer is
    #: listed then.
    behind: str = ""
    #: Loaded at start; False waits for the repository API.
    load: bool = True
    #: The version's name where there are no numbered folders; empty: 1.
    version: str = ""
    #: Tensors as the model's own repository declares them, where it does.
    declared: Declared | None = None
    #: Outputs of which a configuration says what their largest values are.
    classes: dict[str, DeclaredClasses] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another component of the same service, as this process reaches it: through the gateways.

    So waiting, retries, splits, scaling and metrics are those of any request.
    """

    #: The gateways' own sockets, `unix:/path`; each of them reaches it.
    addresses: tuple[str, ...]
    #: What comes before `/v1/...` and `/v2/...` in a request's path.
    prefix: str
    #: Its model's name where it is not that of the one who asks.
    model: str = ""
    #: `HOST:PORT` of a gateway, for code that speaks HTTP by itself; empty: there is none without TLS.
    host: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """Everything a model process needs to know."""

    #: `unix:/path.sock` or `tcp:host:port`.
    listen: str
    models: tuple[ServedModel, ...]
    #: Where gRPC is spoken over HTTP/2, in the same form; empty: only to gateways, over HTTP/1.1.
    listen_grpc: str = ""
    namespace: str = "default"
    service: str = ""
    revision: str = ""
    replica: str = ""
    component: str = "predictor"
    #: For a transformer and an explainer: the predictor they stand before.
    predictor: Neighbour | None = None
    #: Threads for numeric libraries; 0 takes the cores this process may use.
    threads: int = 0
    env: dict[str, str] = field(default_factory=dict)
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None
    #: What it asks for, and what the node has given it: the node fills that in.
    device: DeviceRequest | None = None
    devices: tuple[DeviceShare, ...] = ()
    #: Who gets a device first when several wait; higher goes first.
    priority: int = 0
    #: Requests admitted at once, waiting ones included; over it: 503 with Retry-After.
    max_queue: int = 1024
    max_body_bytes: int = 256 * 1024 * 1024
    timeout_s: float = 60.0
    #: Folder with the regions of shared memory that clients have registered on this machine; empty: it is
    #: not allowed.
    shared_memory: str = ""
    #: Most seconds a drain may take after SIGTERM.
    grace_s: float = 30.0

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.service}/{self.revision}/{self.replica}"


def encode(spec: ProcessSpec) -> bytes:
    """JSON bytes of `spec`."""
    return msgspec.json.encode(spec)


def decode(data: bytes | str | Mapping[str, Any]) -> ProcessSpec:
    """A `ProcessSpec` from JSON or from decoded JSON; msgspec.ValidationError names the bad field."""
    if isinstance(data, Mapping):
        return msgspec.convert(data, ProcessSpec)
    return msgspec.json.decode(data, type=ProcessSpec)
