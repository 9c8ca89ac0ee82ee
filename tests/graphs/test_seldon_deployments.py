"""SeldonDeployments of several nodes in the control plane: their services, and who sees to them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from test_graph_control import World, service

from penstock.backends.base import Phase
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore

PART = Kind("penstock.dev", "InferenceService")


@pytest.fixture
async def seldon(tmp_path: Path) -> AsyncIterator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    made = World(store)
    await made.plane.start()
    yield made
    await made.plane.close()
    await store.close()


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


async def parts(world: World) -> dict[str, dict[str, Any]]:
    """The services that belong to a deployment, by name."""
    listing = await world.store.list(PART, namespace="default")
    return {o["metadata"]["name"]: o for o in listing.items if o["metadata"].get("ownerReferences")}


async def status(world: World, name: str = "dep") -> dict[str, Any]:
    obj = await world.store.get(
        Key(Kind("machinelearning.seldon.io", "SeldonDeployment"), "default", name)
    )
    found: dict[str, Any] = obj["status"]
    return found


async def test_each_node_becomes_a_service_that_the_deployment_owns(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    found = await parts(seldon)
    assert set(found) == {"dep-main-a", "dep-main-b"}
    owner = found["dep-main-a"]["metadata"]["ownerReferences"][0]
    stored = await seldon.store.get(seldon.key(deployment(leaf("a"))))
    assert (owner["kind"], owner["uid"]) == ("SeldonDeployment", stored["metadata"]["uid"])
    assert {s.service for s in seldon.backend.replicas.values()} == set(found)
    assert (await status(seldon))["state"] == "Available"
    route = seldon.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is not None


async def test_it_is_available_when_all_of_them_are(seldon: World) -> None:
    seldon.backend.behave = lambda replica_id, spec: (
        Phase.FAILED if spec.service == "dep-main-b" else Phase.READY
    )
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    found = await status(seldon)
    assert found["state"] == "Failed"
    assert found["description"].startswith("dep-main-b is not ready: ")


async def test_a_change_of_a_node_changes_its_service_only(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(seldon)
    await seldon.apply(deployment(leaf("a"), leaf("b", modelUri="models/y")))
    after = await parts(seldon)
    assert after["dep-main-b"]["spec"]["predictor"]["sklearn"]["storageUri"] == "models/y"
    assert after["dep-main-b"]["metadata"]["uid"] == before["dep-main-b"]["metadata"]["uid"]
    assert after["dep-main-a"]["metadata"]["generation"] == 1
    assert after["dep-main-b"]["metadata"]["generation"] == 2


async def test_a_look_that_changes_nothing_writes_nothing(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(seldon)
    seldon.plane.loop.enqueue(("default", "dep"))
    await seldon.settle()
    assert await parts(seldon) == before


async def test_a_node_that_is_named_no_more_goes(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b"), leaf("c")))
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    assert set(await parts(seldon)) == {"dep-main-a", "dep-main-b"}
    await seldon.apply(deployment(leaf("a")))
    assert await parts(seldon) == {}
    route = seldon.plane.routes.get("default/dep")
    assert route is not None
    assert route.graph is None
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    assert set(await parts(seldon)) == {"dep-main-a", "dep-main-b"}


async def test_parts_go_after_a_restart_in_between_too(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b"), leaf("c")))
    await seldon.plane.close()
    key = seldon.key(deployment(leaf("a")))
    stored = await seldon.store.get(key)
    await seldon.store.update({**stored, "spec": deployment(leaf("a"))["spec"]})
    seldon.plane = seldon._plane()
    await seldon.plane.start()
    await seldon.settle()
    assert await parts(seldon) == {}


async def test_a_restarted_control_plane_changes_nothing(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(seldon)
    started = list(seldon.backend.started)
    await seldon.restart()
    await seldon.settle()
    assert await parts(seldon) == before
    assert seldon.backend.started == started


async def test_a_part_that_somebody_deletes_is_made_again(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    before = await parts(seldon)
    await seldon.store.delete(Key(PART, "default", "dep-main-a"))
    await seldon.settle()
    after = await parts(seldon)
    assert set(after) == set(before)
    assert after["dep-main-a"]["metadata"]["uid"] != before["dep-main-a"]["metadata"]["uid"]


async def test_a_part_that_somebody_changes_is_as_the_manifest_says(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    changed = copy.deepcopy((await parts(seldon))["dep-main-a"])
    changed["spec"]["predictor"]["sklearn"]["storageUri"] = "models/other"
    await seldon.store.update(changed)
    await seldon.settle()
    spec = (await parts(seldon))["dep-main-a"]["spec"]
    assert spec["predictor"]["sklearn"]["storageUri"] == "models/x"


async def test_with_the_deployment_everything_goes(seldon: World) -> None:
    obj = deployment(leaf("a"), leaf("b"))
    await seldon.apply(obj)
    await seldon.delete(obj)
    async with asyncio.timeout(20):
        while await parts(seldon) or seldon.backend.replicas:
            await seldon.clock.advance(30)
            await seldon.settle()
    assert await parts(seldon) == {}
    assert seldon.backend.replicas == {}
    assert seldon.plane.routes.get("default/dep") is None


async def test_a_name_that_is_taken_is_told(seldon: World) -> None:
    """Somebody's own service is not touched; once it is renamed the deployment comes up."""
    mine = service("dep-main-a")
    await seldon.apply(mine)
    await seldon.apply(deployment(leaf("a"), leaf("b")))
    found = await status(seldon)
    assert found["state"] == "Failed"
    assert found["description"] == "dep-main-a is another object's name; rename that one"
    stored = await seldon.store.get(seldon.key(mine))
    assert stored["spec"] == mine["spec"]
    await seldon.delete(mine)
    assert (await status(seldon))["state"] == "Available"


async def test_no_replicas_stop_every_node(seldon: World) -> None:
    await seldon.apply(deployment(leaf("a"), leaf("b"), replicas=0))
    assert seldon.backend.replicas == {}
    await seldon.apply(deployment(leaf("a"), leaf("b"), replicas=2))
    assert len(seldon.backend.replicas) == 4
