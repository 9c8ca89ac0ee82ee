"""Locks between processes, as files.

`flock` belongs to an open file and is let go by the kernel however its owner ends, so nothing is ever stale.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` exclusively; waits in the kernel. For short sections only. Blocking."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds `path`, or None when somebody else does. Blocking, briefly."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # The last holder may have removed the file between our open and our lock.
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Let go of what `try_lock` gave, and leave no file behind."""
    path.unlink(missing_ok=True)  # while it is held: nobody can hold the new file and the old one
    os.close(descriptor)


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Hold `path` exclusively for long work; a waiter can be cancelled, which a blocking flock can not."""
    wait_s = 0.01
    while (descriptor := try_lock(path)) is None:
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, 0.25)
    try:
        yield
    finally:
        release(path, descriptor)
