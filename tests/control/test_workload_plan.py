"""Services of several workloads: components that are ready together, named canaries, promotion by name."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from test_control_plan import NOW, UID, entry, kept, observe, ready, service, started

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.plan import Wanted, plan, replica_id
from penstock.control.revisions import Kept, superfluous
from penstock.domain.annotations import PINNED
from penstock.domain.revision import revision_name
from penstock.domain.service import Canary, Component, Role, Scaling, Service
from penstock.domain.status import ModelState, Truth
from penstock.domain.traffic import HeaderTest, MatchRule, Traffic
from penstock.domain.workload import WorkloadId, revision_base


def component(role: Role = Role.PREDICTOR, name: str | None = None, least: int = 1) -> Component:
    return replace(service().predictor, role=role, name=name, scaling=Scaling(min_replicas=least))


def trying(percent: int, *, stable: str | None = None, name: str = "v2", least: int = 1) -> Service:
    """`iris` with one named canary."""
    return replace(
        service(),
        predictor=component(name=stable, least=least),
        canaries=(Canary(component(name=name), percent),),
    )


def revision(c: Component, number: int = 1, *, was_ready: bool = True, rollout: int = 0) -> Kept:
    base = kept(number, ready=was_ready)
    name = revision_name(revision_base("iris", WorkloadId(c.role, c.name or "")), number)
    return replace(base, revision=replace(base.revision, name=name, component=c), rollout=rollout)


def replica(k: Kept, index: int = 0, phase: Phase = Phase.READY) -> ReplicaStatus:
    id_ = replica_id("default", k.name, index, UID)
    return ReplicaStatus(
        id=id_,
        namespace="default",
        service="iris",
        revision=k.name,
        component=k.revision.component.role.value,
        phase=phase,
        address=f"unix:/run/{id_}",
        message="bad pickle" if phase is Phase.FAILED else "",
    )


def decide(
    s: Service, revisions: tuple[Kept, ...], *replicas: ReplicaStatus, **more: object
) -> Wanted:
    more.setdefault("current", True)
    return plan(observe(s, revisions, replicas, **more), uid=UID, now=NOW)  # type: ignore[arg-type]


def weights(w: Wanted) -> dict[str, int]:
    return {t.revision: t.weight for t in entry(w).targets}


ONE = revision(component(), rollout=1)
V2 = revision(component(name="v2"))

# -- components -------------------------------------------------------------------------------------

WITH = replace(
    service(), transformer=component(Role.TRANSFORMER), explainer=component(Role.EXPLAINER)
)
T1, E1 = revision(component(Role.TRANSFORMER)), revision(component(Role.EXPLAINER))


def test_each_component_has_revisions_replicas_and_a_route_of_its_own() -> None:
    w = decide(WITH, (ONE, T1, E1))
    assert [i.split(".")[1] for i in started(w)] == [
        "iris-00001-0",
        "iris-transformer-00001-0",
        "iris-explainer-00001-0",
    ]
    assert [r.key for r in w.routes] == [
        "default/iris/transformer",
        "default/iris/explainer",
        "default/iris",
    ], "the predictor's comes last: it names the transformer"
    assert entry(w).entry == "transformer"
    assert {r.component: [t.revision for t in r.targets] for r in w.routes} == {
        "predictor": ["iris-00001"],
        "transformer": ["iris-transformer-00001"],
        "explainer": ["iris-explainer-00001"],
    }


def test_a_service_is_ready_when_all_of_its_components_are() -> None:
    up = decide(WITH, (ONE, T1, E1), replica(ONE), replica(T1), replica(E1))
    assert ready(up)[0] is Truth.TRUE
    types = {c.type: c.status for c in up.status.conditions}
    assert types == dict.fromkeys(
        ("PredictorReady", "TransformerReady", "ExplainerReady", "IngressReady", "Ready"),
        Truth.TRUE,
    )
    assert up.status.components[Role.TRANSFORMER].ready_replicas == 1
    assert up.status.components[Role.EXPLAINER].url == ""

    failed = decide(WITH, (ONE, T1, E1), replica(ONE), replica(T1, 0, Phase.FAILED), replica(E1))
    assert ready(failed)[0] is Truth.FALSE
    assert failed.status.condition("PredictorReady") is Truth.TRUE
    assert failed.status.condition("TransformerReady") is Truth.FALSE
    assert failed.status.conditions[-1].message.startswith("The transformer: No replica is ready")
    assert failed.status.failure is not None
    assert failed.status.failure.revision == "iris-transformer-00001"


def test_an_explainer_that_never_loaded_leaves_the_predictors_requests_alone() -> None:
    fresh = revision(component(Role.EXPLAINER), was_ready=False)
    only = replace(service(), explainer=component(Role.EXPLAINER))
    w = decide(only, (ONE, fresh), replica(ONE), replica(fresh, 0, Phase.FAILED))
    assert [(t.revision, len(t.replicas)) for t in entry(w).targets] == [("iris-00001", 1)]
    assert entry(w).message == ""
    explainer = next(r for r in w.routes if r.component == "explainer")
    assert explainer.message == "bad pickle"
    told = {c.type: (c.status, c.message) for c in w.status.conditions}
    assert told["PredictorReady"] == (Truth.TRUE, "")
    assert told["ExplainerReady"][0] is Truth.FALSE
    assert told["IngressReady"] == (Truth.UNKNOWN, "No revision of the explainer is ready.")
    assert ready(w)[0] is Truth.FALSE


def test_a_transformer_that_is_taken_out_loses_its_route_and_its_replicas() -> None:
    w = decide(service(), (ONE, T1), replica(ONE), replica(T1))
    assert [r.key for r in w.routes] == ["default/iris"]
    assert entry(w).entry == ""
    assert w.drain == (replica(T1).id,)
    assert Role.TRANSFORMER not in w.status.components


def test_components_scale_by_themselves() -> None:
    o = observe(WITH, (ONE, T1, E1), (replica(ONE), replica(T1), replica(E1)), current=True)
    w = plan(
        replace(o, scale={Role.PREDICTOR: 3, Role.TRANSFORMER: 1, Role.EXPLAINER: 0}),
        uid=UID,
        now=NOW,
    )
    assert [i.split(".")[1] for i in started(w)] == ["iris-00001-1", "iris-00001-2"]
    assert w.drain == (replica(E1).id,)


# -- named canaries ---------------------------------------------------------------------------------


def test_a_named_canary_gets_its_share_when_it_is_ready() -> None:
    fresh = revision(component(name="v2"), was_ready=False)
    w = decide(trying(20), (ONE, fresh), replica(ONE))
    assert started(w) == [replica(fresh).id]
    assert weights(w) == {"iris-00001": 100}
    assert ready(w)[0] is Truth.TRUE, "a canary that comes up makes nothing unready"
    assert w.status.condition("CanaryPredictorReady") is Truth.UNKNOWN

    w = decide(trying(20), (ONE, fresh), replica(ONE), replica(fresh), weights={"iris-00001": 100})
    assert weights(w) == {"iris-00001": 80, "iris-v2-00001": 20}
    assert [k.name for k in w.rolled_out] == ["iris-v2-00001"]
    assert w.took_all == ()
    (canary,) = w.status.canaries
    assert (canary.name, canary.ready, canary.percent) == ("v2", Truth.TRUE, 20)
    assert {t.revision: t.tags for t in entry(w).targets} == {
        "iris-00001": ("latest",),
        "iris-v2-00001": ("v2",),
    }
    assert [
        (t.revision, t.percent, t.tag) for t in w.status.components[Role.PREDICTOR].traffic
    ] == [
        ("iris-00001", 80, "latest"),
        ("iris-v2-00001", 20, "v2"),
    ]


def test_a_canary_that_cannot_load_is_told_and_the_stable_one_has_all() -> None:
    fresh = revision(component(name="v2"), was_ready=False)
    w = decide(trying(20), (ONE, fresh), replica(ONE), replica(fresh, 0, Phase.FAILED))
    assert weights(w) == {"iris-00001": 100}
    assert ready(w)[0] is Truth.TRUE
    condition = next(c for c in w.status.conditions if c.type == "CanaryPredictorReady")
    assert condition.status is Truth.FALSE
    assert condition.message.startswith("v2: iris-v2-00001 is not ready: bad pickle.")
    assert w.status.canaries[0].target is ModelState.FAILED


def test_promotion_by_name_moves_shares_and_restarts_nothing() -> None:
    """The canary's name becomes the predictor's: the same replica serves on and takes all."""
    promoted = replace(service(), predictor=component(name="v2"))
    before = {"iris-00001": 80, "iris-v2-00001": 20}
    w = decide(promoted, (ONE, V2), replica(ONE), replica(V2), weights=before)
    assert w.start == ()
    assert weights(w) == {"iris-v2-00001": 100}
    assert w.drain == (replica(ONE).id,)
    assert [k.name for k in w.took_all] == ["iris-v2-00001"]
    status = w.status.components[Role.PREDICTOR]
    assert status.latest_rolledout_revision == "iris-v2-00001"
    assert status.previous_rolledout_revision == "iris-00001"


def test_a_promoted_canary_takes_all_only_with_all_the_replicas_that_it_takes() -> None:
    promoted = replace(service(), predictor=component(name="v2", least=3))
    old = [replica(ONE, i) for i in range(3)]
    before = {"iris-00001": 80, "iris-v2-00001": 20}
    w = decide(promoted, (ONE, V2), *old, replica(V2), weights=before)
    assert weights(w) == before
    assert w.drain == ()
    assert started(w) == [replica(V2, 1).id, replica(V2, 2).id]
    up = [replica(V2, i) for i in range(3)]
    w = decide(promoted, (ONE, V2), *old, *up, weights=before)
    assert weights(w) == {"iris-v2-00001": 100}
    assert sorted(w.drain) == [r.id for r in old]


def test_a_canary_that_is_taken_out_drains_and_the_stable_one_has_all_again() -> None:
    w = decide(
        service(), (ONE, V2), replica(ONE), replica(V2), weights={"iris-00001": 80, V2.name: 20}
    )
    assert weights(w) == {"iris-00001": 100}
    assert w.drain == (replica(V2).id,)


def test_a_predictor_that_is_renamed_is_served_by_the_old_one_until_the_new_one_answers() -> None:
    renamed = replace(service(), predictor=component(name="v3"))
    fresh = revision(component(name="v3"), was_ready=False)
    w = decide(renamed, (ONE, fresh), replica(ONE), weights={"iris-00001": 100})
    assert weights(w) == {"iris-00001": 100}
    assert w.drain == ()
    assert started(w) == [replica(fresh).id]
    broken = replica(fresh, 0, Phase.FAILED)
    w = decide(renamed, (ONE, fresh), replica(ONE), broken, weights={"iris-00001": 100})
    assert weights(w) == {"iris-00001": 100}
    assert "iris-00001 keeps serving" in w.status.conditions[-1].message
    w = decide(renamed, (ONE, fresh), replica(ONE), replica(fresh), weights={"iris-00001": 100})
    assert weights(w) == {"iris-v3-00001": 100}
    assert w.drain == (replica(ONE).id,)


def test_a_canary_at_zero_runs_and_is_reached_by_its_name() -> None:
    w = decide(trying(0), (ONE, V2), replica(ONE), weights={"iris-00001": 100})
    assert started(w) == [replica(V2).id]
    w = decide(trying(0), (ONE, V2), replica(ONE), replica(V2), weights={"iris-00001": 100})
    assert weights(w) == {"iris-00001": 100, "iris-v2-00001": 0}
    assert w.drain == ()


def test_a_pin_may_name_a_revision_of_an_earlier_predictor() -> None:
    promoted = replace(
        service(), predictor=component(name="v2"), annotations={PINNED: "iris-00001"}
    )
    took = replace(V2, rollout=2)
    w = decide(promoted, (ONE, took), replica(took), weights={V2.name: 100})
    assert weights(w) == {"iris-00001": 0, "iris-v2-00001": 100}
    assert started(w) == [replica(ONE).id]
    w = decide(promoted, (ONE, took), replica(took), replica(ONE), weights={V2.name: 100})
    assert weights(w) == {"iris-00001": 100}


def test_asleep_all_of_a_role_sleeps_and_its_shares_are_kept() -> None:
    s = trying(20, least=0)
    o = observe(s, (ONE, V2), (), current=True, scale=0, weights={"iris-00001": 80, V2.name: 20})
    w = plan(o, uid=UID, now=NOW)
    assert w.start == ()
    assert weights(w) == {"iris-00001": 80, "iris-v2-00001": 20}
    assert ready(w) == (Truth.TRUE, "Asleep")
    woken = plan(replace(o, scale={Role.PREDICTOR: 1}), uid=UID, now=NOW)
    assert len(woken.start) == 2


def test_history_is_kept_per_role() -> None:
    many = tuple(revision(component(), n) for n in range(1, 13))
    assert [k.number for k in superfluous((*many, T1, E1), frozenset())] == [1, 2]


@given(
    percents=st.lists(st.integers(0, 50), min_size=0, max_size=2),
    phases=st.lists(
        st.sampled_from([None, Phase.READY, Phase.STARTING, Phase.BACKOFF, Phase.FAILED]),
        min_size=4,
        max_size=4,
    ),
    was_ready=st.lists(st.booleans(), min_size=4, max_size=4),
    before=st.lists(st.sampled_from([0, 20, 80, 100]), min_size=4, max_size=4),
    stable=st.sampled_from([None, "v1", "v2"]),
)
def test_weights_add_up_and_who_answers_and_serves_is_not_left_for_who_does_not(
    percents: list[int],
    phases: list[Phase | None],
    was_ready: list[bool],
    before: list[int],
    stable: str | None,
) -> None:
    names = ("v3", "v4")[: len(percents)]
    s = replace(
        service(),
        predictor=component(name=stable),
        canaries=tuple(Canary(component(name=n), p) for n, p in zip(names, percents, strict=True)),
    )
    revisions = tuple(
        revision(component(name=n), was_ready=r, rollout=i if r else 0)
        for i, (n, r) in enumerate(zip((None, "v2", "v3", "v4"), was_ready, strict=True))
    )
    replicas = [replica(k, 0, p) for k, p in zip(revisions, phases, strict=True) if p is not None]
    told = {k.name: n for k, n in zip(revisions, before, strict=True) if n and k.ready_at}
    w = decide(s, revisions, *replicas, weights=told)
    found = weights(w)
    assert not found or sum(found.values()) == 100
    answering = {r.revision for r in replicas if r.phase is Phase.READY}
    served = {t.revision for t in entry(w).targets if t.weight and t.replicas}
    if any(name in answering for name in told):
        assert served, "somebody served and answered, now nobody does"
        assert all(t.replicas for t in entry(w).targets if t.weight)
    assert not {r.revision for r in replicas if r.id in w.drain} & served


def test_a_rule_for_a_name_that_nobody_has_is_told() -> None:
    rule = HeaderTest("x-group", "exact", "beta")
    match = tuple(MatchRule((rule,), to) for to in ("v9", "latest", "v2", "previous", "iris-00001"))
    s = replace(trying(20), traffic=Traffic(match=match))
    w = decide(s, (ONE, V2), replica(ONE), replica(V2), weights={ONE.name: 80, V2.name: 20})
    assert [r.to for r in entry(w).rules] == [m.to for m in match]
    message = w.status.conditions[-1].message
    assert "The rule for v9 has no effect" in message
    assert message.count("has no effect") == 1


def test_who_grows_without_all_its_replicas_keeps_what_it_has_and_the_other_too() -> None:
    """The larger share is the growing one's; the rest still goes to the one that is not waited for."""
    promoted = replace(service(), predictor=component(name="v2", least=3))
    before = {"iris-00001": 40, "iris-v2-00001": 60}
    w = decide(promoted, (ONE, V2), replica(ONE), replica(V2), weights=before)
    assert weights(w) == {"iris-v2-00001": 60, "iris-00001": 40}
    gone = decide(promoted, (ONE, V2), replica(V2), weights=before)
    assert weights(gone)["iris-v2-00001"] == 100


def test_when_a_canary_that_takes_all_dies_the_predictor_answers_until_it_is_whole_again() -> None:
    s = trying(100, least=2)
    s = replace(s, canaries=(Canary(component(name="v2", least=2), 100),))
    blue = [replica(ONE, i) for i in range(2)]
    green = [replica(V2, i) for i in range(2)]
    before = {ONE.name: 0, V2.name: 100}
    assert weights(decide(s, (ONE, V2), *blue, *green, weights=before)) == before
    dead = [replica(V2, i, Phase.BACKOFF) for i in range(2)]
    w = decide(s, (ONE, V2), *blue, *dead, weights=before)
    assert weights(w) == {ONE.name: 100, V2.name: 0}
    now = {ONE.name: 100, V2.name: 0}
    half = decide(s, (ONE, V2), *blue, green[0], dead[1], weights=now)
    assert weights(half) == now
    assert weights(decide(s, (ONE, V2), *blue, *green, weights=now)) == before
