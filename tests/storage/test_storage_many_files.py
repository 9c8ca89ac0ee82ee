"""Models of many files: synced by one call for all of them, and unpacked where people see how far it is."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_fakes import File, Files

from penstock.errors import Unavailable
from penstock.storage import Cache, Settings, fetch, fetching, tree
from penstock.storage.archive import unpack
from penstock.storage.packing import Packing

MANY = tree.FEW_FILES * 3


def zip_of(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("folder/", b"")
        for i in range(count):
            archive.writestr(f"folder/{i % 7}/{i}.bin", b"%d" % i)
    return out.getvalue()


def tar_of(count: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for i in range(count):
            info = tarfile.TarInfo(f"{i % 7}/{i}.bin")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


@pytest.fixture
def bring(web: Files, cache: Cache, settings: Settings) -> Any:
    async def bring(data: bytes, **more: Any) -> Any:
        web.files["/m.zip"] = File(data)
        return await fetch(f"{web.url}/m.zip", cache=cache, settings=settings, **more)

    return bring


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What `fsync` was called for."""
    found: list[Path] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    return found


def replace_syncfs(monkeypatch: pytest.MonkeyPatch, error: int) -> list[int]:
    """A file system that answers `error` (0: all is well)."""
    calls: list[int] = []

    def syncfs(descriptor: int) -> int:
        calls.append(descriptor)
        ctypes.set_errno(error)
        return -1 if error else 0

    monkeypatch.setattr(tree, "_syncfs", lambda: syncfs)
    return calls


async def test_many_files_are_synced_by_one_call(
    bring: Any, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = replace_syncfs(monkeypatch, 0)
    found = await bring(zip_of(MANY))
    assert len(found.files) == MANY
    assert len(calls) == 1
    assert not [path for path in synced if path.suffix == ".bin"]
    modes = {stat.S_IMODE((found.path / name).stat().st_mode) for name in found.files}
    assert modes == {0o444}
    assert not os.access(found.path / "folder", os.W_OK) or os.geteuid() == 0
    assert stat.S_IMODE((found.path / "folder/3").stat().st_mode) == 0o555


async def test_few_files_are_synced_one_by_one(
    bring: Any, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others write to the same disk need not wait for a model of a few files."""
    calls = replace_syncfs(monkeypatch, 0)
    await bring(zip_of(5))
    assert len({path for path in synced if path.suffix == ".bin"}) == 5
    assert not calls


async def test_a_disk_that_fails_is_no_model(bring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_syncfs(monkeypatch, errno.EIO)
    with pytest.raises(Unavailable, match="Input/output error"):
        await bring(zip_of(MANY))


async def test_a_file_system_without_the_call_syncs_one_by_one(
    bring: Any, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_syncfs(monkeypatch, errno.ENOSYS)
    await bring(zip_of(MANY))
    assert len({path for path in synced if path.suffix == ".bin"}) == MANY


def test_the_call_is_the_systems_own(tmp_path: Path) -> None:
    """Linux has it since 2.6.39, and it tells of failed writes since 5.8; elsewhere there is none."""
    syncfs = tree._syncfs()
    if syncfs is None:
        pytest.skip("this system has none")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        assert syncfs(descriptor) == 0
    finally:
        os.close(descriptor)
    assert syncfs(descriptor) == -1
    assert ctypes.get_errno() == errno.EBADF


@pytest.mark.parametrize(
    ("packing", "make", "total"), [(Packing.ZIP, zip_of, 20), (Packing.TAR_GZ, tar_of, None)]
)
def test_unpacking_tells_how_far_it_is(
    tmp_path: Path, packing: Packing, make: Callable[[int], bytes], total: int | None
) -> None:
    """A tar does not say how many files it has."""
    archive = tmp_path / "archive"
    archive.write_bytes(make(20))
    told: list[tuple[int, int | None]] = []
    unpack(
        archive,
        packing,
        tmp_path / "out",
        shown="s3://b/m",
        settings=Settings(),
        most_bytes=1_000_000,
        stop=threading.Event(),
        tell=lambda files, of: told.append((files, of)),
    )
    assert told == [(i, total) for i in range(1, 21)]


async def test_those_who_wait_hear_that_it_is_being_unpacked(
    bring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()
    told: list[object] = []

    def slow(
        archive: Path, *args: Any, tell: Callable[[int, int | None], None], **more: Any
    ) -> Any:
        tell(3, 7)
        assert seen.wait(30)
        return unpack(archive, *args, tell=tell, **more)

    def progress(done: int, total: int | None, unpacked: tuple[int, int | None] | None) -> None:
        told.append(unpacked)
        if unpacked == (3, 7):
            seen.set()

    monkeypatch.setattr(fetching, "unpack", slow)
    found = await bring(zip_of(7), progress=progress)
    assert len(found.files) == 7
    assert (3, 7) in told
    assert told[-1] is None
