"""Evidence that a share is higher than it may be, for a look at any time: two test martingales.

Counts are looked at again and again, so an ordinary test would sooner or later fire on noise. What is kept
instead for each limit is a number that starts at 1, is multiplied by a factor per batch of new trials, and
whose expectation never grows while the limit holds (an e-process). By Ville's inequality it ever reaches 1/a
with a probability of at most a, however often it is looked at and whenever one stops. Here are the logarithms
of its factors.

* `more_than_other`: Turner, Ly and Gruenwald, "Generic E-variables for exact sequential k-sample tests that
  allow for optional stopping", Journal of Statistical Planning and Inference 230 (2024) 106116
  (doi:10.1016/j.jspi.2023.106116, arXiv:2106.02693): their e-variable for two Bernoulli streams. A hit of
  side x counts t_x/t_0 and a miss (1-t_x)/(1-t_0), with t_0 = (n_c t_c + n_s t_s)/(n_c + n_s). Why its
  expectation is at most 1 for all true rates p_c <= p_s, when t_c > t_s are fixed before the batch: for a
  common rate p it is (p t_c/t_0 + (1-p)(1-t_c)/(1-t_0))^n_c times the same of s. Both bases are linear in p,
  so the logarithm is concave; its derivative at p = t_0 is
  (n_c (t_c - t_0) + n_s (t_s - t_0)) / (t_0 (1 - t_0)) = 0, so the maximum is there, where both bases are 1.
  A lower p_c lowers the first base (t_c > t_0), a higher p_s the second. The rates are estimated from earlier
  batches only, and the sizes of batches do not depend on what their trials will show, so the product over
  batches is a supermartingale.
* `more_than_limit`: the likelihood ratio of t > p_0, again from earlier batches, to the limit p_0. For a rate
  p <= p_0 the factor of one trial has the expectation p t/p_0 + (1-p)(1-t)/(1-p_0), which grows in p and is 1
  at p_0.
* `more_often_than_not`: the same with p_0 = 1/2, which makes it the sign test (Dixon and Mood, "The
  statistical sign test", Journal of the American Statistical Association 41 (1946) 557-566) for a look at any
  time. It assumes nothing of what is compared but that each time, whatever was before, the limit is kept with
  a probability of at least one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials, and how many of them were hits: requests and failures, observations and slow ones."""

    hits: int = 0
    trials: int = 0

    def since(self, before: Tally) -> Tally:
        """What came after `before`; counters that went back start anew."""
        if self.trials < before.trials:
            return self
        trials = self.trials - before.trials
        return Tally(min(trials, max(0, self.hits - before.hits)), trials)

    def plus(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.trials + other.trials)

    @property
    def rate(self) -> float:
        """An estimate that is never 0 or 1 (Krichevsky and Trofimov's)."""
        return (self.hits + 0.5) / (self.trials + 1)

    def __str__(self) -> str:
        return f"{self.hits / self.trials:.2%}" if self.trials else "0%"


def more_than_other(before: Tally, other_before: Tally, new: Tally, other: Tally) -> float:
    """Logarithm of the factor for one batch of each side: does the first have a higher share?"""
    if not new.trials or not other.trials:
        return 0.0
    t_c, t_s = before.rate, other_before.rate
    if not before.trials:  # nothing is known yet: what a bad one would look like
        t_c = max(t_c, 0.2)
    if not other_before.trials:
        t_s = min(t_s, 0.01)
    if t_c <= t_s:
        return 0.0
    t_0 = (new.trials * t_c + other.trials * t_s) / (new.trials + other.trials)
    return _ratio(new, t_c, t_0) + _ratio(other, t_s, t_0)


def more_than_limit(limit: float, before: Tally, new: Tally) -> float:
    """Logarithm of the factor for one batch: is the share above `limit`?"""
    t = before.rate if before.trials else max(0.2, min(0.99, 2 * limit))
    limit = max(limit, 1e-6)
    return _ratio(new, t, limit) if t > limit and limit < 1 else 0.0


def more_often_than_not(before: Tally, new: Tally) -> float:
    """Logarithm of the factor for one batch: is more than one half hit?"""
    # As if one and a half of two had been: a few in a row then say something.
    t = (before.hits + 1.5) / (before.trials + 2)
    return _ratio(new, t, 0.5) if t > 0.5 else 0.0


def fewest(bound: float) -> int:
    """Trials, all of them hits, that `more_often_than_not` needs to come to `bound` one by one."""
    n, found = 0, 0.0
    while found < bound:
        found += more_often_than_not(Tally(n, n), Tally(1, 1))
        n += 1
    return n


def _ratio(of: Tally, rate: float, against: float) -> float:
    return of.hits * log(rate / against) + (of.trials - of.hits) * log((1 - rate) / (1 - against))
