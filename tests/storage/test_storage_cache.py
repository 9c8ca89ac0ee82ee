"""The cache: bounded, shared, never evicting what is needed, never handing out what is damaged."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_fakes import File, Files

from penstock.errors import LoadError, NotFound, Unavailable
from penstock.storage import Cache, Pin, Settings, fetch
from penstock.storage.cache import Fetched


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def small(tmp_path: Path) -> Cache:
    """Room for three models of a megabyte and a bit."""
    return Cache(tmp_path / "small", 3_500_000, grace_s=0, clock=Clock())


@pytest.fixture
def bring(web: Files, small: Cache, settings: Settings) -> Any:
    async def bring(name: str, **more: Any) -> Fetched:
        if f"/{name}" not in web.files:
            web.files[f"/{name}"] = File(name.encode() * (1_000_000 // len(name)))
        return await fetch(f"{web.url}/{name}", cache=small, settings=settings, **more)

    return bring


async def test_the_least_recently_used_goes_first(small: Cache, bring: Any) -> None:
    """A newcomer takes the room of who was not asked for the longest."""
    a, b, c = [await bring(n) for n in ("aa", "bb", "cc")]
    await bring("aa")
    await bring("dd")
    assert small.find(b.digest) is None
    assert not b.path.exists()
    assert small.find(a.digest) is not None
    assert small.find(c.digest) is not None
    assert small.usage().content_bytes <= 3_500_000


async def test_what_is_pinned_stays(small: Cache, bring: Any) -> None:
    """The oldest model serves: the newest of the others goes."""
    a = await bring("aa", pin="ns/iris-00001/predictor")
    await bring("bb")
    await bring("cc")
    await bring("dd")
    assert small.find(a.digest) == a
    assert small.usage().pinned_bytes == 1_000_000
    small.unpin("ns/iris-00001/predictor")
    small.unpin("ns/iris-00001/predictor")
    for name in ("ee", "ff", "gg"):
        await bring(name)
    assert small.find(a.digest) is None


async def test_when_everything_is_in_use_the_newcomer_is_told(small: Cache, bring: Any) -> None:
    """With how much is in use, and nothing half left."""
    for name in ("aa", "bb", "cc"):
        await bring(name, pin=name)
    with pytest.raises(Unavailable, match="in use by models that are served"):
        await bring("dd")
    assert small.usage().partial_bytes == 0
    assert {p.owner for p in small.pins()} == {"aa", "bb", "cc"}


async def test_a_model_larger_than_the_cache_is_refused_before_it_is_read(
    small: Cache, bring: Any, web: Files
) -> None:
    """And evicts nobody on the way."""
    a = await bring("aa")
    web.files["/big"] = File(b"x" * 4_000_000)
    with pytest.raises(LoadError, match=r"the cache of models may hold 3\.3 MiB"):
        await bring("big")
    assert small.find(a.digest) is not None


async def test_one_of_unknown_size_is_stopped_at_the_bound(
    small: Cache, bring: Any, web: Files
) -> None:
    """No Content-Length is no way around it."""
    web.files["/big"] = File(os.urandom(6_000_000), lengthless=True)
    with pytest.raises(LoadError, match="larger than"):
        await bring("big")


async def with_two_of_three(tmp_path: Path, web: Files, settings: Settings) -> tuple[Cache, Clock]:
    """A cache with room for two models and two in it, which protects for a thousand seconds."""
    clock = Clock()
    cache = Cache(tmp_path / "grace", 2_500_000, grace_s=1000, clock=clock)
    for name in ("aa", "bb", "cc"):
        web.files[f"/{name}"] = File(name.encode() * 500_000)
    for name in ("aa", "bb"):
        await fetch(f"{web.url}/{name}", cache=cache, settings=settings)
    return cache, clock


async def test_grace_protects_what_was_just_asked_for(
    tmp_path: Path, web: Files, settings: Settings
) -> None:
    """Between a fetch and its pin nobody takes the model away."""
    cache, clock = await with_two_of_three(tmp_path, web, settings)
    with pytest.raises(Unavailable):
        await fetch(f"{web.url}/cc", cache=cache, settings=settings)
    clock.now += 2000
    await fetch(f"{web.url}/cc", cache=cache, settings=settings)


async def test_a_clock_that_was_stepped_back_protects_nothing_for_ever(
    tmp_path: Path, web: Files, settings: Settings
) -> None:
    """What was used at a time to come was used before the step."""
    cache, clock = await with_two_of_three(tmp_path, web, settings)
    clock.now -= 3600
    await fetch(f"{web.url}/cc", cache=cache, settings=settings)


async def test_pins_survive_and_are_listed(small: Cache, bring: Any) -> None:
    """A new process over the same folder knows what the last one needed."""
    a, b = await bring("aa", pin="one"), await bring("bb", pin="two")
    small.pin("one", b.digest)
    again = Cache(small.root, small.max_bytes)
    assert again.pins() == (Pin("one", b.digest), Pin("two", b.digest))
    again.discard(a.digest)
    with pytest.raises(LoadError, match="one, two"):
        again.discard(b.digest)
    with pytest.raises(NotFound):
        again.pin("three", a.digest)
    for nonsense in ("", "sha256:../../x", "md5:0", "sha256:" + "g" * 64):
        with pytest.raises(NotFound):
            again.find(nonsense)


async def test_the_same_bytes_by_two_urls_are_kept_once(
    small: Cache, bring: Any, web: Files
) -> None:
    """The file's name is part of the content, its place is not."""
    data = os.urandom(1_000_000)
    web.files["/one/m.bin"] = web.files["/two/m.bin"] = File(data)
    assert await bring("one/m.bin") == await bring("two/m.bin")
    assert small.usage().models == 1


async def leave_in_the_middle(bring: Any, name: str, file: File) -> None:
    arrived = asyncio.Event()
    task = asyncio.create_task(bring(name, progress=lambda done, *_: done and arrived.set()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    file.go.set()


def rewrite(path: Path, data: bytes) -> None:
    path.parent.chmod(0o755)
    path.chmod(0o644)
    path.write_bytes(data)


async def test_damage_is_found_and_repaired(small: Cache, bring: Any) -> None:
    """Another length, other bytes with another time: fetched again. A touched file is only read."""
    found = await bring("aa")
    file = found.path / "aa"
    whole = file.read_bytes()
    os.utime(file, ns=(1, 1))
    assert small.find(found.digest) == found
    for damaged in (whole[:-1], b"x" + whole[1:]):
        rewrite(file, damaged)
        assert small.find(found.digest) is None
        again = await bring("aa")
        assert again.digest == found.digest
        assert file.read_bytes() == whole
    rewrite(file, whole)
    file.unlink()
    assert (await bring("aa")).digest == found.digest
    assert file.read_bytes() == whole


async def test_deep_verification_reads_every_byte(small: Cache, bring: Any) -> None:
    """What sizes and times cannot tell: same length, same time, other bytes; files that were added."""
    found = await bring("aa")
    file = found.path / "aa"
    assert small.verify(found.digest) is None
    times = file.stat().st_mtime_ns
    whole = file.read_bytes()
    rewrite(file, b"x" + whole[1:])
    os.utime(file, ns=(times, times))
    assert small.find(found.digest) is not None
    assert "other bytes" in (small.verify(found.digest) or "")
    rewrite(file, whole)
    os.utime(file, ns=(times, times))
    (found.path / "__pycache__").mkdir()
    (found.path / "__pycache__" / "m.pyc").write_bytes(b"")
    assert small.verify(found.digest) is None
    (found.path / "sitecustomize.py").write_bytes(b"evil")
    assert "does not belong" in (small.verify(found.digest) or "")
    manifest = found.path.parent / "manifest.json"
    value = msgspec.json.decode(manifest.read_bytes())
    value["files"][0]["sha256"] = "0" * 64
    manifest.write_bytes(msgspec.json.encode(value))
    fresh = Cache(small.root, small.max_bytes)
    assert "manifest" in (fresh.verify(found.digest) or "")
    assert fresh.verify("sha256:" + "0" * 64) == "it is not in the cache"


async def test_torn_records_are_forgotten(small: Cache, bring: Any) -> None:
    """A crash of the machine may leave zeros where a shortcut was."""
    found = await bring("aa")
    for record in (small.root / "sources").iterdir():
        record.write_bytes(b"\0" * 10)
    assert await bring("aa") == found
    (found.path.parent / "manifest.json").write_bytes(b"{")
    fresh = Cache(small.root, small.max_bytes, grace_s=0)
    assert fresh.find(found.digest) is None


async def test_a_part_from_before_a_reboot_is_not_trusted(
    small: Cache, bring: Any, web: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its length may be on the disk and its bytes not."""
    web.files["/aa"] = file = File(os.urandom(3_000_000), stall_after=2_500_000)
    await leave_in_the_middle(bring, "aa", file)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr("penstock.storage.cache._BOOT_ID", boot)
    found = await bring("aa")
    assert (found.path / "aa").read_bytes() == file.data
    assert web.seen[-1].range is None


async def test_abandoned_parts_make_room_too(small: Cache, bring: Any, web: Files) -> None:
    """A download that nobody came back for is the first to go when it is the oldest."""
    web.files["/part"] = file = File(os.urandom(3_000_000), stall_after=2_500_000)
    await leave_in_the_middle(bring, "part", file)
    assert small.usage().partial_bytes == 3_000_000
    await bring("aa")
    assert small.usage().partial_bytes == 0
