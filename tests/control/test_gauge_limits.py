"""Limits on gauges: quiet on noise that remembers little, loud on a value that is worse."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from math import exp, inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.rollouts.counting import problem_of, reading_of
from penstock.control.rollouts.evidence import Tally, fewest, more_often_than_not
from penstock.control.rollouts.gauges import Intervals
from penstock.control.rollouts.progress import (
    FALSE_ALARMS,
    LEANING,
    Count,
    Decision,
    Evidence,
    decide,
)
from penstock.domain.traffic import GaugeLimit, Rollout

#: A gauge's readings, one a second.
Readings = Iterator[float]


def steady(value: float) -> Readings:
    while True:
        yield value


def independent(rng: random.Random, mean: float = 100.0) -> Readings:
    while True:
        yield rng.gauss(mean, 10)


def wild(rng: random.Random, mean: float = 100.0) -> Readings:
    """Cauchy's: a mean of such readings settles never."""
    while True:
        yield mean + rng.gauss(0, 1) / (abs(rng.gauss(0, 1)) + 1e-9)


def remembering(rng: random.Random, mean: float = 100.0, over_s: float = 2.5) -> Readings:
    """Each reading is much like the one before, for seconds."""
    keep = exp(-1 / over_s)
    off = rng.gauss(0, 10)
    while True:
        yield mean + off
        off = keep * off + rng.gauss(0, 10) * (1 - keep**2) ** 0.5


def simulate(
    limit: GaugeLimit,
    new: Readings,
    stable: Readings,
    *,
    seconds: int = 600,
    hold_s: float = 1e9,
    steps: tuple[int, ...] = (20, 50),
) -> tuple[Decision, int]:
    """Looks at each second until it is over or goes back: the last decision, and when it was made."""
    policy = Rollout(steps=steps, hold_s=hold_s, min_requests=1, gauges=(limit,))
    intervals, told = Intervals(limit), Tally()
    step, evidence = 0, Evidence()
    decision = Decision(0, evidence)
    for now in range(seconds):
        intervals.read(float(now), next(new), next(stable))
        if intervals.tally == told and hold_s > seconds:
            continue  # nothing that could be decided
        counted = Count(1, 0, 0, (intervals.tally.since(told),))
        told = intervals.tally
        decision = decide(policy, step, evidence, counted, Count(5), now=float(now))
        step, evidence = decision.step, decision.evidence
        if decision.back or decision.done:
            return decision, now
    return decision, seconds


@pytest.mark.parametrize(
    ("noise", "lower"), [(independent, False), (wild, True), (remembering, False)]
)
def test_noise_is_taken_back_no_more_often_than_stated(
    noise: Callable[[random.Random], Readings], lower: bool
) -> None:
    """Equal gauges and no tolerance, the worst there is: 1% may fire, 3% would be a broken test."""
    limit = GaugeLimit("g", lower_is_worse=lower, tolerance=0.0, every_s=10)
    fired = sum(
        bool(simulate(limit, noise(random.Random(f"n{s}")), noise(random.Random(f"s{s}")))[0].back)
        for s in range(500)
    )
    assert fired <= 500 * FALSE_ALARMS * 3


def test_what_moves_both_of_them_takes_nobody_back() -> None:
    """A night, a cold cache: the pair has it together."""

    def drifting() -> Readings:
        rng = random.Random(7)
        at = 100.0
        while True:
            at += rng.gauss(0.5, 3)
            yield at

    assert not simulate(GaugeLimit("g", tolerance=0.0), drifting(), drifting())[0].back


def test_a_small_steady_difference_is_within_the_tolerance() -> None:
    assert not simulate(GaugeLimit("g"), steady(108.0), steady(100.0))[0].back
    assert simulate(GaugeLimit("g", tolerance=0.05), steady(108.0), steady(100.0))[0].back


@pytest.mark.parametrize("noise", [independent, wild, remembering])
def test_a_real_degradation_is_taken_back_soon(
    noise: Callable[[random.Random, float], Readings],
) -> None:
    """Thirty percent more, at a tolerance of ten: within five minutes, mostly within two."""
    took = []
    for s in range(40):
        decision, at = simulate(
            GaugeLimit("g"), noise(random.Random(f"n{s}"), 130), noise(random.Random(f"s{s}"), 100)
        )
        took.append(at if decision.back else inf)
    took.sort()
    assert took[20] <= 130
    assert took[38] <= 300


def test_a_number_may_be_the_limit_on_either_side() -> None:
    accuracy = GaugeLimit("accuracy", bound=0.9, lower_is_worse=True)
    bad, _ = simulate(accuracy, steady(0.8), steady(0.8))
    assert bad.back == "accuracy was below 0.9 in 10 of 10 intervals"
    assert not simulate(accuracy, steady(0.95), steady(0.1))[0].back
    queue = GaugeLimit("queue", bound=10)
    assert simulate(queue, steady(11), steady(50))[0].back
    assert not simulate(queue, steady(10), steady(1))[0].back


def test_why_says_what_it_was_compared_with() -> None:
    bad, _ = simulate(GaugeLimit("accuracy", lower_is_worse=True), steady(0.5), steady(0.9))
    assert (
        bad.back
        == "accuracy was below the stable revision's by more than 10% in 10 of 10 intervals"
    )


def test_one_spike_is_one_interval_however_high_and_long() -> None:
    def spike() -> Readings:
        for second in range(10_000):
            yield 1e12 if 100 <= second < 109 else 100.0

    assert not simulate(GaugeLimit("g"), spike(), steady(100.0))[0].back


def test_a_step_waits_while_it_looks_worse_and_the_last_one_for_enough_intervals() -> None:
    worse = GaugeLimit("g", every_s=10)
    # A few intervals are no reason to go back yet, and none to go on.
    decision, at = simulate(worse, steady(200), steady(100), hold_s=25)
    assert decision.back
    assert decision.step == 0
    assert at == 100
    # Steps whose time is over before a bad one could have been found.
    decision, at = simulate(worse, steady(100), steady(100), hold_s=5)
    assert decision.done
    assert at == 10 * fewest(log(2 / FALSE_ALARMS))


def test_a_gauge_that_nobody_keeps_holds_nothing_back() -> None:
    policy = Rollout(steps=(10,), hold_s=5, min_requests=1, gauges=(GaugeLimit("g"),))
    intervals = Intervals(policy.gauges[0])
    for now in range(100):
        intervals.read(float(now), None, 1.0)
    assert intervals.tally == Tally()
    first = decide(policy, 0, Evidence(), Count(5), Count(5), now=0.0)
    assert decide(policy, 0, first.evidence, Count(5), Count(5), now=6.0).done


readings = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@given(st.lists(st.tuples(readings, readings), max_size=60), st.booleans())
def test_an_interval_is_a_trial_where_both_were_read(
    given: list[tuple[float | None, float | None]], lower: bool
) -> None:
    intervals = Intervals(GaugeLimit("g", lower_is_worse=lower, every_s=1))
    for now, (new, stable) in enumerate(given):
        intervals.read(float(now), new, stable)
        assert 0 <= intervals.tally.hits <= intervals.tally.trials <= now


def test_what_is_no_number_is_no_reading() -> None:
    intervals = Intervals(GaugeLimit("g", every_s=2))
    for now, value in enumerate([nan, inf, 5.0]):
        intervals.read(float(now), value, 1.0)
    assert intervals.tally == Tally(1, 1)


def test_the_evidence_is_a_martingale_at_one_half() -> None:
    """The expectation of its factor is 1, whatever was seen before; below one half it is less."""
    for hits in range(6):
        for trials in range(hits, 6):
            before = Tally(hits, trials)
            up, down = (exp(more_often_than_not(before, Tally(h, 1))) for h in (1, 0))
            assert (up + down) / 2 == pytest.approx(1)
            assert 0.3 * up + 0.7 * down <= 1 + 1e-12
    assert 1 < LEANING * 2 < log(1 / FALSE_ALARMS)


IRIS = (("default", "iris"), "iris-00002")

TOTAL = {
    "accuracy": {
        "kind": "gauge",
        "labels": ["namespace", "service", "revision", "key"],
        "samples": [
            [["default", "iris", "iris-00002", "a"], 3.0],
            [["default", "iris", "iris-00002", "b"], 1.0],
            [["default", "iris", "iris-00001", "a"], 9.0],
            [["other", "iris", "iris-00002", "a"], 100.0],
        ],
        "processes": [2, 2, 3, 1],
    },
    "plain": {"kind": "gauge", "labels": ["service"], "samples": [], "processes": []},
    "count": {"kind": "counter", "labels": ["revision"], "samples": []},
}


@pytest.mark.parametrize(
    ("limit", "reading"),
    [
        (GaugeLimit("accuracy"), 1.0),
        (GaugeLimit("accuracy", labels=(("key", "a"),)), 1.5),
        (GaugeLimit("accuracy", labels=(("key", "c"),)), None),
        (GaugeLimit("accuracy", labels=(("nothing", "a"),)), None),
        (GaugeLimit("plain"), None),
        (GaugeLimit("count"), None),
        (GaugeLimit("nobody"), None),
    ],
)
def test_a_reading_is_the_mean_over_the_revisions_processes(
    limit: GaugeLimit, reading: float | None
) -> None:
    assert reading_of(TOTAL, ("default", "iris"), "iris-00002", limit) == reading


def test_why_a_metric_is_no_gauge() -> None:
    assert problem_of(TOTAL, *IRIS, "accuracy", "gauge") == ""
    assert problem_of(TOTAL, *IRIS, "count", "gauge") == "count is a counter, not a gauge"
    assert problem_of(TOTAL, *IRIS, "plain", "gauge") == "plain is not kept per revision"


def test_more_limits_ask_for_more_intervals() -> None:
    few = fewest(log(2 / FALSE_ALARMS))
    assert 8 <= few <= 12
    assert fewest(log(18 / FALSE_ALARMS)) > few
