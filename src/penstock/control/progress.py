"""Whether a new revision goes up a step, holds, or goes back: a pure function over counted requests.

The counts are looked at again and again, so an ordinary test would sooner or later fire on noise. What is
kept instead is a test martingale for each limit: a number that starts at 1, is multiplied by a factor per
batch of new requests, and whose expectation never grows while the limit holds. By Ville's inequality it ever
reaches 1/a with a probability of at most a, however often it is looked at and whenever one stops.

* Against the stable revision: the e-variable for two proportions of Turner, Ly and Gruenwald, "Generic
  E-variables for exact sequential k-sample tests that allow for optional stopping" (2024; arXiv:2106.02693),
  equation for Bernoulli: a failure of side x counts t_x/t_0, a success (1-t_x)/(1-t_0), with
  t_0 = (n_c t_c + n_s t_s)/(n_c + n_s). The rates t_c > t_s are estimated from earlier batches only, which
  keeps each factor's expectation at most 1 for every pair of true rates with p_c <= p_s: its logarithm is
  concave in a common rate p with its maximum, 0, at p = t_0, and a lower p_c or higher p_s lowers it.
* Against a number p_0: the likelihood ratio of t > p_0 (again from earlier batches) to p_0, one-sided.

A limit on the 99th percentile is the second test, on the share of requests slower than the limit, p_0 = 1%.
With m limits each one fires at m/a, so all together fire on a harmless revision at a rate of at most a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

from penstock.domain.traffic import Rollout

#: The most probable share of harmless rollouts that are taken back.
FALSE_ALARMS = 0.01
#: Ends of the new revision's processes that are enough by themselves.
CRASHES = 3
SLOW_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Count:
    """Requests of one revision since something: all, failed (5xx), slower than the limit."""

    requests: int = 0
    failed: int = 0
    slow: int = 0

    def since(self, before: Count) -> Count:
        """What came after `before`; counters that went back start anew."""
        if self.requests < before.requests:
            return self
        return Count(
            self.requests - before.requests,
            max(0, self.failed - before.failed),
            max(0, self.slow - before.slow),
        )

    def plus(self, other: Count) -> Count:
        return Count(
            self.requests + other.requests, self.failed + other.failed, self.slow + other.slow
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is remembered between two looks."""

    #: All that was counted in this rollout, of the new and of the stable revision.
    new: Count = Count()
    stable: Count = Count()
    #: Logarithms of the test martingales.
    log_failed: float = 0.0
    log_slow: float = 0.0
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


def decide(
    policy: Rollout,
    step: int,
    evidence: Evidence,
    new: Count,
    stable: Count,
    *,
    now: float,
    crashes: int = 0,
) -> Decision:
    """Look once. `new` and `stable` are counts since the last look; `crashes` since the rollout's start."""
    limits = 1 + (policy.p99_s is not None)
    bound = log(limits / FALSE_ALARMS)
    e = evidence if evidence.since is not None else replace(evidence, since=now)
    if policy.error_rate is None:
        failed = _two(e, new, stable)
    else:
        failed = _one(policy.error_rate, e.new.failed, e.new.requests, new.failed, new.requests)
    slow = 0.0
    if policy.p99_s is not None:
        slow = _one(SLOW_SHARE, e.new.slow, e.new.requests, new.slow, new.requests)
    e = replace(
        e,
        new=e.new.plus(new),
        stable=e.stable.plus(stable),
        log_failed=e.log_failed + failed,
        log_slow=e.log_slow + slow,
        in_step=e.in_step + new.requests,
    )
    why = ""
    if crashes >= CRASHES:
        why = f"its processes ended {crashes} times"
    elif e.log_failed >= bound:
        limit = (
            f"the stable revision's {_percent(e.stable.failed, e.stable.requests)}"
            if policy.error_rate is None
            else f"the limit of {policy.error_rate:.2%}"
        )
        why = f"{_percent(e.new.failed, e.new.requests)} of its requests failed, against {limit}"
    elif e.log_slow >= bound:
        why = (
            f"{_percent(e.new.slow, e.new.requests)} of its requests took longer than "
            f"{policy.p99_s:g} s, against the limit of {SLOW_SHARE:.0%}"
        )
    if why:
        return Decision(step, e, back=why)
    assert e.since is not None  # noqa: S101 - set above
    if now - e.since < policy.hold_s or e.in_step < policy.min_requests:
        return Decision(step, e)
    e = replace(e, since=now, in_step=0)
    if step + 1 < len(policy.steps):
        return Decision(step + 1, e)
    return Decision(step, e, done=True)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0%"


def _rate(failed: int, requests: int) -> float:
    """An estimate that is never 0 or 1 (Krichevsky and Trofimov's)."""
    return (failed + 0.5) / (requests + 1)


def _two(e: Evidence, new: Count, stable: Count) -> float:
    """Logarithm of the factor for this batch: does the new one fail more than the stable one?"""
    n = new.requests + stable.requests
    if not new.requests or not stable.requests:
        return 0.0
    t_c = _rate(e.new.failed, e.new.requests)
    t_s = _rate(e.stable.failed, e.stable.requests)
    if not e.new.requests:  # nothing is known yet: what a bad one would look like
        t_c = max(t_c, 0.2)
    if not e.stable.requests:
        t_s = min(t_s, 0.01)
    if t_c <= t_s:
        return 0.0
    t_0 = (new.requests * t_c + stable.requests * t_s) / n
    return _ratio(new.failed, new.requests, t_c, t_0) + _ratio(
        stable.failed, stable.requests, t_s, t_0
    )


def _one(limit: float, failed: int, requests: int, new_failed: int, new: int) -> float:
    """Logarithm of the factor for this batch: are there more than `limit`?"""
    t = _rate(failed, requests) if requests else max(0.2, min(0.99, 2 * limit))
    limit = max(limit, 1e-6)
    return _ratio(new_failed, new, t, limit) if t > limit and limit < 1 else 0.0


def _ratio(failed: int, requests: int, rate: float, against: float) -> float:
    return failed * log(rate / against) + (requests - failed) * log((1 - rate) / (1 - against))
