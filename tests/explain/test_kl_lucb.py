"""KL-LUCB: bounds that are the inverse of the divergence, and the right arms as often as was promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.explain.kl_lucb import Arms, divergence, exploration, leaders, lower, upper

means = st.floats(0, 1)


def found_by(truth: list[float], seed: int, *, batch: int, arms: Arms | None = None, **kw: float):
    arms = arms or Arms.fresh(len(truth))
    toss = toss_of(truth, seed)
    return leaders(arms, lambda which: arms.toss(toss, which, batch), **kw)


def toss_of(truth: list[float], seed: int):
    random = np.random.default_rng(seed)
    return lambda which, counts: [
        int(random.binomial(n, truth[i])) for i, n in zip(which, counts, strict=True)
    ]


@given(means, st.floats(1e-4, 5))
def test_bounds_are_where_the_divergence_is_the_level(mean: float, level: float) -> None:
    m, at = np.array([mean]), np.array([level])
    high, low = upper(m, at), lower(m, at)
    assert low[0] <= mean + 1e-9 <= high[0] + 2e-9
    # Just inside of a bound the divergence is at most the level, just outside at least.
    step = 2e-5
    if high[0] < 1 - step:
        assert divergence(m, high - step)[0] <= level + 1e-3
        assert divergence(m, high + step)[0] >= level - 1e-3
    if low[0] > step:
        assert divergence(m, low + step)[0] <= level + 1e-3
        assert divergence(m, low - step)[0] >= level - 1e-3


def test_divergence_is_the_textbook_one() -> None:
    p, q = np.array([0.3]), np.array([0.6])
    expected = 0.3 * np.log(0.3 / 0.6) + 0.7 * np.log(0.7 / 0.4)
    assert divergence(p, q)[0] == pytest.approx(expected)
    assert divergence(np.array([0.0]), np.array([0.5]))[0] == pytest.approx(np.log(2), abs=1e-6)


def test_bounds_hold_the_true_mean_as_often_as_delta_says() -> None:
    """The level of one look: the mean is outside of the interval in no more than delta of the runs."""
    random = np.random.default_rng(1)
    n, mean, delta = 200, 0.9, 0.1
    heads = random.binomial(n, mean, 2000) / n
    level = np.full(2000, np.log(1 / delta) / n)
    assert np.mean(lower(heads, level) > mean) <= delta
    assert np.mean(upper(heads, level) < mean) <= delta


def test_finds_the_best_arms() -> None:
    """Over many runs, arms that are worse by more than epsilon come up in fewer than delta of them."""
    truth = [0.9, 0.85, 0.6, 0.55, 0.5, 0.3, 0.2, 0.1]
    wrong = 0
    for seed in range(60):
        found = found_by(truth, seed, wanted=2, epsilon=0.1, delta=0.1, batch=20, most=100_000)
        assert found.settled
        wrong += set(found.arms) != {0, 1}
    assert wrong <= 6


def test_clear_leaders_cost_few_tosses_and_close_ones_many() -> None:
    def cost(truth: list[float]) -> float:
        arms = Arms.fresh(len(truth))
        found_by(truth, 0, arms=arms, wanted=1, epsilon=0.05, delta=0.1, batch=20, most=200_000)
        return float(arms.tosses.sum())

    assert cost([0.99, 0.1, 0.1, 0.1]) * 5 < cost([0.55, 0.45, 0.1, 0.1])


def test_ends_when_arms_are_alike() -> None:
    """With nothing to tell arms apart, the budget ends it, and the answer says that it is not settled."""
    arms = Arms.fresh(5)
    found = found_by(
        [0.5] * 5, 3, arms=arms, wanted=2, epsilon=0.001, delta=0.1, batch=50, most=2_000
    )
    assert not found.settled
    assert len(found.arms) == 2
    assert arms.tosses.sum() <= 2_000 * 1.5 + 250


def test_as_many_wanted_as_there_are_needs_one_look() -> None:
    arms = Arms.fresh(3)
    found = found_by(
        [0.2, 0.8, 0.5], 0, arms=arms, wanted=4, epsilon=0.1, delta=0.1, batch=200, most=9_999
    )
    assert found.arms == (1, 2, 0)
    assert arms.tosses.tolist() == [200, 200, 200]


def test_exploration_grows_with_arms_and_rounds() -> None:
    assert exploration(10, 1, 0.1) > exploration(2, 1, 0.1)
    assert exploration(2, 50, 0.1) > exploration(2, 1, 0.1)
    assert exploration(2, 1, 0.01) > exploration(2, 1, 0.1)
