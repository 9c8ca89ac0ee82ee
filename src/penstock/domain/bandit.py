"""Bandits: who of several arms gets a request, learned from rewards.

A policy is a pure function of what is known of the arms, a request's features, and a random generator that is
handed in. What is known is sums only, so that several processes' knowledge is added up and nothing is lost in
the order: for each arm how many rewards came, their sum, the sum of their squares and, for LinUCB, of the
features' products. Rewards come late and not for every request: what counts is rewards, not requests. An arm
that has none yet is tried first, but not for ever: one that never answers shall not take everything.

Sources:

* epsilon-greedy and UCB1: P. Auer, N. Cesa-Bianchi, P. Fischer, "Finite-time Analysis of the Multiarmed
  Bandit Problem", Machine Learning 47, 2002, figures 3 and 1; the counts of rewards that have come in
  place of those of pulls: P. Joulani, A. Gyorgy, C. Szepesvari, "Online Learning under Delayed Feedback",
  ICML 2013.
* Thompson sampling with a Beta posterior: O. Chapelle, L. Li, "An Empirical Evaluation of Thompson Sampling",
  NIPS 2011, algorithm 2.
* Thompson sampling for real rewards: the Normal-inverse-gamma posterior with the prior of J. Honda,
  A. Takemura, "Optimality of Thompson Sampling for Gaussian Bandits Depends on Priors", AISTATS 2014
  (alpha = -1/2, so four rewards before an arm is compared).
* LinUCB with disjoint models: L. Li, W. Chu, J. Langford, R. Schapire, "A Contextual-Bandit Approach to
  Personalized News Article Recommendation", WWW 2010, algorithm 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

#: Features that a request may bring; the constant 1 is added to them.
MOST_FEATURES: Final = 32
#: Largest feature and reward, either side of 0.
MOST_VALUE: Final = 1e6
#: Arms of one bandit.
MOST_ARMS: Final = 64
#: An arm without rewards gets so many requests, and then this share of those that were rewarded.
TRIES: Final = 20
TRIED_SHARE: Final = 0.01
#: A ridge regression's sums of squares up to which the ridge's 1 counts in plain arithmetic.
_PLAIN: Final = 1e10


class PolicyName(StrEnum):
    """How an arm is chosen."""

    EPSILON_GREEDY = "epsilon-greedy"
    UCB1 = "ucb1"
    #: For rewards in a range, by a Beta posterior.
    THOMPSON = "thompson"
    #: For real rewards, by a Normal-inverse-gamma posterior.
    THOMPSON_NORMAL = "thompson-normal"
    #: By features of the request.
    LINUCB = "linucb"


class Bandit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy and its settings."""

    policy: PolicyName
    #: Epsilon-greedy: the share of requests that any arm may get.
    epsilon: float = 0.1
    #: Epsilon-greedy: the share shrinks, min(1, decay * arms / rewards); 0: it stays `epsilon`.
    decay: float = 0.0
    #: UCB1 and LinUCB: the width of the confidence bound, in the papers' own (1: as proved; LinUCB's alpha).
    exploration: float = 1.0
    #: The range of rewards. Any number for `thompson-normal` unless it is given.
    least: float = 0.0
    most: float = 1.0
    #: LinUCB: how many features, and where they are: a request header, or an input tensor's first row.
    features: int = 0
    header: str = ""
    tensor: str = ""
    #: A feedback that comes later than this after its answer is not taken, seconds.
    window_s: float = 86_400.0
    #: For choices that come out the same each time, in one gateway.
    seed: int | None = None

    @property
    def dimensions(self) -> int:
        """Length of a feature vector with its constant; 0 where the policy takes none."""
        return self.features + 1 if self.policy is PolicyName.LINUCB else 0

    @property
    def bounded(self) -> bool:
        """Rewards have to be in the range."""
        return self.policy is not PolicyName.THOMPSON_NORMAL or (self.least, self.most) != (
            0.0,
            1.0,
        )


class Arm(msgspec.Struct, omit_defaults=True):
    """What is known of one arm: sums, so that two of one arm are added."""

    name: str
    #: Requests that it got.
    pulls: int = 0
    #: Rewards that came for them, their sum and the sum of their squares.
    rewards: int = 0
    total: float = 0.0
    squares: float = 0.0
    #: LinUCB: the upper triangle of the sum of x x', row by row, and the sum of reward times x.
    products: list[float] = msgspec.field(default_factory=list)
    response: list[float] = msgspec.field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean reward; 0 without any."""
        return self.total / self.rewards if self.rewards else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the rewards; 0 for fewer than two."""
        return math.sqrt(self.scatter / (self.rewards - 1)) if self.rewards > 1 else 0.0

    @property
    def scatter(self) -> float:
        """Sum of squared distances from the mean; never below 0, whatever was rounded."""
        if not self.rewards:
            return 0.0
        return max(0.0, self.squares - self.total * self.total / self.rewards)

    def credit(self, reward: float, features: Sequence[float] = ()) -> None:
        """Take a reward in."""
        self.rewards += 1
        self.total += reward
        self.squares += reward * reward
        if features:
            _grow(self, len(features))
            at = 0
            products, response = self.products, self.response
            for i, x in enumerate(features):
                response[i] += reward * x
                for y in features[i:]:
                    products[at] += x * y
                    at += 1

    def add(self, other: Arm) -> None:
        """Take in what another process knows of this arm."""
        self.pulls += other.pulls
        self.rewards += other.rewards
        self.total += other.total
        self.squares += other.squares
        if other.response:
            _grow(self, len(other.response))
            self.products = [a + b for a, b in zip(self.products, other.products, strict=True)]
            self.response = [a + b for a, b in zip(self.response, other.response, strict=True)]


def _grow(arm: Arm, dimensions: int) -> None:
    """Room for features. What was learned of another number of them is of no use any more."""
    if len(arm.response) != dimensions:
        arm.response = [0.0] * dimensions
        arm.products = [0.0] * (dimensions * (dimensions + 1) // 2)


Chooser: TypeAlias = Callable[[Sequence[Arm], Sequence[float]], int]


class Policy:
    """A bandit's choice among arms.

    `generator` is the only source of chance; it has the methods of `random.Random`.
    """

    def __init__(self, bandit: Bandit, generator: random.Random | None = None) -> None:
        self.bandit = bandit
        self.random = generator or random.Random(bandit.seed)
        #: Rewards before an arm is compared with the others.
        self.needed = 4 if bandit.policy is PolicyName.THOMPSON_NORMAL else 1
        self._span = bandit.most - bandit.least
        self._choose: Chooser = {
            PolicyName.EPSILON_GREEDY: self._greedy,
            PolicyName.UCB1: self._ucb1,
            PolicyName.THOMPSON: self._thompson,
            PolicyName.THOMPSON_NORMAL: self._normal,
            PolicyName.LINUCB: self._linucb,
        }[bandit.policy]
        self._solved: dict[str, tuple[int, _Linear]] = {}

    def choose(
        self,
        arms: Sequence[Arm],
        features: Sequence[float] = (),
        weights: Sequence[float] | None = None,
    ) -> int:
        """The position of the arm that gets the request. There has to be one arm at least.

        `weights` say how requests are divided among arms that have no rewards yet. `features` have the
        bandit's number of them and the constant (see `Bandit.dimensions`).
        """
        if len(arms) == 1:
            return 0
        new = self._untried(arms, weights)
        return new if new is not None else self._choose(arms, features)

    def _untried(self, arms: Sequence[Arm], weights: Sequence[float] | None) -> int | None:
        """The arm without enough rewards that is behind its share most; None: all can be compared."""
        needed = self.needed
        best = None
        least = math.inf
        patience = -1.0
        for i, arm in enumerate(arms):
            if arm.rewards >= needed:
                continue
            if patience < 0:
                rewarded = sum(a.rewards for a in arms)
                compared = sum(a.rewards >= needed for a in arms)
                # While there is nothing to compare with, nobody is made to wait for.
                patience = TRIES * needed + TRIED_SHARE * rewarded if compared else math.inf
            if arm.pulls >= patience:
                continue
            behind = arm.pulls / (weights[i] if weights is not None and weights[i] > 0 else 1.0)
            if behind < least:
                best, least = i, behind
        return best

    # -- policies: all arms are compared; one without rewards has the least worth ----------------------

    def _best(self, worths: Sequence[float]) -> int:
        """The largest; among equals by chance."""
        most = max(worths)
        equal = [i for i, worth in enumerate(worths) if worth == most]
        return equal[0] if len(equal) == 1 else self.random.choice(equal)

    def _greedy(self, arms: Sequence[Arm], features: Sequence[float]) -> int:
        bandit = self.bandit
        epsilon = bandit.epsilon
        if bandit.decay:
            seen = sum(a.rewards for a in arms)
            epsilon = min(1.0, bandit.decay * len(arms) / max(1, seen))
        if self.random.random() < epsilon:
            return self.random.randrange(len(arms))
        return self._best([a.mean if a.rewards else -math.inf for a in arms])

    def _ucb1(self, arms: Sequence[Arm], features: Sequence[float]) -> int:
        least, span = self.bandit.least, self._span
        double_log = 2 * math.log(max(2, sum(a.rewards for a in arms)))
        width = self.bandit.exploration
        return self._best(
            [
                (a.mean - least) / span + width * math.sqrt(double_log / a.rewards)
                if a.rewards
                else -math.inf
                for a in arms
            ]
        )

    def _thompson(self, arms: Sequence[Arm], features: Sequence[float]) -> int:
        least, span = self.bandit.least, self._span
        beta = self.random.betavariate
        draws = []
        for arm in arms:
            if not arm.rewards:
                draws.append(-math.inf)
                continue
            won = min(max((arm.total - least * arm.rewards) / span, 0.0), float(arm.rewards))
            draws.append(beta(1 + won, 1 + arm.rewards - won))
        return self._best(draws)

    def _normal(self, arms: Sequence[Arm], features: Sequence[float]) -> int:
        draws = []
        for arm in arms:
            n = arm.rewards
            if n < self.needed:
                draws.append(-math.inf)
                continue
            # The variance is inverse-gamma of shape (n - 2) / 2, the mean normal around the sample's.
            scatter = arm.scatter
            variance = scatter / 2 / self.random.gammavariate((n - 2) / 2, 1) if scatter else 0.0
            draws.append(self.random.gauss(arm.mean, math.sqrt(variance / n)))
        return self._best(draws)

    def _linucb(self, arms: Sequence[Arm], features: Sequence[float]) -> int:
        worths = []
        for arm in arms:
            if not arm.rewards:
                worths.append(-math.inf)
                continue
            known = self._solved.get(arm.name)
            if known is None or known[0] != arm.rewards:
                if len(self._solved) >= 2 * max(MOST_ARMS, len(arms)):
                    self._solved.clear()
                known = self._solved[arm.name] = (arm.rewards, _Linear(arm, len(features)))
            worths.append(known[1].worth(features, self.bandit.exploration))
        return self._best(worths)


class _Linear:
    """One arm's ridge regression, solved."""

    __slots__ = ("_inverse", "_theta")

    def __init__(self, arm: Arm, dimensions: int) -> None:
        # Here only: a gateway without such a bandit need not load it.
        import numpy as np

        a = np.eye(dimensions)
        response = np.zeros(dimensions)
        if len(arm.response) == dimensions:
            upper = np.zeros((dimensions, dimensions))
            upper[np.triu_indices(dimensions)] = arm.products
            a += upper + np.triu(upper, 1).T
            response = np.array(arm.response)
        if np.trace(a) < _PLAIN:
            self._inverse = np.linalg.inv(a)
            self._theta = np.linalg.solve(a, response)
        else:
            # No eigenvalue is below the ridge's 1, but sums this large may have lost it in rounding.
            values, vectors = np.linalg.eigh(a)
            self._inverse = (vectors / np.maximum(values, 1.0)) @ vectors.T
            self._theta = self._inverse @ response

    def worth(self, features: Sequence[float], alpha: float) -> float:
        import numpy as np

        x = np.array(features)
        return float(self._theta @ x + alpha * math.sqrt(max(0.0, float(x @ self._inverse @ x))))


def problem_with_reward(bandit: Bandit, reward: float) -> str:
    """Why a reward cannot be taken; empty when it can."""
    if not math.isfinite(reward) or abs(reward) > MOST_VALUE:
        return f"a reward is a number between {-MOST_VALUE:g} and {MOST_VALUE:g}"
    if bandit.bounded and not bandit.least <= reward <= bandit.most:
        return f"a reward of this bandit is between {bandit.least:g} and {bandit.most:g}, not {reward!r}"
    return ""


# -- bounds, for tests and benchmarks ---------------------------------------------------------------------


def auer_bound(means: Sequence[float], pulls: int) -> float:
    """UCB1's most regret after `pulls`, rewards in [0, 1] (Auer et al. 2002, theorem 1)."""
    gaps = [max(means) - m for m in means]
    log = math.log(pulls)
    return sum(8 * log / g for g in gaps if g > 0) + (1 + math.pi**2 / 3) * sum(gaps)


def lai_robbins_bound(means: Sequence[float], pulls: int) -> float:
    """What no good policy's regret grows slower than, for success or none: ln(n) * sum of gap / KL.

    T. L. Lai, H. Robbins, "Asymptotically efficient adaptive allocation rules", 1985, theorem 1. It is for
    n towards infinity: at a given n a policy may be below it.
    """
    best = max(means)
    return math.log(pulls) * sum((best - m) / _kl(m, best) for m in means if m < best)


def _kl(p: float, q: float) -> float:
    def part(a: float, b: float) -> float:
        return a * math.log(a / b) if a else 0.0

    return part(p, q) + part(1 - p, 1 - q)
