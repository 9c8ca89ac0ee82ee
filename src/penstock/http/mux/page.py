"""The page that the two ends of a multiplexed connection share: how far the server has read.

When a model process is killed, its gateway has to know which of the requests under way it may send to
another: those that the dead process never took up. The stream of bytes does not say, since the kernel had
taken them all. So the process writes the number of each request here before it begins with it, and what it
wrote outlives it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
from contextlib import suppress
from typing import Final

from penstock.http.mux.frames import NUMBER, PAGE_BYTES

_NAME: Final = re.compile(rb"/proc/[1-9][0-9]{0,9}/fd/[0-9]{1,9}")


class Page:
    """The client's end: it makes the page, names it, and reads it when the connection is lost."""

    __slots__ = ("_fd", "_memory")

    def __init__(self) -> None:
        """Raises OSError where the system has no memory for it, or none of this kind."""
        self._fd = os.memfd_create("penstock-mux", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.truncate(self._fd, PAGE_BYTES)
            # The other end could cut it off under our mapping otherwise, and a read would be a SIGBUS.
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(self._fd, PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def name(self) -> str:
        """What the server opens, until `opened` was called."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def opened(self) -> None:
        """The server has it: the descriptor is of no more use."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self) -> int:
        """The number of the last request that the server took up."""
        number: int = NUMBER.unpack_from(self._memory)[0]
        return number

    def close(self) -> None:
        self.opened()
        self._memory.close()


def open_page(name: bytes | None) -> mmap.mmap | None:
    """The server's end of the page of that name; None where there is none, which costs retries only."""
    if name is None or not _NAME.fullmatch(name):
        return None
    with suppress(OSError, ValueError):
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            about = os.fstat(fd)
            if stat.S_ISREG(about.st_mode) and about.st_size == PAGE_BYTES:
                return mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED)
        finally:
            os.close(fd)
    return None
