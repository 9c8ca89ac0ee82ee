"""The decision as a table: from what is observed to what is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.plan import (
    FetchPhase,
    FetchState,
    Observed,
    ObservedWorkload,
    Problem,
    Wanted,
    plan,
    replica_id,
)
from penstock.control.revisions import Kept, asked_digest
from penstock.domain.revision import Revision
from penstock.domain.routes import Route
from penstock.domain.service import (
    Component,
    Model,
    ModelFormat,
    Role,
    Scaling,
    Service,
    Storage,
)
from penstock.domain.status import FailureReason, ModelState, Transition, Truth
from penstock.domain.workload import Workload, workloads_of

UID = "0123456789ab"
NOW = 1_700_000_000.0


def service(**scaling: object) -> Service:
    return Service(
        namespace="default",
        name="iris",
        predictor=Component(
            role=Role.PREDICTOR,
            model=Model(ModelFormat("sklearn"), Storage("models/iris")),
            scaling=Scaling(**scaling),  # type: ignore[arg-type]
        ),
    )


def kept(number: int, *, ready: bool = False, of: Service | None = None) -> Kept:
    of = of or service()
    return Kept(
        Revision(
            name=f"iris-{number:05d}",
            number=number,
            digest=f"sha256:{number}",
            created=NOW,
            component=of.predictor,
            files=f"sha256:f{number}",
            runtime="penstock-sklearnserver",
            framework="sklearn",
        ),
        asked=asked_digest(of),
        path="/models/x",
        ready_at=NOW if ready else None,
    )


def replica(
    number: int, index: int = 0, phase: Phase = Phase.READY, uid: str = UID, **more: object
) -> ReplicaStatus:
    revision = f"iris-{number:05d}"
    id_ = replica_id("default", revision, index, uid)
    return ReplicaStatus(
        id=id_,
        namespace="default",
        service="iris",
        revision=revision,
        component="predictor",
        phase=phase,
        address=f"unix:/run/{id_}",
        **more,  # type: ignore[arg-type]
    )


def decide(
    s: Service | None = None,
    revisions: tuple[Kept, ...] = (),
    replicas: tuple[ReplicaStatus, ...] = (),
    **more: object,
) -> Wanted:
    more.setdefault("current", bool(revisions))
    return plan(observe(s or service(), revisions, replicas, **more), uid=UID, now=NOW)


def observe(
    s: Service,
    revisions: tuple[Kept, ...] = (),
    replicas: tuple[ReplicaStatus, ...] = (),
    *,
    generation: int = 1,
    scale: int | None = None,
    **more: Any,
) -> Observed:
    """The service with its workloads; `current`, `fetch` and `problem` are its predictor's."""
    first = {k: more.pop(k) for k in ("current", "fetch", "problem") if k in more}
    workloads = []
    for w in workloads_of(s):
        of = tuple(k for k in revisions if k.workload == w.id)
        said = first if w.id.role is Role.PREDICTOR and not workloads else {"current": bool(of)}
        workloads.append(ObservedWorkload(w, of, **said))
    asked = {w.workload.id for w in workloads}
    for id_ in dict.fromkeys(k.workload for k in revisions if k.workload not in asked):
        of = tuple(k for k in revisions if k.workload == id_)
        left = Workload(id_, of[-1].revision.component, 0, wanted=False)
        workloads.append(ObservedWorkload(left, of))
    if scale is not None:
        more["scale"] = {Role.PREDICTOR: scale}
    return Observed(s, generation, tuple(workloads), replicas=replicas, **more)


def entry(w: Wanted) -> Route:
    """The predictor's route."""
    return next(r for r in w.routes if r.component == "predictor")


def started(w: Wanted) -> list[str]:
    return [s.replica_id for s in w.start]


def routed(w: Wanted) -> list[str]:
    return [r.id for t in entry(w).targets for r in t.replicas]


def ready(w: Wanted) -> tuple[Truth, str]:
    c = next(c for c in w.status.conditions if c.type == "Ready")
    return c.status, c.reason


# -- first revision ---------------------------------------------------------------------------------


def test_while_files_are_fetched_nothing_starts_and_requests_wait() -> None:
    w = decide(fetch=FetchState(FetchPhase.RUNNING, "s3://b/m", 12_000_000, 98_000_000))
    assert started(w) == []
    assert entry(w).message == ""
    assert entry(w).targets == ()
    assert ready(w) == (Truth.UNKNOWN, "Fetching")
    assert "12.0 MB of 98.0 MB" in w.status.conditions[-1].message


@pytest.mark.parametrize(
    ("unpacked", "words"),
    [
        ((1234, 100_000), "unpacking 1,234 of 100,000 files"),
        ((1234, None), "unpacking, 1,234 files so far"),
    ],
)
def test_while_an_archive_is_unpacked_the_status_says_so(
    unpacked: tuple[int, int | None], words: str
) -> None:
    """It has been fetched, and takes a minute more: that is not nothing."""
    w = decide(fetch=FetchState(FetchPhase.RUNNING, "s3://b/m", 98, 98, unpacked))
    assert ready(w) == (Truth.UNKNOWN, "Fetching")
    assert w.status.conditions[-1].message == f"The model is being fetched: {words}."


def test_a_new_revision_gets_its_replicas_and_serves_when_one_answers() -> None:
    s = service(min_replicas=2)
    w = decide(s, (kept(1),))
    assert started(w) == [
        "default.iris-00001-0.01234567",
        "default.iris-00001-1.01234567",
    ]
    assert w.rolled_out == ()
    assert ready(w) == (Truth.UNKNOWN, "Loading")

    w = decide(s, (kept(1),), (replica(1), replica(1, 1, Phase.STARTING)))
    assert w.rolled_out[0].name == "iris-00001"
    assert routed(w) == ["default.iris-00001-0.01234567"]
    assert ready(w)[0] is Truth.TRUE
    assert w.status.conditions[-1].message == "1 of 2 replicas are ready."


def test_a_first_revision_that_cannot_load_says_why_and_refuses_requests() -> None:
    broken = replica(
        1, phase=Phase.FAILED, reason="ModelLoadFailed", message="EOFError: empty\nTraceback"
    )
    w = decide(revisions=(kept(1),), replicas=(broken,))
    assert ready(w) == (Truth.FALSE, "ModelLoadFailed")
    assert entry(w).message == "EOFError: empty"
    assert w.status.transition is Transition.BLOCKED
    assert w.status.failure is not None
    assert w.status.failure.reason is FailureReason.MODEL_LOAD_FAILED
    assert w.start == ()
    assert w.drain == ()


# -- a change ---------------------------------------------------------------------------------------


def test_the_old_revision_serves_until_all_replicas_of_the_new_one_answer() -> None:
    s = service(min_replicas=2)
    old, new = kept(1, ready=True), kept(2)
    serving = (replica(1), replica(1, 1))
    w = decide(s, (old, new), serving)
    assert [i.split(".")[1] for i in started(w)] == ["iris-00002-0", "iris-00002-1"]
    assert w.drain == ()
    assert routed(w) == [r.id for r in serving]

    w = decide(s, (old, new), (*serving, replica(2), replica(2, 1, Phase.STARTING)))
    assert w.rolled_out == ()
    assert routed(w) == [r.id for r in serving]

    w = decide(s, (old, new), (*serving, replica(2), replica(2, 1)))
    assert w.rolled_out[0].number == 2
    assert sorted(w.drain) == [r.id for r in serving]
    assert routed(w) == [replica(2).id, replica(2, 1).id]


@pytest.mark.parametrize(
    "more",
    [
        {
            "replicas": (
                replica(1),
                replica(2, phase=Phase.FAILED, reason="ModelLoadFailed", message="bad pickle"),
            ),
        },
        {
            "replicas": (
                replica(1),
                replica(2, phase=Phase.BACKOFF, reason="Signal", message="SIGSEGV"),
            ),
        },
        {
            "replicas": (replica(1),),
            "current": False,
            "fetch": FetchState(FetchPhase.FAILED, "x", message="There is nothing at x."),
        },
        {
            "replicas": (replica(1),),
            "current": False,
            "problem": Problem(FailureReason.NO_SUPPORTING_RUNTIME, "No runtime."),
        },
    ],
    ids=["load fails", "crashes", "fetch fails", "no runtime"],
)
def test_whatever_is_wrong_with_a_change_the_old_revision_keeps_serving_and_it_is_said(
    more: dict[str, object],
) -> None:
    w = decide(revisions=(kept(1, ready=True), kept(2)), **more)  # type: ignore[arg-type]
    assert routed(w) == [replica(1).id]
    assert w.drain == ()
    assert ready(w)[0] is Truth.FALSE
    assert "iris-00001 keeps serving" in w.status.conditions[-1].message
    assert w.status.active is ModelState.LOADED
    assert w.status.target is ModelState.FAILED
    assert entry(w).message == ""


def test_with_recreate_the_old_replicas_go_before_the_new_ones_are_ready() -> None:
    """Requests wait meanwhile; one that cannot load says so to them, for nobody else will answer."""
    s = replace(service(), predictor=replace(service().predictor, recreate=True))
    revisions = (kept(1, ready=True), kept(2))
    w = decide(s, revisions, (replica(1),), weights={"iris-00001": 100})
    assert w.drain == (replica(1).id,)
    assert [x.rsplit(".", 1)[0] for x in started(w)] == ["default.iris-00002-0"]
    assert routed(w) == []
    assert entry(w).message == ""
    w = decide(s, revisions, (replica(2, phase=Phase.STARTING),), weights={"iris-00001": 100})
    assert started(w) == []
    assert "keep" not in w.status.conditions[0].message
    broken = replica(2, phase=Phase.FAILED, reason="ModelLoadFailed", message="it is empty")
    w = decide(s, revisions, (broken,), weights={"iris-00001": 100})
    assert started(w) == []
    assert entry(w).message == "it is empty"
    w = decide(s, revisions, (replica(2),), weights={"iris-00001": 100})
    assert routed(w) == [replica(2).id]
    assert ready(w)[0] is Truth.TRUE


def test_a_candidate_that_nobody_asks_for_any_more_is_given_up() -> None:
    w = decide(
        revisions=(kept(1, ready=True), kept(2)),
        replicas=(replica(1), replica(2, phase=Phase.STARTING)),
        current=False,
        fetch=FetchState(FetchPhase.RUNNING, "x"),
    )
    assert w.drain == (replica(2).id,)
    assert started(w) == []


def test_after_everything_was_killed_both_revisions_that_matter_start_again() -> None:
    w = decide(revisions=(kept(1, ready=True), kept(2)), replicas=())
    assert [i.split(".")[1] for i in started(w)] == ["iris-00001-0", "iris-00002-0"]


# -- numbers ----------------------------------------------------------------------------------------


def test_more_and_fewer_replicas_change_no_revision() -> None:
    up = decide(service(min_replicas=3), (kept(1, ready=True),), (replica(1, 1),))
    assert [i.split(".")[1] for i in started(up)] == ["iris-00001-0", "iris-00001-2"]
    down = decide(
        service(min_replicas=1),
        (kept(1, ready=True),),
        (replica(1, 0, Phase.BACKOFF), replica(1, 1), replica(1, 2, Phase.STARTING)),
    )
    assert sorted(down.drain) == [replica(1, 0).id, replica(1, 2).id]
    assert routed(down) == [replica(1, 1).id]


def test_a_replica_that_is_draining_is_neither_counted_nor_its_name_taken_again() -> None:
    w = decide(
        revisions=(kept(1, ready=True),),
        replicas=(replica(1, 0), replica(1, 1, Phase.STOPPED)),
        draining=frozenset({replica(1, 0).id}),
    )
    assert started(w) == [replica(1, 2).id]
    assert routed(w) == []
    assert w.drain == ()


def test_replicas_of_a_deleted_service_of_the_same_name_are_no_replicas_of_this_one() -> None:
    foreign = replica(1, uid="ffffffffffff")
    w = decide(revisions=(kept(1),), replicas=(foreign,))
    assert w.drain == (foreign.id,)
    assert started(w) == [replica(1).id]
    assert routed(w) == []
    assert w.rolled_out == ()


# -- sleep ------------------------------------------------------------------------------------------


def test_a_service_that_may_sleep_proves_itself_first() -> None:
    s = service(min_replicas=0)
    assert len(decide(s, (kept(1),), scale=0).start) == 1


def test_an_idle_service_drains_its_replica_and_stays_ready_with_a_route_to_wake_it() -> None:
    s = service(min_replicas=0)
    w = decide(s, (kept(1, ready=True),), (replica(1),), scale=0)
    assert w.drain == (replica(1).id,)
    assert ready(w) == (Truth.TRUE, "Asleep")
    assert [t.revision for t in entry(w).targets] == ["iris-00001"]
    assert routed(w) == []
    assert entry(w).message == ""
    assert w.status.active is ModelState.STANDBY

    woken = decide(s, (kept(1, ready=True),), (), scale=1)
    assert len(woken.start) == 1
    assert ready(woken) == (Truth.TRUE, "Waking")


def test_a_stopped_service_runs_nothing_and_says_so() -> None:
    s = replace(service(), stopped=True)
    w = decide(s, (kept(1, ready=True),), (replica(1),))
    assert w.drain == (replica(1).id,)
    assert w.start == ()
    assert ready(w) == (Truth.FALSE, "Stopped")
    assert "stopped" in entry(w).message


# -- what is told -----------------------------------------------------------------------------------


def test_the_time_of_a_condition_moves_only_with_its_status_and_an_event_only_with_its_reason() -> (
    None
):
    first = decide(revisions=(kept(1, ready=True),), replicas=(replica(1),))
    again = plan(
        observe(
            service(),
            (kept(1, ready=True),),
            (replica(1),),
            generation=2,
            current=True,
            previous=first.status.conditions,
        ),
        uid=UID,
        now=NOW + 100,
    )
    assert [e.reason for e in first.events] == ["Ready"]
    assert again.events == ()
    assert {c.since for c in again.status.conditions} == {NOW}
    assert again.status.observed_generation == 2


def test_limits_timeouts_and_concurrency_reach_the_route() -> None:
    s = service(container_concurrency=4)
    s = replace(s, predictor=replace(s.predictor, timeout_s=7.5))
    w = decide(s, (kept(1, ready=True),), (replica(1),))
    assert entry(w).timeout_s == 7.5
    assert entry(w).targets[0].concurrency == 4
    assert entry(w).targets[0].weight == 100
