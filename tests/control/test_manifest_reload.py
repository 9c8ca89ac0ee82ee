"""The manifests in memory while they are read anew: versions say what is newer, not who came last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.control.control_world import ControlWorld, sklearn_service

from penstock.control.manifests import ManifestCache, version_of
from penstock.errors import Unavailable
from penstock.store.base import Change, ChangeType, Key, Kind, Listing, Watch
from penstock.store.sqlite import SqliteStore

KIND = Kind("penstock.dev", "InferenceService")
OTHER = Kind("machinelearning.seldon.io", "SeldonDeployment")
IRIS = ("default", "iris")


class Interrupted(SqliteStore):
    """A store of which a test says what happens after a list was read and before it arrives."""

    between: Callable[[], Awaitable[None]] | None = None

    async def list(self, kind: Kind, **more: Any) -> Listing:
        listing = await super().list(kind, **more)
        if kind == KIND and self.between is not None:
            between, self.between = self.between, None
            await between()
        return listing


@pytest.fixture
async def store() -> AsyncIterator[Interrupted]:
    made = await Interrupted.in_memory()
    yield made  # type: ignore[misc]
    await made.close()


async def told(cache: ManifestCache, watch: Watch, until: int) -> None:
    """Hand the cache all changes up to a version."""
    while watch.position < until:
        change = await anext(watch)
        cache.take(change)
        if change.version >= until:
            return


async def test_what_ends_while_a_list_is_under_way_stays_gone(store: Interrupted) -> None:
    cache = ManifestCache([KIND])
    made = await store.create(sklearn_service())
    watch = store.watch(since=0)
    await told(cache, watch, version_of(made))

    async def end() -> None:
        gone = await store.delete(Key(KIND, *IRIS))
        await told(cache, watch, version_of(gone))

    store.between = end
    await cache.load(store)
    assert cache.get(IRIS) is None
    assert len(cache) == 0
    assert cache.ready.total() == 0
    await watch.aclose()


async def test_what_begins_while_a_list_is_under_way_stays(store: Interrupted) -> None:
    cache = ManifestCache([KIND])
    watch = store.watch(since=0)

    async def begin() -> None:
        made = await store.create(sklearn_service())
        await told(cache, watch, version_of(made))

    store.between = begin
    await cache.load(store)
    assert cache.names() == {IRIS}
    assert cache.ready.total() == 1
    await watch.aclose()


async def test_what_is_made_anew_under_its_name_while_a_list_is_under_way_is_the_new_one(
    store: Interrupted,
) -> None:
    cache = ManifestCache([KIND])
    await store.create(sklearn_service())
    watch = store.watch(since=0)
    second: dict[str, Any] = {}

    async def anew() -> None:
        await store.delete(Key(KIND, *IRIS))
        second.update(await store.create(sklearn_service(uri="models/other")))
        await told(cache, watch, version_of(second))

    store.between = anew
    await cache.load(store)
    assert cache.get(IRIS) == (KIND, second)
    await watch.aclose()


async def test_a_watch_that_began_before_the_list_does_not_bring_back_what_the_list_has_no_more(
    store: Interrupted,
) -> None:
    """A fresh watch says first what there was when it was opened."""
    cache = ManifestCache([KIND])
    await store.create(sklearn_service("first"))
    await store.create(sklearn_service())
    watch = store.watch()
    cache.take(await anext(watch))
    gone = await store.delete(Key(KIND, *IRIS))
    await cache.load(store)
    assert cache.names() == {("default", "first")}
    cache.take(await anext(watch))
    assert cache.names() == {("default", "first")}
    await told(cache, watch, version_of(gone))
    assert cache.names() == {("default", "first")}
    await watch.aclose()


async def test_of_two_reloads_the_one_that_read_later_is_right(store: Interrupted) -> None:
    """Whichever ends first: watches may break again while one is under way."""
    cache = ManifestCache([KIND])
    await store.create(sklearn_service("old"))

    async def another() -> None:
        await store.delete(Key(KIND, "default", "old"))
        await store.create(sklearn_service("new"))
        await cache.load(store)

    store.between = another
    await cache.load(store)
    assert cache.names() == {("default", "new")}


async def test_the_answer_to_a_creation_that_the_end_overtook_makes_nothing(
    store: Interrupted,
) -> None:
    cache = ManifestCache([KIND])
    watch = store.watch(since=0)
    made = await store.create(sklearn_service())
    await told(cache, watch, version_of(await store.delete(Key(KIND, *IRIS))))
    cache.put(KIND, made)
    assert cache.get(IRIS) is None
    await watch.aclose()


async def test_a_service_that_ends_during_a_reload_has_no_route_and_no_replica_after_it(
    store: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch breaks off; the deletion comes between the reload's list and its arrival."""
    world = ControlWorld(store)
    broken: list[bool] = []
    real = store.watch

    def watch(kind: Kind | None = None, *, since: int | None = None) -> Watch:
        async def run(mine: Watch) -> AsyncGenerator[Change, None]:
            async with contextlib.aclosing(real(kind, since=since)) as inner:
                async for change in inner:
                    if broken:
                        broken.clear()
                        raise Unavailable("the watch is lost")
                    yield change
                    mine.position = inner.position

        return Watch(run)

    monkeypatch.setattr(store, "watch", watch)
    await world.plane.start()
    try:
        await store.create(sklearn_service())
        await world.until(lambda: world.plane.manifests.ready["True"] == 1)
        reloaded = asyncio.Event()

        async def end() -> None:
            await store.delete(Key(KIND, *IRIS))
            async with asyncio.timeout(20):
                while world.plane.manifests.get(IRIS) is not None:
                    await asyncio.sleep(0.002)
                    await world.clock.advance(0.01)
            reloaded.set()

        store.between = end
        broken.append(True)  # with the next change
        await store.create(sklearn_service("another"))
        await world.until(reloaded.is_set)
        await world.settled()
        assert world.plane.manifests.get(IRIS) is None
        assert world.plane.routes.get("default/iris") is None
        assert {r.revision for r in world.backend.replicas.values()} == {"another-00001"}
    finally:
        await world.plane.close()


# -- any order ---------------------------------------------------------------------------------------


@dataclass
class History:
    """A store as the list of its changes, without threads; objects of two kinds and three names."""

    changes: list[Change] = field(default_factory=list)

    @property
    def version(self) -> int:
        return len(self.changes)

    def state(self, at: int) -> dict[Key, dict[str, Any]]:
        there: dict[Key, dict[str, Any]] = {}
        for change in self.changes[:at]:
            if change.type is ChangeType.DELETED:
                del there[change.key]
            else:
                there[change.key] = change.object
        return there

    def write(self, key: Key, *, end: bool) -> None:
        old = self.state(self.version).get(key)
        if end and old is None:
            return
        version = self.version + 1
        uid = f"u{version}" if old is None else old["metadata"]["uid"]
        meta = {"namespace": key.namespace, "name": key.name, "uid": uid}
        obj = {"metadata": {**meta, "resourceVersion": str(version)}}
        kind = ChangeType.ADDED if old is None else ChangeType.MODIFIED
        self.changes.append(Change(ChangeType.DELETED if end else kind, key, obj, version))


class Later:
    """A store's lists that arrive when a test says so."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def list(self, kind: Kind) -> Listing:
        at = self._history.version
        items = [o for key, o in self._history.state(at).items() if key.kind == kind]
        await asyncio.sleep(0)
        return Listing(items, at)


def told_from(history: History) -> list[Change]:
    """What a watch that is opened now says at first."""
    return [
        Change(ChangeType.ADDED, key, obj, version_of(obj))
        for key, obj in sorted(history.state(history.version).items())
    ]


KEYS = [Key(kind, "default", name) for kind in (KIND, OTHER) for name in "ab"]
STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(KEYS)),
    st.tuples(st.just("end"), st.sampled_from(KEYS)),
    st.sampled_from([("tell", None), ("load", None), ("turn", None), ("break", None)]),
)


@settings(max_examples=300)
@given(steps=st.lists(STEPS, min_size=10, max_size=40))
def test_however_lists_and_changes_interleave_an_object_never_comes_back_and_the_end_is_the_stores(
    steps: list[tuple[str, Key | None]],
) -> None:
    asyncio.run(_interleaved(steps))


async def _interleaved(steps: list[tuple[str, Key | None]]) -> None:
    history, ended = History(), set()
    cache = ManifestCache([KIND, OTHER])
    waiting, position = told_from(history), 0
    loads: list[asyncio.Task[int]] = []

    def tell() -> bool:
        nonlocal position
        if waiting:
            cache.take(waiting.pop(0))
        elif position < history.version:
            change = history.changes[position]
            position += 1
            cache.take(change)
            if change.type is ChangeType.DELETED:
                ended.add(change.object["metadata"]["uid"])
        else:
            return False
        return True

    for step, key in steps:
        if key is not None:
            history.write(key, end=step == "end")
        elif step == "tell":
            tell()
        elif step == "break":
            waiting, position = told_from(history), history.version
            loads.append(asyncio.create_task(cache.load(Later(history))))  # type: ignore[arg-type]
        elif step == "load":
            loads.append(asyncio.create_task(cache.load(Later(history))))  # type: ignore[arg-type]
        else:
            await asyncio.sleep(0)
        here = {obj["metadata"]["uid"] for _, obj in cache.all()}
        assert not here & ended
    while tell():
        pass
    await asyncio.gather(*loads)
    there = history.state(history.version)
    assert {(kind, obj["metadata"]["name"]): obj for kind, obj in cache.all()} == {
        (key.kind, key.name): obj for key, obj in there.items()
    }
    assert cache.ready.total() == len(there)
