"""Revisions at a start: what is read of the files, and when what was read is made sense of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.control.control_world import ControlWorld, sklearn_service

from penstock import storage
from penstock.control import revision_keeper
from penstock.control.models.model_files import CachedFiles
from penstock.control.revision_keeper import RevisionKeeper
from penstock.control.revisions import REVISION, key_of
from penstock.store.sqlite import SqliteStore

NAMES = ("a", "b", "c")


@pytest.fixture
async def world() -> Any:
    """Services with a revision each, and no control plane any more."""
    store = await SqliteStore.in_memory()
    w = ControlWorld(store)
    await w.plane.start()
    for name in NAMES:
        await store.create(sklearn_service(name))
    await w.until(lambda: w.plane.manifests.ready["True"] == len(NAMES))
    await w.plane.loop.settled()
    await w.plane.close()
    yield w
    await store.close()


async def test_revisions_are_made_sense_of_when_their_service_is_looked_at(
    world: ControlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    sense = revision_keeper.from_object

    def counted(obj: dict[str, Any]) -> Any:
        read.append(obj["metadata"]["name"])
        return sense(obj)

    monkeypatch.setattr(revision_keeper, "from_object", counted)
    keeper = RevisionKeeper(world.store, world.files)
    await keeper.load()
    assert keeper.services() == {("default", name) for name in NAMES}
    assert keeper.taken(("default", "b-else"), "a-00001")
    assert read == []
    uid = next(
        o["metadata"]["uid"] for _, o in world.plane.manifests.all() if o["metadata"]["name"] == "b"
    )
    (kept,) = keeper.of(("default", "b"), uid)
    assert kept.name == "b-00001"
    assert keeper.of(("default", "b"), uid) == (kept,)
    assert read == ["b-00001"], "once, and no other"
    assert keeper.services() == {("default", name) for name in NAMES}
    await keeper.delete_others(("default", "a"), None)
    assert keeper.services() == {("default", name) for name in ("b", "c")}
    assert {o["metadata"]["name"] for o in (await world.store.list(REVISION)).items} == {
        "b-00001",
        "c-00001",
    }


async def test_one_that_cannot_be_read_is_left_alone(
    world: ControlWorld, caplog: pytest.LogCaptureFixture
) -> None:
    obj = await world.store.get(key_of("default", "a-00001"))
    uid = obj["metadata"]["ownerReferences"][0]["uid"]
    await world.store.update({**obj, "spec": {"of": "a newer release"}})
    keeper = RevisionKeeper(world.store, world.files)
    await keeper.load()
    with caplog.at_level(logging.ERROR):
        assert keeper.of(("default", "a"), uid) == ()
        assert keeper.of(("default", "a"), uid) == ()
    assert [r.message for r in caplog.records if "a-00001 cannot be read" in r.message] == [
        caplog.records[0].message
    ]
    await keeper.delete_others(("default", "a"), None)
    assert await world.store.get(key_of("default", "a-00001"))


async def test_of_pins_that_are_needed_none_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand of them were; only those that nobody knows are opened."""
    (tmp_path / "model.joblib").write_bytes(b"model")
    cache = storage.Cache(tmp_path / "cache")
    fetched = await storage.fetch(
        str(tmp_path / "model.joblib"), cache=cache, credentials=storage.Credentials()
    )
    for owner in ("revision:x/a/1", "revision:x/b/1", "revision:x/lost/1", "kept:m", "kept:lost"):
        cache.pin(owner, fetched.digest)
    store = await SqliteStore.in_memory()
    files = CachedFiles(store, cache, base_dir=tmp_path)
    opened: list[str] = []
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        if path.parent == tmp_path / "cache" / "pins":
            opened.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    await files.retain(["x/a/1", "x/b/1"])
    assert len(opened) == 3
    await files.retain_kept(["m"])
    assert len(opened) == 4, "those of revisions are known by now"
    monkeypatch.undo()
    assert [p.owner for p in cache.pins()] == ["kept:m", "revision:x/a/1", "revision:x/b/1"]
    await store.close()
