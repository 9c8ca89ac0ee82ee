"""A model's folder as a value: every file's path, size and digest, and one digest over all of them.

The digest names the content, wherever it came from: the same files by two URIs are one model in the cache.
Names and bytes count, times and permissions do not.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from penstock.storage.source import CHUNK_BYTES

#: Of a file that is in the cache.
FILE_MODE: Final = 0o444
#: Files and folders that are synced one by one.
FEW_FILES: Final = 64


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file: path relative to the folder, size in bytes, SHA-256 in hexadecimal, time last written."""

    path: str
    size_bytes: int
    sha256: str
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a folder. `digest` is `sha256:` and 64 hexadecimal digits."""

    digest: str
    size_bytes: int
    files: tuple[FileRecord, ...]

    @staticmethod
    def of(files: Iterable[FileRecord]) -> Manifest:
        ordered = tuple(sorted(files, key=lambda f: f.path))
        h = hashlib.sha256(b"penstock tree 1\n")
        for f in ordered:
            h.update(msgspec.json.encode([f.path, f.size_bytes, f.sha256]) + b"\n")
        return Manifest(f"sha256:{h.hexdigest()}", sum(f.size_bytes for f in ordered), ordered)


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, read once. Blocking."""
    h = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as f:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while n := f.readinto(buffer):
            h.update(buffer[:n])
            size += n
    return size, h.hexdigest()


def seal(folder: Path, hashes: dict[str, tuple[int, str]]) -> Manifest:
    """Make `folder` read-only, push it to the disk, and describe it. Blocking.

    `hashes` holds size and SHA-256 by relative path, of every file there is.
    """
    records: list[FileRecord] = []
    folders = [""]
    for at in folders:  # grows while it is walked
        with os.scandir(folder / at) as found:
            for entry in found:
                relative = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(relative)
                    continue
                size, digest = hashes[relative]
                status = entry.stat()
                if stat.S_IMODE(status.st_mode) != FILE_MODE:
                    os.chmod(entry.path, FILE_MODE)
                records.append(FileRecord(relative, size, digest, status.st_mtime_ns))
    for at in reversed(folders):
        os.chmod(folder / at, 0o555)  # noqa: S103 - readable, and writable by nobody
    _sync_all(folder, [*(r.path for r in records), *reversed(folders)])
    return Manifest.of(records)


def _sync_all(folder: Path, names: list[str]) -> None:
    """Make these files and folders below `folder` durable.

    An fsync takes half a millisecond or more, and each waits for the one before: of a hundred thousand files
    it was a minute. Many are synced by one call for their file system, where the kernel has it and tells of
    failed writes (Linux 5.8).
    """
    if len(names) > FEW_FILES and (syncfs := _syncfs()) is not None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if syncfs(descriptor) == 0:
                return
            error = ctypes.get_errno()
        finally:
            os.close(descriptor)
        if error != errno.ENOSYS:
            raise OSError(error, os.strerror(error), str(folder))
    for name in names:
        sync(folder / name)


@cache
def _syncfs() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (5, 8):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (ctypes.c_int,), ctypes.c_int
    return function


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable. Blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differs(folder: Path, manifest: Manifest, *, deep: bool = False) -> str | None:
    """What is wrong with `folder` by `manifest`, as words; None when nothing is. Blocking.

    Cheap by default: sizes and times. A file whose time alone differs is read and compared. `deep` reads
    all of them, and looks for files that should not be there.
    """
    expected = set()
    for f in manifest.files:
        expected.add(f.path)
        path = folder / f.path
        try:
            s = path.lstat()
        except OSError as error:
            return f"{f.path}: {error.strerror}"
        if not stat.S_ISREG(s.st_mode) or s.st_size != f.size_bytes:
            return f"{f.path} has {s.st_size} bytes, not {f.size_bytes}"
        if (deep or s.st_mtime_ns != f.mtime_ns) and hash_file(path)[1] != f.sha256:
            return f"{f.path} has other bytes than it had"
    if deep:
        for root, folders, names in os.walk(folder):
            folders[:] = [d for d in folders if d != "__pycache__"]
            for name in names:
                relative = Path(root, name).relative_to(folder).as_posix()
                if relative not in expected:
                    return f"{relative} does not belong there"
    return None


def remove(path: Path) -> None:
    """Remove a file or a folder, read-only folders included. No-op when absent. Blocking."""
    if path.is_dir() and not path.is_symlink():
        for root, _, _ in os.walk(path):
            os.chmod(root, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_below(path: Path) -> int:
    """Bytes of all files below, by their length. Blocking."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                pass
    return total


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a small file so that a kill leaves the old one or the new one; `durable`, so that a crash of
    the machine does, too. Blocking."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as f:
            f.write(data)
            f.flush()
            if durable:
                os.fsync(f.fileno())
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
