"""Where replicas run: the contract that the local supervisor and Kubernetes both keep.

Controllers say which replicas should exist; a backend starts, restarts (with back-off) and stops them and
reports what is so. One contract test set runs over every implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from penstock.domain.devices import DeviceRequest, DeviceShare, DeviceStatus
from penstock.domain.process import ProcessSpec

#: Reasons of a replica that waits.
WAITING_FOR_DEVICE: Final = "WaitingForDevice"
WAITING_FOR_TURN: Final = "WaitingForTurn"


class Phase(StrEnum):
    """Where a replica is in its life."""

    WAITING = (
        "Waiting"  # asked for; a device that it needs is not free, or others load first (`reason`)
    )
    STARTING = "Starting"  # asked for, the process is coming up or its model is loading
    READY = "Ready"  # it answered its readiness probe
    BACKOFF = "BackOff"  # it ended and will be started again at `retry_at`
    FAILED = "Failed"  # it cannot load; the same files will not load again until asked to
    DRAINING = "Draining"  # told to stop, finishing what it has
    STOPPED = "Stopped"  # gone; kept in listings for a short time so that its end can be read


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is so about one replica. Times are Unix seconds."""

    id: str
    #: `ProcessSpec.key` parts, so that a restarted control plane can find its own.
    namespace: str
    service: str
    revision: str
    component: str
    phase: Phase
    address: str
    pid: int | None = None
    restarts: int = 0
    started_at: float | None = None
    ready_at: float | None = None
    retry_at: float | None = None
    #: Why it last ended or cannot start: `Exit`, `Signal`, `OutOfMemory`, `ModelLoadFailed`, `ProbeFailed`,
    #: `WaitingForDevice`, `WaitingForTurn`.
    reason: str = ""
    #: One line for people.
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    #: Private memory of the process, bytes.
    memory_bytes: int | None = None
    #: How limits are enforced here: `cgroup-v2`, `cgroup-v1`, `rlimit`, or empty when none is set.
    limits: str = ""
    #: What it asks for of the machine's accelerators, and what it holds.
    device: DeviceRequest | None = None
    devices: tuple[DeviceShare, ...] = ()
    #: With what priority it waits for them; None where another scheduler places it.
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaGone:
    """In a watch: the replica was forgotten."""

    id: str


ReplicaList: TypeAlias = list[ReplicaStatus]


class Backend(ABC):
    """Runs replicas. All methods raise `penstock.errors.Unavailable` when the node cannot be reached."""

    #: True when `Component.container` can be run here.
    runs_containers: bool = False

    @abstractmethod
    async def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        """Start a replica; idempotent for the same id and spec, Conflict for the same id and another."""

    async def hurry(self, replica_id: str) -> None:
        """Requests wait for this replica: bring it up before those that nobody waits for.

        No-op when it is absent or up, and where another scheduler decides who comes first.
        """

    @abstractmethod
    async def stop(self, replica_id: str, *, grace_s: float | None = None) -> None:
        """Drain, then stop. No-op when absent."""

    @abstractmethod
    async def list(self) -> ReplicaList:
        """Every replica known, whoever asked for it."""

    async def devices(self) -> tuple[DeviceStatus, ...]:
        """The accelerators that replicas are placed on; none where another scheduler places them."""
        return ()

    @abstractmethod
    def watch(self) -> AsyncIterator[ReplicaStatus | ReplicaGone]:
        """The present state of each replica, then each change, in order, until closed."""

    @abstractmethod
    def logs(
        self, replica_id: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """What the replica wrote to stdout and stderr, across its restarts. NotFound when unknown."""
