"""From what is observed of a service to what is wanted: the whole decision, as one pure function.

`control.services` gathers an `Observed`, calls `plan`, and carries the answer out. Nothing here waits,
reads a clock or remembers: the same observation always gives the same plan, so a test is a table and a
restart is no special case.

Two revisions matter at a time. The one that *serves* is the newest that was ever ready. The *candidate* is
the newest one of the present manifest, if it was not ready yet. The candidate gets replicas of its own;
when they answer it becomes the one that serves and the old one's replicas drain. A candidate that cannot
load leaves the old one serving and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.revisions import Kept
from penstock.domain.routes import Replica, Route, Target
from penstock.domain.service import Role, Scaling, Service
from penstock.domain.status import (
    ComponentStatus,
    Condition,
    Failure,
    FailureReason,
    ModelState,
    RevisionTraffic,
    ServiceStatus,
    Transition,
    Truth,
    with_conditions,
)

#: Phases of a replica that counts towards those wanted.
LIVE = frozenset({Phase.STARTING, Phase.READY, Phase.BACKOFF, Phase.FAILED})
DEFAULT_TIMEOUT_S = 60.0


class FetchPhase(StrEnum):
    WAITING = "Waiting"  # will start, or start again at `retry_at`
    RUNNING = "Running"
    FAILED = "Failed"  # failed and will be tried again at `retry_at`


@dataclass(frozen=True, slots=True)
class FetchState:
    """The fetch of the files for the present manifest's next revision."""

    phase: FetchPhase
    uri: str
    done_bytes: int = 0
    total_bytes: int | None = None
    #: Why it failed last; stays while it is tried again, until bytes arrive.
    message: str = ""
    retry_at: float | None = None

    @property
    def progress(self) -> str:
        """`12 of 98 MB`, for people."""
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
class Observed:
    """All that a decision is made from."""

    service: Service
    generation: int
    #: Oldest first.
    revisions: tuple[Kept, ...] = ()
    #: The newest revision is of the present manifest.
    current: bool = False
    fetch: FetchState | None = None
    problem: Problem | None = None
    replicas: tuple[ReplicaStatus, ...] = ()
    #: Ids of replicas that are being drained already.
    draining: frozenset[str] = frozenset()
    #: Replicas that its load asks for (see `scaler`), within the manifest's bounds; None: the least.
    scale: int | None = None
    previous: tuple[Condition, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str = ""
    address: str = ""
    runtime: str = ""
    runtime_is_cluster: bool = True
    framework: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """A replica to start."""

    replica_id: str
    revision: Kept


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, for the event log. `type` is Normal or Warning."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do, and what is so."""

    status: ServiceStatus
    route: Route | None
    start: tuple[Start, ...] = ()
    drain: tuple[str, ...] = ()
    #: A revision that is ready for the first time.
    rolled_out: Kept | None = None
    events: tuple[Event, ...] = ()
    #: Revisions that serve, come up, or still have replicas: not to be forgotten.
    in_use: frozenset[str] = frozenset()


def size(n: int) -> str:
    """Bytes for people: `4.2 MB`."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def wanted_replicas(scaling: Scaling, *, scale: int | None, stopped: bool) -> int:
    """How many replicas of the revision that serves."""
    if stopped:
        return 0
    return max(1, scaling.min_replicas) if scale is None else scale


def replica_id(namespace: str, revision: str, index: int, uid: str) -> str:
    """Unique among all replicas of all services that ever had the name: the service's uid is in it."""
    return f"{namespace}.{revision}-{index}.{uid[:8]}"


def is_of(replica: str, uid: str) -> bool:
    """The replica was started for the service with this uid."""
    return replica.rpartition(".")[2] == uid[:8]


def serving_of(revisions: tuple[Kept, ...]) -> Kept | None:
    """The newest revision that was ever ready."""
    return next((k for k in reversed(revisions) if k.ready_at is not None), None)


def plan(o: Observed, *, uid: str, now: float) -> Wanted:
    """Decide. `uid` is the service object's; `now` is Unix seconds, for transition times only."""
    service = o.service
    serving = serving_of(o.revisions)
    newest = o.revisions[-1] if o.revisions else None
    candidate = newest if newest is not None and newest is not serving and o.current else None
    live: dict[str, list[ReplicaStatus]] = {}
    foreign: list[str] = []
    for r in o.replicas:
        if r.phase in LIVE and r.id not in o.draining:
            if is_of(r.id, uid):
                live.setdefault(r.revision, []).append(r)
            else:  # of an earlier service of the same name
                foreign.append(r.id)

    scaling = service.predictor.scaling
    count = wanted_replicas(scaling, scale=o.scale, stopped=service.stopped)
    # Readiness has to be proven once, also by a service that will sleep.
    proving = 0 if service.stopped else max(1, count)
    rolled_out: Kept | None = None
    if candidate is not None:
        ready = sum(r.phase is Phase.READY for r in live.get(candidate.name, ()))
        if ready >= (proving if serving is not None else 1) and ready > 0:
            rolled_out, serving, candidate = candidate, candidate, None

    want: dict[str, int] = {}
    by_name = {k.name: k for k in o.revisions}
    if serving is not None:
        want[serving.name] = count
    if candidate is not None:
        want[candidate.name] = proving

    taken = {r.id for r in o.replicas}
    start: list[Start] = []
    drain: list[str] = foreign
    for name, replicas in live.items():
        surplus = len(replicas) - want.get(name, 0)
        if surplus > 0:
            drain += [r.id for r in sorted(replicas, key=_worth)[:surplus]]
    for name, number in want.items():
        index = 0
        for _ in range(number - len(live.get(name, ()))):
            while (id_ := replica_id(service.namespace, name, index, uid)) in taken:
                index += 1
            taken.add(id_)
            start.append(Start(id_, by_name[name]))

    leaving = frozenset(drain)
    route = _route(o, serving, candidate, live, leaving)
    status = _status(o, serving, candidate, rolled_out, live, count, proving, now)
    return Wanted(
        status=status,
        route=route,
        start=tuple(start),
        drain=tuple(drain),
        rolled_out=rolled_out,
        events=_events(o, status),
        in_use=frozenset({*want, *(r.revision for r in o.replicas)}),
    )


def _worth(r: ReplicaStatus) -> tuple[int, str]:
    """Order in which surplus replicas go: the broken first, the ready last."""
    order = {Phase.FAILED: 0, Phase.BACKOFF: 1, Phase.STARTING: 2, Phase.READY: 3}
    return (order.get(r.phase, 0), r.id)


def _route(
    o: Observed,
    serving: Kept | None,
    candidate: Kept | None,
    live: Mapping[str, list[ReplicaStatus]],
    leaving: frozenset[str],
) -> Route:
    service = o.service
    message = ""
    targets: tuple[Target, ...] = ()
    # Before anything was ever ready, requests wait for the first candidate.
    target = serving or candidate
    if service.stopped:
        message = "it is stopped (annotation serving.kserve.io/stop)"
    elif target is not None:
        replicas = live.get(target.name, [])
        targets = (
            Target(
                revision=target.name,
                weight=100,
                replicas=tuple(
                    Replica(r.id, r.address)
                    for r in sorted(replicas, key=lambda r: r.id)
                    if r.phase is Phase.READY and r.id not in leaving
                ),
                concurrency=service.predictor.scaling.container_concurrency,
            ),
        )
        broken = [r for r in replicas if r.phase is Phase.FAILED]
        if broken and len(broken) == len(replicas):
            message = one_line(broken[0].message or broken[0].reason)
    elif o.problem is not None:
        message = one_line(o.problem.message)
    elif o.fetch is not None and o.fetch.message and not o.fetch.done_bytes:
        message = one_line(o.fetch.message)
    timeout_s = service.predictor.timeout_s
    model = service.predictor.model
    return Route(
        namespace=service.namespace,
        name=service.name,
        targets=targets,
        models=(model.served_name,) if model is not None and model.served_name else (),
        timeout_s=timeout_s if timeout_s is not None else DEFAULT_TIMEOUT_S,
        message=message,
    )


def one_line(text: str, most: int = 400) -> str:
    """The first line with something in it, cut to `most` characters."""
    line = next((s.strip() for s in text.splitlines() if s.strip()), "")
    return line if len(line) <= most else line[: most - 1] + "…"


def _failure_of(replicas: list[ReplicaStatus]) -> Failure | None:
    """The failure of a revision's replicas that says most: cannot load, then ended and waits."""
    for phase in (Phase.FAILED, Phase.BACKOFF):
        for r in sorted(replicas, key=lambda r: r.id):
            if r.phase is phase:
                load = r.reason in ("ModelLoadFailed", "ProbeFailed")
                return Failure(
                    reason=FailureReason.MODEL_LOAD_FAILED
                    if load
                    else FailureReason.RUNTIME_UNHEALTHY,
                    message=one_line(r.message or r.reason),
                    revision=r.revision,
                    location=r.id,
                    exit_code=r.exit_code,
                )
    return None


@dataclass(frozen=True, slots=True)
class _Judgement:
    """Of the present manifest: is it what runs?"""

    ready: Truth
    reason: str
    message: str
    transition: Transition
    target: ModelState
    failure: Failure | None = None


def _judge(
    o: Observed,
    serving: Kept | None,
    candidate: Kept | None,
    live: Mapping[str, list[ReplicaStatus]],
    count: int,
    proving: int,
) -> _Judgement:
    keeps = f" {serving.name} keeps serving." if serving is not None else ""
    if o.service.stopped:
        return _Judgement(
            Truth.FALSE, "Stopped", "Stopped on request.", Transition.UP_TO_DATE, ModelState.PENDING
        )
    if o.problem is not None:
        message = _sentence(o.problem.message)
        failure = Failure(o.problem.reason, one_line(o.problem.message))
        return _Judgement(
            Truth.FALSE,
            o.problem.reason.value,
            message + keeps,
            o.problem.transition,
            ModelState.FAILED,
            failure,
        )
    if not o.current:
        f = o.fetch
        if f is not None and f.message and not f.done_bytes:
            failure = Failure(FailureReason.MODEL_LOAD_FAILED, one_line(f.message))
            return _Judgement(
                Truth.FALSE,
                "FetchFailed",
                _sentence(one_line(f.message)) + keeps,
                Transition.BLOCKED,
                ModelState.FAILED,
                failure,
            )
        what = f" {f.progress}" if f is not None and f.progress else ""
        return _Judgement(
            Truth.UNKNOWN,
            "Fetching",
            f"The model is being fetched{': ' + what.strip() if what else ''}.{keeps}",
            Transition.IN_PROGRESS,
            ModelState.PENDING,
        )
    if candidate is not None:
        replicas = live.get(candidate.name, [])
        failure_ = _failure_of(replicas)
        if failure_ is not None:
            message = f"{candidate.name} is not ready: {_sentence(failure_.message)}{keeps}"
            return _Judgement(
                Truth.FALSE,
                failure_.reason.value,
                message,
                Transition.BLOCKED,
                ModelState.FAILED,
                failure_,
            )
        ready = sum(r.phase is Phase.READY for r in replicas)
        return _Judgement(
            Truth.UNKNOWN,
            "Loading",
            f"{candidate.name}: {ready} of {proving} replicas are ready.{keeps}",
            Transition.IN_PROGRESS,
            ModelState.LOADING,
        )
    assert serving is not None  # noqa: S101 - current and no candidate: the newest one serves
    replicas = live.get(serving.name, [])
    ready = sum(r.phase is Phase.READY for r in replicas)
    if count == 0:
        return _Judgement(
            Truth.TRUE,
            "Asleep",
            "No replica runs; the first request starts one.",
            Transition.UP_TO_DATE,
            ModelState.STANDBY,
        )
    failure_ = _failure_of(replicas)
    if ready:
        more = "" if ready >= count else f" {ready} of {count} replicas are ready."
        return _Judgement(
            Truth.TRUE,
            "",
            more.strip(),
            Transition.UP_TO_DATE,
            ModelState.LOADED,
            failure_,
        )
    if failure_ is not None:
        return _Judgement(
            Truth.FALSE,
            failure_.reason.value,
            f"No replica is ready: {_sentence(failure_.message)}",
            Transition.UP_TO_DATE,
            ModelState.FAILED,
            failure_,
        )
    if o.service.predictor.scaling.min_replicas == 0:
        return _Judgement(
            Truth.TRUE,
            "Waking",
            "A replica is starting.",
            Transition.UP_TO_DATE,
            ModelState.LOADING,
        )
    return _Judgement(
        Truth.FALSE,
        "Starting",
        f"None of {count} replicas is ready yet.",
        Transition.UP_TO_DATE,
        ModelState.LOADING,
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else text + "."


def _status(
    o: Observed,
    serving: Kept | None,
    candidate: Kept | None,
    rolled_out: Kept | None,
    live: Mapping[str, list[ReplicaStatus]],
    count: int,
    proving: int,
    now: float,
) -> ServiceStatus:
    j = _judge(o, serving, candidate, live, count, proving)
    served = live.get(serving.name, []) if serving is not None else []
    ready = sum(r.phase is Phase.READY for r in served)
    before = tuple(k for k in o.revisions if k.ready_at is not None and k is not serving)
    newest = o.revisions[-1].name if o.revisions else ""
    everyone = [r for rs in live.values() for r in rs]
    component = ComponentStatus(
        ready=j.ready,
        reason=j.reason,
        message=j.message,
        latest_created_revision=newest,
        latest_ready_revision=serving.name if serving is not None else "",
        latest_rolledout_revision=serving.name if serving is not None else "",
        previous_rolledout_revision=before[-1].name if before else "",
        traffic=(RevisionTraffic(serving.name, 100, latest=serving.name == newest),)
        if serving is not None
        else (),
        url=o.url,
        replicas=count if serving is not None else proving if candidate is not None else 0,
        ready_replicas=ready,
        failed_replicas=sum(r.phase in (Phase.FAILED, Phase.BACKOFF) for r in everyone),
        limits=next((r.limits for r in everyone if r.limits), ""),
    )
    routed = Truth.TRUE if serving is not None and not o.service.stopped else Truth.UNKNOWN
    if o.service.stopped:
        routed = Truth.FALSE
    conditions = [
        Condition("PredictorReady", j.ready, j.reason, j.message),
        Condition("IngressReady", routed, "" if routed is Truth.TRUE else "NoReadyRevision", ""),
        Condition("Ready", j.ready, j.reason, j.message),
    ]
    if o.service.stopped:
        conditions.append(Condition("Stopped", Truth.TRUE, "Stopped", "Stopped on request."))
    if serving is None or o.service.stopped:
        active = None
    elif count == 0:
        active = ModelState.STANDBY
    elif ready:
        active = ModelState.LOADED
    elif _failure_of(served) is not None:
        active = ModelState.FAILED
    else:
        active = ModelState.LOADING
    current = serving or candidate
    status = ServiceStatus(
        observed_generation=o.generation,
        conditions=tuple(conditions),
        components=MappingProxyType({Role.PREDICTOR: component}),
        transition=j.transition,
        active=active,
        target=j.target,
        failure=j.failure,
        url=o.url,
        address=o.address,
        runtime=current.revision.runtime if current is not None else o.runtime,
        runtime_is_cluster=o.runtime_is_cluster,
        framework=current.revision.framework if current is not None else o.framework,
        warnings=o.warnings,
    )
    return with_conditions(status, o.previous, now)


def rollout_event(before: Kept | None, kept: Kept) -> Event:
    """A revision took the traffic, from `before` if one had it."""
    instead = f" in place of {before.name}" if before is not None else ""
    return Event("Normal", "RevisionReady", f"{kept.name} is ready and serves{instead}.")


def _events(o: Observed, status: ServiceStatus) -> tuple[Event, ...]:
    old = {c.type: c for c in o.previous}.get("Ready")
    new = next(c for c in status.conditions if c.type == "Ready")
    if old is not None and (old.status, old.reason) == (new.status, new.reason):
        return ()
    if new.status is Truth.FALSE:
        return (Event("Warning", new.reason or "NotReady", new.message),)
    if new.status is Truth.TRUE and new.reason in ("Asleep", "Waking"):
        return (Event("Normal", new.reason, new.message),)
    if new.status is Truth.TRUE and (old is None or old.status is not Truth.TRUE):
        return (Event("Normal", "Ready", new.message or "The service is ready."),)
    return ()
