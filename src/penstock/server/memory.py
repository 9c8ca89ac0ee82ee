"""How much memory this process alone holds, and giving back what it needs no more.

Private memory is what would be free again if the process ended: pages shared with the zygote are not
counted, which resident size would do.
"""

from __future__ import annotations

import ctypes
import re
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


# Looked up at import: a `CDLL` is a class of its own, which costs a forked process 0.2 MB.
_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_free_memory() -> None:
    """Give the C library's free memory back to the system: a load frees much of what it took."""
    if _trim is not None:
        _trim(0)
