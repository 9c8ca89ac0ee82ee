"""What gateways are told: a route for each component of a service."""

from __future__ import annotations

from collections.abc import Collection

from penstock.backends.base import Phase
from penstock.control.plan.observed import Observed
from penstock.control.plan.roles import RolePlan
from penstock.control.plan.words import one_line
from penstock.control.rollouts.rollout import LATEST
from penstock.domain import routes
from penstock.domain.routes import Replica, Route, Target
from penstock.domain.service import Component, Role, Service

DEFAULT_TIMEOUT_S = 60.0


def route_of(o: Observed, role: RolePlan, leaving: Collection[str], uid: str = "") -> Route:
    """The route of one component; `leaving` are replicas that shall not be chosen any more."""
    service = o.service
    component = role.component
    message = ""
    targets: tuple[Target, ...] = ()
    # Before anything was ever ready, requests wait for the first candidate.
    candidate = role.lines[0].candidate
    percents = dict(role.percents) or ({candidate.name: 100} if candidate is not None else {})
    if service.stopped:
        message = routes.STOPPED
    elif percents:
        targets = _targets(role, percents, leaving)
        names = set(percents)
        if candidate is not None and role.lines[0].replaces:
            names = {candidate.name}
        replicas = [r for name in names for r in role.live.get(name, ())]
        broken = [r for r in replicas if r.phase is Phase.FAILED]
        if broken and len(broken) == len(replicas):
            message = one_line(broken[0].message or broken[0].reason)
    else:
        seen = role.lines[0].seen
        if seen.problem is not None:
            message = one_line(seen.problem.message)
        elif seen.fetch is not None and seen.fetch.message and not seen.fetch.done_bytes:
            message = one_line(seen.fetch.message)
    timeout_s = component.timeout_s
    predictor = role.role is Role.PREDICTOR
    sticky = service.traffic.sticky if predictor else None
    bandit = service.traffic.bandit if predictor else None
    return Route(
        namespace=service.namespace,
        name=service.name,
        targets=targets,
        models=_models(component, role, percents) if predictor else (),
        timeout_s=timeout_s if timeout_s is not None else DEFAULT_TIMEOUT_S,
        shadow=_shadow(service, role) if predictor else None,
        sticky=routes.Sticky(sticky.header) if sticky is not None else None,
        rules=_rules(service) if predictor else (),
        message=message,
        may_sleep=component.scaling.min_replicas == 0,
        component=str(role.role),
        parent=service.parent if predictor else "",
        labels=tuple(sorted(service.labels.items())) if predictor else (),
        bandit=bandit,
        trial=role.tried if bandit is not None and percents.get(role.tried) else "",
        uid=uid if bandit is not None else "",
        explainers=service.explainers if predictor else (),
        entry=str(service.entry) if predictor and service.entry is not Role.PREDICTOR else "",
    )


def _rules(service: Service) -> tuple[routes.Rule, ...]:
    return tuple(
        routes.Rule(tuple(routes.HeaderTest(*t) for t in rule.tests), rule.to)
        for rule in service.traffic.match
    )


def _models(component: Component, role: RolePlan, percents: Collection[str]) -> tuple[str, ...]:
    """Names of models besides the service's own: the manifest's, and those of a repository."""
    model = component.model
    names = [model.served_name] if model is not None and model.served_name else []
    names += [m.name for n in percents if n in role.by_name for m in role.by_name[n].models]
    return tuple(dict.fromkeys(n for n in names if n))


def _targets(
    role: RolePlan, percents: dict[str, int], leaving: Collection[str]
) -> tuple[Target, ...]:
    tags = tags_of(role)
    return tuple(
        Target(
            revision=name,
            weight=percent,
            replicas=tuple(
                Replica(r.id, r.address)
                for r in sorted(role.live.get(name, ()), key=lambda r: r.id)
                if r.phase is Phase.READY and r.id not in leaving
            ),
            concurrency=role.component.scaling.container_concurrency,
            tags=tags.get(name, (LATEST,) if not role.percents else ()),
        )
        for name, percent in percents.items()
        if name in role.by_name
    )


def tags_of(role: RolePlan) -> dict[str, tuple[str, ...]]:
    """Names that revisions can be addressed by: `latest`, `previous`, and a canary's own."""
    canaries = {s.name for line in role.canaries for s in line.shares}
    tags = {}
    for s in role.shares:
        variant = role.by_name[s.name].workload.variant
        found = (() if s.name in canaries else (s.tag,), (variant,))
        tags[s.name] = tuple(t for group in found for t in group if t)
    return tags


def _shadow(service: Service, role: RolePlan) -> routes.Shadow | None:
    """Copies go to the named predictor, or to the newest revision while another one has all requests."""
    shadow = service.traffic.shadow
    if shadow is not None and shadow.to:
        for name in role.percents:
            if name in role.by_name and role.by_name[name].workload.variant == shadow.to:
                return routes.Shadow(name, shadow.percent)
        return None
    if shadow is None or len(role.shares) < 2:
        return None
    latest = role.shares[0].name
    return routes.Shadow(latest, shadow.percent) if not role.percents[latest] else None
