"""From what is observed of a service to what is wanted: the whole decision, as one pure function.

`control.services` gathers an `Observed`, calls `plan`, and carries the answer out. Nothing here waits,
reads a clock or remembers: the same observation always gives the same plan, so a test is a table and a
restart is no special case.

The newest revision that was ever ready *serves*, alone or with the one before it (`control.rollout` says
with which shares). The *candidate* is the newest one of the present manifest, if it was not ready yet. It
gets replicas of its own; when they answer it becomes the newest one that serves, and replicas of revisions
without a share drain. A candidate that cannot load leaves the others serving and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.revisions import Kept
from penstock.control.rollout import (
    LATEST,
    PINNED,
    Share,
    divide,
    effective,
    latest_of,
    pinned,
    replicas_for,
    rolled_out,
)
from penstock.domain import routes
from penstock.domain.routes import Replica, Route, Target
from penstock.domain.service import EMPTY, Role, Scaling, Service
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
    #: Weights by revision, as gateways were told last.
    weights: Mapping[str, int] = EMPTY
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
    #: A revision that takes all requests, and was not the last to do so.
    took_all: Kept | None = None
    events: tuple[Event, ...] = ()
    #: Revisions that serve, come up, or still have replicas: not to be forgotten.
    in_use: frozenset[str] = frozenset()
    #: What was asked for: the newest revision's share first.
    shares: tuple[Share, ...] = ()


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


def plan(o: Observed, *, uid: str, now: float) -> Wanted:
    """Decide. `uid` is the service object's; `now` is Unix seconds, for transition times only."""
    service = o.service
    revisions = o.revisions
    latest = latest_of(revisions)
    newest = revisions[-1] if revisions else None
    candidate = newest if newest is not None and newest is not latest and o.current else None
    pin = pinned(service, revisions)
    if pin is not None:
        candidate = None  # it would take nothing
    live: dict[str, list[ReplicaStatus]] = {}
    foreign: list[str] = []
    for r in o.replicas:
        if r.phase in LIVE and r.id not in o.draining:
            if is_of(r.id, uid):
                live.setdefault(r.revision, []).append(r)
            else:  # of an earlier service of the same name
                foreign.append(r.id)
    ready = {name: _ready(replicas) for name, replicas in live.items()}

    scaling = service.predictor.scaling
    count = wanted_replicas(scaling, scale=o.scale, stopped=service.stopped)
    proving = 0
    first_ready: Kept | None = None
    if candidate is not None:
        to_be = divide(service, revisions, candidate)
        # Readiness has to be proven once, also by a service that will sleep.
        proving = 0 if service.stopped else max(1, replicas_for(to_be[0].percent, scaling, count))
        if ready.get(candidate.name, 0) >= (max(1, proving) if latest is not None else 1):
            first_ready, latest, candidate = candidate, candidate, None

    shares = divide(service, revisions, latest) if latest is not None else ()
    numbers = {s.name: replicas_for(s.percent, scaling, count) for s in shares}
    percents = effective(
        shares,
        # Who serves stays up as long as anything of it answers; who shall serve comes with all it needs.
        up=[
            name
            for name, n in numbers.items()
            if not n or ready.get(name, 0) >= (1 if o.weights.get(name) else n)
        ],
        ready=[name for name, n in ready.items() if n],
        serving={} if service.stopped else o.weights,
    )
    by_name = {k.name: k for k in revisions}
    # Replicas follow the requests: nobody is taken away from before its share has gone elsewhere.
    want = {
        name: max(
            numbers.get(name, 0),
            replicas_for(percent, scaling, count) if percent else 0,
        )
        for name, percent in percents.items()
        if name in by_name
    }
    took_all = next((s.revision for s in shares if s.percent == percents[s.name] == 100), None)
    if pin is not None or rolled_out(revisions)[:1] == [took_all]:
        took_all = None
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

    look = _Look(o, latest, candidate, shares, percents, numbers, live, proving, pin)
    return Wanted(
        status=(status := _status(look, now)),
        route=_route(look, by_name, frozenset(drain)),
        start=tuple(start),
        drain=tuple(drain),
        rolled_out=first_ready,
        took_all=took_all,
        events=_events(o, status),
        in_use=frozenset({*want, *(r.revision for r in o.replicas)}),
        shares=shares,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found out, for the route and the status."""

    o: Observed
    latest: Kept | None
    candidate: Kept | None
    shares: tuple[Share, ...]
    #: Percent of requests by revision, now.
    percents: Mapping[str, int]
    #: Replicas wanted by revision that has a share.
    numbers: Mapping[str, int]
    live: Mapping[str, list[ReplicaStatus]]
    proving: int
    pin: Kept | None

    @property
    def count(self) -> int:
        return sum(self.numbers.values())

    @property
    def serving(self) -> list[ReplicaStatus]:
        """Replicas of the revisions that have a share."""
        return [r for s in self.shares for r in self.live.get(s.name, ())]

    @property
    def names(self) -> str:
        """Who serves, for a sentence."""
        return " and ".join(n for n, percent in self.percents.items() if percent)


def _ready(replicas: list[ReplicaStatus]) -> int:
    return sum(r.phase is Phase.READY for r in replicas)


def _worth(r: ReplicaStatus) -> tuple[int, str]:
    """Order in which surplus replicas go: the broken first, the ready last."""
    order = {Phase.FAILED: 0, Phase.BACKOFF: 1, Phase.STARTING: 2, Phase.READY: 3}
    return (order.get(r.phase, 0), r.id)


def _route(look: _Look, by_name: Mapping[str, Kept], leaving: frozenset[str]) -> Route:
    o = look.o
    service = o.service
    message = ""
    targets: list[Target] = []
    tags = {s.name: (s.tag,) for s in look.shares if s.tag}
    percents = dict(look.percents)
    if not percents and look.candidate is not None:
        # Before anything was ever ready, requests wait for the first candidate.
        percents = {look.candidate.name: 100}
        tags = {look.candidate.name: (LATEST,)}
    if service.stopped:
        message = "it is stopped (annotation serving.kserve.io/stop)"
    elif percents:
        replicas = [r for name in percents for r in look.live.get(name, ())]
        for name, percent in percents.items():
            kept = by_name.get(name)
            if kept is None:
                continue
            targets.append(
                Target(
                    revision=name,
                    weight=percent,
                    replicas=tuple(
                        Replica(r.id, r.address)
                        for r in sorted(look.live.get(name, ()), key=lambda r: r.id)
                        if r.phase is Phase.READY and r.id not in leaving
                    ),
                    concurrency=service.predictor.scaling.container_concurrency,
                    tags=tags.get(name, ()),
                )
            )
        broken = [r for r in replicas if r.phase is Phase.FAILED]
        if broken and len(broken) == len(replicas):
            message = one_line(broken[0].message or broken[0].reason)
    elif o.problem is not None:
        message = one_line(o.problem.message)
    elif o.fetch is not None and o.fetch.message and not o.fetch.done_bytes:
        message = one_line(o.fetch.message)
    timeout_s = service.predictor.timeout_s
    sticky = service.traffic.sticky
    model = service.predictor.model
    return Route(
        namespace=service.namespace,
        name=service.name,
        targets=tuple(targets),
        models=(model.served_name,) if model is not None and model.served_name else (),
        timeout_s=timeout_s if timeout_s is not None else DEFAULT_TIMEOUT_S,
        shadow=_shadow(look),
        sticky=routes.Sticky(sticky.header) if sticky is not None else None,
        message=message,
    )


def _shadow(look: _Look) -> routes.Shadow | None:
    """Copies go to the newest revision while another one has all requests."""
    shadow = look.o.service.traffic.shadow
    if shadow is None or len(look.shares) < 2:
        return None
    latest = look.shares[0].name
    return routes.Shadow(latest, shadow.percent) if not look.percents[latest] else None


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


def _judge(look: _Look) -> _Judgement:
    o, candidate, live, count, proving = (
        look.o,
        look.candidate,
        look.live,
        look.count,
        look.proving,
    )
    names = look.names
    keeps = f" {names} keep{'' if ' and ' in names else 's'} serving." if names else ""
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
    replicas = look.serving
    ready = _ready(replicas)
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
        said = []
        if look.pin is not None:
            said.append(f"Pinned to {look.pin.name} by the annotation {PINNED}.")
        elif name := o.service.annotations.get(PINNED):
            said.append(f"The pin to {name} has no effect: it is not kept, or was never ready.")
        elif look.latest is not None and look.latest.stage and look.latest.stage.back:
            said.append(f"{look.latest.name} was given up: {look.latest.stage.back}.")
        if look.pin is None and len(look.percents) > 1:
            shares = sorted(look.percents.items(), key=lambda item: -item[1])
            said.append(", ".join(f"{name} takes {percent}%" for name, percent in shares) + ".")
        if ready < count:
            said.append(f"{ready} of {count} replicas are ready.")
        return _Judgement(
            Truth.TRUE,
            "",
            " ".join(said),
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


def _status(look: _Look, now: float) -> ServiceStatus:
    o, latest, candidate, shares = look.o, look.latest, look.candidate, look.shares
    j = _judge(look)
    count = look.count
    served = look.serving
    ready = _ready(served)
    # The last share is of the revision that would take all if the newest one were given up.
    full = shares[-1].name if shares else ""
    before = [k for k in rolled_out(o.revisions) if k.name != full]
    if not before and not rolled_out(o.revisions):
        before = [k for k in reversed(o.revisions) if k.ready_at is not None and k.name != full]
    newest = o.revisions[-1].name if o.revisions else ""
    everyone = [r for rs in look.live.values() for r in rs]
    tags = {s.name: s.tag for s in shares}
    component = ComponentStatus(
        ready=j.ready,
        reason=j.reason,
        message=j.message,
        latest_created_revision=newest,
        latest_ready_revision=latest.name if latest is not None else "",
        latest_rolledout_revision=full,
        previous_rolledout_revision=before[0].name if before else "",
        traffic=tuple(
            RevisionTraffic(
                name,
                percent,
                latest=name == newest,
                tag=tags.get(name, "") if len(look.percents) > 1 else "",
                url=f"{o.url}@{tags[name]}"
                if o.url and len(look.percents) > 1 and tags.get(name)
                else "",
            )
            for name, percent in look.percents.items()
        ),
        url=o.url,
        replicas=count if shares else look.proving if candidate is not None else 0,
        ready_replicas=ready,
        failed_replicas=sum(r.phase in (Phase.FAILED, Phase.BACKOFF) for r in everyone),
        limits=next((r.limits for r in everyone if r.limits), ""),
    )
    routed = Truth.TRUE if shares and not o.service.stopped else Truth.UNKNOWN
    if o.service.stopped:
        routed = Truth.FALSE
    conditions = [
        Condition("PredictorReady", j.ready, j.reason, j.message),
        Condition("IngressReady", routed, "" if routed is Truth.TRUE else "NoReadyRevision", ""),
        Condition("Ready", j.ready, j.reason, j.message),
    ]
    if o.service.stopped:
        conditions.append(Condition("Stopped", Truth.TRUE, "Stopped", "Stopped on request."))
    if not shares or o.service.stopped:
        active = None
    elif count == 0:
        active = ModelState.STANDBY
    elif ready:
        active = ModelState.LOADED
    elif _failure_of(served) is not None:
        active = ModelState.FAILED
    else:
        active = ModelState.LOADING
    current = latest or candidate
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


def rollout_event(before: Kept | None, kept: Kept, status: ServiceStatus) -> Event:
    """A revision is ready for the first time, `before` was the newest one until then."""
    traffic = {t.revision: t.percent for t in status.components[Role.PREDICTOR].traffic}
    percent = traffic.get(kept.name, 0)
    if percent == 100:
        instead = f" in place of {before.name}" if before is not None else ""
        return Event("Normal", "RevisionReady", f"{kept.name} is ready and serves{instead}.")
    return Event(
        "Normal", "RevisionReady", f"{kept.name} is ready and takes {percent}% of the requests."
    )


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
