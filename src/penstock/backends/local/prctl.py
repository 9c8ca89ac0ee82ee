"""What only the kernel can promise about processes: who dies with whom, and who inherits orphans.

A parent-death signal ends a child however its parent ends, `kill -9` included. A subreaper becomes the
parent of its descendants' orphans, so that a model's own children (data loader workers, a server it
started) can be found and ended after the model is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Resolved at import: between fork and exec nothing may be looked up.
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int


def _call(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({option}): {os.strerror(errno)}")


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Get signal `number` when the parent process `parent` ends; SIGKILL now if it has ended already."""
    _call(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _call(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Set the name that `ps -o comm` and `top` show; the kernel keeps 15 bytes."""
    # Not prctl: a ctypes buffer is a new type, which costs a forked process 0.1 MB.
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, name.encode()[:15])
    finally:
        os.close(fd)


def children_of(pid: int) -> set[int]:
    """Direct children of `pid`, zombies included; empty when it is gone.

    Reads every process's `stat`: the cheaper `/proc/PID/task/*/children` is missing from many kernels.
    """
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb", buffering=0) as f:
                stat = f.read(512)
        except OSError:
            continue  # ended meanwhile
        # The name is in parentheses and may itself hold any character; the parent is the 2nd field after.
        fields = stat[stat.rfind(b")") + 2 :].split(None, 2)
        if len(fields) > 1 and int(fields[1]) == pid:
            found.add(int(entry))
    return found
