"""SeldonDeployments of several nodes in the control plane: their services, and who sees to them."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from graph_world import GraphWorld, service, world

from penstock.backends.base import Phase
from penstock.store.base import Key, Kind

PART = Kind("penstock.dev", "InferenceService")

__all__ = ["world"]


def leaf(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "implementation": "SKLEARN_SERVER", "modelUri": "models/x", **more}


def deployment(*children: dict[str, Any], name: str = "dep", **predictor: Any) -> dict[str, Any]:
    """An average of the children; alone, the one model itself."""
    graph: dict[str, Any] = {
        "name": "mean",
        "implementation": "AVERAGE_COMBINER",
        "children": list(children),
    }
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "predictors": [
                {
                    "name": "main",
                    "graph": graph if len(children) > 1 else children[0],
                    **predictor,
                }
            ]
        },
    }


async def parts(world: GraphWorld) -> dict[str, dict[str, Any]]:
    """The services that belong to a deployment, by name."""
    listing = await world.store.list(PART, namespace="default")
    return {o["metadata"]["name"]: o for o in listing.items if o["metadata"].get("ownerReferences")}


async def status(world: GraphWorld, name: str = "dep") -> dict[str, Any]:
    obj = await world.store.get(
        Key(Kind("machinelearning.seldon.io", "SeldonDeployment"), "default", name)
    )
    found: dict[str, Any] = obj["status"]
    return found


async def test_the_nodes_stop_with_the_deployment(world: GraphWorld) -> None:
    wanted = deployment(leaf("a"), leaf("b"))
    await world.apply(wanted)
    assert len(world.backend.replicas) == 2
    wanted["metadata"]["annotations"] = {"serving.kserve.io/stop": "true"}
    await world.apply(wanted)
    await world.clock.advance(60)
    await world.settled()
    assert not world.backend.replicas
    assert len(await parts(world)) == 2
    del wanted["metadata"]["annotations"]
    await world.apply(wanted)
    assert len(world.backend.replicas) == 2
    assert (await status(world))["state"] == "Available"


async def test_each_node_becomes_a_service_that_the_deployment_owns(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    found = await parts(world)
    assert set(found) == {"dep-main-a", "dep-main-b"}
    owner = found["dep-main-a"]["metadata"]["ownerReferences"][0]
    stored = await world.store.get(world.key(deployment(leaf("a"))))
    assert (owner["kind"], owner["uid"]) == ("SeldonDeployment", stored["metadata"]["uid"])
    assert {s.service for s in world.backend.replicas.values()} == set(found)
    assert (await status(world))["state"] == "Available"
    route = world.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is not None


async def test_it_is_available_when_all_of_them_are(world: GraphWorld) -> None:
    world.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if spec.service == "dep-main-b" else Phase.READY
    )
    await world.apply(deployment(leaf("a"), leaf("b")))
    found = await status(world)
    assert found["state"] == "Failed"
    assert found["description"].startswith("dep-main-b is not ready: ")


async def test_a_change_of_a_node_changes_its_service_only(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(world)
    await world.apply(deployment(leaf("a"), leaf("b", modelUri="models/y")))
    after = await parts(world)
    assert after["dep-main-b"]["spec"]["predictor"]["sklearn"]["storageUri"] == "models/y"
    assert after["dep-main-b"]["metadata"]["uid"] == before["dep-main-b"]["metadata"]["uid"]
    assert after["dep-main-a"]["metadata"]["generation"] == 1
    assert after["dep-main-b"]["metadata"]["generation"] == 2


async def test_a_look_that_changes_nothing_writes_nothing(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(world)
    world.plane.loop.enqueue(("default", "dep"))
    await world.settled()
    assert await parts(world) == before


async def test_a_node_that_is_named_no_more_goes(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b"), leaf("c")))
    await world.apply(deployment(leaf("a"), leaf("b")))
    assert set(await parts(world)) == {"dep-main-a", "dep-main-b"}
    await world.apply(deployment(leaf("a")))
    assert await parts(world) == {}
    route = world.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is None
    await world.apply(deployment(leaf("a"), leaf("b")))
    assert set(await parts(world)) == {"dep-main-a", "dep-main-b"}


async def test_parts_go_after_a_restart_in_between_too(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b"), leaf("c")))
    await world.plane.close()
    key = world.key(deployment(leaf("a")))
    stored = await world.store.get(key)
    await world.store.update({**stored, "spec": deployment(leaf("a"))["spec"]})
    world.plane = world.another()
    await world.plane.start()
    await world.settled()
    assert await parts(world) == {}


async def test_a_restarted_control_plane_changes_nothing(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(world)
    started = list(world.backend.started)
    await world.restart()
    await world.settled()
    assert await parts(world) == before
    assert world.backend.started == started


async def test_a_part_that_somebody_deletes_is_made_again(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(world)
    await world.store.delete(Key(PART, "default", "dep-main-a"))
    await world.settled()
    after = await parts(world)
    assert set(after) == set(before)
    assert after["dep-main-a"]["metadata"]["uid"] != before["dep-main-a"]["metadata"]["uid"]


async def test_a_part_that_somebody_changes_is_as_the_manifest_says(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b")))
    changed = copy.deepcopy((await parts(world))["dep-main-a"])
    changed["spec"]["predictor"]["sklearn"]["storageUri"] = "models/other"
    await world.store.update(changed)
    await world.settled()
    spec = (await parts(world))["dep-main-a"]["spec"]
    assert spec["predictor"]["sklearn"]["storageUri"] == "models/x"


async def test_with_the_deployment_everything_goes(world: GraphWorld) -> None:
    obj = deployment(leaf("a"), leaf("b"))
    await world.apply(obj)
    await world.delete(obj)
    async with asyncio.timeout(20):
        while await parts(world) or world.backend.replicas:
            await world.clock.advance(30)
            await world.settled()
    assert await parts(world) == {}
    assert world.backend.replicas == {}
    assert world.plane.routes.get("default/dep") is None


async def test_a_name_that_is_taken_is_told(world: GraphWorld) -> None:
    """Somebody's own service is not touched; once it is renamed the deployment comes up."""
    mine = service("dep-main-a")
    await world.apply(mine)
    await world.apply(deployment(leaf("a"), leaf("b")))
    found = await status(world)
    assert found["state"] == "Failed"
    assert found["description"] == "dep-main-a is another object's name; rename that one"
    stored = await world.store.get(world.key(mine))
    assert stored["spec"] == mine["spec"]
    await world.delete(mine)
    assert (await status(world))["state"] == "Available"


async def test_no_replicas_stop_every_node(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b"), replicas=0))
    assert world.backend.replicas == {}
    await world.apply(deployment(leaf("a"), leaf("b"), replicas=2))
    assert len(world.backend.replicas) == 4


EXPLAINED = {"explainer": {"type": "AnchorText", "modelUri": "models/e"}}


async def test_an_explainer_is_one_more_service_and_the_graph_waits_for_it(
    world: GraphWorld,
) -> None:
    world.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if spec.service == "dep-main-explainer" else Phase.READY
    )
    await world.apply(deployment(leaf("a"), leaf("b"), **EXPLAINED))
    assert set(await parts(world)) == {"dep-main-a", "dep-main-b", "dep-main-explainer"}
    found = await status(world)
    assert found["state"] == "Failed"
    assert found["description"].startswith("dep-main-explainer is not ready: ")
    (spec,) = [s for s in world.backend.specs.values() if s.service == "dep-main-explainer"]
    assert spec.predictor is not None
    assert (spec.predictor.prefix, spec.predictor.model) == ("/serving/default/dep", "dep")
    assert [m.name for m in spec.models] == ["dep"]
    world.backend.behave = lambda replica_id, spec: Phase.READY
    changed = {"explainer": {**EXPLAINED["explainer"], "modelUri": "models/f"}}
    await world.apply(deployment(leaf("a"), leaf("b"), **changed))
    assert (await status(world))["state"] == "Available"
    route = world.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is not None
    assert route.graph.explainer() == "dep-main-explainer"


async def test_an_explainer_that_is_left_out_goes(world: GraphWorld) -> None:
    await world.apply(deployment(leaf("a"), leaf("b"), **EXPLAINED))
    await world.apply(deployment(leaf("a"), leaf("b")))
    assert set(await parts(world)) == {"dep-main-a", "dep-main-b"}
    assert (await status(world))["state"] == "Available"
    route = world.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is not None
    assert route.graph.explainers == ()


async def test_an_explainer_of_one_of_several_predictors_is_told_which(world: GraphWorld) -> None:
    manifest = deployment(leaf("a"), leaf("b"), traffic=80, **EXPLAINED)
    other = {"name": "other", "graph": leaf("c"), "traffic": 20}
    manifest["spec"]["predictors"].append(other)
    await world.apply(manifest)
    (spec,) = [s for s in world.backend.specs.values() if s.service == "dep-main-explainer"]
    assert spec.predictor is not None
    assert spec.predictor.prefix == "/serving/default/dep@main"
    assert spec.predictor.model == "dep"
