"""Memory and CPU limits of replicas, by the best means that this machine offers.

With cgroups the kernel does it all. Without them memory is held in two ways: RLIMIT_DATA refuses a single
allocation that would go far over (the process sees MemoryError), and a watcher reads each limited replica's
private memory and kills it when it is over. CPU is then held by affinity, so a fraction of a core is
rounded up to a whole one, which is said in the replica's log.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import Any, Final

from penstock.backends.local.cgroups import Group, open_tree
from penstock.backends.local.memory import anonymous_bytes, unshared_bytes

logger = logging.getLogger(__name__)

#: What RLIMIT_DATA leaves above the limit. It counts address space, and numeric libraries reserve more of
#: that (thread stacks, buffers) than they touch; the watcher counts what is touched.
_RESERVE_FACTOR: Final = 1.5
_RESERVE_BYTES: Final = 512 * 1024 * 1024
#: Bytes a second a process is taken to allocate at most: one that is far from its limit is looked at seldom.
_FASTEST: Final = 2 * 2**30
_SELDOM_S: Final = 1.0
#: How old a reading of the pages shared with the zygote may be, seconds.
_REMEASURE_S: Final = 5.0
#: How a process, or a library in it, says that an allocation was refused.
_REFUSED: Final = ("MemoryError", "bad_alloc", "Unable to allocate", "Cannot allocate memory")


@dataclass(frozen=True, slots=True)
class ForkLimits:
    """What the forked child does to itself before it loads anything."""

    cgroup_procs: tuple[str, ...] = ()
    #: Added to the data size at the fork, for RLIMIT_DATA.
    data_bytes: int | None = None
    cpus: tuple[int, ...] | None = None

    def fields(self) -> dict[str, Any]:
        return {"cgroups": self.cgroup_procs, "data_bytes": self.data_bytes, "cpus": self.cpus}


class Limits:
    """One replica's limits, from before its first start until it is gone."""

    def __init__(
        self,
        owner: Limiter,
        *,
        memory_limit_bytes: int | None,
        cpu_limit: float | None,
        group: Group | None,
        cpus: tuple[int, ...] | None,
    ) -> None:
        self._owner = owner
        self._group = group
        self._cpus = cpus
        self.memory_limit_bytes = memory_limit_bytes
        self.cpu_limit = cpu_limit
        limited = memory_limit_bytes is not None or cpu_limit is not None
        #: For `ReplicaStatus.limits`.
        self.name = "" if not limited else owner.name
        #: The watcher has to hold the memory limit.
        self.watched = group is None and memory_limit_bytes is not None
        self._next_look = 0.0
        self._pid = -1
        self._shared = 0
        self._measured_at = -math.inf

    @property
    def for_fork(self) -> ForkLimits:
        if self._group is not None:
            return ForkLimits(cgroup_procs=self._group.procs)
        data = None
        if self.memory_limit_bytes is not None:
            data = int(self.memory_limit_bytes * _RESERVE_FACTOR) + _RESERVE_BYTES
        return ForkLimits(data_bytes=data, cpus=self._cpus)

    @property
    def note(self) -> str:
        """One line for the replica's log when a limit is held otherwise than it says; else empty."""
        if self._group is None and self.cpu_limit is not None and self.cpu_limit % 1:
            return (
                f"the cpu limit of {self.cpu_limit:g} is held as {math.ceil(self.cpu_limit)} whole "
                "core(s): fractions need cgroups"
            )
        return ""

    def exceeded_by(self, pid: int, now: float) -> int | None:
        """Private memory of `pid` if it is over the limit now, bytes. Cheap enough for ten times a second."""
        limit = self.memory_limit_bytes
        if not self.watched or limit is None or now < self._next_look:
            return None
        if pid != self._pid:
            self._pid, self._shared, self._measured_at = pid, 0, -math.inf
        bound = anonymous_bytes(pid)
        if bound is None:
            return None
        # The bound counts pages shared with the zygote too. How many those are is read seldom: it costs
        # milliseconds, and a page once written is shared no more, so the number only falls.
        used = bound - self._shared
        if used > limit or (bound > limit and now - self._measured_at > _REMEASURE_S):
            exact = unshared_bytes(pid)
            if exact is None:
                return None
            used, self._shared, self._measured_at = exact, max(0, bound - exact), now
        if used > limit:
            return used
        self._next_look = now + min(_SELDOM_S, (limit - used) / _FASTEST)
        return None

    def explains(self, words: str) -> bool:
        """The limit ended the process: the kernel says so, or `words` (its last) do."""
        if self._group is not None:
            return self._group.out_of_memory()
        return self.memory_limit_bytes is not None and any(x in words for x in _REFUSED)

    def release(self) -> None:
        if self._group is not None:
            self._group.remove()
        if self._cpus is not None:
            self._owner.give_back(self._cpus)
            self._cpus = None


class Limiter:
    """Chooses the means once, when the node starts. `where` as in `cgroups.open_tree`."""

    def __init__(self, where: str = "auto") -> None:
        self._tree = open_tree(where)
        #: How limits are held on this machine: `cgroup-v2`, `cgroup-v1` or `rlimit`.
        self.name = self._tree.name if self._tree is not None else "rlimit"
        self._load = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)

    def limits(
        self, replica_id: str, memory_limit_bytes: int | None, cpu_limit: float | None
    ) -> Limits:
        """Prepare a replica's limits. OSError when a cgroup cannot be made: it must not run unlimited."""
        group = cpus = None
        if self._tree is not None and (memory_limit_bytes is not None or cpu_limit is not None):
            group = self._tree.make(replica_id, memory_limit_bytes, cpu_limit)
        elif cpu_limit is not None:
            cpus = self._take(cpu_limit)
        return Limits(
            self,
            memory_limit_bytes=memory_limit_bytes,
            cpu_limit=cpu_limit,
            group=group,
            cpus=cpus,
        )

    def _take(self, cpu_limit: float) -> tuple[int, ...] | None:
        """The cores that the fewest limited replicas have; None when the limit is all of them anyway."""
        n = max(1, math.ceil(cpu_limit))
        if n >= len(self._load):
            return None
        cpus = tuple(sorted(sorted(self._load, key=lambda c: self._load[c])[:n]))
        for c in cpus:
            self._load[c] += 1
        return cpus

    def give_back(self, cpus: tuple[int, ...]) -> None:
        for c in cpus:
            self._load[c] -= 1
