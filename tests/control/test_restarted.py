"""A control plane that starts again: what it writes, whom it looks at first, and whom nothing holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.control.control_world import SleepingWorld, sklearn_service

from penstock.backends.base import WAITING_FOR_TURN, Phase
from penstock.control.loop import SWEEP
from penstock.store.sqlite import SqliteStore

COUNT = 60
LAST = ("default", f"s{COUNT - 1}")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SleepingWorld]:
    """So many services, each proven once and asleep, and no control plane."""
    store = await SqliteStore.in_memory()
    w = SleepingWorld(store, tmp_path, COUNT)
    await w.plane.start()
    for i in range(COUNT):
        await store.create(sklearn_service(f"s{i}", minReplicas=0))
    await w.until(w.asleep, 0.05)
    await w.plane.loop.settled()
    await w.plane.close()
    w.plane = w.another()
    yield w
    await w.plane.close()
    await store.close()


async def test_nothing_is_written_where_nothing_changed(
    world: SleepingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for gateways to confirm what is not said anew."""
    calls: list[str] = []

    def counted(of: Any, name: str) -> None:
        method = getattr(of, name)

        async def call(*args: Any, **more: Any) -> Any:
            calls.append(name)
            return await method(*args, **more)

        monkeypatch.setattr(of, name, call)

    for name in ("create", "update", "update_status", "record_event", "get"):
        counted(world.store, name)
    counted(world.plane.routes, "applied")
    version = world.store.version
    world.plane.routes.load()
    sequence = world.plane.routes.sequence
    await world.plane.start()
    await world.plane.loop.settled()
    assert world.plane.loop.looks == COUNT, "each once"
    assert calls == []
    assert world.store.version == version
    assert world.plane.routes.sequence == sequence, "gateways are told nothing"


async def test_a_request_that_waits_is_served_before_all_others_are_looked_at(
    world: SleepingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the end: its replica starts, and what gateways are told when that is ready waits for nobody."""
    w = world
    looked: list[tuple[str, str]] = []
    look = w.plane.services.look
    gate = asyncio.Event()

    async def slow(key: tuple[str, str]) -> float | None:
        looked.append(key)
        if key != LAST:
            await gate.wait()
        return await look(key)

    monkeypatch.setattr(w.plane.services, "look", slow)
    await w.plane.start()
    assert looked == [], "gateways are let in first"
    w.backend.behave = lambda replica_id, spec: Phase.STARTING
    w.plane.services.wake(*LAST)
    await w.until(lambda: w.backend.hurried)
    replica = w.backend.hurried[0]
    assert w.backend.replicas[replica].service == LAST[1], "the node is told who is waited for"
    assert len(set(looked)) <= SWEEP + 1
    for i in range(COUNT - 1):  # something happens to each of them, too
        w.plane.loop.enqueue(("default", f"s{i}"))
    w.backend.set(replica, Phase.READY)
    await w.until(lambda: has_replicas(w, LAST))
    assert len(set(looked)) < COUNT / 2
    gate.set()
    await w.plane.loop.settled()
    assert len(set(looked)) == COUNT, "each is looked at all the same"


async def test_those_that_ran_come_back_before_those_that_sleep_are_looked_at(
    world: SleepingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole node ended: nothing runs, and the kept routes tell what did."""
    w = world
    await w.plane.start()
    awake = [("default", f"always{i}") for i in range(3)]
    for _, name in awake:
        await w.store.create(sklearn_service(name))
    await w.until(lambda: all(has_replicas(w, key) for key in awake))
    await w.plane.loop.settled()
    await w.plane.close()
    w.backend.lose_all()
    w.plane = w.another()
    looked: list[tuple[str, str]] = []
    look = w.plane.services.look

    async def noted(key: tuple[str, str]) -> float | None:
        looked.append(key)
        return await look(key)

    monkeypatch.setattr(w.plane.services, "look", noted)
    await w.plane.start()
    await w.plane.loop.settled()
    assert set(looked[:3]) == set(awake)
    assert len(set(looked)) == COUNT + 3


async def test_the_node_is_told_what_a_request_waits_for(tmp_path: Path) -> None:
    """Replicas that were asked for and have no process yet: their framework is imported before others."""
    store = await SqliteStore.in_memory()
    w = SleepingWorld(store, tmp_path, COUNT)
    w.backend.behave = lambda replica_id, spec: Phase.STARTING
    await w.plane.start()
    for name in ("a", "b"):
        await store.create(sklearn_service(name))
    await w.until(lambda: len(w.backend.replicas) == 2)
    await w.plane.loop.settled()
    assert w.backend.hurried == []
    for replica_id in w.backend.replicas:
        w.backend.set(replica_id, Phase.WAITING, reason=WAITING_FOR_TURN)
    await w.until(lambda: all(r.reason for r in w.plane.replicas.all()))
    (waited,) = (i for i, r in w.backend.replicas.items() if r.service == "b")
    w.plane.services.wake("default", "b")
    await w.until(lambda: w.backend.hurried)
    await w.plane.loop.settled()
    looks = w.plane.loop.looks
    for _ in range(5):  # gateways say so again each second
        w.plane.services.wake("default", "b")
        await w.plane.loop.settled()
    assert w.backend.hurried == [waited], "once"
    assert w.plane.loop.looks == looks
    # It has a process, and a model to load: there is nothing to hurry any more.
    w.backend.set(waited, Phase.STARTING, pid=1)
    await w.until(lambda: all(r.pid == 1 for r in w.plane.replicas.of(("default", "b"))))
    await w.plane.loop.settled()
    said = len(w.backend.hurried)
    w.plane.services.wake("default", "b")
    await w.plane.loop.settled()
    assert len(w.backend.hurried) == said
    await w.plane.close()
    await store.close()


async def test_a_first_look_waits_for_no_gateway(world: SleepingWorld) -> None:
    """They are let in after it: until then there is nobody who could confirm anything."""
    world.plane.routes.expected_gateways = 1
    async with asyncio.timeout(20):
        assert not await world.plane.routes.applied(1, timeout_s=1e9)


def has_replicas(w: SleepingWorld, key: tuple[str, str]) -> bool:
    """Whether gateways are told of any."""
    found = w.plane.routes.get("/".join(key))
    return found is not None and any(t.replicas for t in found.targets)
