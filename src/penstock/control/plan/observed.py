"""What a decision is made from: one service with its workloads, their revisions and replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.plan.words import size
from penstock.control.revisions import Kept
from penstock.domain.service import EMPTY, Role, Service
from penstock.domain.status import ArmStatus, Condition, FailureReason, Transition, Truth
from penstock.domain.workload import Workload

#: Phases of a replica that counts towards those wanted.
LIVE = frozenset({Phase.WAITING, Phase.STARTING, Phase.READY, Phase.BACKOFF, Phase.FAILED})

_ORDER = {
    Phase.FAILED: 0,
    Phase.BACKOFF: 1,
    Phase.WAITING: 2,
    Phase.STARTING: 3,
    Phase.READY: 4,
}


class FetchPhase(StrEnum):
    WAITING = "Waiting"  # will start, or start again at `retry_at`
    RUNNING = "Running"
    FAILED = "Failed"  # failed and will be tried again at `retry_at`


@dataclass(frozen=True, slots=True)
class FetchState:
    """The fetch of the files for a workload's next revision."""

    phase: FetchPhase
    uri: str
    done_bytes: int = 0
    total_bytes: int | None = None
    #: Files of its archive that are unpacked, and of how many (None: nobody knows).
    unpacked: tuple[int, int | None] | None = None
    #: Why it failed last; stays while it is tried again, until bytes arrive.
    message: str = ""
    retry_at: float | None = None

    @property
    def progress(self) -> str:
        """`12 of 98 MB`, `unpacking 3 of 70 files`, for people."""
        if self.unpacked is not None:
            files, total = self.unpacked
            if total is None:
                return f"unpacking, {files:,} files so far"
            return f"unpacking {files:,} of {total:,} files"
        if not self.done_bytes:
            return ""
        if self.total_bytes:
            return f"{size(self.done_bytes)} of {size(self.total_bytes)}"
        return size(self.done_bytes)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the present manifest cannot become a revision."""

    reason: FailureReason
    message: str
    transition: Transition = Transition.INVALID


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, for the event log. `type` is Normal or Warning."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ObservedWorkload:
    """One workload: what is asked for, and its revisions."""

    workload: Workload
    #: Oldest first.
    revisions: tuple[Kept, ...] = ()
    #: The newest revision is of the present manifest.
    current: bool = False
    fetch: FetchState | None = None
    problem: Problem | None = None
    runtime: str = ""
    runtime_is_cluster: bool = True
    framework: str = ""


@dataclass(frozen=True, slots=True)
class Explaining:
    """The service that explains one of several predictors, as its own status has it."""

    predictor: str
    ready: Truth
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision is made from."""

    service: Service
    generation: int
    #: Those that the manifest asks for, then those that it has no more and that may still run.
    workloads: tuple[ObservedWorkload, ...]
    replicas: tuple[ReplicaStatus, ...] = ()
    #: Ids of replicas that are being drained already.
    draining: frozenset[str] = frozenset()
    #: Replicas that a role's load asks for (see `scaler`), within the manifest's bounds; absent: the least.
    scale: Mapping[Role, int] = field(default_factory=dict)
    #: Weights by revision, of all roles, as gateways were told last.
    weights: Mapping[str, int] = EMPTY
    previous: tuple[Condition, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str = ""
    address: str = ""
    #: What its bandit has learned, if it has one.
    arms: tuple[ArmStatus, ...] = ()
    #: Services of its own that explain its predictors.
    explaining: tuple[Explaining, ...] = ()

    def of(self, role: Role) -> Iterator[ObservedWorkload]:
        """The workloads of a role."""
        return (w for w in self.workloads if w.workload.id.role is role)


def replica_id(namespace: str, revision: str, index: int, uid: str) -> str:
    """Unique among all replicas of all services that ever had the name: the service's uid is in it."""
    return f"{namespace}.{revision}-{index}.{uid[:8]}"


def is_of(replica: str, uid: str) -> bool:
    """The replica was started for the service with this uid."""
    return replica.rpartition(".")[2] == uid[:8]


def worth(r: ReplicaStatus) -> tuple[int, str]:
    """Order in which surplus replicas go: the broken first, the ready last."""
    return (_ORDER.get(r.phase, 0), r.id)


def ready_of(replicas: list[ReplicaStatus]) -> int:
    """How many of them answer."""
    return sum(r.phase is Phase.READY for r in replicas)
