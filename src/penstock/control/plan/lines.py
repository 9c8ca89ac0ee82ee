"""The revisions of one workload: which serve, and which one is to come.

The newest revision that was ever ready *serves*, alone or with the one before it (`control.rollouts.rollout`
says with which shares). The *candidate* is the newest one of the present manifest, if it was not ready yet.
It gets replicas of its own; when they answer it becomes the newest one that serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.control.plan.observed import ObservedWorkload
from penstock.control.revisions import Kept
from penstock.control.rollouts.rollout import Share, divide, latest_of, percent_of, replicas_for
from penstock.domain.service import Scaling, Service
from penstock.domain.workload import Workload


@dataclass(frozen=True, slots=True)
class Line:
    """How a workload's revisions stand."""

    seen: ObservedWorkload
    #: The newest that was ever ready, this moment included.
    latest: Kept | None
    candidate: Kept | None = None
    #: It is ready for the first time, just now.
    first_ready: Kept | None = None
    shares: tuple[Share, ...] = ()
    #: Replicas that the candidate proves itself with.
    proving: int = 0

    @property
    def workload(self) -> Workload:
        return self.seen.workload

    @property
    def replaces(self) -> bool:
        """The candidate's replicas take the place of the others' before they are ready."""
        return self.candidate is not None and self.workload.component.recreate

    @property
    def scaling(self) -> Scaling:
        return self.workload.component.scaling


def line_of(
    seen: ObservedWorkload,
    service: Service,
    *,
    ready: Mapping[str, int],
    count: int,
    pin: Kept | None,
) -> Line:
    """Look at one workload. `ready`: replicas that answer, by revision; `count`: replicas its role wants."""
    revisions = seen.revisions
    workload = seen.workload
    latest = latest_of(revisions)
    if not workload.wanted:
        return Line(seen, latest)
    newest = revisions[-1] if revisions else None
    candidate = newest if newest is not None and newest is not latest and seen.current else None
    if pin is not None:
        return Line(seen, latest)  # a candidate would take nothing
    proving = 0
    first_ready: Kept | None = None
    if candidate is not None:
        to_be = divide(service, workload, revisions, candidate)
        # Readiness has to be proven once, also by a service that will sleep.
        if not service.stopped:
            proving = max(1, replicas_for(to_be[0].percent, workload.component.scaling, count))
        if ready.get(candidate.name, 0) >= (max(1, proving) if latest is not None else 1):
            first_ready, latest, candidate = candidate, candidate, None
    shares = divide(service, workload, revisions, latest) if latest is not None else ()
    return Line(seen, latest, candidate, first_ready, shares, proving)


def trial_percent(service: Service, line: Line) -> int:
    """Percent of all requests that the newest revision is tried with beside a bandit's arms; 0: it is not."""
    traffic = service.traffic
    if traffic.bandit is None or traffic.rollout is None or len(line.shares) < 2:
        return 0
    if line.latest is None:
        return 0
    return percent_of(service, line.workload, line.latest) or 0
