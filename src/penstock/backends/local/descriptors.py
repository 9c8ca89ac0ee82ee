"""What of the node's descriptors replicas may take.

A replica that runs costs the node three: the ends of its log's pipe and of its status pipe, and its log's
file. One that waits costs none. Without a bound the replica too many would take the descriptor that the
control plane's next connection needs, and nothing could be stopped any more.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

#: Of a replica that runs, in the node.
PER_REPLICA: Final = 3
#: Kept for everything else: zygotes, connections, readers of logs, and forks that are under way.
RESERVED: Final = 256


def most() -> int | None:
    """How many this process may have; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def open_now() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd")) - 1  # and the folder, to read it


def check(newest: int) -> None:
    """Raise OSError when a replica that was just given the descriptor `newest` must not keep it.

    The kernel gives the lowest number that is free, so a high one means that those below are in use.
    """
    limit = most()
    if limit is not None and newest >= max(limit // 2, limit - RESERVED):
        raise OSError(
            errno.EMFILE,
            f"the node may open {limit} files, {PER_REPLICA} for each replica; "
            "start it with a higher limit (ulimit -Hn)",
        )
