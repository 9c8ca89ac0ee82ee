"""What belongs to a deleted object goes too, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from store_contract import key, runtime, service

from penstock.errors import NotFound, Unavailable
from penstock.store.base import ChangeType, Key, Object, Store
from penstock.store.garbage import GarbageCollector
from penstock.store.objects import key_of
from penstock.store.sqlite import SqliteStore


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = await SqliteStore.in_memory()
    yield store
    await store.close()


@asynccontextmanager
async def collecting(collector: GarbageCollector, store: Store) -> AsyncIterator[None]:
    """The collector at work, told what the store's watch says."""

    async def follow() -> None:
        async for change in store.watch(since=version):
            collector.take(change)

    version = (await store.list(key().kind)).version
    await collector.load()
    tasks = {asyncio.create_task(follow()), asyncio.create_task(collector.run())}
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.fixture
async def collector(store: Store) -> AsyncIterator[None]:
    async with collecting(GarbageCollector(store), store):
        yield


def owned(name: str, *owners: Object, **extra: Any) -> Object:
    references = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            **extra,
        }
        for o in owners
    ]
    return service(name, ownerReferences=references)


async def gone(store: Store, name: str) -> None:
    """Wait until an object is deleted, by the store's own watch."""

    async def wait() -> None:
        watch = store.watch(since=(await store.list(key().kind)).version)
        try:
            await store.get(key(name))
        except NotFound:
            return
        async for change in watch:
            if change.type is ChangeType.DELETED and change.key.name == name:
                return

    await asyncio.wait_for(wait(), 10)


async def test_a_deleted_owners_dependents_go_down_the_whole_tree(
    store: Store, collector: None
) -> None:
    top = await store.create(service("top"))
    middle = await store.create(owned("middle", top))
    await store.create(owned("leaf", middle))
    await store.create(service("free"))
    await store.delete(key("top"))
    await gone(store, "leaf")
    await store.get(key("free"))


async def test_what_has_another_owner_left_stays(store: Store, collector: None) -> None:
    one, two = await store.create(service("one")), await store.create(service("two"))
    await store.create(owned("both", one, two))
    await store.create(owned("only", one))
    await store.delete(key("one"))
    await gone(store, "only")
    await store.get(key("both"))
    await store.delete(key("two"))
    await gone(store, "both")


async def test_a_new_object_of_the_old_name_is_no_owner(store: Store, collector: None) -> None:
    old = await store.create(service("owner"))
    await store.create(owned("child", old))
    await store.delete(key("owner"))
    await store.create(service("owner"))
    await gone(store, "child")
    await store.get(key("owner"))


async def test_a_cluster_scoped_owner_counts(store: Store, collector: None) -> None:
    owner = await store.create(runtime("r"))
    await store.create(owned("child", owner))
    other = await store.create(service("other"))
    await store.create(owned("marker", other))
    await store.delete(key("other"))
    await gone(store, "marker")
    await store.get(key("child"))
    await store.delete(Key(key().kind._replace(kind="ClusterServingRuntime"), "", "r"))
    await gone(store, "child")


async def test_what_was_orphaned_while_nobody_looked_goes_at_the_start(store: Store) -> None:
    owner = await store.create(service("owner"))
    # Seen before its owner by the collector's watch, which is no reason to delete it.
    await store.create(owned("kept", owner))
    await store.update({**owner, "spec": {}})
    dead = await store.create(service("dead"))
    await store.create(owned("lost", dead))
    await store.delete(key("dead"))
    async with collecting(GarbageCollector(store), store):
        await gone(store, "lost")
    await store.get(key("kept"))


async def test_a_kind_that_somebody_else_deletes_is_left_to_them(store: Store) -> None:
    owner = await store.create(service("owner"))
    await store.create(owned("child", owner))
    theirs = runtime("left")
    theirs["metadata"]["ownerReferences"] = owned("r", owner)["metadata"]["ownerReferences"]
    left = await store.create(theirs)
    async with collecting(GarbageCollector(store, skip={key_of(left).kind}), store):
        await store.delete(key("owner"))
        await gone(store, "child")
    await store.get(key_of(left))


async def test_finalizers_of_dependents_are_respected(store: Store, collector: None) -> None:
    owner = await store.create(service("owner"))
    child = owned("child", owner)
    child["metadata"]["finalizers"] = ["penstock.dev/hold"]
    await store.create(child)
    watch = store.watch(since=(await store.list(key().kind)).version)
    await store.delete(key("owner"))
    async for change in watch:
        if change.key.name == "child":
            assert change.type is ChangeType.MODIFIED
            assert "deletionTimestamp" in change.object["metadata"]
            marked = change.object
            break
    marked["metadata"]["finalizers"] = []
    await store.update(marked)
    await gone(store, "child")


async def test_foreground_deletion_waits_for_what_blocks_it(store: Store, collector: None) -> None:
    owner = await store.create(service("owner", finalizers=["foregroundDeletion"]))
    child = owned("child", owner, blockOwnerDeletion=True)
    child["metadata"]["finalizers"] = ["penstock.dev/hold"]
    await store.create(child)
    await store.create(owned("quick", owner, blockOwnerDeletion=True))
    await store.delete(key("owner"))
    await gone(store, "quick")
    await store.get(key("owner"))
    held = await store.get(key("child"))
    held["metadata"]["finalizers"] = []
    while True:
        try:
            await store.update(held)
            break
        except Exception:  # the collector marked it meanwhile
            held = await store.get(key("child"))
            held["metadata"]["finalizers"] = []
    await gone(store, "owner")
    with pytest.raises(NotFound):
        await store.get(key("child"))


async def test_orphaning_lets_go_of_dependents(store: Store, collector: None) -> None:
    owner = await store.create(service("owner", finalizers=["orphan"]))
    await store.create(owned("child", owner))
    await store.delete(key("owner"))
    await gone(store, "owner")
    assert (await store.get(key("child")))["metadata"]["ownerReferences"] == []


async def test_a_deletion_that_fails_is_tried_again(store: Store) -> None:
    failures = 3

    real = store.delete
    slept: list[float] = []

    async def delete(k: Key, *, version: str | None = None) -> Object:
        nonlocal failures
        if k.name == "child" and failures:
            failures -= 1
            raise Unavailable("disk is full")
        return await real(k, version=version)

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        await asyncio.sleep(0)

    store.delete = delete  # type: ignore[method-assign]
    async with collecting(GarbageCollector(store, sleep=sleep), store):
        owner = await store.create(service("owner"))
        await store.create(owned("child", owner))
        await store.delete(key("owner"))
        await gone(store, "child")
    assert failures == 0
    assert slept


async def test_the_graph_forgets_what_is_gone(store: Store) -> None:
    collector = GarbageCollector(store)
    async with collecting(collector, store):
        for i in range(20):
            owner = await store.create(service(f"owner{i}"))
            await store.create(owned(f"child{i}", owner))
            await store.delete(key(f"owner{i}"))
            await gone(store, f"child{i}")
    assert len(collector._graph.owners) <= 1
    assert len(collector._graph.dependents) <= 1
