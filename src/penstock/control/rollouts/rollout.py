"""Which revisions of a workload take which share of its requests, as pure functions.

Three numbers decide: the newest revision that was ever ready (`latest`), the one that took all requests last
(`stable`), and the percent that `latest` shall have. Without a percent `latest` takes all. With one below
100, `stable` takes the rest; 0 therefore is a rollback, and taking the field away a promotion. When `latest`
itself took all requests before, `stable` is the one that did so before it: a rollback is possible after a
promotion too. This is what `canaryTrafficPercent` means in KServe on Knative. An annotation pins one kept
revision instead, whatever the manifest asks for. Where several workloads share a role (named canaries), each
divides its own part of the requests. Beside a bandit, whose arms they are, `spec.rollout` is the predictor's
alone, and its percents are of all requests (`of_all`): the others keep what they are to each other.

A share is only worth something when its revision answers: `effective` gives the share of a revision that is
not up to one that is, so traffic never leaves a revision before another one is ready to take it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from penstock.control.revisions import Kept, Stage
from penstock.domain.annotations import GIVEN_UP, PINNED, PROMOTED
from penstock.domain.service import Role, Scaling, Service
from penstock.domain.traffic import Rollout
from penstock.domain.workload import Workload, id_of

LATEST = "latest"
PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Share:
    """A revision and the percent of requests it shall have. Those of a service add up to 100."""

    revision: Kept
    percent: int
    #: The name it can be addressed by, besides its own.
    tag: str = ""

    @property
    def name(self) -> str:
        return self.revision.name


def latest_of(revisions: tuple[Kept, ...]) -> Kept | None:
    """The newest revision that was ever ready."""
    return next((k for k in reversed(revisions) if k.ready_at is not None), None)


def rolled_out(revisions: Iterable[Kept]) -> list[Kept]:
    """Those that took all requests once, the last to do so first."""
    return sorted((k for k in revisions if k.rollout), key=lambda k: k.rollout, reverse=True)


def stable_of(revisions: tuple[Kept, ...], latest: Kept) -> Kept | None:
    """The revision beside which `latest` is tried."""
    others = [k for k in revisions if k.name != latest.name]
    found = rolled_out(others)
    if found:
        return found[0]
    if any(k.rollout for k in revisions):
        return None
    # Of a release that did not write down who took all: every one that was ready did.
    return latest_of(tuple(others))


def pinned(service: Service, revisions: tuple[Kept, ...]) -> Kept | None:
    """The revision that the annotation names, if it is kept and was ever ready."""
    name = service.annotations.get(PINNED)
    if not name:
        return None
    return next((k for k in revisions if k.name == name and k.ready_at is not None), None)


def _policy(service: Service, workload: Workload) -> Rollout | None:
    """The steps that its new revisions go up in: the predictor's, and not those of named canaries."""
    policy = service.traffic.rollout
    return policy if policy is not None and workload.id == id_of(service.predictor) else None


def percent_of(service: Service, workload: Workload, latest: Kept) -> int | None:
    """The percent of its workload's requests that the newest revision shall have; None: all of them."""
    if workload.id.role is Role.PREDICTOR:
        if service.traffic.shadow is not None and not service.traffic.shadow.to:
            return 0  # it gets copies
        policy = _policy(service, workload)
        if policy is not None:
            if service.annotations.get(GIVEN_UP) == latest.name:
                return 0
            if latest.rollout or service.annotations.get(PROMOTED) == latest.name:
                return None
            stage = latest.stage or Stage()
            if stage.back:
                return 0
            return policy.steps[stage.step] if stage.step < len(policy.steps) else None
    percent = workload.component.canary_percent
    return None if percent is None or percent >= 100 else percent


def divide(
    service: Service, workload: Workload, revisions: tuple[Kept, ...], latest: Kept
) -> tuple[Share, ...]:
    """The shares that a workload's revisions are asked to take, with `latest` first."""
    percent = percent_of(service, workload, latest)
    if _policy(service, workload) is not None and not any(k.rollout for k in revisions):
        percent = None  # the first, or of a named predictor that is the service's now
    stable = stable_of(revisions, latest) if percent is not None else None
    if percent is None or stable is None or not workload.percent:
        return (Share(latest, workload.percent, LATEST),)
    # Never all of it: that would be a promotion.
    part = min(round(workload.percent * percent / 100), workload.percent - 1)
    return (Share(latest, part, LATEST), Share(stable, workload.percent - part, PREVIOUS))


def of_all(shares: tuple[Share, ...], percent: int) -> tuple[Share, ...]:
    """The same shares, with `percent` of all requests for the first, which takes it from everybody.

    The second is of the first one's workload and stands for all of that. Who has a share keeps 1 at least,
    and somebody beside the first has one.
    """
    first, second, *rest = shares
    weights = [first.percent + second.percent, *(s.percent for s in rest)]
    total = sum(weights)
    room = 100 - min(percent, 100 - sum(w > 0 for w in weights))
    exact = [room * w / total for w in weights]
    parts = [max(1, int(x)) if w else 0 for x, w in zip(exact, weights, strict=True)]
    while sum(parts) != room:
        change = 1 if sum(parts) < room else -1
        among = [i for i, part in enumerate(parts) if weights[i] and part + change > 0]
        at = max(among, key=lambda i: change * (exact[i] - parts[i]))
        parts[at] += change
    others = (replace(s, percent=p) for s, p in zip(shares[1:], parts, strict=True))
    return (replace(first, percent=100 - room), *others)


def replicas_for(percent: int, scaling: Scaling, count: int) -> int:
    """Replicas of a share, when the service as a whole asks for `count`.

    Never fewer than the manifest's least: who gets everything at the next moment must be able to take it.
    """
    if not count or percent == 100:
        return count
    return max(1, min(count, scaling.min_replicas), -(-count * percent // 100))


def effective(
    shares: tuple[Share, ...],
    *,
    up: Collection[str],
    ready: Collection[str],
    serving: Mapping[str, int],
    spare: str = "",
    tried: str = "",
) -> dict[str, int]:
    """Percent by revision's name, with the shares of those that are not up given to one that is.

    `up` are revisions that can take their share, `ready` those with at least one replica that answers,
    `serving` what gateways were told last. One that is not up keeps what it serves now, up to its share; the
    rest goes to one that serves and is not waited for, if there is one. A revision with a share of 0 that
    does not serve never gets any, but for `spare` when nobody else answers. `tried` gets no more than its own
    while another one answers.
    """
    percents = {s.name: s.percent for s in shares}
    late = {
        s.name: min(s.percent, serving.get(s.name, 0)) if s.name in ready else 0
        for s in shares
        if s.name not in up
    }
    missing = sum(percents[name] - kept for name, kept in late.items())
    if not missing:
        return percents
    answering = [n for n in serving if serving[n] > 0 and n in ready]
    whole = [n for n in answering if n not in late]
    holders = [n for n in whole if n != tried] or whole or answering
    weights: Mapping[str, int] = serving
    if not holders:
        holders = [s.name for s in shares if s.percent and s.name in up]
        weights = percents
    if not holders and spare in ready:
        holders, weights = [spare], {spare: 0}
    if not holders:
        return percents
    percents.update(late)
    best = max(holders, key=lambda n: weights[n])
    percents[best] = percents.get(best, 0) + missing
    return percents
