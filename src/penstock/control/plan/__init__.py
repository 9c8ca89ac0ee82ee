"""From what is observed of a service to what is wanted: the whole decision, as pure functions.

`control.services` gathers an `Observed`, calls `plan`, and carries the answer out. Nothing here waits,
reads a clock or remembers: the same observation always gives the same plan, so a test is a table and a
restart is no special case.

On the way of a decision: `lines` says of each workload which of its revisions serve and which one is to come;
`roles` divides a role's requests among its workloads' revisions and says which replicas start and drain;
`judgement` finds the words for how it stands; `compose` makes routes, status and conditions of it, and
`events` what is worth telling.
"""

from __future__ import annotations

from penstock.control.plan.compose import compose
from penstock.control.plan.events import rollout_event
from penstock.control.plan.observed import (
    LIVE,
    Event,
    FetchPhase,
    FetchState,
    Observed,
    ObservedWorkload,
    Problem,
    is_of,
    replica_id,
)
from penstock.control.plan.roles import plan_role
from penstock.control.plan.routing import DEFAULT_TIMEOUT_S
from penstock.control.plan.wanted import Start, Wanted
from penstock.control.plan.words import one_line, size
from penstock.domain.service import Role

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "LIVE",
    "Event",
    "FetchPhase",
    "FetchState",
    "Observed",
    "ObservedWorkload",
    "Problem",
    "Start",
    "Wanted",
    "is_of",
    "one_line",
    "plan",
    "replica_id",
    "rollout_event",
    "size",
]


def plan(o: Observed, *, uid: str, now: float) -> Wanted:
    """Decide. `uid` is the service object's; `now` is Unix seconds, for transition times only."""
    roles = [plan_role(o, role, uid=uid) for role in Role if any(o.of(role))]
    return compose(o, roles, uid=uid, now=now)
