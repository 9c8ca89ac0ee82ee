"""Models that are fetched ahead: the real cache and store, files in folders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import storage
from penstock.control.clock import Clock
from penstock.control.loop import Backoff
from penstock.control.models.local_models import KINDS, LocalModels
from penstock.control.models.model_files import CachedFiles
from penstock.store.base import Key
from penstock.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.close()


def cached(uri: str, size: Any = "1Mi", name: str = "m") -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LocalModelCache",
        "metadata": {"name": name},
        "spec": {"sourceModelUri": uri, "modelSize": size, "nodeGroups": ["all"]},
    }


class World:
    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.cache = storage.Cache(folder / "cache", 10_000_000, grace_s=0)
        self.files = CachedFiles(store, self.cache, base_dir=folder)
        self.models = LocalModels(store, self.files, clock=Clock(), backoff=Backoff(0.01, 0.05))

    async def apply(self, obj: dict[str, Any]) -> None:
        await self.store.create(obj)
        await self.models.load()

    async def status(self, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status once `until` holds of it."""
        key = Key(KINDS[0], "", "m")
        obj = await self.store.get(key)
        if until(obj.get("status") or {}):
            return obj["status"]
        since = int(obj["metadata"]["resourceVersion"])
        async for change in self.store.watch(since=since):
            if change.key == key and until(change.object.get("status") or {}):
                return change.object["status"]
        raise AssertionError("the watch ended")

    def pins(self) -> list[str]:
        return [p.owner for p in self.cache.pins()]


@pytest.fixture
async def world(store: SqliteStore, tmp_path: Path) -> AsyncIterator[World]:
    world = World(store, tmp_path)
    yield world
    await world.models.close()


def state(status: dict[str, Any]) -> str:
    return next(iter(status.get("nodeStatus", {"": ""}).values()))


async def test_a_model_is_fetched_and_kept_until_its_object_goes(world: World) -> None:
    (world.folder / "model").mkdir()
    (world.folder / "model" / "model.joblib").write_bytes(b"x" * 100)
    await world.apply(cached("model"))
    status = await world.status(lambda s: state(s) == "NodeDownloaded")
    assert status["copies"] == {"available": 1, "total": 1, "failed": 0}
    assert status["penstock"] == {"sizeBytes": 100}
    assert world.pins() == ["kept:m"]
    # What revisions need is another matter.
    await world.files.retain([])
    assert world.pins() == ["kept:m"]
    obj = await world.store.get(Key(KINDS[0], "", "m"))
    await world.store.delete(Key(KINDS[0], "", "m"))
    async for change in world.store.watch(since=int(obj["metadata"]["resourceVersion"])):
        world.models.changed(change)
        break
    await world.models.settled()
    assert world.pins() == []


async def test_a_fetch_that_fails_says_why_and_is_tried_again(world: World) -> None:
    await world.apply(cached("later"))
    status = await world.status(lambda s: state(s) == "NodeDownloadError")
    assert "later" in status["conditions"][0]["message"]
    assert status["copies"]["failed"] == 1
    (world.folder / "later").mkdir()
    (world.folder / "later" / "f").write_bytes(b"x")
    await world.status(lambda s: state(s) == "NodeDownloaded")


async def test_more_than_the_cache_holds_is_refused_before_the_fetch(world: World) -> None:
    await world.apply(cached("model", size="1Gi"))
    status = await world.status(lambda s: state(s) == "NodeDownloadError")
    assert "more than the cache may hold" in status["conditions"][0]["message"]


async def test_what_a_crash_left_behind_is_dropped(world: World) -> None:
    (world.folder / "model").mkdir()
    (world.folder / "model" / "f").write_bytes(b"x")
    await world.apply(cached("model"))
    await world.status(lambda s: state(s) == "NodeDownloaded")
    await world.store.delete(Key(KINDS[0], "", "m"))
    other = World(world.store, world.folder)
    await other.models.load()
    assert other.pins() == []
