"""Many registered services: what a start, a tick and a reading cost goes by those awake, not by all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.control.control_world import SleepingWorld, sklearn_service

from penstock.backends.base import Phase
from penstock.store.sqlite import SqliteStore

COUNT = 300
GRACE_S = 5.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SleepingWorld]:
    """So many services, each proven once and asleep."""
    store = await SqliteStore.in_memory()
    w = SleepingWorld(store, tmp_path, COUNT, grace_s=GRACE_S, ready_applied_s=0.0)
    await w.plane.start()
    await asyncio.gather(
        *(store.create(sklearn_service(f"s{i}", minReplicas=0)) for i in range(COUNT))
    )
    await w.until(w.asleep, 0.05)
    await w.plane.loop.settled()
    yield w
    await w.plane.close()
    await store.close()


async def test_many_that_sleep(world: SleepingWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """One world for all, since making it takes seconds."""
    w = world
    # A tick looks at nobody.
    w.plane.scaler.tick()
    assert not w.plane.scaler._moving
    # The metrics' text is a concatenation: no manifest is read for it, and no series written anew.
    monkeypatch.setattr(type(w.plane.manifests), "all", None)
    assert f'penstock_services{{ready="True"}} {COUNT}.0' in (await w.plane.metrics.text()).decode()
    monkeypatch.undo()
    # One that is woken does not wait for the others, whatever they wait for.
    for i in range(COUNT):
        w.plane.loop.enqueue(("default", f"s{i}"))
    before = w.plane.loop.looks
    begin = w.backend.start
    looks: list[int] = []

    async def started(*args: Any, **more: Any) -> Any:
        looks.append(w.plane.loop.looks - before)
        return await begin(*args, **more)

    monkeypatch.setattr(w.backend, "start", started)
    w.plane.services.wake("default", f"s{COUNT - 1}", 1)
    await w.until(lambda: w.plane.scaler.wanted(("default", f"s{COUNT - 1}")) == 1)
    await w.until(lambda: [r for r in w.backend.replicas.values() if r.phase is Phase.READY])
    monkeypatch.undo()
    assert looks[0] < COUNT / 2, looks
    await w.until(w.asleep, 0.05)
    await w.plane.loop.settled()
    # A control plane that starts lets gateways in by the routes that were kept.
    await w.plane.close()
    w.plane = w.another()
    looked: list[Any] = []
    look = w.plane.services.look
    gate = asyncio.Event()

    async def slow(key: Any) -> float | None:
        looked.append(key)
        await gate.wait()
        return await look(key)

    monkeypatch.setattr(w.plane.services, "look", slow)
    monkeypatch.setattr("penstock.control.plane.FIRST_LOOK_S", 1000.0)
    async with asyncio.timeout(20):
        await w.plane.start()
    assert w.plane.started.is_set()
    assert w.plane.routes.get("default/s0") is not None
    gate.set()
    await w.plane.loop.settled()
    assert len(set(looked)) == COUNT, "each is looked at all the same"
