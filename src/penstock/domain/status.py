"""What is so about a service: what controllers find out, before any dialect gives it a shape.

Controllers build a `ServiceStatus` from the replicas they observe; a dialect renders it into the `status`
its own users know (KServe's `modelStatus`, Seldon's `state`). The vocabulary is KServe's, because it is the
richest: every other dialect's status can be made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from penstock.domain.service import Role

#: Reason of a graph's Ready, which is True: requests are answered without some of what it names.
ANSWERS_WITHOUT: Final = "AnswersWithout"


class Truth(StrEnum):
    """A condition's status, as Kubernetes spells it."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"

    @classmethod
    def of(cls, value: bool | None) -> Truth:
        """True, False, or Unknown for None."""
        return cls.UNKNOWN if value is None else cls.TRUE if value else cls.FALSE


class Transition(StrEnum):
    """Whether what runs is what was asked for."""

    UP_TO_DATE = "UpToDate"
    IN_PROGRESS = "InProgress"
    BLOCKED = "BlockedByFailedLoad"
    INVALID = "InvalidSpec"


class ModelState(StrEnum):
    """Where a revision's model is."""

    PENDING = "Pending"
    STANDBY = "Standby"  # scaled to zero, loads on the first request
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED = "FailedToLoad"


class FailureReason(StrEnum):
    """Why a service cannot be served, as KServe's `lastFailureInfo.reason` has it."""

    MODEL_LOAD_FAILED = "ModelLoadFailed"
    RUNTIME_UNHEALTHY = "RuntimeUnhealthy"
    RUNTIME_DISABLED = "RuntimeDisabled"
    NO_SUPPORTING_RUNTIME = "NoSupportingRuntime"
    RUNTIME_NOT_RECOGNIZED = "RuntimeNotRecognized"
    INVALID_PREDICTOR_SPEC = "InvalidPredictorSpec"


@dataclass(frozen=True, slots=True)
class Condition:
    """One observation. `since` is Unix seconds of the last change of `status`; None until it is known."""

    type: str
    status: Truth
    reason: str = ""
    message: str = ""
    since: float | None = None


#: Of what was asked to stop. Ready is False then, for the same reason and in the same words.
STOPPED: Final = Condition("Stopped", Truth.TRUE, "Stopped", "Stopped on request.")


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure. `time` is Unix seconds; `location` a replica's id."""

    reason: FailureReason
    message: str
    revision: str = ""
    location: str = ""
    time: float | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class RevisionTraffic:
    """The share one revision takes; percents of a component add up to 100."""

    revision: str
    percent: int
    latest: bool = False
    tag: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One component. `replicas` counts the processes that should run, `ready_replicas` those that answer."""

    ready: Truth = Truth.UNKNOWN
    reason: str = ""
    message: str = ""
    latest_created_revision: str = ""
    latest_ready_revision: str = ""
    latest_rolledout_revision: str = ""
    previous_rolledout_revision: str = ""
    traffic: tuple[RevisionTraffic, ...] = ()
    url: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    failed_replicas: int = 0
    #: Its own; None where nobody has told them apart from the service's.
    transition: Transition | None = None
    failure: Failure | None = None
    #: How limits are enforced (`cgroup-v2`, `rlimit`, ...), as the backend says; empty when none is set.
    limits: str = ""


@dataclass(frozen=True, slots=True)
class CanaryStatus:
    """A named predictor that is tried. `percent` is what it shall have of the requests."""

    name: str
    ready: Truth
    reason: str
    message: str
    percent: int
    revision: str = ""
    transition: Transition = Transition.IN_PROGRESS
    active: ModelState | None = None
    target: ModelState = ModelState.PENDING
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """What a bandit has learned of one arm."""

    #: The revision, or the branch of the splitter `step` (`FLOW.STEP`) of a graph.
    arm: str
    requests: int
    rewards: int
    mean: float
    step: str = ""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Everything a dialect may want to say about a service."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    components: Mapping[Role, ComponentStatus] = field(
        default_factory=lambda: MappingProxyType({Role.PREDICTOR: ComponentStatus()})
    )
    canaries: tuple[CanaryStatus, ...] = ()
    #: Of all components: that of the first which is not up to date, and the first one's failure.
    transition: Transition = Transition.IN_PROGRESS
    #: State of the revision that serves; None when none has ever served.
    active: ModelState | None = None
    #: State of the revision that was asked for last.
    target: ModelState = ModelState.PENDING
    failure: Failure | None = None
    #: The service's address for clients, and the one inside the cluster or machine.
    url: str = ""
    address: str = ""
    #: The selected runtime, and whether it is cluster-scoped.
    runtime: str = ""
    runtime_is_cluster: bool = True
    #: The framework (module in `penstock.runtimes`) that runs the model; empty for containers.
    framework: str = ""
    #: Fields that were accepted and have no effect here, one line each: `PATH: why`.
    warnings: tuple[str, ...] = ()
    #: What its bandits have learned.
    arms: tuple[ArmStatus, ...] = ()
    #: Predictors that have a service of their own as their explainer, and whether that is ready.
    explaining: tuple[tuple[str, Truth], ...] = ()

    @property
    def ready(self) -> bool:
        """Condition Ready is True."""
        return self.condition("Ready") is Truth.TRUE

    def condition(self, type_: str) -> Truth:
        """Status of a condition; Unknown when it is absent."""
        return next((c.status for c in self.conditions if c.type == type_), Truth.UNKNOWN)


def with_conditions(
    status: ServiceStatus, previous: tuple[Condition, ...], now: float
) -> ServiceStatus:
    """`status` with each condition's `since` kept from `previous` where its status is the same, else `now`.

    Kubernetes' rule for lastTransitionTime: it moves when status moves, not when a message does.
    """
    before = {c.type: c for c in previous}
    dated = []
    for condition in status.conditions:
        old = before.get(condition.type)
        since = old.since if old and old.status is condition.status and old.since else now
        dated.append(replace(condition, since=since))
    return replace(status, conditions=tuple(dated))


def rfc3339(unix_s: float) -> str:
    """`2026-01-02T03:04:05Z`, the time format of Kubernetes objects (whole seconds, UTC)."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: str) -> float:
    """Unix seconds; ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.timestamp()


def conditions_of(rendered: Mapping[str, Any]) -> tuple[Condition, ...]:
    """Conditions back from a rendered status, to carry their transition times over a restart."""
    found = []
    for entry in rendered.get("conditions") or ():
        try:
            since = from_rfc3339(entry["lastTransitionTime"])
        except (KeyError, ValueError, TypeError):
            since = None
        found.append(
            Condition(
                type=str(entry.get("type", "")),
                status=Truth(entry.get("status", "Unknown")),
                reason=str(entry.get("reason", "")),
                message=str(entry.get("message", "")),
                since=since,
            )
        )
    return tuple(found)
