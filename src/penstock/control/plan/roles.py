"""One role of a service: its requests divided among revisions, its replicas started and drained.

A role has one workload, or several: a predictor with named canaries, and those that the manifest has no more.
A workload that was taken out keeps its share until those that remain can take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.backends.base import ReplicaStatus
from penstock.control.plan.lines import Line, line_of, trial_percent
from penstock.control.plan.observed import LIVE, Observed, is_of, ready_of, replica_id, worth
from penstock.control.plan.wanted import Start
from penstock.control.revisions import Kept
from penstock.control.rollouts.rollout import (
    LATEST,
    PREVIOUS,
    Share,
    effective,
    latest_of,
    of_all,
    pinned,
    replicas_for,
    rolled_out,
)
from penstock.domain.service import Component, Role, Scaling


@dataclass(frozen=True, slots=True)
class RolePlan:
    """What was found out and decided of one role."""

    role: Role
    #: The manifest's own workload first; none when the manifest has none of this role any more.
    lines: tuple[Line, ...]
    shares: tuple[Share, ...]
    #: Percent of requests by revision, now.
    percents: Mapping[str, int]
    #: Replicas wanted by revision that has a share.
    numbers: Mapping[str, int]
    live: Mapping[str, list[ReplicaStatus]]
    by_name: Mapping[str, Kept]
    pin: Kept | None
    #: Revision that is tried beside a bandit's arms, with a percent of all requests; empty: none is.
    tried: str
    start: tuple[Start, ...]
    drain: tuple[str, ...]
    #: Revisions that shall have, or keep, replicas.
    kept: frozenset[str]
    #: The revision that takes all requests, and was not the last to do so.
    took_all: Kept | None

    @property
    def main(self) -> Line | None:
        """The workload of the manifest's own component of this role."""
        return self.lines[0] if self.lines and self.lines[0].workload.wanted else None

    @property
    def component(self) -> Component:
        return self.lines[0].workload.component

    @property
    def canaries(self) -> tuple[Line, ...]:
        """Named predictors that are tried."""
        return tuple(line for line in self.lines[1:] if line.workload.wanted)

    def count(self, shares: tuple[Share, ...]) -> int:
        """Replicas wanted for these shares."""
        return sum(self.numbers.get(s.name, 0) for s in shares)

    def replicas(self, shares: tuple[Share, ...]) -> list[ReplicaStatus]:
        """Replicas of the revisions that have these shares."""
        return [r for s in shares for r in self.live.get(s.name, ())]

    def shares_of(self, line: Line) -> tuple[Share, ...]:
        """A workload's shares; a pinned revision is the first one's."""
        return self.shares if self.pin is not None and line is self.main else line.shares

    @property
    def names(self) -> str:
        """Who serves, for a sentence."""
        return " and ".join(n for n, percent in self.percents.items() if percent)


def wanted_replicas(scaling: Scaling, *, scale: int | None, stopped: bool) -> int:
    """How many replicas of those that serve."""
    if stopped:
        return 0
    return max(1, scaling.min_replicas) if scale is None else scale


def plan_role(o: Observed, role: Role, *, uid: str) -> RolePlan:
    """Decide for the workloads of one role. `uid` is the service object's."""
    service = o.service
    seen = tuple(o.of(role))
    by_name = {k.name: k for w in seen for k in w.revisions}
    live, foreign = _live(o, role, by_name, uid)
    ready = {name: ready_of(replicas) for name, replicas in live.items()}

    scaling = seen[0].workload.component.scaling
    count = 0
    if seen[0].workload.wanted:
        count = wanted_replicas(scaling, scale=o.scale.get(role), stopped=service.stopped)
    pin = pinned(service, tuple(by_name.values())) if role is Role.PREDICTOR else None
    lines = tuple(line_of(w, service, ready=ready, count=count, pin=pin) for w in seen)
    scalings = {s.name: line.scaling for line in lines for s in line.shares}
    tried = ""
    if pin is not None:
        shares: tuple[Share, ...] = (
            Share(pin, 100, LATEST if pin is lines[0].latest else PREVIOUS),
        )
    else:
        shares = _shares(lines)
        percent = trial_percent(service, lines[0])
        if percent:
            shares = of_all(shares, percent)
            tried = shares[0].name
    numbers = {
        s.name: replicas_for(s.percent, scalings.get(s.name, scaling), count) for s in shares
    }
    serving = {n: w for n, w in o.weights.items() if n in by_name}
    percents = effective(
        shares,
        # Who serves stays up as long as anything of it answers; who shall serve, or shall serve more, comes
        # with all it needs.
        up=[
            s.name
            for s in shares
            if not (n := numbers[s.name])
            or ready.get(s.name, 0) >= (1 if serving.get(s.name, 0) >= max(1, s.percent) else n)
        ],
        ready=[name for name, n in ready.items() if n],
        serving={} if service.stopped else serving,
        # With canaries that take all, the predictor stands by; a revision that was given up does not.
        spare=lines[0].shares[0].name
        if pin is None and len(lines[0].shares) == 1 and service.canaries
        else "",
        tried=tried,
    )
    # Replicas follow the requests: nobody is taken away from before its share has gone elsewhere.
    want = {
        name: max(
            numbers.get(name, 0),
            replicas_for(percent, scalings.get(name, scaling), count) if percent else 0,
        )
        for name, percent in percents.items()
        if name in by_name
    }
    for line in lines:
        if line.candidate is not None:
            want[line.candidate.name] = line.proving
            if line.replaces:
                # The old ones go first; requests wait for the new ones.
                want.update({k.name: 0 for k in line.seen.revisions[:-1] if k.name in want})
    start, drain = _staff(o, live, want, by_name, uid)
    return RolePlan(
        role=role,
        lines=lines,
        shares=shares,
        percents=percents,
        numbers=numbers,
        live=live,
        by_name=by_name,
        pin=pin,
        tried=tried,
        start=start,
        drain=(*foreign, *drain),
        kept=frozenset(want),
        took_all=_took_all(lines[0], percents, by_name, pinned=pin is not None),
    )


def _live(
    o: Observed, role: Role, by_name: Mapping[str, Kept], uid: str
) -> tuple[dict[str, list[ReplicaStatus]], list[str]]:
    """The role's replicas by revision, and the ids of those of an earlier service of the same name."""
    live: dict[str, list[ReplicaStatus]] = {}
    foreign: list[str] = []
    for r in o.replicas:
        # A replica whose revision is not known any more belongs to its role, and is surplus.
        if (r.revision in by_name or r.component == role) and r.phase in LIVE:
            if r.id in o.draining:
                continue
            if is_of(r.id, uid):
                live.setdefault(r.revision, []).append(r)
            else:
                foreign.append(r.id)
    return live, foreign


def _shares(lines: tuple[Line, ...]) -> tuple[Share, ...]:
    """What is asked for of all revisions of a role; adds up to 100 when there is any.

    What belongs to a workload that was never ready is the first one's. Until that one was ever ready, what
    served before the manifest named another workload stands in for it.
    """
    first = lines[0].shares
    rest = tuple(s for line in lines[1:] for s in line.shares)
    if not first and lines[0].workload.wanted:
        left = [k for line in lines if not line.workload.wanted for k in line.seen.revisions]
        before = rolled_out(left)[:1] or [k for k in (latest_of(tuple(left)),) if k is not None]
        first = tuple(Share(k, lines[0].workload.percent, PREVIOUS) for k in before)
    shares = [*first, *rest]
    lacking = 100 - sum(s.percent for s in shares)
    if shares and lacking:
        at = max(0, len(first) - 1)
        shares[at] = replace(shares[at], percent=shares[at].percent + lacking)
    return tuple(shares)


def _took_all(
    main: Line, percents: Mapping[str, int], by_name: Mapping[str, Kept], *, pinned: bool
) -> Kept | None:
    """The revision that has all that its workload gets: what is beside it are named canaries."""
    if pinned:
        return None
    whole = main.workload.percent
    found = next(
        (s.revision for s in main.shares if s.percent == whole <= percents.get(s.name, 0)), None
    )
    return None if rolled_out(by_name.values())[:1] == [found] else found


def _staff(
    o: Observed,
    live: Mapping[str, list[ReplicaStatus]],
    want: Mapping[str, int],
    by_name: Mapping[str, Kept],
    uid: str,
) -> tuple[tuple[Start, ...], tuple[str, ...]]:
    """Replicas to start and to drain, so that there are as many as wanted."""
    taken = {r.id for r in o.replicas}
    start: list[Start] = []
    drain: list[str] = []
    for name, replicas in live.items():
        surplus = len(replicas) - want.get(name, 0)
        if surplus > 0:
            drain += [r.id for r in sorted(replicas, key=worth)[:surplus]]
    for name, number in want.items():
        index = 0
        for _ in range(number - len(live.get(name, ()))):
            while (id_ := replica_id(o.service.namespace, name, index, uid)) in taken:
                index += 1
            taken.add(id_)
            start.append(Start(id_, by_name[name]))
    return tuple(start), tuple(drain)
