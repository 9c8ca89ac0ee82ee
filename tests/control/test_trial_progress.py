"""A rollout beside a bandit through the controllers: up to an arm, or back; what was learned is kept."""

from __future__ import annotations

from typing import Any

from test_control_services import World, world
from test_progressing import Counted, rolling, step

from penstock.control.bandits import BanditKeeper
from penstock.domain.learning import Credit, Feedback, Reward, bandit_key

__all__ = ["world"]

STABLE, NEW, BOLD = "iris-00001", "iris-00002", "iris-bold-00001"


def learning(uri: str) -> dict[str, Any]:
    obj = rolling(uri)
    obj["spec"]["canary"] = [
        {
            "predictor": {"name": "bold", "sklearn": {"storageUri": "models/bold"}},
            "trafficPercent": 50,
        }
    ]
    obj["spec"]["traffic"] = {"bandit": "ucb1"}
    return obj


def shares(w: World) -> dict[str, int]:
    route = w.plane.routes.get("default/iris")
    return {t.revision: t.weight for t in route.targets} if route is not None else {}


def trial(w: World) -> str:
    route = w.plane.routes.get("default/iris")
    assert route is not None
    return route.trial


async def learned(w: World) -> dict[str, int]:
    """Rewards by arm, as the control plane keeps them."""
    uid = (await w.get())["metadata"]["uid"]
    return {a.name: a.rewards for a in keeper(w).of("default", "iris", uid).get("", ())}


def keeper(w: World) -> BanditKeeper:
    return w.plane.bandits


async def reward(w: World, arm: str, *ids: int) -> None:
    uid = (await w.get())["metadata"]["uid"]
    key = bandit_key("default", "iris", uid)
    until = w.clock.now() + 3600
    rewards = tuple(Reward(i, i, until, 1.0, (Credit(key, arm, ()),)) for i in ids)
    await keeper(w)._credit(0, Feedback(rewards))


async def at_first_step(w: World) -> Counted:
    counted = Counted(w)
    await w.apply(learning("models/a"))
    await w.until(lambda: shares(w) == {STABLE: 50, BOLD: 50})
    await reward(w, STABLE, 1, 2)
    await reward(w, BOLD, 3)
    await w.apply(learning("models/b"))
    await w.until(lambda: shares(w) == {NEW: 10, STABLE: 45, BOLD: 45})
    await w.settled()
    assert trial(w) == NEW
    await w.plane.services.progressing.tick()
    return counted


async def test_a_harmless_revision_becomes_an_arm(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {NEW: 50, STABLE: 25, BOLD: 25})
    await world.settled()
    assert trial(world) == NEW
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {NEW: 50, BOLD: 50})
    await world.settled()
    assert trial(world) == ""
    # The one before is kept, with its past, as long as its revision is.
    assert await learned(world) == {STABLE: 2, BOLD: 1}


async def test_a_bad_one_is_taken_back_and_the_arms_are_as_they_were(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 5, bad=20)
    await world.until(lambda: shares(world) == {NEW: 0, STABLE: 50, BOLD: 50})
    await world.settled()
    assert trial(world) == ""
    assert "RolledBack" in await world.events()
    assert await learned(world) == {STABLE: 2, BOLD: 1}


async def test_what_the_arms_get_wrong_is_not_held_against_it(world: World) -> None:
    """Its evidence is its own requests and the stable revision's; another arm's failures are neither's."""
    counted = await at_first_step(world)
    counted.add("bold-00001", 0, 500)
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {NEW: 50, STABLE: 25, BOLD: 25})


async def test_a_new_control_plane_finds_it_where_it_was(world: World) -> None:
    counted = await at_first_step(world)
    await step(world, counted, 30)
    await world.until(lambda: shares(world) == {NEW: 50, STABLE: 25, BOLD: 25})
    await world.settled()
    await world.restart()
    await world.settled()
    assert (shares(world), trial(world)) == ({NEW: 50, STABLE: 25, BOLD: 25}, NEW)
