"""What every kind of place is asked: what is there, and its bytes from an offset on.

A source lists once, then reads. It reports three sorts of trouble: an error of `penstock.errors` is final;
`Transient` is worth another try; `Changed` means that an object is no longer what was listed, so the whole
listing is done again. Retries, resuming, digests and placement are the engine's (`download`), not a
source's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from penstock.errors import LoadError, NotFound
from penstock.storage.uris import redact

#: Bytes asked for in one read. Large enough that a thread per read costs nothing.
CHUNK_BYTES: Final = 4 * 1024 * 1024
_PROOFS: Final = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a model."""

    #: Where it goes below the model's folder: relative, slashes, checked by `relative_path`.
    path: str
    #: The source's own name for it.
    key: str
    #: None when the server does not say before the last byte.
    size_bytes: int | None
    #: Differs whenever the bytes differ: an ETag, a generation, inode and times. None: the server has
    #: nothing of the kind, so nothing can be resumed or reused.
    version: str | None
    #: Hexadecimal, where the place publishes it.
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a URI names: one object, or everything below a prefix."""

    entries: tuple[Entry, ...]
    #: The URI names one object, and not a folder with one object in it.
    single: bool = False
    #: The server's Content-Type, where it says one; tells archives from files.
    media_type: str = ""
    #: False: the versions may not tell apart two writes made just now, so do not remember this listing.
    reusable: bool = True

    @property
    def size_bytes(self) -> int | None:
        """The sum, or None when one is unknown."""
        total = 0
        for e in self.entries:
            if e.size_bytes is None:
                return None
            total += e.size_bytes
        return total


class Transient(Exception):
    """Worth another try. `retry_after_s` is the server's own wish."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(redact(message))
        self.retry_after_s = retry_after_s


class Changed(Exception):
    """The object is not the one that was listed."""


class Source(ABC):
    """One URI's place, opened with one caller's credentials."""

    def __init__(self, uri: str) -> None:
        #: For people: no secret in it.
        self.shown = redact(uri)
        #: What the URI really names once defaults and endpoints are filled in. Hashed, never shown.
        self.identity = uri

    @abstractmethod
    async def list(self) -> Listing:
        """Everything the URI names. NotFound (what was tried), Unauthorized, Forbidden, LoadError,
        Transient."""

    @abstractmethod
    def read(self, entry: Entry, offset: int) -> AsyncIterator[bytes]:
        """Its bytes from `offset` to the end. Raises as `list` does, and Changed.

        When no byte comes for `Settings.idle_s` that is Transient: the source sees single reads, the engine
        does not.
        """

    async def prove(self, listing: Listing) -> None:
        """That these credentials may read what they could list, before a cached copy is handed out.

        By the last byte of the largest files: on most stores listing and reading are two rights.
        """
        by_size = sorted(listing.entries, key=lambda e: -(e.size_bytes or 0))
        for entry in by_size[:_PROOFS]:
            if entry.size_bytes:
                async with aclosing(self.read(entry, entry.size_bytes - 1)) as last:  # type: ignore[type-var]
                    await anext(last, None)

    def clone(self, entry: Entry, descriptor: int) -> bool:
        """Fill the empty file `descriptor` without reading, where the file system can. Blocking."""
        return False

    async def settled(self, entry: Entry) -> bool:
        """After the last byte, where `read` itself could not watch: still the version listed?"""
        return True

    async def close(self) -> None:
        """Release connections."""


def relative_path(name: str, shown: str) -> str:
    """`name` when it can be a file below a folder and nowhere else; LoadError otherwise."""
    if not name or name.startswith("/") or "\0" in name or len(name) > 4096:
        raise LoadError(f"{shown}: the object name {name[:200]!r} can be no file name.")
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:
        raise LoadError(f"{shown}: the object name {name[:200]!r} is not UTF-8.") from None
    for part in parts:
        if part in (b"", b".", b"..") or len(part) > 255:
            raise LoadError(
                f"{shown}: the object name {name[:200]!r} can be no path below the model's folder.",
                hint="Rename the object, or point the URI below it.",
            )
    return name


def check_entries(entries: Iterable[Entry], shown: str, max_files: int) -> tuple[Entry, ...]:
    """Entries sorted by path, none twice and none both a file and a folder; LoadError otherwise."""
    ordered = tuple(sorted(entries, key=lambda e: e.path))
    if len(ordered) > max_files:
        raise LoadError(
            f"{shown} names more than {max_files} files.", hint="Point the URI at the model itself."
        )
    files = {e.path for e in ordered}
    if len(files) != len(ordered):
        raise LoadError(f"{shown} names two objects by the same path.")
    for e in ordered:
        parent = e.path.rpartition("/")[0]
        while parent:
            if parent in files:
                raise LoadError(
                    f"{shown}: {parent!r} is an object, and {e.path!r} is one below it; "
                    "on a disk a name is a file or a folder."
                )
            parent = parent.rpartition("/")[0]
    return ordered


def nothing_there(shown: str, *tried: str) -> NotFound:
    """The error for a URI that names nothing, with what was looked for."""
    return NotFound(
        f"There is no model at {shown}: looked for {', and for '.join(tried)}.",
        hint="Check the spelling; object names are case-sensitive.",
    )
