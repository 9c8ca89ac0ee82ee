"""What a decision says: what to do, and what is so."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.control.plan.observed import Event
from penstock.control.revisions import Kept
from penstock.control.rollouts.rollout import Share
from penstock.domain.routes import Route
from penstock.domain.status import ServiceStatus


@dataclass(frozen=True, slots=True)
class Start:
    """A replica to start."""

    replica_id: str
    revision: Kept


@dataclass(frozen=True, slots=True)
class Wanted:
    """For one service, all its workloads together."""

    status: ServiceStatus
    #: The routes of its components; a route that is not among them is withdrawn. The predictor's comes last.
    routes: tuple[Route, ...]
    start: tuple[Start, ...] = ()
    drain: tuple[str, ...] = ()
    #: Revisions that are ready for the first time.
    rolled_out: tuple[Kept, ...] = ()
    #: Revisions that take all requests of their role, and were not the last to do so.
    took_all: tuple[Kept, ...] = ()
    events: tuple[Event, ...] = ()
    #: Revisions that serve, come up, or still have replicas: not to be forgotten.
    in_use: frozenset[str] = frozenset()
    #: What was asked for of the predictor's own workload: the newest revision's share first.
    shares: tuple[Share, ...] = ()
