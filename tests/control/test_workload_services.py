"""Services of several workloads through the controllers: fetches, restarts, names, wake-ups, deletion."""

from __future__ import annotations

import asyncio
from typing import Any

from test_control_services import ISVC, World, manifest, world

from penstock.backends.base import Phase
from penstock.control.workloads import fetch_key
from penstock.domain.annotations import RESTARTED_AT
from penstock.domain.routes import Load, ServiceLoad
from penstock.domain.service import Role
from penstock.domain.workload import PREDICTOR, WorkloadId
from penstock.errors import NotFound
from penstock.store.base import Key

__all__ = ["world"]


def composed(name: str = "iris", **transformer: Any) -> dict[str, Any]:
    obj = manifest(name)
    python = {"storageUri": "models/t", "class": "t.py:T"}
    obj["spec"]["transformer"] = {"python": python, **transformer}
    return obj


def tried(uri: str = "models/b", percent: int = 20, **fields: Any) -> dict[str, Any]:
    obj = manifest(**fields)
    canary = {"name": "v2", "sklearn": {"storageUri": uri}}
    obj["spec"]["canary"] = [{"predictor": canary, "trafficPercent": percent}]
    return obj


def named(uri: str, name: str) -> dict[str, Any]:
    obj = manifest(uri=uri)
    obj["spec"]["predictor"]["name"] = name
    return obj


def weights(w: World, name: str = "iris") -> dict[str, int]:
    route = w.plane.routes.get(f"default/{name}")
    return {t.revision: t.weight for t in route.targets} if route is not None else {}


async def test_a_transformer_has_its_own_fetch_revision_replica_and_route(world: World) -> None:
    await world.apply(composed())
    await world.ready()
    assert sorted(world.files.fetched) == ["models/iris", "models/t"]
    assert sorted(await world.revisions()) == ["iris-00001", "iris-transformer-00001"]
    route = world.plane.routes.get("default/iris/transformer")
    assert route is not None
    assert [t.revision for t in route.targets] == ["iris-transformer-00001"]
    spec = world.backend.specs[route.targets[0].replicas[0].id]
    assert spec.component == "transformer"
    assert spec.predictor is not None
    assert spec.predictor.prefix == "/serving/default/iris/components/predictor"
    assert world.backend.specs[world.routed()[0]].predictor is None


async def test_a_component_whose_files_are_missing_holds_up_only_itself(world: World) -> None:
    world.files.by_uri["models/t"] = NotFound("There is nothing at models/t.")
    await world.apply(composed())
    await world.until(lambda: len(world.routed()) == 1)
    await world.settled()
    ready = await world.ready(status="False")
    conditions = (await world.get())["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions}["PredictorReady"] == "True"
    assert ready["message"].startswith("The transformer: There is nothing at models/t.")
    status = (await world.get())["status"]
    # The model's own status is the predictor's, as KServe has it.
    assert status["modelStatus"] == {
        "transitionStatus": "UpToDate",
        "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
        "copies": {"failedCopies": 0, "totalCopies": 1},
    }
    beside = status["penstock"]["components"]["transformer"]
    assert beside["transitionStatus"] == "BlockedByFailedLoad"
    assert beside["lastFailureInfo"]["message"] == "There is nothing at models/t."
    world.files.by_uri["models/t"] = "sha256:t"
    world.plane.services.refresh(("default", "iris"))
    await world.ready()
    assert "components" not in (await world.get())["status"].get("penstock", {})


async def test_a_change_of_one_component_leaves_the_other_alone(world: World) -> None:
    await world.apply(composed())
    await world.ready()
    before = world.routed()
    changed = composed(python={"storageUri": "models/t2", "class": "t.py:T"})
    await world.apply(changed)
    await world.ready()
    await world.until(
        lambda: (
            [t.revision for t in route_of(world, "transformer").targets]
            == ["iris-transformer-00002"]
        )
    )
    assert world.routed() == before
    await world.apply(manifest())
    await world.until(lambda: world.plane.routes.get("default/iris/transformer") is None)
    await world.until(lambda: all("transformer" not in r for r in world.backend.replicas))
    assert world.routed() == before


def route_of(w: World, role: str) -> Any:
    route = w.plane.routes.get(f"default/iris/{role}")
    assert route is not None
    return route


async def test_a_restart_of_the_control_plane_starts_and_stops_nothing(world: World) -> None:
    obj = composed()
    obj["spec"]["canary"] = tried()["spec"]["canary"]
    await world.apply(obj)
    await world.ready()
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})
    await world.settled()
    replicas, started = set(world.backend.replicas), len(world.backend.started)
    await world.restart()
    await world.settled()
    assert set(world.backend.replicas) == replicas
    assert len(world.backend.started) == started
    assert weights(world) == {"iris-00001": 80, "iris-v2-00001": 20}
    assert world.plane.routes.get("default/iris/transformer") is not None


async def test_a_restart_mark_makes_a_revision_of_each_component(world: World) -> None:
    await world.apply(composed())
    await world.ready()
    obj = composed()
    obj["metadata"]["annotations"] = {RESTARTED_AT: "now"}
    await world.apply(obj)
    await world.until(lambda: len(world.backend.started) == 4)
    await world.ready()
    revisions = await world.revisions()
    assert {"iris-00002", "iris-transformer-00002"} <= set(revisions)


async def test_promotion_by_name_starts_nothing_and_survives_a_restart(world: World) -> None:
    await world.apply(tried())
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})
    (canary,) = [r for r in world.backend.replicas if "v2" in r]
    started = len(world.backend.started)
    await world.apply(named("models/b", "v2"))
    await world.until(lambda: weights(world) == {"iris-v2-00001": 100})
    await world.until(lambda: set(world.backend.replicas) == {canary})
    assert len(world.backend.started) == started
    assert world.files.fetched == ["models/iris", "models/b"]
    await world.settled()
    await world.restart()
    await world.settled()
    assert set(world.backend.replicas) == {canary}
    status = (await world.get())["status"]["components"]["predictor"]
    assert status["latestRolledoutRevision"] == "iris-v2-00001"
    assert status["previousRolledoutRevision"] == "iris-00001"
    # Its next change is its second revision.
    await world.apply(named("models/c", "v2"))
    await world.until(lambda: weights(world) == {"iris-v2-00002": 100})


async def test_a_canary_that_crashes_gives_its_share_back_and_is_told(world: World) -> None:
    await world.apply(tried())
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})
    (canary,) = [r for r in world.backend.replicas if "v2" in r]
    world.backend.set(canary, Phase.BACKOFF, restarts=1, reason="Signal", message="SIGSEGV")
    await world.until(lambda: weights(world) == {"iris-00001": 100, "iris-v2-00001": 0})
    await world.settled()
    (said,) = (await world.get())["status"]["canaryStatuses"]
    assert not said["ready"]
    assert said["modelStatus"]["lastFailureInfo"]["message"] == "SIGSEGV"
    assert (await world.ready())["status"] == "True"
    world.backend.set(canary, Phase.READY)
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})


async def test_a_service_named_like_anothers_canary_gets_other_revision_names(world: World) -> None:
    """`iris` with a canary `v2` and a service `iris-v2` both would have `iris-v2-00001`."""
    await world.apply(manifest("iris-v2", uri="models/x"))
    await world.ready("iris-v2")
    await world.apply(tried())
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00002": 20})
    assert weights(world, "iris-v2") == {"iris-v2-00001": 100}
    await world.apply(manifest("iris-v2", uri="models/y"))
    await world.until(lambda: weights(world, "iris-v2") == {"iris-v2-00003": 100})
    await world.settled()
    assert sorted(await world.revisions("iris-v2")) == ["iris-v2-00001", "iris-v2-00003"]


async def test_a_wake_of_the_transformer_wakes_the_predictor_too(world: World) -> None:
    obj = composed(minReplicas=0)
    obj["spec"]["predictor"]["minReplicas"] = 0
    await world.apply(obj)
    await world.ready()
    for key in (("default", "iris"), ("default", "iris/transformer")):
        assert world.plane.scaler.put_to_sleep(key)
    await world.until(lambda: not world.backend.replicas)
    await world.ready(reason="Asleep")
    started = len(world.backend.started)
    world.plane.services.wake("default", "iris/transformer", 1)
    await world.until(lambda: len(world.backend.started) == started + 2)
    await world.until(lambda: len(world.routed()) == 1)


async def test_load_on_one_component_scales_that_one(world: World) -> None:
    obj = composed(minReplicas=1, maxReplicas=4, scaleTarget=1)
    obj["spec"]["predictor"].update(minReplicas=1, maxReplicas=4, scaleTarget=1)
    await world.apply(obj)
    await world.ready()
    for _ in range(8):
        await world.clock.advance(1)
        load = ServiceLoad("default/iris/transformer", 3.0, 30, in_flight=3)
        world.plane.scaler.heard(0, Load(1.0, (load,)))
        world.plane.scaler.tick()
    await world.until(lambda: len(route_of(world, "transformer").targets[0].replicas) >= 3)
    assert len(world.routed()) == 1


async def test_files_that_are_gone_are_fetched_again_for_that_workload_only(world: World) -> None:
    await world.apply(tried())
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})
    await world.settled()
    world.files.missing.add("/models/sha256:models/b")
    world.files.fetched.clear()
    world.backend.lose_all()
    await world.until(lambda: weights(world) == {"iris-00001": 80, "iris-v2-00001": 20})
    await world.until(lambda: len(world.backend.replicas) == 2)
    assert "models/b" in world.files.fetched
    assert "FilesGone" in await world.events()


async def test_a_deleted_service_leaves_no_route_no_replica_and_no_revision(world: World) -> None:
    obj = composed()
    obj["spec"]["canary"] = tried()["spec"]["canary"]
    await world.apply(obj)
    await world.ready()
    await world.until(lambda: len(world.backend.replicas) == 3)
    await world.store.delete(Key(ISVC, "default", "iris"))
    await world.until(lambda: not world.backend.replicas)
    assert world.plane.routes.get("default/iris") is None
    assert world.plane.routes.get("default/iris/transformer") is None
    await world.until(lambda: not world.files.pinned)


async def test_fetches_of_a_workload_that_is_taken_out_are_cancelled(world: World) -> None:
    world.files.by_uri["models/b"] = asyncio.Event()
    await world.apply(tried())
    await world.ready()
    key = fetch_key(("default", "iris"), WorkloadId(Role.PREDICTOR, "v2"))
    await world.until(lambda: world.plane.fetches.state(key) is not None)
    await world.apply(manifest())
    await world.until(lambda: world.plane.fetches.state(key) is None)


def test_a_fetch_is_known_by_its_workload() -> None:
    key = ("default", "iris")
    assert fetch_key(key, PREDICTOR) == key
    assert fetch_key(key, WorkloadId(Role.TRANSFORMER)) == ("default", "iris/transformer")
    assert fetch_key(key, WorkloadId(Role.PREDICTOR, "v2")) == ("default", "iris/predictor/v2")


async def test_a_deletion_cancels_the_fetches_of_all_workloads(world: World) -> None:
    for uri in ("models/iris", "models/t"):
        world.files.by_uri[uri] = asyncio.Event()
    await world.apply(composed())
    keys = (("default", "iris"), ("default", "iris/transformer"))
    await world.until(lambda: all(world.plane.fetches.state(k) is not None for k in keys))
    await world.store.delete(Key(ISVC, "default", "iris"))
    await world.until(lambda: all(world.plane.fetches.state(k) is None for k in keys))
