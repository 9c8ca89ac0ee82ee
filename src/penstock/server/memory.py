"""How much memory this process alone holds, and giving back what it needs no more.

Private memory is what would be free again if the process ended: pages shared with the zygote are not
counted, which resident size would do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
from typing import Final

_PRIVATE: Final = re.compile(rb"^Private_(?:Clean|Dirty|Hugetlb):\s+(\d+) kB$", re.MULTILINE)


def private_bytes() -> int:
    """Private bytes of this process by the kernel's own sum; 0 where the system does not tell."""
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return sum(int(kb) for kb in _PRIVATE.findall(text)) * 1024


class PrivateMemory:
    """`private_bytes`, asked of the kernel only when it may be another by more than `_COARSE` pages.

    The kernel walks all page tables for the sum, the zygote's pages too: milliseconds, which a thousand
    processes that are asked for their metrics do not have. Memory becomes private by a fault, and is given
    back by leaving the resident set; both are known at once.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._faults = self._resident = -2 * _COARSE

    def read(self) -> int:
        """Bytes, as exact as said above."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        faults, resident = usage.ru_minflt + usage.ru_majflt, _resident_pages()
        if max(abs(faults - self._faults), abs(resident - self._resident)) > _COARSE:
            self._bytes = private_bytes()
            self._faults, self._resident = faults, resident
        return self._bytes


#: Pages of 4 KiB: a quarter of a MiB.
_COARSE: Final = 64


def _resident_pages() -> int:
    try:
        fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(fd, 256).split()[1])
    finally:
        os.close(fd)


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


# Looked up at import: a `CDLL` is a class of its own, which costs a forked process 0.2 MB.
_libc: Final = ctypes.CDLL(None)
_trim: Final = getattr(_libc, "malloc_trim", None)
_info: Final = getattr(_libc, "mallinfo2", None)
if _info is not None:
    _info.restype = _Info
#: Bytes. Giving back writes to every free block, and most of a forked process's are the zygote's.
_WORTH_IT: Final = 4 << 20


_PAGE: Final = mmap.PAGESIZE
_ZEROS: Final = bytes(_PAGE)
_DONTNEED: Final = getattr(mmap, "MADV_DONTNEED", None)
_compare: Final = getattr(_libc, "memcmp", None)
if _compare is not None:
    _compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_advise: Final = getattr(_libc, "madvise", None)
if _advise is not None:
    _advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def release_zeros(thing: object) -> int:
    """Give back the pages that lie within `thing` and hold zeros only; bytes given back.

    Nobody can tell: such a page comes back, as zeros, when it is touched. An event loop of uvloop's holds a
    buffer of 256,000 bytes that it reads into, cleared when it is made; small requests touch its first page.
    """
    if _compare is None or _advise is None or _DONTNEED is None:
        return 0
    start = id(thing)
    # What is of variable size is longer: what is beyond its type's own fields stays as it is.
    end = (start + type(thing).__basicsize__) // _PAGE * _PAGE
    page = -(-start // _PAGE) * _PAGE
    given = 0
    while page < end:
        behind = page
        while behind < end and _compare(behind, _ZEROS, _PAGE) == 0:
            behind += _PAGE
        if behind > page and _advise(page, behind - page, _DONTNEED) == 0:
            given += behind - page
        page = behind + _PAGE
    return given


def release_free_memory() -> None:
    """Give the C library's free memory back to the system: a load frees much of what it took."""
    if _trim is not None and (_info is None or _info().fordblks > _WORTH_IT):
        _trim(0)
