"""Which of many coins show heads most often, told with as few tosses as the odds allow: KL-LUCB.

E. Kaufmann and S. Kalyanakrishnan, "Information Complexity in Bandit Subset Selection", COLT 2013. Its
section 2 defines the KL confidence interval of a Bernoulli mean and the LUCB rule: toss only the weakest of
the leaders and the strongest of the rest (here: and those in between, in one batch), and stop when their
intervals overlap by less than epsilon. The exploration rate is that of theorem 1's discussion,
log(k K t^a / delta) + log log(...), a = 1.1, k = 405.5.

Here tosses are model predictions and come in batches, so that one round is one call of the model. `t` counts
rounds of a batch each, which only makes the intervals wider than the tosses would allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from math import log
from typing import Final

import numpy as np

from penstock.explain.base import Floats

_A: Final = 1.1
_K: Final = 405.5
#: Halvings of a bisection: 2^-18 is finer than any precision that is reported. Bounds err outwards.
_HALVINGS: Final = 18
_EDGE: Final = 1e-12
#: For each arm that is wanted, how many of the rest are tossed together with it.
_CONTENDERS: Final = 4

#: For each arm, how many more tosses: heads of each.
Toss = Callable[[Sequence[int], Sequence[int]], Sequence[int]]
#: Toss each of these arms some more: what that cost. Others may be tossed at the same cost.
More = Callable[[Sequence[int]], int]


def divergence(p: Floats, q: Floats) -> Floats:
    """KL divergence between Bernoulli distributions, element by element, in nats."""
    p = np.clip(p, _EDGE, 1 - _EDGE)
    q = np.clip(q, _EDGE, 1 - _EDGE)
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), dtype=np.float64)


def upper(mean: Floats, level: Floats) -> Floats:
    """The largest q >= mean with KL(mean, q) <= level, where level = beta / tosses."""
    return _bound(mean, level, np.ones_like(mean))


def lower(mean: Floats, level: Floats) -> Floats:
    """The smallest q <= mean with KL(mean, q) <= level."""
    return _bound(mean, level, np.zeros_like(mean))


def _bound(mean: Floats, level: Floats, end: Floats) -> Floats:
    """Between `mean` and `end`, the first point that is further than `level` from the mean."""
    p = np.clip(mean, _EDGE, 1 - _EDGE)
    rest = 1 - p
    # KL = -entropy - p log q - (1 - p) log(1 - q): only the last two change from one halving to the next.
    level = level - p * np.log(p) - rest * np.log(rest)
    inside, outside = p, np.clip(end, _EDGE, 1 - _EDGE)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        within = -p * np.log(middle) - rest * np.log1p(-middle) <= level
        inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
    return np.where(outside == np.clip(end, _EDGE, 1 - _EDGE), end, outside)


def exploration(arms: int, t: int, delta: float) -> float:
    """beta(t, delta) for so many arms."""
    x = log(_K * arms * t**_A / delta)
    return x + log(x)


@dataclass(slots=True)
class Arms:
    """Tosses and heads of each arm so far."""

    tosses: Floats
    heads: Floats

    @classmethod
    def fresh(cls, count: int) -> Arms:
        return cls(np.zeros(count), np.zeros(count))

    @property
    def means(self) -> Floats:
        return np.asarray(self.heads / np.maximum(self.tosses, 1), dtype=np.float64)

    def lower(self, beta: float) -> Floats:
        return lower(self.means, beta / np.maximum(self.tosses, 1))

    def upper(self, beta: float) -> Floats:
        return upper(self.means, beta / np.maximum(self.tosses, 1))

    def toss(self, toss: Toss, which: Sequence[int], batch: int, *, most: int | None = None) -> int:
        """Once more for each of `which`: a batch, or half of what it had where that is more, up to `most`.

        So there are only logarithmically many rounds, and at most half of the tosses too many. Answers how
        many tosses they were.
        """
        counts = [max(batch, int(self.tosses[arm]) // 2) for arm in which]
        if most is not None:
            counts = [min(count, most) for count in counts]
        for arm, count, heads in zip(which, counts, toss(which, counts), strict=True):
            self.tosses[arm] += count
            self.heads[arm] += heads
        return sum(counts)


@dataclass(frozen=True, slots=True)
class Leaders:
    """The arms that were chosen, best first, and whether the confidence asked for was reached."""

    arms: tuple[int, ...]
    settled: bool


def leaders(
    arms: Arms, more: More, *, wanted: int, epsilon: float, delta: float, most: int
) -> Leaders:
    """The `wanted` arms with the highest means, up to `epsilon`, with probability 1 - delta.

    `more` adds tosses to `arms`. When it has cost `most`, the best by mean are answered, unsettled.
    """
    count = len(arms.tosses)
    spent = 0
    fresh = [i for i in range(count) if arms.tosses[i] == 0]
    if fresh:
        spent += more(fresh)
    if wanted >= count:
        return Leaders(tuple(int(i) for i in np.argsort(-arms.means, kind="stable")), True)
    settled = False
    for t in count_from(1):
        order = np.argsort(-arms.means, kind="stable")
        front, rest = order[:wanted], order[wanted:]
        beta = exploration(count, t, delta)
        low, high = arms.lower(beta), arms.upper(beta)
        weakest, strongest = low[front].min(), high[rest].max()
        if strongest - weakest <= epsilon:
            settled = True
            break
        if spent >= most:
            break
        # LUCB tosses the weakest and the strongest; all that contend with them cost no further call.
        contend = [int(i) for i in front if strongest - low[i] > epsilon]
        near = rest[np.argsort(-high[rest], kind="stable")[: _CONTENDERS * wanted]]
        contend += [int(i) for i in near if high[i] - weakest > epsilon]
        spent += more(contend)
    order = np.argsort(-arms.means, kind="stable")
    return Leaders(tuple(int(i) for i in order[:wanted]), settled)
