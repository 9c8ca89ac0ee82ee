"""Archives, unpacked as if an enemy had packed them.

Nothing of `tarfile.extractall` is used: every member is checked here, and only plain files are ever
created. Refused are names that climb out or are absolute, two members of one name, devices and pipes,
links to anything but a file of the archive (those become copies: a model folder holds no links), archives
that grow beyond their bounds, and archives that end before their end. Permissions and owners in an archive
are ignored.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import IO, Final, cast

from penstock.errors import LoadError, TooLarge
from penstock.storage.forward import BLOCK_BYTES, Forward
from penstock.storage.packing import Packing
from penstock.storage.settings import Settings
from penstock.storage.source import relative_path
from penstock.storage.tree import FILE_MODE

_MAX_LINKS: Final = 16


@dataclass(slots=True)
class _Target:
    """Where the members go, and what has gone there."""

    folder: Path
    shown: str
    settings: Settings
    packed_bytes: int
    most_bytes: int
    stop: Event
    tell: Callable[[int, int | None], None]
    #: Members that the archive says it has; a tar does not say.
    expected: int | None = None
    written: int = 0
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    #: Folders that are there; one that is named, and has no file, is not made.
    made: set[Path] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def forgotten_if_it_fails(self) -> Iterator[None]:
        """What was counted does not outlive a failure: its traceback would hold it, 1 kB a file."""
        try:
            yield
        except BaseException:
            self.files.clear()
            self.folders.clear()
            self.links.clear()
            self.made.clear()
            raise

    def name(self, raw: str) -> str:
        """A member's name as a path below the folder; LoadError when it is none."""
        cleaned = raw.rstrip("/")
        while cleaned.startswith("./"):
            cleaned = cleaned[2:].lstrip("/")
        if cleaned in ("", "."):
            return ""
        if "\\" in cleaned:
            raise self.error(f"the member {raw[:200]!r} has a backslash in its name")
        return relative_path(cleaned, f"{self.shown}: the archive")

    def claim(self, name: str) -> None:
        """A file or link of that name is to come; LoadError when it cannot."""
        if name in self.files or name in self.links or name in self.folders:
            raise self.error(f"it has two members called {name[:200]!r}")
        self.enter(posixpath.dirname(name))
        if len(self.files) + len(self.links) >= self.settings.max_files:
            raise TooLarge(
                f"{self.shown}: the archive has more than {self.settings.max_files} files."
            )

    def enter(self, folder: str) -> None:
        """A folder of that name is to be there."""
        while folder and folder not in self.folders:
            if folder in self.files or folder in self.links:
                raise self.error(f"{folder[:200]!r} is a file and a folder in it")
            self.folders.add(folder)
            folder = posixpath.dirname(folder)

    def fill(self, name: str, data: Iterator[bytes]) -> None:
        """Write a new file."""
        path = self.folder / name
        if path.parent not in self.made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.made.add(path.parent)
        h = hashlib.sha256()
        size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, FILE_MODE), "wb", buffering=0) as f:
            for chunk in data:
                self.grow(len(chunk))
                view = memoryview(chunk)
                while view:
                    view = view[f.write(view) :]
                h.update(chunk)
                size += len(chunk)
        self.files[name] = (size, h.hexdigest())
        self.tell(len(self.files), self.expected)

    def grow(self, more: int) -> None:
        """Count bytes before they are written; TooLarge over the bounds."""
        if self.stop.is_set():
            raise InterruptedError("cancelled")
        self.written += more
        if self.written > self.most_bytes:
            raise TooLarge(
                f"{self.shown}: unpacked, the archive is larger than the {self.most_bytes} bytes "
                "the cache of models may hold."
            )
        s = self.settings
        if (
            self.written > s.unpack_floor_bytes
            and self.written > self.packed_bytes * s.max_unpack_ratio
        ):
            raise TooLarge(
                f"{self.shown}: the archive grows to more than {s.max_unpack_ratio:g} times its size; "
                "a model does not, a bomb does.",
                hint="Upload the files themselves.",
            )

    def resolve_links(self) -> None:
        """Make every link the file it leads to."""
        for name in sorted(self.links):
            at = name
            for _ in range(_MAX_LINKS):
                if at not in self.links:
                    break
                at = self.links[at]
            if at not in self.files:
                raise self.error(
                    f"{name[:200]!r} is a link to {self.links[name][:200]!r}, which is no file in it"
                )
            with open(self.folder / at, "rb") as f:
                self.fill(name, _chunks(f))

    def error(self, what: str) -> LoadError:
        return LoadError(f"{self.shown}: the archive is refused: {what}.")


def unpack(
    archive: Path,
    packing: Packing,
    folder: Path,
    *,
    shown: str,
    settings: Settings,
    most_bytes: int,
    stop: Event,
    tell: Callable[[int, int | None], None] = lambda files, total: None,
) -> dict[str, tuple[int, str]]:
    """Unpack into the new folder `folder`; size and SHA-256 of each file by its path. Blocking, long.

    LoadError (TooLarge among them is InvalidInput) says what is wrong with the archive. InterruptedError
    soon after `stop` is set. `tell` is told after each file how many there are, and of how many (None: the
    archive does not say).
    """
    folder.mkdir(parents=True)
    target = _Target(folder, shown, settings, archive.stat().st_size, most_bytes, stop, tell)
    with open(archive, "rb") as f, target.forgotten_if_it_fails():
        try:
            if packing is Packing.ZIP:
                _unzip(f, target)
            else:
                _untar(f, packing, target)
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            EOFError,
            zlib.error,
            lzma.LZMAError,
        ) as error:
            f.seek(0)
            if f.read(64).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                raise target.error("it is a web page, perhaps one to log in") from error
            raise target.error(f"it is no {packing} file, or a damaged one ({error})") from error
        except (
            NotImplementedError,
            RuntimeError,
        ) as error:  # zipfile: encrypted, unknown compression
            raise target.error(str(error)) from error
        except (UnicodeError, ValueError, struct.error) as error:
            raise target.error(f"it is damaged ({error})") from error
        except InterruptedError:
            raise
        except OSError as error:
            # bz2's own have no number, a seek before the beginning has this one; the rest is the disk's.
            if error.errno not in (None, errno.EINVAL):
                raise
            raise target.error(f"it is damaged ({error})") from error
    target.resolve_links()
    if not target.files:
        raise LoadError(f"{shown}: the archive has no file in it.")
    return target.files


def _untar(f: IO[bytes], packing: Packing, target: _Target) -> None:
    stream = Forward(f, packing, target.grow)
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:", errorlevel=2) as tar:
        while True:
            member = tar.next()
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            _one_member(tar, member, target, stream)
    # tarfile takes any broken header for the end. A real end is a block of zeros.
    if not stream.ended:
        raise target.error("it ends before its end")
    stream.drain()


def _one_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: _Target, stream: Forward
) -> None:
    name = target.name(member.name)
    if member.isdir():
        target.enter(name)
        if name in target.files or name in target.links:
            raise target.error(f"{name[:200]!r} is a file and a folder in it")
        return
    if not name:
        raise target.error("it has a member without a name")
    if member.issym() or member.islnk():
        base = posixpath.dirname(name) if member.issym() else ""
        to = posixpath.normpath(posixpath.join(base, member.linkname))
        if member.linkname.startswith("/") or to == ".." or to.startswith("../"):
            raise target.error(f"{name[:200]!r} is a link out of it, to {member.linkname[:200]!r}")
        target.claim(name)
        target.links[name] = to
    elif member.isreg():
        target.claim(name)
        data = tar.extractfile(member)
        if data is None:
            raise target.error(f"{name[:200]!r} cannot be read")
        with stream.in_member(), data:
            target.fill(name, _chunks(data, exactly=member.size))
    else:
        raise target.error(f"{name[:200]!r} is a device or a pipe")


@contextmanager
def _forgotten(archive: zipfile.ZipFile) -> Iterator[None]:
    """The archive's directory does not outlive this: an error's traceback would hold it, 1 kB a member."""
    try:
        yield
    finally:
        archive.filelist.clear()
        archive.NameToInfo.clear()


def _unzip(f: IO[bytes], target: _Target) -> None:
    with zipfile.ZipFile(f) as archive, _forgotten(archive):
        infos = archive.infolist()
        most = target.settings.max_files
        if len(infos) > most and sum(not i.is_dir() for i in infos) > most:
            raise TooLarge(f"{target.shown}: the archive has more than {most} files.")
        if len(infos) > most * 2:
            raise TooLarge(f"{target.shown}: the archive has more than {most * 2} members.")
        target.expected = sum(not i.is_dir() for i in infos)
        for info in infos:
            # `filename` is cut at a zero byte and has the system's separators; take what is in the file.
            if "\0" in info.orig_filename:
                raise target.error("it has a member with a zero byte in its name")
            name = target.name(info.filename)
            kind = info.external_attr >> 16 & 0o170000
            if info.is_dir() or kind == 0o040000:
                target.enter(name)
                continue
            if not name:
                raise target.error("it has a member without a name")
            if kind not in (0, 0o100000):
                if kind != 0o120000:
                    raise target.error(f"{name[:200]!r} is a device or a pipe")
                _zip_link(archive, info, name, target)
                continue
            if info.flag_bits & 1:
                raise target.error("it is encrypted")
            target.claim(name)
            with archive.open(info) as data:
                target.fill(name, _chunks(data, exactly=info.file_size))


def _zip_link(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, target: _Target) -> None:
    if info.file_size > 4096:
        raise target.error(f"{name[:200]!r} is a link of {info.file_size} bytes")
    with archive.open(info) as data:
        link = data.read(4097).decode()
    to = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    if link.startswith("/") or to == ".." or to.startswith("../"):
        raise target.error(f"{name[:200]!r} is a link out of it, to {link[:200]!r}")
    target.claim(name)
    target.links[name] = to


def _chunks(data: IO[bytes], *, exactly: int | None = None) -> Iterator[bytes]:
    seen = 0
    while chunk := data.read(BLOCK_BYTES):
        seen += len(chunk)
        if exactly is not None and seen > exactly:
            raise EOFError("a member is longer than it says")
        yield chunk
    if exactly is not None and seen != exactly:
        raise EOFError("a member is shorter than it says")
