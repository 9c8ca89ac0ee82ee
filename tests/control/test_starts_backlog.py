"""Thousands of new manifests beside services that live: who is looked at, and what needs no look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.control.control_world import ControlWorld, sklearn_service

from penstock.backends.base import WAITING_FOR_TURN, Phase
from penstock.control.loop import NEW_EVERY
from penstock.control.settings import ControlSettings
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore

LIVE = [f"live{i}" for i in range(4)]
NEW = [f"new{i}" for i in range(40)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ControlWorld]:
    """A few services that are ready."""
    store = await SqliteStore.in_memory()
    w = ControlWorld(store, settings=ControlSettings(cores=4, routes_applied_s=0.0))
    await w.plane.start()
    for name in LIVE:
        await store.create(sklearn_service(name))
    await w.until(lambda: w.plane.manifests.ready["True"] == len(LIVE))
    await w.plane.loop.settled()
    yield w
    await w.plane.close()
    await store.close()


async def test_services_that_live_are_looked_at_before_manifests_that_are_new(
    world: ControlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = world.plane.services.look
    gate = asyncio.Event()

    async def slow(key: tuple[str, str]) -> float | None:
        await gate.wait()
        looked.append(key[1])
        return await look(key)

    monkeypatch.setattr(world.plane.services, "look", slow)
    monkeypatch.setattr(world.plane.loop, "_concurrency", 1)
    world.plane.loop.enqueue(("default", LIVE[0]))  # has the one slot
    for name in NEW:
        await world.store.create(sklearn_service(name))
    await world.until(lambda: len(world.plane.manifests.names()) == len(LIVE) + len(NEW))
    for replica in tuple(world.backend.replicas):
        world.backend.set(replica, Phase.DRAINING)
    live = [("default", name) for name in LIVE]
    await world.until(
        lambda: all(r.phase is Phase.DRAINING for k in live for r in world.plane.replicas.of(k))
    )
    gate.set()
    await world.until(lambda: world.plane.manifests.ready["True"] >= len(NEW))
    assert len(LIVE) < NEW_EVERY
    assert set(looked[: len(LIVE)]) == set(LIVE)


async def test_a_start_that_waits_and_then_has_a_process_needs_no_look(world: ControlWorld) -> None:
    """Ten thousand do so; nothing is decided before they are ready, or fail."""
    world.backend.behave = lambda replica_id, spec: Phase.STARTING
    await world.store.create(sklearn_service("slow"))
    await world.until(lambda: len(world.backend.replicas) == len(LIVE) + 1)
    await world.settled()
    (replica,) = (i for i, r in world.backend.replicas.items() if r.service == "slow")
    looks = world.plane.loop.looks
    cached = world.plane.replicas.get
    world.backend.set(replica, Phase.WAITING, reason=WAITING_FOR_TURN, message="Others first.")
    await world.until(lambda: cached(replica).phase is Phase.WAITING)  # type: ignore[union-attr]
    world.backend.set(replica, Phase.STARTING, reason="", message="", pid=7)
    await world.until(lambda: cached(replica).pid == 7)  # type: ignore[union-attr]
    await world.settled()
    assert world.plane.loop.looks == looks
    world.backend.set(replica, Phase.READY)
    await world.until(lambda: world.plane.manifests.ready["True"] == len(LIVE) + 1)
    assert world.plane.loop.looks > looks


async def test_a_start_that_waits_is_loading_to_its_service(world: ControlWorld) -> None:
    """No device is what it waits for."""
    world.backend.behave = lambda replica_id, spec: Phase.STARTING
    await world.store.create(sklearn_service("slow"))
    await world.until(lambda: len(world.backend.replicas) == len(LIVE) + 1)
    (replica,) = (i for i, r in world.backend.replicas.items() if r.service == "slow")
    world.backend.set(replica, Phase.WAITING, reason=WAITING_FOR_TURN, message="Others first.")
    world.plane.loop.enqueue(("default", "slow"))
    await world.settled()
    found = await world.store.get(Key(Kind("penstock.dev", "InferenceService"), "default", "slow"))
    ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "Loading")
    world.plane.services.wake("default", "slow")
    await world.until(lambda: world.backend.hurried == [replica])
