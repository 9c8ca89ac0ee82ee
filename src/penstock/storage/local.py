"""Files on this machine: paths, `file://`, and `pvc://` below a configured folder.

They are copied into the cache like anything else, not served in place: a running revision must not change
under its replicas, and a hard link would (`joblib.dump` opens the old inode and truncates it). Where the
file system can share blocks (btrfs, xfs, overlay on them) the copy is a clone and costs nothing; elsewhere
it costs one read and one write, once, because size, times and inode say whether a file is the one copied
before.

Symbolic links are followed (Hugging Face's own cache is made of them), but never out of `file_roots`, nor
out of the claim for `pvc://`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from penstock.errors import Forbidden, LoadError, NotFound, PenstockError, Unsupported
from penstock.storage.download import in_thread
from penstock.storage.settings import Settings
from penstock.storage.source import (
    CHUNK_BYTES,
    Changed,
    Entry,
    Listing,
    Source,
    Transient,
    check_entries,
    nothing_there,
    relative_path,
)
from penstock.storage.uris import Kind, Location

_FICLONE: Final = 0x40049409
_MAX_DEPTH: Final = 64
_Statuses: TypeAlias = list[os.stat_result]


class LocalSource(Source):
    """A file, or a folder and everything below it."""

    def __init__(self, location: Location, settings: Settings) -> None:
        super().__init__(location.uri)
        self._max_files = settings.max_files
        if location.kind is Kind.PVC:
            if settings.pvc_root is None:
                raise Unsupported(
                    f"{self.shown}: this installation has no claims.",
                    hint="Set the folder that claims are mounted in (pvc_root), or use a path.",
                )
            claim = settings.pvc_root / location.root
            self._path = claim / location.path
            self._roots: tuple[Path, ...] | None = (claim,)
            if not claim.is_dir():
                raise NotFound(
                    f"{self.shown}: there is no claim {location.root!r} here.",
                    hint="Claims are the folders below pvc_root.",
                )
        else:
            self._path = Path(location.path)
            self._roots = settings.file_roots
        self.identity = f"file:{self._path}"

    async def list(self) -> Listing:
        return await in_thread(self._scan)

    def _scan(self) -> Listing:
        try:
            real = self._path.resolve(strict=True)
            roots = None if self._roots is None else tuple(r.resolve() for r in self._roots)
            self._confine(real, roots)
            status = real.stat()
            if stat.S_ISREG(status.st_mode):
                name = relative_path(self._path.name, self.shown)
                return Listing(
                    (_entry(name, str(real), status),), single=True, reusable=_aged([status])
                )
            if not stat.S_ISDIR(status.st_mode):
                raise LoadError(f"{self.shown} is neither a file nor a folder.")
            seen: _Statuses = []
            entries = check_entries(self._walk(real, roots, seen), self.shown, self._max_files)
        except FileNotFoundError as error:
            raise self._nothing(error) from None
        except OSError as error:
            raise self._os_error(error) from error
        if not entries:
            raise NotFound(f"{self.shown} is an empty folder.")
        return Listing(entries, reusable=_aged(seen))

    def _walk(self, top: Path, roots: tuple[Path, ...] | None, seen: _Statuses) -> Iterator[Entry]:
        # (folder, its path below the top, the real folders above it: a link to one of them is a circle)
        waiting: list[tuple[Path, str, tuple[str, ...]]] = [(top, "", (str(top),))]
        while waiting:
            folder, below, above = waiting.pop()
            with os.scandir(folder) as scan:
                items = list(scan)
            for item in items:
                name = f"{below}/{item.name}" if below else item.name
                real = Path(item.path)
                if item.is_symlink():
                    try:
                        real = real.resolve(strict=True)
                    except (FileNotFoundError, RuntimeError):
                        raise LoadError(
                            f"{self.shown}: {name} is a symbolic link to nothing."
                        ) from None
                    self._confine(real, roots)
                status = real.stat()
                if stat.S_ISDIR(status.st_mode):
                    if str(real) in above:
                        raise LoadError(
                            f"{self.shown}: {name} is a symbolic link to a folder it is in."
                        )
                    if len(above) >= _MAX_DEPTH:
                        raise LoadError(
                            f"{self.shown}: {name} is more than {_MAX_DEPTH} folders deep."
                        )
                    waiting.append((real, name, (*above, str(real))))
                elif stat.S_ISREG(status.st_mode):
                    seen.append(status)
                    yield _entry(relative_path(name, self.shown), str(real), status)
                    if len(seen) > self._max_files:
                        return  # `check_entries` says so
                else:
                    raise LoadError(
                        f"{self.shown}: {name} is a device, a socket or a pipe, not a file."
                    )

    def _confine(self, real: Path, roots: tuple[Path, ...] | None) -> None:
        if roots is not None and not any(real.is_relative_to(r) for r in roots):
            raise Forbidden(
                f"{self.shown} is, or leads by a symbolic link, outside the folders "
                "that models may come from.",
                hint="An operator sets those folders (file_roots, or the claim for pvc://).",
            )

    async def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        descriptor = await in_thread(self._open, entry)
        try:
            while True:
                try:
                    data = await in_thread(os.pread, descriptor, CHUNK_BYTES, offset)
                except OSError as error:
                    raise Transient(f"{self.shown}: reading {entry.path}: {error}") from error
                if not data:
                    break
                offset += len(data)
                yield data
            if _version(os.fstat(descriptor)) != entry.version:
                raise Changed
        finally:
            os.close(descriptor)

    async def prove(self, listing: Listing) -> None:
        """Nothing to prove: whose process this is may read them, and `file_roots` has been kept."""

    def clone(self, entry: Entry, descriptor: int) -> bool:
        source = self._open(entry)
        try:
            fcntl.ioctl(descriptor, _FICLONE, source)
            if _version(os.fstat(source)) != entry.version:
                raise Changed
        except OSError:
            return False  # another file system, or one that cannot
        finally:
            os.close(source)
        return True

    def _open(self, entry: Entry) -> int:
        try:
            # Not to hang, should the file have become a pipe since it was listed.
            descriptor = os.open(entry.key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Changed from None
        except OSError as error:
            raise self._os_error(error) from error
        # The descriptor is the one thing that cannot be swapped: compare it with what was listed.
        if _version(os.fstat(descriptor)) != entry.version:
            os.close(descriptor)
            raise Changed
        return descriptor

    def _nothing(self, error: OSError) -> PenstockError:
        """`error` may be about a folder on the way, which is where the spelling is wrong."""
        where = f"the file or folder {self._path}"
        on_the_way = error.filename not in (None, str(self._path))
        return nothing_there(
            self.shown, f"{where} (there is no {error.filename})" if on_the_way else where
        )

    def _os_error(self, error: OSError) -> PenstockError:
        if isinstance(error, PermissionError):
            return Forbidden(
                f"{self.shown}: no permission to read {error.filename}.",
                hint=f"Make it readable for the user id {os.geteuid()}.",
            )
        if error.errno == errno.ELOOP:
            return LoadError(f"{self.shown}: its symbolic links lead in a circle.")
        if isinstance(error, NotADirectoryError):
            return self._nothing(error)
        return LoadError(f"{self.shown}: {error.strerror} ({error.filename}).")


def _aged(statuses: list[os.stat_result]) -> bool:
    # Kernels stamp files by a clock that ticks every 1 to 10 ms: a second write within a tick shows only
    # in the bytes. So what was written just now is not taken for known.
    newest = max((s.st_ctime_ns for s in statuses), default=0)
    return time.time_ns() - newest > 50_000_000


def _entry(name: str, real: str, status: os.stat_result) -> Entry:
    return Entry(name, real, status.st_size, _version(status))


def _version(s: os.stat_result) -> str:
    # ctime cannot be set back, so it also shows a write that restored mtime.
    return f"{s.st_dev}-{s.st_ino}-{s.st_size}-{s.st_mtime_ns}-{s.st_ctime_ns}"


def in_bentoml_store(location: Location, settings: Settings) -> Location:
    """The folder in BentoML's model store that `bentoml:NAME:VERSION` names. NotFound, Forbidden."""
    home = settings.bentoml_home or Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    models = home / "models" / location.root
    version = location.path
    if version == "latest":
        try:
            version = (models / "latest").read_text(errors="replace").strip()[:200]
        except OSError:
            raise nothing_there(location.uri, f"the file {models / 'latest'}") from None
        if not version or "/" in version or version in (".", ".."):
            raise NotFound(f"{location.uri}: {models / 'latest'} names no version.")
    return Location(Kind.FILE, location.uri, path=str(models / version))
