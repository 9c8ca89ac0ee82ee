"""What a process's memory is, read from /proc.

Replicas share their zygote's pages, so the resident set counts the framework once per replica; what one of
them costs is its private part.
"""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def private_bytes(pid: int) -> int | None:
    """Bytes that would be free if this process ended; None when it is gone or not ours to look at.

    Private clean and dirty pages, huge pages and its share of swap. The kernel walks the page tables for it,
    those of shared pages too: some milliseconds for every 100 MiB that are resident.
    """
    return _sum_of(pid, (b"Private_", b"SwapPss:"))


def unshared_bytes(pid: int) -> int | None:
    """Like `private_bytes`, without clean file pages, which the kernel takes back by itself when short."""
    return _sum_of(pid, (b"Private_Dirty:", b"Private_Hugetlb:", b"SwapPss:"))


def _sum_of(pid: int, starts: tuple[bytes, ...]) -> int | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as f:
            text = f.read(4096)
    except OSError:
        return None
    total = 0
    for line in text.splitlines():
        if line.startswith(starts):
            total += int(line.split()[1]) * 1024
    return total


def anonymous_bytes(pid: int) -> int | None:
    """An upper bound of `unshared_bytes` without swap, for the price of one read (about 15 us).

    Resident anonymous pages, those shared with the zygote included.
    """
    pages = _statm(pid)
    return None if pages is None else (pages[1] - pages[2]) * _PAGE


def resident_bytes(pid: int) -> int | None:
    """What of a process is in memory, shared pages included; None when it is gone."""
    pages = _statm(pid)
    return None if pages is None else pages[1] * _PAGE


def _statm(pid: int) -> list[int] | None:
    """Pages: all that is mapped, those in memory, those of them that are of files or shared, and more."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as f:
            fields = [*map(int, f.read(128).split())]
    except OSError:
        return None
    return fields if len(fields) > 2 else None


def pages_mark(pid: int) -> bytes | None:
    """Something that differs when `private_bytes` may, for the price of one read; None when it is gone.

    Faults so far and resident pages: memory becomes private by a fault, and is given back by leaving.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as f:
            text = f.read(1024)
    except OSError:
        return None
    # After the name, which may have anything in it, comes the third field.
    fields = text[text.rfind(b")") + 2 :].split(maxsplit=22)
    return b" ".join((fields[7], fields[9], fields[21])) if len(fields) > 21 else None
