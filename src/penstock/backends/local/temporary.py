"""Temporary folders of model processes, which go when their processes have gone.

A replica ends by a signal or by `_exit`, so nothing that it has promised to remove at its end is removed:
libraries write a file for each function they compile, and models unpack archives. Each replica is told a
folder of its own as TMPDIR. It lies where temporary files lie on this machine, on the disk meant for them and
with a name that leaves room for sockets, in a folder of the node's own that goes with the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from penstock.backends.local.paths import is_private

logger = logging.getLogger(__name__)

_VARIABLE: Final = "TMPDIR"
_PREFIX: Final = "penstock-"


class NodeTemporary:
    """The node's temporary folder, held until `close`."""

    def __init__(self, earlier: Path | None = None) -> None:
        """Make it, and remove that of a former node of the same data folder, which was killed. OSError."""
        if earlier is not None and earlier.name.startswith(_PREFIX) and is_private(earlier):
            # Held by a node that lives: this data folder is a copy of that one's.
            with contextlib.suppress(OSError):
                fd = _hold(earlier)
                shutil.rmtree(earlier, ignore_errors=True)
                os.close(fd)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._fd = _hold(self.folder)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._fd)


def _hold(folder: Path) -> int:
    """Lock a folder: no other node takes it, nor those who clean up what is old. OSError if one has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


class ReplicaTemporary:
    """A replica's folder, made before its process starts; with None the replica uses the machine's own."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        #: Tells the process where it is.
        self.environment = {} if folder is None else {_VARIABLE: str(folder)}

    def make(self) -> None:
        """OSError."""
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def remove(self) -> None:
        """Remove it with all that is in it; what cannot be removed now goes with the node's."""
        if self._folder is None:
            return
        try:
            os.rmdir(self._folder)  # nearly always
        except FileNotFoundError:
            pass
        except OSError as e:
            if e.errno != errno.ENOTEMPTY:
                logger.warning("%s cannot be removed: %s", self._folder, e)
                return
            # There may be many files, and the node has others to look after.
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
