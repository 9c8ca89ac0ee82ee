"""Explainers of several predictors of one service: services that come, change and go with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_control_services import World, world

from penstock.backends.base import Phase
from penstock.errors import NotFound
from penstock.store.base import Key, Kind

__all__ = ["world"]

SDEP = Kind("machinelearning.seldon.io", "SeldonDeployment")
ISVC = Kind("penstock.dev", "InferenceService")
PART = "ab-canary-explainer"


def predictor(name: str, traffic: int, explained: bool = True, **more: Any) -> dict[str, Any]:
    graph = {"name": "m", "implementation": "SKLEARN_SERVER", "modelUri": f"models/{name}"}
    made: dict[str, Any] = {"name": name, "traffic": traffic, "graph": graph, **more}
    if explained:
        made["explainer"] = {"type": "KernelShap", "config": {"seed": "1"}}
    return made


def deployment(*predictors: dict[str, Any], name: str = "ab") -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"predictors": list(predictors)},
    }


BOTH = deployment(predictor("main", 75), predictor("canary", 25))


async def status_of(w: World) -> dict[str, Any]:
    found: dict[str, Any] = (await w.store.get(Key(SDEP, "default", "ab"))).get("status") or {}
    return found


async def available(w: World, state: str = "Available") -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        obj = await w.store.get(Key(SDEP, "default", "ab"))
        status = obj.get("status") or {}
        seen = status.get("observedGeneration") == obj["metadata"]["generation"]
        return status if seen and status.get("state") == state else None

    found: dict[str, Any] = await w.until(look)
    return found


async def parts(w: World) -> list[str]:
    listing = await w.store.list(ISVC)
    return [o["metadata"]["name"] for o in listing.items]


async def test_the_explainer_of_the_second_asks_that_one_by_its_name(world: World) -> None:
    await world.apply(BOTH)
    status = await available(world)
    assert await parts(world) == [PART]
    assert status["deploymentStatus"][PART] == {"explainerFor": "canary", "status": "Available"}
    route = world.plane.routes.get("default/ab")
    assert route is not None
    assert route.explainers == (("main", ""), ("canary", PART))
    assert {t.revision: (t.weight, t.tags) for t in route.targets} == {
        "ab-00001": (75, ("latest",)),
        "ab-canary-00001": (25, ("canary",)),
    }
    asked = {s.revision: s.predictor for s in world.backend.specs.values() if s.predictor}
    assert asked["ab-canary-explainer-00001"].prefix == "/serving/default/ab@canary"
    assert asked["ab-explainer-00001"].prefix == "/serving/default/ab/components/predictor"


async def test_it_is_not_ready_before_its_explainers_are(world: World) -> None:
    world.backend.behave = lambda replica, spec: (
        Phase.STARTING if spec.service == PART else Phase.READY
    )
    await world.apply(BOTH)

    async def waits() -> Any:
        return next(
            (
                c
                for c in (await status_of(world)).get("conditions", ())
                if c["type"] == "Ready" and "The explainer of canary" in c.get("message", "")
            ),
            None,
        )

    ready = await world.until(waits)
    assert ready["status"] == "Unknown"
    status = await status_of(world)
    assert (status["state"], status["deploymentStatus"][PART]["status"]) == ("Creating", "Creating")
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["PredictorReady"]["status"] == "True"
    assert conditions["ExplainerReady"]["message"].startswith("canary: ")
    (replica,) = [r.id for r in world.backend.replicas.values() if r.service == PART]
    world.backend.set(replica, Phase.READY)
    await available(world)


async def test_who_drops_an_explainer_drops_its_service_and_nothing_else(world: World) -> None:
    await world.apply(BOTH)
    await available(world)
    before = {r.id for r in world.backend.replicas.values() if r.service == "ab"}
    await world.apply(deployment(predictor("main", 75), predictor("canary", 25, explained=False)))
    await available(world)
    await world.until(lambda: all(r.service == "ab" for r in world.backend.replicas.values()))
    assert await parts(world) == []
    assert {r.id for r in world.backend.replicas.values()} == before
    route = world.plane.routes.get("default/ab")
    assert route is not None
    assert route.explainers == (("main", ""),)


async def test_a_new_model_of_one_predictor_leaves_the_others_explainer_alone(world: World) -> None:
    await world.apply(BOTH)
    await available(world)
    before = {r.id for r in world.backend.replicas.values() if r.revision.endswith("-00001")}
    changed = copy.deepcopy(BOTH)
    changed["spec"]["predictors"][1]["explainer"]["config"]["seed"] = "2"
    await world.apply(changed)
    await world.until(
        lambda: any(
            r.revision == "ab-canary-explainer-00002" for r in world.backend.replicas.values()
        )
    )
    await available(world)
    left = {r.id for r in world.backend.replicas.values()} & before
    assert {world.backend.replicas[i].revision for i in left} >= {
        "ab-00001",
        "ab-canary-00001",
        "ab-explainer-00001",
    }


async def test_one_that_somebody_deletes_is_made_again(world: World) -> None:
    await world.apply(BOTH)
    await available(world)
    old = await world.store.get(Key(ISVC, "default", PART))
    await world.store.delete(Key(ISVC, "default", PART))

    async def anew() -> bool:
        try:
            found = await world.store.get(Key(ISVC, "default", PART))
        except NotFound:
            return False
        return bool(found["metadata"]["uid"] != old["metadata"]["uid"])

    await world.until(anew)
    await available(world)


async def test_a_name_that_somebody_else_has_is_told(world: World) -> None:
    other = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": PART, "namespace": "default"},
        "spec": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
    }
    await world.apply(other)
    await world.apply(BOTH)

    async def told() -> Any:
        conditions = (await status_of(world)).get("conditions", ())
        return next((c for c in conditions if c.get("reason") == "NameTaken"), None)

    ready = await world.until(told)
    assert ready["status"] == "False"
    assert "is another object's name" in ready["message"]
    kept = await world.store.get(Key(ISVC, "default", PART))
    assert kept["spec"] == other["spec"]


@pytest.mark.parametrize("how", ["annotation", "replicas"])
async def test_one_that_is_not_to_run_keeps_nothing_from_being_ready(
    world: World, how: str
) -> None:
    """Neither does it run while the deployment is stopped."""
    await world.apply(BOTH)
    await available(world)
    changed = copy.deepcopy(BOTH)
    if how == "replicas":
        changed["spec"]["predictors"][1]["explainer"]["replicas"] = 0
    else:
        changed["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}
    await world.apply(changed)
    left = {"ab"} if how == "replicas" else set()
    await world.until(lambda: {r.service for r in world.backend.replicas.values()} == left)
    if how == "replicas":

        async def without() -> bool:
            status = await status_of(world)
            return status["state"] == "Available" and PART not in status["deploymentStatus"]

        await world.until(without)
    await world.apply(BOTH)
    await world.until(lambda: {r.service for r in world.backend.replicas.values()} == {"ab", PART})
    await available(world)


async def test_all_goes_with_the_deployment(world: World) -> None:
    await world.apply(BOTH)
    await available(world)
    await world.store.delete(Key(SDEP, "default", "ab"))
    await world.until(lambda: not world.backend.replicas)

    async def gone() -> bool:
        return await parts(world) == []

    await world.until(gone)
    assert world.plane.routes.get("default/ab") is None
    assert world.plane.routes.get(f"default/{PART}") is None


async def test_a_control_plane_that_starts_again_changes_nothing(world: World) -> None:
    await world.apply(BOTH)
    await available(world)
    before = {r.id for r in world.backend.replicas.values()}
    version = (await world.store.get(Key(ISVC, "default", PART)))["metadata"]["resourceVersion"]
    await world.restart()
    await available(world)
    await world.settled()
    assert {r.id for r in world.backend.replicas.values()} == before
    part = await world.store.get(Key(ISVC, "default", PART))
    assert part["metadata"]["resourceVersion"] == version
    # It still knows what it made.
    await world.apply(deployment(predictor("main", 75), predictor("canary", 25, explained=False)))
    await world.until(lambda: all(r.service == "ab" for r in world.backend.replicas.values()))


async def test_a_canary_alone_has_its_explainer_beside_it(world: World) -> None:
    """Of one predictor the explainer is a component, as it is of the first one."""
    await world.apply(BOTH)
    await available(world)
    await world.apply(deployment(predictor("canary", 100)))
    await available(world)
    await world.until(lambda: all(r.service == "ab" for r in world.backend.replicas.values()))
    assert await parts(world) == []
    route = world.plane.routes.get("default/ab")
    assert route is not None
    assert route.explainers == ()
