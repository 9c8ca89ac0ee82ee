"""The words between node and control plane: newline-delimited JSON on a Unix socket.

A request has an `id` of the sender's choice and an `op`; every message that answers it carries that id.
`start`, `retry`, `hurry`, `stop`, `list`, `status` and `devices` get one `result` or one `error`. `watch` and
`logs` get any number of `item`s, then `end` or an `error`. Requests may be sent before earlier ones are
answered.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from penstock import errors
from penstock.backends.base import ReplicaGone, ReplicaStatus
from penstock.domain.process import ProcessSpec

#: Bytes of one line. A specification holds a manifest's environment, not files.
MAX_LINE: Final = 8 * 1024 * 1024


class Start(msgspec.Struct, frozen=True, tag_field="op", tag="start"):
    """Result: ReplicaStatus."""

    id: int
    replica: str
    framework: str
    spec: ProcessSpec


class Retry(msgspec.Struct, frozen=True, tag_field="op", tag="retry"):
    """Result: ReplicaStatus."""

    id: int
    replica: str


class Hurry(msgspec.Struct, frozen=True, tag_field="op", tag="hurry"):
    """Result: null."""

    id: int
    replica: str


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """Result: null, once it is gone."""

    id: int
    replica: str
    grace_s: float | None = None


class List(msgspec.Struct, frozen=True, tag_field="op", tag="list"):
    """Result: a list of ReplicaStatus."""

    id: int


class Status(msgspec.Struct, frozen=True, tag_field="op", tag="status"):
    """Result: NodeStatus."""

    id: int


class ListDevices(msgspec.Struct, frozen=True, tag_field="op", tag="devices"):
    """Result: a list of DeviceStatus."""

    id: int


class Watch(msgspec.Struct, frozen=True, tag_field="op", tag="watch"):
    """Items: `{"put": ReplicaStatus}`, `{"gone": id}`, and `{"present": true}` after the present state."""

    id: int


class Logs(msgspec.Struct, frozen=True, tag_field="op", tag="logs"):
    """Items: bytes, base64."""

    id: int
    replica: str
    tail: int | None = None
    follow: bool = False


Request: TypeAlias = Start | Retry | Hurry | Stop | List | Status | ListDevices | Watch | Logs


class ZygoteStatus(msgspec.Struct, frozen=True):
    """A zygote as `status` tells it. `load_s` is what its imports took; `pid` is 0 until it is its turn."""

    framework: str
    pid: int
    ready: bool
    load_s: float
    replicas: int
    starts: int
    failure: str = ""


class ChildStatus(msgspec.Struct, frozen=True):
    """The control plane or a gateway as `status` tells it."""

    name: str
    pid: int | None
    ready: bool
    restarts: int
    message: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """The node as `status` tells it. `limits` is how memory and CPU limits are held here.

    `loading` replicas have a place to load in and `waiting` ones wait for one. `descriptors` are what the
    node's own process has open, of `descriptors_most` (0: any number).
    """

    pid: int
    limits: str
    replicas: int
    zygotes: tuple[ZygoteStatus, ...]
    children: tuple[ChildStatus, ...]
    loading: int = 0
    waiting: int = 0
    descriptors: int = 0
    descriptors_most: int = 0


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of a watch: exactly one field is set."""

    put: ReplicaStatus | None = None
    gone: str | None = None
    present: bool = False

    @classmethod
    def of(cls, change: ReplicaStatus | ReplicaGone) -> Change:
        if isinstance(change, ReplicaGone):
            return cls(gone=change.id)
        return cls(put=change)


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `PenstockError` on its way: its class by name."""

    kind: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: errors.PenstockError) -> Fault:
        return cls(_kind(error), error.message, error.hint)

    def error(self) -> errors.PenstockError:
        """The same error on this side."""
        return _KINDS.get(self.kind, errors.Internal)(self.message, hint=self.hint)


#: Those a backend raises. A subclass travels as the nearest of these.
_KINDS: Final[dict[str, type[errors.PenstockError]]] = {
    c.__name__: c
    for c in (
        errors.InvalidInput,
        errors.NotFound,
        errors.Conflict,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Internal,
    )
}


def _kind(error: errors.PenstockError) -> str:
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in _KINDS), "Internal")


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the node. `id` 0 is an answer to a line that could not be read."""

    id: int
    result: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: Fault | None = None
    end: bool = False


decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def line(answer_to: int, **fields: Any) -> bytes:
    """An answer's line: `result`, `item`, `error` or `end`."""
    return msgspec.json.encode({"id": answer_to, **fields}) + b"\n"
