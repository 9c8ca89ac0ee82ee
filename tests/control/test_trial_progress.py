"""A rollout beside a bandit through the controllers: up to an arm, or back; what was learned is kept."""

from __future__ import annotations

from typing import Any

from test_control_services import World, world
from test_progressing import POLICY, Counted, rolling, step

from penstock.control.bandits import BanditKeeper
from penstock.domain.learning import Credit, Feedback, Reward, bandit_key

__all__ = ["world"]

STABLE, NEW, BOLD = "iris-00001", "iris-00002", "iris-bold-00001"


def learning(uri: str, policy: Any = POLICY) -> dict[str, Any]:
    obj = rolling(uri, policy)
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


async def test_it_is_compared_with_all_arms_for_the_stable_one_may_get_no_request(
    world: World,
) -> None:
    policy = {**POLICY, "limits": {}}  # no more failures than of the others
    counted = Counted(world)
    await world.apply(learning("models/a", policy))
    await world.until(lambda: shares(world) == {STABLE: 50, BOLD: 50})
    await world.apply(learning("models/b", policy))
    await world.until(lambda: shares(world) == {NEW: 10, STABLE: 45, BOLD: 45})
    await world.settled()
    await world.plane.services.progressing.tick()
    for _ in range(5):
        counted.add("00002", 0, bad=5)
        counted.add("bold-00001", 45)  # all that the bandit gives
        await world.clock.advance(1)
        await world.plane.services.progressing.tick()
    await world.until(lambda: shares(world) == {NEW: 0, STABLE: 50, BOLD: 50})
    await world.settled()
    assert "against the arms' 0.00%" in (await world.ready())["message"]


async def test_an_arm_that_fails_as_often_is_no_reason_to_give_it_up(world: World) -> None:
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
