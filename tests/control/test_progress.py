"""The decision of progressive delivery: quiet on noise, however often it looks; loud on a regression."""

from __future__ import annotations

import random
from dataclasses import replace
from math import comb, exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.rollouts.evidence import Tally, more_than_limit, more_than_other
from penstock.control.rollouts.progress import (
    CRASHES,
    FALSE_ALARMS,
    Count,
    Decision,
    Evidence,
    decide,
)
from penstock.domain.traffic import GaugeLimit, MetricLimit, Rollout

POLICY = Rollout(steps=(5, 25, 50), hold_s=60, min_requests=100)


def binomial(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


def simulate(
    rng: random.Random,
    policy: Rollout,
    p_new: float,
    p_stable: float,
    *,
    slow: float = 0.0,
    looks: int = 150,
    per_look: int = 40,
) -> Decision:
    """Looks until it is over or goes back; the last decision."""
    step, evidence = 0, Evidence()
    decision = Decision(0, evidence)
    for look in range(looks):
        n_new = max(1, per_look * policy.steps[step] // 100)
        n_stable = per_look - n_new
        decision = decide(
            policy,
            step,
            evidence,
            Count(n_new, binomial(rng, n_new, p_new), binomial(rng, n_new, slow)),
            Count(n_stable, binomial(rng, n_stable, p_stable)),
            now=float(look),
        )
        step, evidence = decision.step, decision.evidence
        if decision.back or decision.done:
            break
    return decision


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.02, 0.2, 0.9])
@pytest.mark.parametrize("error_rate", [None, "as it is"])
def test_noise_is_taken_back_no_more_often_than_stated(rate: float, error_rate: str | None) -> None:
    """600 harmless rollouts, looked at each second: 1% may fire, 3% would be a broken test."""
    limit = None if error_rate is None else rate
    policy = Rollout(steps=(20, 50), hold_s=1e9, error_rate=limit)
    fired = sum(
        bool(simulate(random.Random(seed), policy, rate, rate, looks=80, per_look=20).back)
        for seed in range(600)
    )
    assert fired <= 600 * FALSE_ALARMS * 3


@pytest.mark.parametrize(("p_new", "p_stable"), [(1.0, 0.0), (0.3, 0.0), (0.1, 0.005), (0.6, 0.3)])
def test_a_real_regression_is_taken_back(p_new: float, p_stable: float) -> None:
    back = sum(
        bool(simulate(random.Random(seed), POLICY, p_new, p_stable, looks=400).back)
        for seed in range(20)
    )
    assert back >= 19


def test_slow_answers_are_taken_back_and_fast_ones_are_not() -> None:
    policy = Rollout(steps=(20, 50), hold_s=30, min_requests=50, p99_s=0.2)
    slow = simulate(random.Random(1), policy, 0, 0, slow=0.3)
    assert "took longer than 0.2 s" in slow.back
    fast = simulate(random.Random(1), policy, 0, 0, slow=0.002)
    assert fast.done


def test_a_harmless_rollout_goes_up_step_by_step_and_ends() -> None:
    assert simulate(random.Random(3), POLICY, 0.001, 0.001, looks=1000).done


def test_a_step_waits_for_its_time_and_for_its_requests() -> None:
    d = decide(POLICY, 0, Evidence(), Count(1000), Count(1000), now=0)
    assert d.step == 0
    assert decide(POLICY, 0, d.evidence, Count(1000), Count(), now=59).step == 0
    assert decide(POLICY, 0, d.evidence, Count(), Count(), now=60).step == 1
    few = decide(POLICY, 0, Evidence(), Count(99), Count(1000), now=0)
    assert decide(POLICY, 0, few.evidence, Count(), Count(), now=1e6).step == 0
    assert decide(POLICY, 0, few.evidence, Count(1), Count(), now=1e6).step == 1


def test_processes_that_end_again_and_again_are_enough() -> None:
    d = decide(POLICY, 1, Evidence(), Count(), Count(), now=0, crashes=CRASHES)
    assert "ended 3 times" in d.back


counts = st.integers(0, 50).flatmap(
    lambda n: st.builds(Count, st.just(n), st.integers(0, n), st.integers(0, n))
)


@given(st.lists(st.tuples(counts, counts), max_size=30), st.sampled_from([None, 0.0, 0.01, 0.5]))
def test_it_never_goes_down_a_step_and_never_beyond_the_last(
    looks: list[tuple[Count, Count]], error_rate: float | None
) -> None:
    policy = Rollout(hold_s=0, min_requests=10, error_rate=error_rate, p99_s=1.0)
    step, evidence = 0, Evidence()
    for now, (new, stable) in enumerate(looks):
        d = decide(policy, step, evidence, new, stable, now=float(now))
        assert step <= d.step <= min(step + 1, len(policy.steps) - 1)
        assert not (d.done and d.back)
        if d.done or d.back:
            return
        step, evidence = d.step, d.evidence


def test_counters_that_went_back_start_anew() -> None:
    assert Count(5, 1).since(Count(10, 2)) == Count(5, 1)
    assert Count(15, 3, 1).since(Count(10, 2)) == Count(5, 1, 1)


# -- metrics ----------------------------------------------------------------------------------------

ABOVE = MetricLimit("penstock_predict_seconds", most=0.05, above=0.1)
AGAINST = MetricLimit("low_confidence_total")


@pytest.mark.parametrize("limit", [ABOVE, AGAINST])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_metric_within_its_limit_is_noise_and_beyond_it_evidence(
    limit: MetricLimit, rate: float
) -> None:
    def last(p_new: float, seed: int) -> Decision:
        rng = random.Random(seed)
        policy = Rollout(
            steps=(50,), hold_s=1e9, metrics=(replace(limit, most=limit.most and rate),)
        )
        evidence = Evidence()
        for now in range(80):
            d = decide(
                policy,
                0,
                evidence,
                Count(10, metrics=(Tally(binomial(rng, 10, p_new), 10),)),
                Count(10, metrics=(Tally(binomial(rng, 10, rate), 10),)),
                now=float(now),
            )
            evidence = d.evidence
            if d.back:
                break
        return d

    assert sum(bool(last(rate, seed).back) for seed in range(300)) <= 300 * FALSE_ALARMS * 3
    found = [last(min(1.0, rate + 0.3), seed).back for seed in range(10)]
    assert all(found)
    assert all(limit.name in why for why in found)


def test_the_share_of_false_alarms_is_divided_among_the_limits() -> None:
    """With more limits each one needs more evidence."""

    def needed(policy: Rollout) -> int:
        evidence = Evidence()
        nothing = (Tally(),) * len(policy.metrics)
        for looks in range(1, 200):
            d = decide(policy, 0, evidence, Count(1, 1, 0, nothing), Count(1), now=0)
            evidence = d.evidence
            if d.back:
                return looks
        raise AssertionError

    one = needed(Rollout(error_rate=0.1))
    assert needed(Rollout(error_rate=0.1, metrics=(ABOVE,) * 8)) > one


def test_tallies_that_went_back_start_anew_each_for_itself() -> None:
    before = Count(10, metrics=(Tally(2, 10), Tally(5, 50)))
    now = Count(20, metrics=(Tally(1, 3), Tally(6, 60)))
    assert now.since(before).metrics == (Tally(1, 3), Tally(1, 10))
    assert Count(5, metrics=(Tally(1, 3), Tally(6, 60))).since(before).metrics == (
        Tally(1, 3),
        Tally(1, 10),
    )


@given(
    rates=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    p=st.floats(0.0, 1.0),
    lower=st.floats(0.0, 1.0),
    n=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_the_factor_against_another_revision_has_no_expectation_above_one(
    rates: tuple[float, float], p: float, lower: float, n: tuple[int, int]
) -> None:
    """Summed over all outcomes of small batches, exactly: for every p_c <= p_s."""
    t_c, t_s = max(rates), min(rates)
    before = Tally(round(t_c * 10_000), 10_000)
    other_before = Tally(round(t_s * 10_000), 10_000)
    p_c, p_s = p * lower, p
    total = 0.0
    for a in range(n[0] + 1):
        for b in range(n[1] + 1):
            chance = comb(n[0], a) * p_c**a * (1 - p_c) ** (n[0] - a)
            chance *= comb(n[1], b) * p_s**b * (1 - p_s) ** (n[1] - b)
            factor = more_than_other(before, other_before, Tally(a, n[0]), Tally(b, n[1]))
            total += chance * exp(factor)
    assert total <= 1 + 1e-9


@given(limit=st.floats(0.001, 0.9), rate=st.floats(0.0, 1.0), t=st.floats(0.01, 0.99))
def test_the_factor_against_a_limit_has_no_expectation_above_one(
    limit: float, rate: float, t: float
) -> None:
    p = limit * rate
    before = Tally(round(t * 1000), 1000)
    total = sum(
        comb(3, k) * p**k * (1 - p) ** (3 - k) * exp(more_than_limit(limit, before, Tally(k, 3)))
        for k in range(4)
    )
    assert total <= 1 + 1e-9


@pytest.mark.parametrize(("p_new", "p_stable"), [(0.0, 0.3), (0.1, 0.5), (0.02, 0.05)])
def test_a_revision_that_fails_less_is_never_taken_back(p_new: float, p_stable: float) -> None:
    policy = Rollout(steps=(50,), hold_s=1e9)
    for seed in range(40):
        assert not simulate(random.Random(seed), policy, p_new, p_stable, looks=60).back


def test_metrics_and_gauges_go_together() -> None:
    """The stable revision's count has no trials of gauges: those are of both sides at once."""
    policy = Rollout(
        metrics=(MetricLimit("unsure", 0.1),), gauges=(GaugeLimit("score", bound=1.0),)
    )
    new = Count(10, 0, 0, (Tally(0, 5), Tally(1, 1)))
    stable = Count(10, 0, 0, (Tally(0, 5),))
    decision = decide(policy, 0, Evidence(), new, stable, now=0)
    assert not decision.back
    for now in range(1, 30):
        decision = decide(policy, 0, decision.evidence, new, stable, now=now)
        if decision.back:
            break
    assert "score was above 1" in decision.back
