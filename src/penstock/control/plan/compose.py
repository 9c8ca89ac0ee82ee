"""One service out of its roles: routes, status, conditions.

Conditions are KServe's: one per component, one for the routes, `Ready` when all of them are. A named canary
that is not ready makes nothing unready; it has a condition of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from penstock.backends.base import Phase
from penstock.control.plan.events import events_of
from penstock.control.plan.judgement import Judgement, failure_of, judge
from penstock.control.plan.lines import Line
from penstock.control.plan.observed import Explaining, Observed, ready_of
from penstock.control.plan.roles import RolePlan
from penstock.control.plan.routing import route_of, tags_of
from penstock.control.plan.wanted import Wanted
from penstock.control.rollouts.rollout import Share, rolled_out
from penstock.domain.service import Role
from penstock.domain.status import (
    STOPPED,
    CanaryStatus,
    ComponentStatus,
    Condition,
    ModelState,
    RevisionTraffic,
    ServiceStatus,
    Transition,
    Truth,
    with_conditions,
)

#: The worst first.
_ORDER = (Truth.FALSE, Truth.UNKNOWN, Truth.TRUE)


def compose(o: Observed, roles: Sequence[RolePlan], *, uid: str, now: float) -> Wanted:
    """All that is wanted of a service. `now` is Unix seconds, for transition times only."""
    asked = [r for r in roles if r.main is not None]
    predictor = next(r for r in asked if r.role is Role.PREDICTOR)
    leaving = frozenset(i for r in roles for i in r.drain)
    status = _status(o, asked, predictor, now)
    own = {s.name for s in predictor.lines[0].shares}
    return Wanted(
        status=status,
        # The others first: where the predictor's route says that a transformer is asked, it is there.
        routes=tuple(
            route_of(o, r, leaving, uid)
            for r in sorted(asked, key=lambda r: r.role is Role.PREDICTOR)
        ),
        start=tuple(s for r in roles for s in r.start),
        drain=tuple(i for r in roles for i in r.drain),
        rolled_out=tuple(
            line.first_ready for r in roles for line in r.lines if line.first_ready is not None
        ),
        took_all=tuple(r.took_all for r in asked if r.took_all is not None),
        events=events_of(o, status),
        in_use=frozenset().union(*(r.kept for r in roles), (r.revision for r in o.replicas)),
        shares=tuple(s for s in predictor.shares if s.name in own),
    )


def _status(
    o: Observed, roles: Sequence[RolePlan], predictor: RolePlan, now: float
) -> ServiceStatus:
    judged = {r.role: judge(o, r, r.lines[0]) for r in roles}
    # The predictor's word goes first, unless something else is what keeps the service from being ready.
    first = min(
        judged.items(),
        key=lambda item: (
            _ORDER.index(item[1].ready),
            item[0] is not Role.PREDICTOR,
        ),
    )
    overall = judged[first[0]]
    said = overall.message
    if first[0] is not Role.PREDICTOR and said:
        said = f"The {first[0]}: {said}"
    stopped = o.service.stopped
    routed = Truth.TRUE if all(r.shares for r in roles) else Truth.UNKNOWN
    if stopped:
        routed = Truth.FALSE
    conditions = [
        Condition(f"{role.capitalize()}Ready", j.ready, j.reason, j.message)
        for role, j in judged.items()
    ]
    canaries = tuple(_canary(o, predictor, line) for line in predictor.canaries)
    if canaries:
        conditions.append(_canaries_ready(canaries))
    ready = Condition("Ready", overall.ready, overall.reason, said)
    if o.explaining and not stopped:
        conditions, ready = _with_explainers(conditions, ready, o.explaining)
    conditions += [
        _ingress(routed, roles, stopped=stopped),
        ready,
    ]
    if stopped:
        conditions.append(STOPPED)
    main = predictor.lines[0]
    current = main.latest or main.candidate
    failures = [j.failure for j in judged.values() if j.failure is not None]
    transitions = [j.transition for j in judged.values()]
    status = ServiceStatus(
        observed_generation=o.generation,
        conditions=tuple(conditions),
        components=MappingProxyType({r.role: _component(o, r, judged[r.role]) for r in roles}),
        canaries=canaries,
        transition=next((t for t in transitions if t is not Transition.UP_TO_DATE), transitions[0]),
        active=_active(o, predictor, predictor.shares),
        target=judged[Role.PREDICTOR].target,
        failure=failures[0] if failures else None,
        url=o.url,
        address=o.address,
        runtime=current.revision.runtime if current is not None else main.seen.runtime,
        runtime_is_cluster=main.seen.runtime_is_cluster,
        framework=current.revision.framework if current is not None else main.seen.framework,
        warnings=o.warnings,
        arms=o.arms,
        explaining=tuple((e.predictor, e.ready) for e in o.explaining),
    )
    return with_conditions(status, o.previous, now)


def _with_explainers(
    conditions: list[Condition], ready: Condition, explaining: Sequence[Explaining]
) -> tuple[list[Condition], Condition]:
    """The conditions where predictors have explainers of their own: the worst of them says how they are."""
    worst = min(explaining, key=lambda e: _ORDER.index(e.ready))
    named = f"{worst.predictor}: {worst.message}" if worst.message else ""
    condition = Condition("ExplainerReady", worst.ready, worst.reason, named)
    component = next((c for c in conditions if c.type == condition.type), None)
    if component is not None and _ORDER.index(component.status) <= _ORDER.index(condition.status):
        condition = component
    if _ORDER.index(worst.ready) < _ORDER.index(ready.status):
        message = f"The explainer of {worst.predictor}: {worst.message}" if worst.message else ""
        ready = Condition("Ready", worst.ready, worst.reason, message)
    return [*(c for c in conditions if c is not component), condition], ready


def _ingress(routed: Truth, roles: Sequence[RolePlan], *, stopped: bool) -> Condition:
    """Whether requests have somewhere to go, whichever component they are for."""
    if routed is Truth.TRUE:
        return Condition("IngressReady", routed, "", "")
    lacking = [str(r.role) for r in roles if not r.shares]
    said = (
        ""
        if stopped or not lacking
        else f"No revision of the {' and the '.join(lacking)} is ready."
    )
    return Condition("IngressReady", routed, "NoReadyRevision", said)


def _component(o: Observed, role: RolePlan, j: Judgement) -> ComponentStatus:
    line = role.lines[0]
    own = role.shares_of(line)
    # The last share is of the revision that would take all if the newest one were given up.
    full = own[-1].name if own else ""
    revisions = tuple(k for one in role.lines for k in one.seen.revisions)
    before = [k for k in rolled_out(revisions) if k.name != full]
    if not before and not rolled_out(revisions):
        of_line = reversed(line.seen.revisions)
        before = [k for k in of_line if k.ready_at is not None and k.name != full]
    newest = line.seen.revisions[-1].name if line.seen.revisions else ""
    everyone = [r for rs in role.live.values() for r in rs]
    tags = {name: found[0] for name, found in tags_of(role).items() if found}
    split = len(role.percents) > 1
    url = o.url if role.role is o.service.entry else f"{o.url}/components/{role.role}"
    return ComponentStatus(
        ready=j.ready,
        reason=j.reason,
        message=j.message,
        latest_created_revision=newest,
        latest_ready_revision=line.latest.name if line.latest is not None else "",
        latest_rolledout_revision=full,
        previous_rolledout_revision=before[0].name if before else "",
        traffic=tuple(
            RevisionTraffic(
                name,
                percent,
                latest=name == newest,
                tag=tags.get(name, "") if split else "",
                url=f"{o.url}@{tags[name]}"
                if o.url and split and role.role is Role.PREDICTOR and tags.get(name)
                else "",
            )
            for name, percent in role.percents.items()
        ),
        url=url if o.url else "",
        replicas=role.count(role.shares)
        if role.shares
        else line.proving
        if line.candidate is not None
        else 0,
        ready_replicas=ready_of(role.replicas(role.shares)),
        failed_replicas=sum(r.phase in (Phase.FAILED, Phase.BACKOFF) for r in everyone),
        transition=j.transition,
        failure=j.failure,
        limits=next((r.limits for r in everyone if r.limits), ""),
    )


def _active(o: Observed, role: RolePlan, shares: tuple[Share, ...]) -> ModelState | None:
    """State of the revisions that serve."""
    if not shares or o.service.stopped:
        return None
    served = role.replicas(shares)
    if role.count(shares) == 0:
        return ModelState.STANDBY
    if ready_of(served):
        return ModelState.LOADED
    return ModelState.FAILED if failure_of(served) is not None else ModelState.LOADING


def _canary(o: Observed, role: RolePlan, line: Line) -> CanaryStatus:
    j = judge(o, role, line)
    newest = line.latest or line.candidate
    return CanaryStatus(
        name=line.workload.id.variant,
        ready=j.ready,
        reason=j.reason,
        message=j.message,
        percent=line.workload.percent,
        revision=newest.name if newest is not None else "",
        transition=j.transition,
        active=_active(o, role, line.shares),
        target=j.target,
        failure=j.failure,
    )


def _canaries_ready(canaries: Sequence[CanaryStatus]) -> Condition:
    worst = min(canaries, key=lambda c: _ORDER.index(c.ready))
    if worst.ready is Truth.TRUE:
        return Condition("CanaryPredictorReady", Truth.TRUE, "AllCanariesReady", "")
    return Condition(
        "CanaryPredictorReady", worst.ready, worst.reason, f"{worst.name}: {worst.message}"
    )
