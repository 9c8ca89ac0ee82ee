"""System shared memory: regions that clients register by name, and the tensors in them.

The registry is a folder with a file for each region. The gateways and model processes of a machine share it,
so a region that was registered through one of them is known to all, and to replicas that start later.

A region's bytes are read and written with `pread` and `pwrite`. They are not mapped: a client that cuts its
object short would kill the process that maps it (SIGBUS), where here its request fails; and what was checked
cannot change while a model works on it. The price is one copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.errors import Conflict, InvalidInput, NotFound, TooLarge, Unsupported

#: Where the system keeps POSIX shared memory objects (shm_overview(7)).
OBJECTS: Final = Path("/dev/shm")  # noqa: S108 - that is what is meant
#: Regions that may be registered at a time.
MAX_REGIONS: Final = 4096
_MAX_NAME: Final = 256
_HINT: Final = "The server's option --allow-shared-memory allows it."


class Region(msgspec.Struct, frozen=True):
    """A registered region: `byte_size` bytes from `offset` on in the object named `key`."""

    name: str
    key: str
    offset: int
    byte_size: int


class Place(msgspec.Struct, frozen=True):
    """Where in a region a tensor is, or may be put."""

    region: str
    byte_size: int
    offset: int = 0


def place(parameters: Mapping[str, Any], what: str) -> Place | None:
    """The place that a tensor's parameters name; None when they name none. InvalidInput."""
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    size = parameters.get("shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if not isinstance(region, str):
        raise InvalidInput(f"{what}: shared_memory_region is a name")
    if type(size) is not int or type(offset) is not int or size < 0 or offset < 0:
        raise InvalidInput(
            f"{what}: shared_memory_byte_size, and shared_memory_offset where there is one, are"
            " numbers of bytes, 0 or more"
        )
    return Place(region, size, offset)


def taken(memory: SharedMemory | None, parameters: Mapping[str, Any], what: str) -> memoryview:
    """The bytes of an input that is in shared memory. Raises as `SharedMemory.read`."""
    if memory is None:
        raise Unsupported(f"{what} is in shared memory, which is not served.")
    where = place(parameters, what)
    if where is None:
        raise InvalidInput(f"{what}: shared_memory_region is a name")
    return memory.read(where, what)


def expected(memory: SharedMemory | None, parameters: Mapping[str, Any], what: str) -> None:
    """Check the place of an output that is asked for in shared memory. Raises as `SharedMemory.write`."""
    if memory is None:
        raise Unsupported(f"{what} is requested in shared memory, which is not served.")
    where = place(parameters, what)
    if where is not None:
        memory.check(where, what)


class SharedMemory:
    """The regions of this machine. Without a `folder` shared memory is not allowed.

    `most` is the largest tensor taken from a region, bytes.
    """

    def __init__(self, folder: Path | None, *, most: int) -> None:
        self._folder = folder
        self._most = most
        self._known: dict[str, tuple[tuple[int, int], Region]] = {}

    @property
    def allowed(self) -> bool:
        return self._folder is not None

    # -- the registry

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Raises Conflict when the name is taken, InvalidInput when the object is not that large."""
        if self._folder is None:
            raise Unsupported("Shared memory is not allowed here.", hint=_HINT)
        if not 0 < len(name.encode()) <= _MAX_NAME:
            raise InvalidInput(f"A region's name has 1 to {_MAX_NAME} bytes.")
        if offset < 0 or byte_size <= 0:
            raise InvalidInput("A region has an offset of 0 or more, and 1 byte or more.")
        region = Region(name, key, offset, byte_size)
        with _opened(region):
            pass
        path = self._file(name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sum(1 for _ in self._folder.glob("*.json")) >= MAX_REGIONS:
            raise TooLarge(f"{MAX_REGIONS} regions are registered.", hint="Unregister some.")
        handle, written = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(region))
                file.flush()
                os.fsync(file.fileno())
            # A link, not a rename: of two that register at once one must be told.
            os.link(written, path)
        except FileExistsError:
            raise Conflict(f"shared memory region '{name}' already in manager") from None
        finally:
            os.unlink(written)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all. One that is not registered is no error."""
        if self._folder is None:
            return
        for path in [self._file(name)] if name else list(self._folder.glob("*.json")):
            path.unlink(missing_ok=True)

    def status(self, name: str = "") -> list[Region]:
        """A region, or all. NotFound."""
        if name:
            found = self._find(name)
            if found is None:
                raise NotFound(f"Unable to find system shared memory region: '{name}'")
            return [found]
        if self._folder is None:
            return []
        read = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return sorted((r for r in read if r is not None), key=lambda r: r.name)

    def _file(self, name: str) -> Path:
        assert self._folder is not None  # noqa: S101 - callers looked
        # Names are the clients': they make no path here.
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.json"

    def _find(self, name: str) -> Region | None:
        if self._folder is None:
            return None
        path = self._file(name)
        try:
            now = path.stat()
        except OSError:
            self._known.pop(name, None)
            return None
        signature = (now.st_mtime_ns, now.st_ino)
        known = self._known.get(name)
        if known is None or known[0] != signature:
            region = _read(path)
            if region is None:
                return None
            if len(self._known) >= MAX_REGIONS:
                self._known.clear()
            known = self._known[name] = (signature, region)
        return known[1]

    # -- the tensors

    def read(self, where: Place, what: str) -> memoryview:
        """The bytes at a place. Raises NotFound, InvalidInput, TooLarge, Unsupported."""
        region = self._region(where, what)
        if where.byte_size > self._most:
            raise TooLarge(f"{what} is over {self._most} bytes.")
        import numpy as np  # a gateway registers regions and never reads one

        data = np.empty(where.byte_size, np.uint8).data
        at = region.offset + where.offset
        taken = 0
        with _opened(region) as handle:
            while taken < len(data):
                got = os.preadv(handle, [data[taken:]], at + taken)
                if not got:
                    raise _shrunk(region)
                taken += got
        return data

    def check(self, where: Place, what: str) -> None:
        """Raises as `write` would for a place that cannot be."""
        self._region(where, what)

    def write(self, where: Place, data: memoryview | bytes, what: str) -> None:
        """Put a tensor's bytes there. Raises as `read`, and InvalidInput where it has no room."""
        region = self._region(where, what)
        if len(data) > where.byte_size:
            raise InvalidInput(
                f"shared memory size specified with the request for {what} ({where.byte_size} bytes)"
                f" should be at least {len(data)} bytes to hold the results"
            )
        at = region.offset + where.offset
        done = 0
        with _opened(region) as handle, memoryview(data) as view:
            while done < len(view):
                done += os.pwrite(handle, view[done:], at + done)

    def _region(self, where: Place, what: str) -> Region:
        if self._folder is None:
            raise Unsupported(f"{what} is in shared memory, which is not allowed here.", hint=_HINT)
        region = self._find(where.region)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{where.region}'")
        if where.offset + where.byte_size > region.byte_size:
            raise InvalidInput(
                f"Invalid offset + byte size for shared memory region: '{where.region}'",
                hint=f"It has {region.byte_size} bytes.",
            )
        return region


@contextlib.contextmanager
def _opened(region: Region) -> Iterator[int]:
    """The region's object, if it is one, and as large as the region says."""
    name = region.key.removeprefix("/")
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > 255:
        raise InvalidInput(
            "The key is no name of a shared memory object.",
            hint="A name, with or without a slash before it, and none in it, is expected.",
        )
    try:
        handle = os.open(
            OBJECTS / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        )
    except OSError:
        raise InvalidInput(f"Unable to open shared memory region: '{region.key}'") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"Unable to open shared memory region: '{region.key}'")
        if found.st_size < region.offset + region.byte_size:
            raise _shrunk(region)
        yield handle
    finally:
        os.close(handle)


def _shrunk(region: Region) -> InvalidInput:
    return InvalidInput(
        f"Invalid shared memory region: '{region.key}'",
        hint=f"The object has not the {region.offset + region.byte_size} bytes that were registered.",
    )


def _read(path: Path) -> Region | None:
    """A region's file; None when it has gone."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Region)
    except (OSError, msgspec.MsgspecError):
        return None
