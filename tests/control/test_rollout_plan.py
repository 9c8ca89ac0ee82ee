"""Shares of revisions: who gets which part of the requests, and when traffic moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_control_plan import NOW, UID, entry, kept, observe, replica, service, started

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.plan import Wanted, plan
from penstock.control.revisions import Kept
from penstock.control.rollouts.rollout import effective, replicas_for, rolled_out, stable_of
from penstock.domain import routes
from penstock.domain.annotations import PINNED
from penstock.domain.service import Scaling, Service
from penstock.domain.status import Role, Truth
from penstock.domain.traffic import Shadow, Sticky, Traffic


def canary(percent: int | None, pin: str = "", **scaling: object) -> Service:
    s = service(**scaling)
    annotations = {PINNED: pin} if pin else {}
    return replace(
        s, predictor=replace(s.predictor, canary_percent=percent), annotations=annotations
    )


def took_all(number: int, rollout: int) -> Kept:
    return replace(kept(number, ready=True), rollout=rollout)


def decide(
    s: Service,
    revisions: tuple[Kept, ...],
    replicas: tuple[ReplicaStatus, ...],
    weights: dict[str, int] | None = None,
    **more: object,
) -> Wanted:
    more.setdefault("current", True)
    o = observe(s, revisions, replicas, weights=weights or {}, **more)  # type: ignore[arg-type]
    return plan(o, uid=UID, now=NOW)


def weights(w: Wanted) -> dict[int, int]:
    return {int(t.revision[-5:]): t.weight for t in entry(w).targets}


V1, V2, V3 = "iris-00001", "iris-00002", "iris-00003"


def test_a_new_revision_gets_its_share_only_when_it_is_ready() -> None:
    revisions = (took_all(1, 1), kept(2))
    w = decide(canary(10), revisions, (replica(1),), {V1: 100})
    assert weights(w) == {1: 100}
    assert started(w) == [replica(2).id]

    w = decide(canary(10), revisions, (replica(1), replica(2)), {V1: 100})
    assert weights(w) == {2: 10, 1: 90}
    assert w.rolled_out
    assert w.took_all == ()
    assert w.drain == ()
    status = w.status.components[Role.PREDICTOR]
    assert [(t.revision, t.percent, t.latest, t.tag) for t in status.traffic] == [
        (V2, 10, True, "latest"),
        (V1, 90, False, "previous"),
    ]
    assert status.latest_ready_revision == V2
    assert status.latest_rolledout_revision == V1
    assert w.status.conditions[-1].status is Truth.TRUE


def test_the_first_revision_takes_all_whatever_the_percent() -> None:
    w = decide(canary(10), (kept(1),), (replica(1),))
    assert weights(w) == {1: 100}
    assert w.took_all


def test_without_the_field_the_canary_is_promoted_and_the_old_one_drains() -> None:
    w = decide(
        canary(None),
        (took_all(1, 1), kept(2, ready=True)),
        (replica(1), replica(2)),
        {V2: 10, V1: 90},
    )
    assert weights(w) == {2: 100}
    assert w.drain == (replica(1).id,)
    assert w.took_all
    assert w.took_all[0].name == V2


def test_zero_rolls_back_and_keeps_the_newest_for_its_own_address() -> None:
    w = decide(
        canary(0), (took_all(1, 1), kept(2, ready=True)), (replica(1), replica(2)), {V2: 10, V1: 90}
    )
    assert weights(w) == {2: 0, 1: 100}
    assert w.drain == ()
    assert {t.tags for t in entry(w).targets} == {("latest",), ("previous",)}


def test_a_rollback_after_the_promotion_waits_until_the_old_one_is_up_again() -> None:
    revisions = (took_all(1, 1), took_all(2, 2))
    w = decide(canary(0), revisions, (replica(2),), {V2: 100})
    assert weights(w) == {2: 100, 1: 0}
    assert started(w) == [replica(1).id]
    assert w.took_all == ()

    w = decide(canary(0), revisions, (replica(2), replica(1)), {V2: 100, V1: 0})
    assert weights(w) == {2: 0, 1: 100}
    assert w.took_all
    assert w.took_all[0].name == V1


def test_the_next_change_during_a_canary_replaces_the_canary_and_not_the_stable_one() -> None:
    w = decide(
        canary(20),
        (took_all(1, 1), kept(2, ready=True), kept(3, ready=True)),
        (replica(1), replica(2), replica(3)),
        {V2: 20, V1: 80},
    )
    assert weights(w) == {3: 20, 1: 80}
    assert w.drain == (replica(2).id,)


def test_a_canary_that_dies_gives_its_share_back_until_it_is_whole_again() -> None:
    revisions = (took_all(1, 1), kept(2, ready=True))
    dead = replica(2, phase=Phase.BACKOFF, reason="Signal", message="SIGSEGV")
    w = decide(canary(10), revisions, (replica(1), dead), {V2: 10, V1: 90})
    assert weights(w) == {2: 0, 1: 100}
    assert w.took_all == ()  # that was not asked for
    w = decide(canary(10), revisions, (replica(1), replica(2)), {V2: 0, V1: 100})
    assert weights(w) == {2: 10, 1: 90}


def test_a_revision_that_was_given_up_gets_nothing_even_when_the_stable_one_is_down() -> None:
    down = replica(1, phase=Phase.BACKOFF, reason="Signal", message="SIGKILL")
    w = decide(
        canary(0),
        (took_all(1, 1), kept(2, ready=True)),
        (down, replica(2)),
        {V2: 0, V1: 100},
    )
    assert weights(w) == {2: 0, 1: 100}


def test_a_pin_holds_one_kept_revision_whatever_is_applied() -> None:
    revisions = (took_all(1, 1), took_all(2, 2), kept(3))
    w = decide(canary(None, V1), revisions, (replica(2),), {V2: 100})
    assert weights(w) == {1: 0, 2: 100} or weights(w) == {2: 100, 1: 0}
    assert started(w) == [replica(1).id]  # nothing of the third
    w = decide(canary(None, V1), revisions, (replica(2), replica(1)), {V2: 100})
    assert weights(w) == {1: 100}
    assert w.drain == (replica(2).id,)
    assert w.took_all == ()
    assert "Pinned to iris-00001" in w.status.conditions[-1].message


def test_a_pin_to_what_is_not_kept_or_never_was_ready_holds_nothing() -> None:
    revisions = (took_all(1, 1), kept(2))
    for pin in (V2, V3):
        assert weights(decide(canary(None, pin), revisions, (replica(1),), {V1: 100})) == {1: 100}
    said = decide(canary(None, V3), (took_all(1, 1),), (replica(1),), {V1: 100})
    assert f"The pin to {V3} has no effect" in said.status.conditions[-1].message


def test_each_side_has_the_least_replicas_and_load_is_divided_by_share() -> None:
    assert replicas_for(10, Scaling(min_replicas=1), 1) == 1
    assert replicas_for(10, Scaling(min_replicas=3), 3) == 3
    assert replicas_for(10, Scaling(min_replicas=1, max_replicas=20), 20) == 2
    assert replicas_for(0, Scaling(min_replicas=1, max_replicas=20), 20) == 1
    assert replicas_for(50, Scaling(min_replicas=0), 0) == 0


def test_a_service_that_sleeps_keeps_its_shares() -> None:
    w = decide(
        canary(25, min_replicas=0),
        (took_all(1, 1), kept(2, ready=True)),
        (),
        {V2: 25, V1: 75},
        scale=0,
    )
    assert weights(w) == {2: 25, 1: 75}
    assert w.start == ()
    w = decide(
        canary(25, min_replicas=0),
        (took_all(1, 1), kept(2, ready=True)),
        (),
        {V2: 25, V1: 75},
        scale=1,
    )
    assert len(w.start) == 2


def test_revisions_of_a_release_that_did_not_count_rollouts_are_known_by_their_readiness() -> None:
    revisions = (kept(1, ready=True), kept(2, ready=True))
    assert stable_of(revisions, revisions[1]) == revisions[0]
    assert rolled_out(revisions) == []


@given(
    percent=st.none() | st.integers(0, 100),
    phases=st.lists(
        st.sampled_from([None, Phase.READY, Phase.STARTING, Phase.BACKOFF]), min_size=3, max_size=3
    ),
    before=st.sampled_from([{}, {V1: 100}, {V2: 100}, {V1: 90, V2: 10}, {V2: 50, V3: 50}]),
    rollouts=st.tuples(*[st.integers(0, 1)] * 3),
    pin=st.sampled_from(["", V1, V2, V3]),
)
def test_weights_always_add_up_and_never_leave_the_only_one_that_answers_and_serves(
    percent: int | None,
    phases: list[Phase | None],
    before: dict[str, int],
    rollouts: tuple[int, ...],
    pin: str,
) -> None:
    revisions = tuple(replace(kept(n, ready=True), rollout=n * rollouts[n - 1]) for n in (1, 2, 3))
    replicas = tuple(replica(n, phase=p) for n, p in enumerate(phases, 1) if p is not None)
    w = decide(canary(percent, pin), revisions, replicas, before)
    assert sum(t.weight for t in entry(w).targets) == 100
    answering = {r.revision for r in replicas if r.phase is Phase.READY}
    served = {t.revision for t in entry(w).targets if t.weight and t.replicas}
    if any(v and name in answering for name, v in before.items()):
        assert served, "somebody served and answered, now nobody does"
        assert all(t.replicas for t in entry(w).targets if t.weight)
    drained = {r.revision for r in replicas if r.id in w.drain}
    assert not drained & served


def test_the_share_of_who_is_not_up_goes_to_who_serves() -> None:
    from penstock.control.rollouts.rollout import Share

    shares = (Share(kept(2, ready=True), 30), Share(kept(1, ready=True), 70))
    got = effective(shares, up=[V2], ready=[V2, V3], serving={V3: 100})
    assert got == {V2: 30, V1: 0, V3: 70}


@pytest.mark.parametrize("percent", [None, 100])
def test_all_of_it_is_the_same_as_no_percent(percent: int | None) -> None:
    w = decide(
        canary(percent), (took_all(1, 1), kept(2, ready=True)), (replica(1), replica(2)), {V1: 100}
    )
    assert weights(w) == {2: 100}


def test_a_shadow_gets_copies_and_no_requests_until_it_is_promoted() -> None:
    s = replace(canary(None), traffic=Traffic(shadow=Shadow(20), sticky=Sticky("x-user")))
    revisions = (took_all(1, 1), kept(2, ready=True))
    w = decide(s, revisions, (replica(1), replica(2)), {V1: 100})
    assert weights(w) == {2: 0, 1: 100}
    assert entry(w).shadow == routes.Shadow(V2, 20)
    assert entry(w).sticky == routes.Sticky("x-user")
    alone = decide(s, (took_all(1, 1),), (replica(1),), {V1: 100})
    assert entry(alone).shadow is None


def test_a_revision_that_still_serves_is_no_shadow_yet() -> None:
    s = replace(canary(None), traffic=Traffic(shadow=Shadow()))
    w = decide(s, (took_all(1, 1), took_all(2, 2)), (replica(2),), {V2: 100})
    assert weights(w) == {2: 100, 1: 0}
    assert entry(w).shadow is None
