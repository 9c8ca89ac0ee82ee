"""One node per data folder.

The lock is an flock, which the kernel drops however the holder ends, so a stale file holds nobody up. The
file's content only tells who holds it and where the sockets are.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from penstock.backends.local.paths import Layout, choose_run_dir, lock_path
from penstock.backends.local.temporary import NodeTemporary
from penstock.errors import Conflict, Internal


class AlreadyRunning(Conflict):
    """Another node serves this data folder."""

    reason = "AlreadyRunning"

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{data_dir} is served by {who} already.",
            hint="Stop that one, or give this one another --data-dir.",
        )
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Holder:
    """What the lock file says about the node that wrote it, alive or not."""

    pid: int
    run: Path
    temporary: Path | None = None


class NodeLock:
    """Held from `acquire` to `release` or the end of the process."""

    def __init__(self, fd: int, layout: Layout, temporary: NodeTemporary) -> None:
        self._fd = fd
        self._temporary = temporary
        self.layout = layout

    @classmethod
    def acquire(cls, data_dir: Path) -> NodeLock:
        """Lock `data_dir`, make its folders, and write who holds it; AlreadyRunning with the holder's pid."""
        data_dir = Path(os.path.abspath(data_dir))
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not inherited by children (PEP 446), so it ends with this process and no other.
            fd = os.open(lock_path(data_dir), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as e:
            raise Internal(
                f"The data folder {data_dir} cannot be used: {e.strerror}.",
                hint="Give another one with --data-dir.",
            ) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            # The winner may not have written its pid yet; it does so at once.
            for _ in range(20):
                holder = read_holder(data_dir)
                if holder is not None and _alive(holder.pid):
                    raise AlreadyRunning(data_dir, holder.pid) from e
                time.sleep(0.01)
            raise AlreadyRunning(data_dir, None) from e
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            earlier = read_holder(data_dir)
            temporary = _temporary(earlier.temporary if earlier else None)
            undo.callback(temporary.close)
            run = choose_run_dir(data_dir, earlier.run if earlier else None)
            layout = Layout(data_dir, run, temporary.folder)
            # Short enough to be written by one call; readers see the old text or the new one.
            told = {"pid": os.getpid(), "run": str(run), "temporary": str(temporary.folder)}
            text = json.dumps(told).encode() + b"\n"
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
            os.fsync(fd)
            layout.make()
            undo.pop_all()
        return cls(fd, layout, temporary)

    def release(self) -> None:
        """Let the next node in. The file stays: removing it would race with one that is waiting."""
        if self._fd >= 0:
            self._temporary.close()
            os.close(self._fd)
            self._fd = -1


def _temporary(earlier: Path | None) -> NodeTemporary:
    try:
        return NodeTemporary(earlier)
    except OSError as e:
        raise Internal(
            f"A folder for temporary files cannot be made: {e}.",
            hint="Give TMPDIR a folder with room.",
        ) from e


def read_holder(data_dir: Path) -> Holder | None:
    """Who wrote the lock file last; None when there is none or it is torn."""
    try:
        found = json.loads(lock_path(data_dir).read_bytes())
        temporary = found.get("temporary")
        return Holder(int(found["pid"]), Path(found["run"]), Path(temporary) if temporary else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find_layout(data_dir: Path) -> Layout:
    """Where the node of `data_dir` keeps its sockets, as its lock file says."""
    data_dir = Path(os.path.abspath(data_dir))
    holder = read_holder(data_dir)
    return Layout(data_dir, holder.run if holder else data_dir / "run")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
