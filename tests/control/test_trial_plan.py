"""A rollout beside a bandit: the new revision's share is of all requests, the arms keep their proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_control_plan import entry
from test_workload_plan import ONE, V2, component, decide, replica, revision, trying, weights

from penstock.backends.base import Phase
from penstock.control.plan import Wanted
from penstock.control.revisions import Kept, Stage
from penstock.control.rollouts.rollout import Share, divide, of_all
from penstock.domain.annotations import GIVEN_UP, PINNED, PROMOTED
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.service import Canary, Service
from penstock.domain.traffic import Rollout, Traffic
from penstock.domain.workload import workloads_of

POLICY = Rollout(steps=(10, 50))
LEARNS = Traffic(bandit=Bandit(PolicyName.UCB1), rollout=POLICY)
NEW = revision(component(), 2)


def service(percent: int = 40, traffic: Traffic = LEARNS, **annotations: str) -> Service:
    return replace(
        trying(percent),
        traffic=traffic,
        annotations={k.replace("_", "/"): v for k, v in annotations.items()},
    )


def at(step: int, back: str = "") -> Kept:
    return replace(NEW, stage=Stage(step, back))


def look(
    s: Service, new: Kept, told: dict[str, int] | None = None, down: Sequence[str] = ()
) -> Wanted:
    """With a replica of each, all of which answer but those that are down."""
    revisions = (ONE, new, V2)
    replicas = [replica(k, 0, Phase.BACKOFF if k.name in down else Phase.READY) for k in revisions]
    before = {ONE.name: 60, V2.name: 40} if told is None else told
    return decide(s, revisions, *replicas, weights=before)


def settled(s: Service, new: Kept, down: Sequence[str] = ()) -> Wanted:
    """Once what it says was told, it says the same."""
    first = look(s, new, down=down)
    again = look(s, new, weights(first), down)
    assert weights(again) == weights(first)
    return again


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, {"iris-00002": 10, "iris-00001": 54, "iris-v2-00001": 36}),
     (1, {"iris-00002": 50, "iris-00001": 30, "iris-v2-00001": 20})],
)  # fmt: skip
def test_a_step_is_of_all_requests_and_the_arms_keep_their_proportions(
    step: int, expected: dict[str, int]
) -> None:
    w = settled(service(), at(step))
    assert weights(w) == expected
    assert entry(w).trial == NEW.name
    assert [(s.name, s.percent) for s in w.shares] == list(expected.items())[:2]
    assert not w.took_all
    assert {t.revision: t.percent for t in w.status.components["predictor"].traffic} == expected  # type: ignore[index]


def test_the_last_step_makes_it_an_arm_with_the_predictors_share() -> None:
    w = look(service(), at(2), {NEW.name: 50, ONE.name: 30, V2.name: 20})
    assert weights(w) == {NEW.name: 60, V2.name: 40}
    assert entry(w).trial == ""
    assert w.took_all[0].name == NEW.name


def test_what_is_given_up_gets_nothing_and_the_arms_are_as_they_were() -> None:
    w = settled(service(), at(0, "too many errors"))
    assert weights(w) == {NEW.name: 0, ONE.name: 60, V2.name: 40}
    assert entry(w).trial == ""


def test_a_promotion_and_a_pin_end_it() -> None:
    promoted = look(replace(service(), annotations={PROMOTED: NEW.name}), at(0))
    assert (weights(promoted), entry(promoted).trial) == ({NEW.name: 60, V2.name: 40}, "")
    pinned = look(replace(service(), annotations={PINNED: ONE.name}), at(0))
    assert (weights(pinned).get(ONE.name), entry(pinned).trial) == (100, "")


@pytest.mark.parametrize("rollout", [0, 2], ids=["in its steps", "after them"])
def test_it_is_given_up_by_hand_and_the_arms_stay(rollout: int) -> None:
    s = replace(service(), annotations={GIVEN_UP: NEW.name, PROMOTED: NEW.name})
    w = settled(s, replace(NEW, rollout=rollout))
    assert (weights(w), entry(w).trial) == ({NEW.name: 0, ONE.name: 60, V2.name: 40}, "")
    assert "was given up by the annotation" in w.status.conditions[-1].message
    elsewhere = replace(s, annotations={GIVEN_UP: "iris-00001"})
    assert weights(look(elsewhere, NEW))[NEW.name] == 10


def test_with_one_arm_alone_it_divides_the_requests_with_that() -> None:
    s = replace(service(), canaries=())
    w = decide(s, (ONE, at(0)), replica(ONE), replica(NEW), weights={ONE.name: 100})
    assert weights(w) == {NEW.name: 10, ONE.name: 90}
    assert entry(w).trial == NEW.name


def test_without_a_rollout_the_newest_is_an_arm_as_ever() -> None:
    s = replace(service(), canaries=(), traffic=Traffic(bandit=LEARNS.bandit))
    s = replace(s, predictor=replace(s.predictor, canary_percent=20))
    w = decide(s, (ONE, NEW), replica(ONE), replica(NEW), weights={ONE.name: 100})
    assert (weights(w), entry(w).trial) == ({NEW.name: 20, ONE.name: 80}, "")


def test_what_an_arm_that_is_down_had_goes_to_another_arm() -> None:
    """Not to the revision that is tried, even where that has the largest share."""
    w = look(service(), at(1), {NEW.name: 50, ONE.name: 30, V2.name: 20}, down=[ONE.name])
    assert weights(w) == {NEW.name: 50, ONE.name: 0, V2.name: 50}
    both = look(
        service(), at(1), {NEW.name: 50, ONE.name: 30, V2.name: 20}, down=[ONE.name, V2.name]
    )
    assert weights(both)[NEW.name] == 100
    gone = look(service(), at(1), {NEW.name: 50, ONE.name: 30, V2.name: 20}, down=[NEW.name])
    assert (weights(gone)[NEW.name], entry(gone).trial) == (0, "")


def test_another_arms_change_takes_its_place_at_once() -> None:
    """The rollout is the predictor's."""
    newer = revision(component(name="v2"), 2)
    was_the_predictor = replace(V2, rollout=1)
    one = replace(ONE, rollout=2)
    w = decide(
        service(), (one, was_the_predictor, newer), replica(ONE), replica(V2), replica(newer),
        weights={ONE.name: 60, V2.name: 40},
    )  # fmt: skip
    assert (weights(w), entry(w).trial) == ({ONE.name: 60, newer.name: 40}, "")


def test_an_arm_that_is_made_the_predictor_is_not_rolled_out_again() -> None:
    s = replace(trying(0, stable="v2"), canaries=(), traffic=LEARNS)
    newer = revision(component(name="v2"), 2)
    w = decide(
        s, (ONE, V2, newer), replica(ONE), replica(V2), replica(newer),
        weights={ONE.name: 60, newer.name: 40},
    )  # fmt: skip
    assert (weights(w), entry(w).trial) == ({newer.name: 100}, "")


@pytest.mark.parametrize("percent", [1, 50, 90, 99])
@pytest.mark.parametrize("step", [1, 50, 95, 99])
def test_no_step_is_a_promotion_however_small_the_predictors_part(percent: int, step: int) -> None:
    s = service(percent, replace(LEARNS, rollout=Rollout(steps=(step,))))
    w = settled(s, at(0))
    assert sum(weights(w).values()) == 100
    assert w.took_all == ()
    assert weights(w)[NEW.name] == min(step, 98)
    assert weights(w)[ONE.name] >= 1


@given(
    percent=st.integers(1, 99),
    parts=st.lists(st.integers(0, 100), min_size=1, max_size=20).filter(any),
)
def test_the_parts_add_up_and_nobody_with_a_share_is_left_without(
    percent: int, parts: list[int]
) -> None:
    given_: list[Any] = [Share(NEW, 0), *(Share(ONE, part) for part in parts)]
    found = of_all(tuple(given_), percent)
    assert sum(s.percent for s in found) == 100
    arms = sum(part > 0 for part in parts)
    assert found[0].percent == min(percent, 100 - arms)
    total = sum(parts)
    for part, share in zip(parts, found[1:], strict=True):
        exact = (100 - found[0].percent) * part / total
        assert (share.percent > 0) == (part > 0)
        assert share.percent == 1 or abs(share.percent - exact) < 1 + arms


def test_a_predictor_without_a_share_has_nothing_to_roll_out() -> None:
    s = service(100)
    w = look(s, at(0), {V2.name: 100, ONE.name: 0})
    assert weights(w)[V2.name] == 100
    assert entry(w).trial == ""
    main = workloads_of(s)[0]
    assert [share.percent for share in divide(s, main, (ONE, at(0)), at(0))] == [0]


def test_several_canaries() -> None:
    s = replace(
        service(),
        canaries=(Canary(component(name="v2"), 30), Canary(component(name="v3"), 20)),
    )
    v3 = revision(component(name="v3"))
    w = decide(
        s, (ONE, at(0), V2, v3), *(replica(k) for k in (ONE, NEW, V2, v3)),
        weights={ONE.name: 50, V2.name: 30, v3.name: 20},
    )  # fmt: skip
    assert weights(w) == {NEW.name: 10, ONE.name: 45, V2.name: 27, v3.name: 18}


@given(
    share=st.integers(1, 99),
    step=st.integers(0, 2),
    phases=st.lists(
        st.sampled_from([None, Phase.READY, Phase.STARTING, Phase.BACKOFF, Phase.FAILED]),
        min_size=3,
        max_size=3,
    ),
    before=st.sampled_from(
        [
            (60, 0, 40),
            (54, 10, 36),
            (30, 50, 20),
            (0, 60, 40),
            (100, 0, 0),
            (0, 0, 100),
            (0, 100, 0),
        ]
    ),
)
def test_whatever_happens_the_tried_one_gets_no_more_than_its_step_while_an_arm_answers(
    share: int, step: int, phases: list[Phase | None], before: tuple[int, ...]
) -> None:
    revisions = (ONE, at(step), V2)
    replicas = [replica(k, 0, p) for k, p in zip(revisions, phases, strict=True) if p is not None]
    told = {k.name: n for k, n in zip(revisions, before, strict=True)}
    w = decide(service(share), revisions, *replicas, weights=told)
    found = weights(w)
    assert sum(found.values()) == 100
    answering = {r.revision for r in replicas if r.phase is Phase.READY}
    served = {t.revision for t in entry(w).targets if t.weight and t.replicas}
    serving = {name for name, n in told.items() if n}
    if serving & answering:
        assert served, "somebody served and answered, now nobody does"
    assert not {r.revision for r in replicas if r.id in w.drain} & served
    if step < 2:
        arms = {ONE.name, V2.name}
        assert entry(w).trial == (NEW.name if found[NEW.name] else "")
        if serving & arms & answering:
            assert found[NEW.name] <= POLICY.steps[step]
        assert w.took_all == () or w.took_all[0].name != NEW.name
