"""Policies of bandits: what holds whatever was learned, and regret against the known bounds."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.domain.bandit import (
    Arm,
    Bandit,
    Policy,
    PolicyName,
    auer_bound,
    lai_robbins_bound,
    problem_with_reward,
)

ALL = [
    Bandit(PolicyName.EPSILON_GREEDY),
    Bandit(PolicyName.EPSILON_GREEDY, decay=5.0),
    Bandit(PolicyName.UCB1),
    Bandit(PolicyName.THOMPSON),
    Bandit(PolicyName.THOMPSON_NORMAL),
    Bandit(PolicyName.LINUCB, features=2, header="x"),
]
MEANS = (0.45, 0.5, 0.55, 0.6, 0.4)
PULLS = 10_000
Draw = Callable[[random.Random, float], float]


def success(chance: random.Random, mean: float) -> float:
    return float(chance.random() < mean)


def features_for(bandit: Bandit, chance: random.Random) -> tuple[float, ...]:
    return (
        (*(chance.uniform(-1, 1) for _ in range(bandit.features)), 1.0) if bandit.features else ()
    )


def play(
    bandit: Bandit,
    means: tuple[float, ...] = MEANS,
    pulls: int = PULLS,
    seed: int = 0,
    draw: Draw = success,
    delay: int = 0,
) -> float:
    """The regret of so many pulls; rewards come `delay` pulls later."""
    chance = random.Random(seed)
    policy = Policy(bandit, random.Random(seed + 1))
    arms = [Arm(str(i)) for i in range(len(means))]
    regret = 0.0
    owed: list[tuple[int, float]] = []
    for _ in range(pulls):
        i = policy.choose(arms)
        arms[i].pulls += 1
        regret += max(means) - means[i]
        owed.append((i, draw(chance, means[i])))
        if len(owed) > delay:
            arm, reward = owed.pop(0)
            arms[arm].credit(reward)
    return regret


def average(runs: int, **given: Any) -> float:
    return statistics.mean(play(seed=seed, **given) for seed in range(runs))


# -- regret ------------------------------------------------------------------------------------------------


def test_ucb1_stays_below_auers_bound() -> None:
    """Theorem 1 holds for every n, so also early; and it is no straight line."""
    regret = average(5, bandit=Bandit(PolicyName.UCB1))
    assert regret < auer_bound(MEANS, PULLS)
    early = average(5, bandit=Bandit(PolicyName.UCB1), pulls=2_000)
    assert early < auer_bound(MEANS, 2_000)
    assert regret < 3.5 * early  # a line would be five times as much


def test_thompson_sampling_is_near_lai_and_robbins_bound() -> None:
    """Asymptotically optimal; at 10,000 pulls its regret is of the bound's size, far below UCB1's."""
    regret = average(8, bandit=Bandit(PolicyName.THOMPSON))
    assert regret < 1.5 * lai_robbins_bound(MEANS, PULLS)
    assert regret < 0.6 * average(3, bandit=Bandit(PolicyName.UCB1))


def test_epsilon_greedy_pays_for_its_exploration_and_no_more() -> None:
    """A constant share of pulls goes to all arms alike; that which shrinks grows slower."""
    epsilon, pulls = 0.1, 20_000
    forced = epsilon * pulls * statistics.mean(max(MEANS) - m for m in MEANS)
    wide = (0.2, 0.8)
    regret = average(5, bandit=Bandit(PolicyName.EPSILON_GREEDY, epsilon=epsilon), pulls=pulls)
    assert 0.7 * forced < regret < 3 * forced
    fixed = average(5, bandit=Bandit(PolicyName.EPSILON_GREEDY), means=wide)
    shrinking = average(5, bandit=Bandit(PolicyName.EPSILON_GREEDY, decay=10.0), means=wide)
    assert shrinking < fixed / 2


def test_real_rewards_of_any_scale_are_learned() -> None:
    def draw(chance: random.Random, mean: float) -> float:
        return chance.gauss(mean, 20.0)

    means = (100.0, 110.0, 120.0)
    bandit = Bandit(PolicyName.THOMPSON_NORMAL)
    regret = average(5, bandit=bandit, means=means, pulls=5_000, draw=draw)
    # Honda and Takemura's asymptotic bound: ln(n) * sum of 2 gap / ln(1 + gap^2 / variance).
    bound = math.log(5_000) * sum(2 * g / math.log(1 + g * g / 400) for g in (10.0, 20.0))
    assert regret < 2 * bound


@pytest.mark.parametrize("bandit", ALL[:5], ids=str)
def test_rewards_that_come_late_cost_little(bandit: Bandit) -> None:
    """As long as a thousand requests are under way, nobody knows better than the shares."""
    means = (0.2, 0.8)
    at_once = average(3, bandit=bandit, means=means, pulls=4_000)
    late = average(3, bandit=bandit, means=means, pulls=4_000, delay=500)
    assert late < at_once + 500


def test_a_context_is_learned() -> None:
    """Regret against who knows the weights grows ever slower."""
    chance = random.Random(1)
    bandit = Bandit(PolicyName.LINUCB, features=4, header="x")
    weights = [[chance.gauss(0, 0.5) for _ in range(5)] for _ in range(4)]
    policy = Policy(bandit, random.Random(2))
    arms = [Arm(str(i)) for i in range(4)]
    regret, half = 0.0, 0.0
    for t in range(3_000):
        x = [*(chance.uniform(-0.5, 0.5) for _ in range(4)), 1.0]
        worths = [sum(a * b for a, b in zip(w, x, strict=True)) for w in weights]
        i = policy.choose(arms, x)
        regret += max(worths) - worths[i]
        arms[i].credit(worths[i] + chance.gauss(0, 0.1), x)
        if t == 1_499:
            half = regret
    assert regret - half < half / 3
    assert regret < 60


# -- what always holds -------------------------------------------------------------------------------------

rewards = st.lists(st.floats(0, 1), max_size=30)


@st.composite
def learned(draw: st.DrawFn) -> list[Arm]:
    arms = []
    for i in range(draw(st.integers(1, 6))):
        arm = Arm(str(i), pulls=draw(st.integers(0, 50)))
        for reward in draw(rewards):
            arm.credit(reward, (0.5, -0.25, 1.0))
        arms.append(arm)
    return arms


@given(arms=learned(), bandit=st.sampled_from(ALL), seed=st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_there_is_always_a_choice_and_it_is_repeatable(
    arms: list[Arm], bandit: Bandit, seed: int
) -> None:
    features = (0.5, 0.5, 1.0) if bandit.dimensions else ()
    before = msgspec.json.encode(arms)
    choices = [Policy(bandit, random.Random(seed)).choose(arms, features) for _ in range(2)]
    assert choices[0] == choices[1]
    assert 0 <= choices[0] < len(arms)
    assert msgspec.json.encode(arms) == before, "choosing changes nothing"


@given(parts=st.lists(rewards, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_several_processes_learned_adds_up(parts: list[list[float]]) -> None:
    whole, summed = Arm("a"), Arm("a")
    for part in parts:
        one = Arm("a")
        for reward in part:
            one.credit(reward, (reward, 1.0))
            whole.credit(reward, (reward, 1.0))
        summed.add(one)
    assert summed.rewards == whole.rewards
    assert summed.total == pytest.approx(whole.total)
    assert summed.mean == pytest.approx(whole.mean)
    assert summed.deviation == pytest.approx(whole.deviation, abs=1e-6)
    assert summed.products == pytest.approx(whole.products)
    assert summed.response == pytest.approx(whole.response)


@given(values=st.lists(st.floats(-1000, 1000), min_size=2, max_size=50))
@settings(max_examples=100, deadline=None)
def test_mean_and_deviation_are_those_of_the_rewards(values: list[float]) -> None:
    arm = Arm("a")
    for value in values:
        arm.credit(value)
    assert arm.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    assert arm.deviation == pytest.approx(statistics.stdev(values), abs=1e-3)


@pytest.mark.parametrize("bandit", ALL, ids=str)
def test_without_rewards_the_weights_divide(bandit: Bandit) -> None:
    policy = Policy(bandit, random.Random(0))
    arms = [Arm("a"), Arm("b"), Arm("c")]
    features = (0.1, 0.2, 1.0) if bandit.dimensions else ()
    for _ in range(100):
        arms[policy.choose(arms, features, (70, 20, 10))].pulls += 1
    assert [a.pulls for a in arms] == [70, 20, 10]


@pytest.mark.parametrize("bandit", ALL, ids=str)
def test_an_arm_that_never_answers_does_not_take_everything(bandit: Bandit) -> None:
    policy = Policy(bandit, random.Random(0))
    arms = [Arm("dead"), Arm("good")]
    features = (0.1, 0.2, 1.0) if bandit.dimensions else ()
    for _ in range(5_000):
        arm = arms[policy.choose(arms, features)]
        arm.pulls += 1
        if arm.name == "good":
            arm.credit(0.9, features)
    # Some are tried, and one of a hundred after that; epsilon-greedy has its own share.
    assert arms[0].pulls < 5_000 * (0.02 + bandit.epsilon * 0.6) + 80 * policy.needed
    assert arms[0].pulls > 20


@pytest.mark.parametrize("bandit", ALL[:5], ids=str)
def test_equal_arms_share(bandit: Bandit) -> None:
    """Ties are broken by chance, so that no arm is favoured for being first."""
    taken: Counter[int] = Counter()
    for seed in range(200):
        arms = [Arm(str(i), pulls=5, rewards=5, total=2.5, squares=1.75) for i in range(4)]
        taken[Policy(bandit, random.Random(seed)).choose(arms)] += 1
    assert all(25 <= taken[i] <= 80 for i in range(4))


def test_a_range_of_rewards_is_a_matter_of_scale() -> None:
    """The same world in cents and in euros leads to the same choices."""
    for name in (PolicyName.UCB1, PolicyName.THOMPSON):
        plain = Bandit(name)
        scaled = Bandit(name, least=-50.0, most=150.0)
        chance = random.Random(4)
        one, other = (Policy(b, random.Random(9)) for b in (plain, scaled))
        arms, cents = ([Arm(str(i)) for i in range(3)] for _ in range(2))
        for _ in range(300):
            i, j = one.choose(arms), other.choose(cents)
            assert i == j
            reward = float(chance.random() < 0.3 + 0.2 * i)
            arms[i].pulls, cents[i].pulls = arms[i].pulls + 1, cents[i].pulls + 1
            arms[i].credit(reward)
            cents[i].credit(reward * 200 - 50)


@pytest.mark.parametrize(
    ("bandit", "reward", "fine"),
    [
        (Bandit(PolicyName.UCB1), 0.0, True),
        (Bandit(PolicyName.UCB1), 1.0, True),
        (Bandit(PolicyName.UCB1), 1.01, False),
        (Bandit(PolicyName.UCB1, least=-1), -1.0, True),
        (Bandit(PolicyName.THOMPSON_NORMAL), -5e5, True),
        (Bandit(PolicyName.THOMPSON_NORMAL), 2e6, False),
        (Bandit(PolicyName.THOMPSON_NORMAL, most=2.0), 2.5, False),
        (Bandit(PolicyName.THOMPSON), math.nan, False),
        (Bandit(PolicyName.THOMPSON_NORMAL), math.inf, False),
    ],
)
def test_rewards_out_of_range_are_told(bandit: Bandit, reward: float, fine: bool) -> None:
    assert (problem_with_reward(bandit, reward) == "") is fine


def test_features_of_another_length_begin_anew() -> None:
    arm = Arm("a")
    arm.credit(1.0, (1.0, 1.0))
    arm.credit(1.0, (1.0, 2.0, 1.0))
    assert arm.response == [1.0, 2.0, 1.0]
    assert arm.rewards == 2


def test_a_bandit_travels_as_json() -> None:
    for bandit in ALL:
        assert msgspec.json.decode(msgspec.json.encode(bandit), type=Bandit) == bandit


def test_auers_bound_by_hand() -> None:
    bound = 8 * math.log(100) / 0.5 + (1 + math.pi**2 / 3) * 0.5
    assert auer_bound((1.0, 0.5), 100) == pytest.approx(bound)
    kl = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    assert lai_robbins_bound((0.6, 0.5), 100) == pytest.approx(math.log(100) * 0.1 / kl)


@pytest.mark.parametrize(
    "row", [(1e6, 1e6, 1.0), (1e6, -1e6, 1.0), (1e6, 1e-6, 1.0), (0.0, 0.0, 1.0)]
)
def test_features_that_say_the_same_do_not_stop_linucb_however_many_rewards(
    row: tuple[float, ...],
) -> None:
    """The ridge is lost in the rounding of sums that large; what is learned is right all the same."""
    policy = Policy(Bandit(PolicyName.LINUCB, features=2, header="x", exploration=0.01))
    arms = [Arm("worse"), Arm("better")]
    for arm, reward in zip(arms, (0.2, 0.8), strict=True):
        arm.rewards = 20_000
        arm.response = [20_000 * reward * x for x in row]
        arm.products = [20_000 * x * y for i, x in enumerate(row) for y in row[i:]]
    assert policy.choose(arms, row) == 1
    for other in ((1.0, 2.0, 1.0), (0.0, 1e6, 1.0)):
        assert policy.choose(arms, other) in (0, 1)
