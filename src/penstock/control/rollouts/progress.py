"""Whether a new revision goes up a step, holds, or goes back: a pure function over what was counted.

Each limit is a share: of requests that failed, of requests that were slower than the limit on the 99th
percentile (1%), of whatever a metric counts, of intervals in which a gauge was worse (one half: `gauges`).
`evidence` says when it is broken beyond noise. With m limits each one fires at m/a, so all together fire on a
harmless revision at a rate of at most a.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

from penstock.control.rollouts.evidence import (
    Tally,
    fewest,
    more_often_than_not,
    more_than_limit,
    more_than_other,
)
from penstock.domain.traffic import GaugeLimit, MetricLimit, Rollout

#: The most probable share of harmless rollouts that are taken back.
FALSE_ALARMS = 0.01
#: Ends of the new revision's processes that are enough by themselves.
CRASHES = 3
SLOW_SHARE = 0.01
#: A step does not end while there is so much evidence that a gauge is worse, which is not enough to go back.
LEANING = log(2)


@dataclass(frozen=True, slots=True)
class Count:
    """Requests of one revision since something: all, failed (5xx), slower than the limit."""

    requests: int = 0
    failed: int = 0
    slow: int = 0
    #: One for each of the policy's metrics, then one for each of its gauges.
    metrics: tuple[Tally, ...] = ()

    def since(self, before: Count) -> Count:
        """What came after `before`; counters that went back start anew."""
        # A metric counts for itself: a process that ended may take one of them back and not the other.
        metrics = tuple(now.since(old) for now, old in _pairs(self.metrics, before.metrics))
        if self.requests < before.requests:
            return replace(self, metrics=metrics)
        return Count(
            self.requests - before.requests,
            max(0, self.failed - before.failed),
            max(0, self.slow - before.slow),
            metrics,
        )

    def plus(self, other: Count) -> Count:
        metrics = tuple(a.plus(b) for a, b in _pairs(self.metrics, other.metrics))
        return Count(
            self.requests + other.requests,
            self.failed + other.failed,
            self.slow + other.slow,
            metrics,
        )

    def tallies(self, metrics: int) -> tuple[Tally, ...]:
        """Failures, slow ones, then that many metrics."""
        lacking = (Tally(),) * (metrics - len(self.metrics))
        return (
            Tally(self.failed, self.requests),
            Tally(self.slow, self.requests),
            *self.metrics,
            *lacking,
        )


def _pairs(a: Sequence[Tally], b: Sequence[Tally]) -> list[tuple[Tally, Tally]]:
    """Side by side; what one of them has not counted yet is nothing."""
    most = max(len(a), len(b))
    nothing = (Tally(),) * most
    return list(zip((*a, *nothing)[:most], (*b, *nothing)[:most], strict=True))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is remembered between two looks."""

    #: All that was counted in this rollout, of the new and of the stable revision.
    new: Count = Count()
    stable: Count = Count()
    #: Logarithms of the test martingales, one per limit.
    logs: tuple[float, ...] = ()
    #: The step's beginning (monotonic seconds), and the new revision's requests in it.
    since: float | None = None
    in_step: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`step` is the one to be at; `done` all steps are over; `back` why the revision is given up."""

    step: int
    evidence: Evidence
    done: bool = False
    back: str = ""


@dataclass(frozen=True, slots=True)
class _Limit:
    """A share that is looked at: its place among the tallies, the most it may be, and how that is said."""

    at: int
    #: None: no more than the stable revision's.
    most: float | None
    what: str
    #: Trials are intervals of a gauge, not requests.
    gauge: bool = False

    def factor(self, before: Tally, other_before: Tally, new: Tally, other: Tally) -> float:
        """Logarithm of what one more batch says."""
        if self.gauge:
            return more_often_than_not(before, new)
        if self.most is None:
            return more_than_other(before, other_before, new, other)
        return more_than_limit(self.most, before, new)

    def broken(self, found: Tally, other: Tally, whose: str) -> str:
        """How it is said that it was broken."""
        if self.gauge:
            return f"{self.what} in {found.hits} of {found.trials} intervals"
        against = f"{whose} {other}" if self.most is None else f"the limit of {_percent(self.most)}"
        return f"{found} of its {self.what}, against {against}"


def decide(
    policy: Rollout,
    step: int,
    evidence: Evidence,
    new: Count,
    stable: Count,
    *,
    now: float,
    crashes: int = 0,
    whose: str = "the stable revision's",
) -> Decision:
    """Look once. `new` and `stable` are counts since the last look; `crashes` since the rollout's start.

    `whose` says in words what `stable` is.
    """
    limits = _limits(policy)
    bound = log(len(limits) / FALSE_ALARMS)
    e = evidence if evidence.since is not None else replace(evidence, since=now)
    n = len(policy.metrics) + len(policy.gauges)
    before, other_before = e.new.tallies(n), e.stable.tallies(n)
    batch, other = new.tallies(n), stable.tallies(n)
    logs = tuple(
        known + at.factor(before[at.at], other_before[at.at], batch[at.at], other[at.at])
        for known, at in zip(e.logs or (0.0,) * len(limits), limits, strict=True)
    )
    e = replace(
        e,
        new=e.new.plus(new),
        stable=e.stable.plus(stable),
        logs=logs,
        in_step=e.in_step + new.requests,
    )
    why = ""
    if crashes >= CRASHES:
        why = f"its processes ended {crashes} times"
    found, others = e.new.tallies(n), e.stable.tallies(n)
    for value, limit in zip(logs, limits, strict=True):
        if value >= bound and not why:
            why = limit.broken(found[limit.at], others[limit.at], whose)
    if why:
        return Decision(step, e, back=why)
    assert e.since is not None  # noqa: S101 - set above
    if now - e.since < policy.hold_s or e.in_step < policy.min_requests:
        return Decision(step, e)
    last = step + 1 >= len(policy.steps)
    for value, limit in zip(logs, limits, strict=True):
        if limit.gauge:
            # A gauge that nobody keeps holds nothing back; one that was read has to be read often enough.
            few = last and 0 < found[limit.at].trials < fewest(bound)
            if few or value > LEANING:
                return Decision(step, e)
    e = replace(e, since=now, in_step=0)
    if last:
        return Decision(step, e, done=True)
    return Decision(step + 1, e)


def _limits(policy: Rollout) -> tuple[_Limit, ...]:
    limits = [_Limit(0, policy.error_rate, "requests failed")]
    if policy.p99_s is not None:
        limits.append(_Limit(1, SLOW_SHARE, f"requests took longer than {policy.p99_s:g} s"))
    limits += [_Limit(2 + i, m.most, _about(m)) for i, m in enumerate(policy.metrics)]
    first = len(policy.metrics) + 2
    limits += [_Limit(first + i, 0.5, _worse(g), gauge=True) for i, g in enumerate(policy.gauges)]
    return tuple(limits)


def _worse(gauge: GaugeLimit) -> str:
    where = "below" if gauge.lower_is_worse else "above"
    if gauge.bound is not None:
        return f"{gauge.name} was {where} {gauge.bound:g}"
    by = f" by more than {_percent(gauge.tolerance)}" if gauge.tolerance else ""
    return f"{gauge.name} was {where} the stable revision's{by}"


def _about(metric: MetricLimit) -> str:
    if metric.above is not None:
        return f"observations of {metric.name} were above {metric.above:g}"
    return f"{metric.per or 'requests'} counted in {metric.name}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share * 100 == int(share * 100) else f"{share:.2%}"
