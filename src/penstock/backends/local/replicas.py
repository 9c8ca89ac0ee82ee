"""All replicas of a node: asked for, looked after, listed, watched.

This is the state that outlives the control plane: when that comes back it lists what runs here and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock.backends.base import Phase, ReplicaGone, ReplicaStatus
from penstock.backends.local.clock import Clock, wait_event
from penstock.backends.local.cores import cores
from penstock.backends.local.devices import Devices
from penstock.backends.local.limits import Limiter
from penstock.backends.local.logs import ProcessLog
from penstock.backends.local.paths import Layout, check_replica_id
from penstock.backends.local.policy import ReplicaPolicy
from penstock.backends.local.replica import Replica
from penstock.backends.local.turns import Turns
from penstock.backends.local.zygotes import Zygotes
from penstock.domain.devices import DeviceStatus
from penstock.domain.process import ProcessSpec
from penstock.errors import Conflict, Internal, NotFound, Unavailable

logger = logging.getLogger(__name__)

#: How often memory is looked at, seconds. A limit is overrun for about this long at most.
_LOOK_EVERY_S: Final = 0.1
#: The same while no replica has a limit that is held by looking.
_CALM_LOOK_S: Final = 0.9
#: How often it is asked who is late or silent, seconds.
_CHECK_EVERY_S: Final = 1.0
#: A look that comes this late means that the node was away, not that every replica hangs.
_AWAY_S: Final = 3.0
#: Share of the node's time that reading memory may take.
_MEASURE_SHARE: Final = 0.02
_MEASURE_EVERY_S: Final = 1.0
#: Of so many replicas one is looked at in a turn, but at least the number below it.
_MEASURE_ONE_OF: Final = 10
_MEASURE_LEAST: Final = 32
#: Models that may be loaded side by side for each core.
LOADING_PER_CORE: Final = 8
#: Logs of replicas that are gone, kept so that their ends can be read.
_KEEP_LOGS: Final = 200


@dataclass(frozen=True, slots=True)
class ReplicasPolicy:
    """How the collection treats its replicas."""

    replica: ReplicaPolicy = field(default_factory=ReplicaPolicy)
    #: How many load their models side by side, beside as many that requests wait for. A load computes for
    #: some of its time only, so a few of them keep a core busy; more of them make each slower and none
    #: sooner, and hold the memory that loading takes.
    loading: int = field(default_factory=lambda: LOADING_PER_CORE * cores())
    #: A stopped replica stays listed this long, seconds.
    forget_s: float = 30.0
    #: Changes a watcher may be behind; beyond it is cut off and starts over with a listing.
    max_behind: int = 10_000


class Watch:
    """One watcher's queue of changes."""

    def __init__(self, first: list[ReplicaStatus], max_behind: int) -> None:
        self._changes: deque[ReplicaStatus | ReplicaGone] = deque(first)
        #: How many of the first changes are the present state.
        self.present = len(first)
        self._max = max_behind + len(first)
        self._news = asyncio.Event()
        self._cut = False

    def put(self, change: ReplicaStatus | ReplicaGone) -> None:
        if len(self._changes) >= self._max:
            self._cut = True
        else:
            self._changes.append(change)
        self._news.set()

    def cut(self) -> None:
        self._cut = True
        self._news.set()

    async def changes(self) -> AsyncIterator[ReplicaStatus | ReplicaGone]:
        """Each change in order; ends when the watcher fell too far behind, or the node stops."""
        while True:
            while self._changes:
                yield self._changes.popleft()
            if self._cut:
                return
            self._news.clear()
            await self._news.wait()


class Replicas:
    """The replicas by id. All methods are for the node's loop."""

    def __init__(
        self,
        layout: Layout,
        *,
        zygotes: Zygotes,
        limiter: Limiter,
        clock: Clock,
        policy: ReplicasPolicy,
        devices: Devices | None = None,
    ) -> None:
        self._layout = layout
        self._zygotes = zygotes
        self._limiter = limiter
        self._devices = devices or Devices()
        self._clock = clock
        self._policy = policy
        self._replicas: dict[str, Replica] = {}
        self.loading: Turns[Replica] = Turns(policy.loading)
        #: How many replicas of a service are ready.
        self._ready: Counter[tuple[str, str]] = Counter()
        self._ready_ids: dict[str, tuple[str, str]] = {}
        #: Those whose memory is looked at ten times a second.
        self._watched: dict[str, Replica] = {}
        self._watch_memory = asyncio.Event()
        self._watches: set[Watch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._unmeasured: deque[str] = deque()

    def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        """As `Backend.start`."""
        check_replica_id(replica_id)
        old = self._replicas.get(replica_id)
        if old is not None and old.status.phase is not Phase.STOPPED:
            if old.status.phase is Phase.DRAINING:
                raise Conflict(f"Replica {replica_id} is being stopped.")
            if old.asked != spec or old.framework != framework:
                raise Conflict(f"Replica {replica_id} runs with another specification.")
            return old.status
        if self._closing:
            raise Unavailable("The node is stopping.")
        try:
            replica = Replica(
                replica_id,
                framework,
                spec,
                layout=self._layout,
                zygotes=self._zygotes,
                limiter=self._limiter,
                devices=self._devices,
                loading=self.loading,
                serves=lambda: self._ready[(spec.namespace, spec.service)] > 0,
                clock=self._clock,
                policy=self._policy.replica,
                log=ProcessLog(self._layout.replica_log(replica_id)),
                publish=self._publish,
            )
        except OSError as e:
            raise Internal(
                f"The limits of replica {replica_id} cannot be held: {e}.",
                hint="Check the node's cgroup setting.",
            ) from e
        self._replicas[replica_id] = replica
        if replica.watched:
            self._watched[replica_id] = replica
            self._watch_memory.set()
        else:
            self._watched.pop(replica_id, None)
        replica.begin()
        self._publish(replica.status)
        return replica.status

    async def stop(self, replica_id: str, grace_s: float | None = None) -> None:
        """As `Backend.stop`. Goes on when the caller is cancelled."""
        replica = self._replicas.get(replica_id)
        if replica is None or replica.status.phase is Phase.STOPPED:
            return
        await asyncio.shield(self._spawn(self._stop(replica, grace_s)))

    async def _stop(self, replica: Replica, grace_s: float | None) -> None:
        await replica.stop(grace_s)
        if not self._closing:
            self._spawn(self._forget(replica))

    async def _forget(self, replica: Replica) -> None:
        await self._clock.sleep(self._policy.forget_s)
        if self._replicas.get(replica.status.id) is replica:
            del self._replicas[replica.status.id]
            self._watched.pop(replica.status.id, None)
            self._publish(ReplicaGone(replica.status.id))
            self.prune_logs()

    def retry(self, replica_id: str) -> ReplicaStatus:
        """Start a replica that waits for its next try now. NotFound."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise _unknown(replica_id)
        replica.retry()
        return replica.status

    def hurry(self, replica_id: str) -> None:
        """As `Backend.hurry`."""
        replica = self._replicas.get(replica_id)
        if replica is not None:
            replica.hurry()

    def list(self) -> list[ReplicaStatus]:
        """As `Backend.list`."""
        return [r.status for r in self._replicas.values()]

    def devices(self) -> tuple[DeviceStatus, ...]:
        """As `Backend.devices`."""
        return self._devices.list()

    def watch(self) -> Watch:
        """The present state of each replica, then each change; give it back with `unwatch`."""
        watch = Watch(self.list(), self._policy.max_behind)
        self._watches.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def log(self, replica_id: str) -> ProcessLog:
        """The log of a replica, also of one that is gone while its log is kept; NotFound."""
        check_replica_id(replica_id)
        replica = self._replicas.get(replica_id)
        if replica is not None:
            return replica.log
        kept = ProcessLog(self._layout.replica_log(replica_id))
        if not kept.path.exists():
            raise _unknown(replica_id)
        kept.close()  # a reader that follows ends at the end of the file
        return kept

    async def look_after(self) -> None:
        """Check limits of memory ten times a second and everything else every second, for ever."""
        last = self._clock.monotonic()
        check_at = last
        measure_at = last + _MEASURE_EVERY_S
        while True:
            if self._watched:
                await self._clock.sleep(_LOOK_EVERY_S)
            else:
                self._watch_memory.clear()
                await wait_event(self._clock, self._watch_memory, _CALM_LOOK_S)
            now = self._clock.monotonic()
            for replica in tuple(self._watched.values()):
                replica.check_memory(now)
            if now - last > _AWAY_S:
                for replica in self._replicas.values():
                    replica.forgive(now)
            last = now
            if now >= check_at:
                check_at = now + _CHECK_EVERY_S
                for replica in tuple(self._replicas.values()):
                    replica.check(now)
                self._devices.refresh()
            if now >= measure_at:
                measure_at = now + max(_MEASURE_EVERY_S, self._measure() / _MEASURE_SHARE)

    def _measure(self) -> float:
        """Read the memory of some replicas, those not read for longest first; the seconds it took."""
        begun = self._clock.monotonic()
        until = begun + _MEASURE_EVERY_S * _MEASURE_SHARE
        if not self._unmeasured:
            self._unmeasured.extend(self._replicas)
        left = max(_MEASURE_LEAST, len(self._replicas) // _MEASURE_ONE_OF)
        while self._unmeasured and left > 0 and self._clock.monotonic() < until:
            replica = self._replicas.get(self._unmeasured.popleft())
            if replica is not None:
                left -= 1
                replica.measure()
        return self._clock.monotonic() - begun

    async def drain(self, grace_s: float | None) -> None:
        """Stop them all, side by side, and start no more."""
        self._closing = True
        await asyncio.gather(
            *(r.stop(_least(grace_s, r.spec.grace_s)) for r in self._replicas.values())
        )

    def kill(self) -> None:
        """SIGKILL to all, now; returns without waiting."""
        self._closing = True
        for replica in self._replicas.values():
            replica.end()

    def close(self) -> None:
        """End the watchers and what waits. After `drain` or `kill`."""
        for watch in self._watches:
            watch.cut()
        for task in self._tasks:
            task.cancel()

    def prune_logs(self) -> None:
        """Remove the oldest logs of replicas that are gone, beyond those that are kept."""
        with os.scandir(self._layout.logs) as entries:
            gone = sorted(
                (e.stat().st_mtime, Path(e.path))
                for e in entries
                if e.name.endswith(".log") and e.name[:-4] not in self._replicas
            )
        for _, path in gone[: max(0, len(gone) - _KEEP_LOGS)]:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".1").unlink(missing_ok=True)

    def _publish(self, change: ReplicaStatus | ReplicaGone) -> None:
        self._count(change)
        for watch in self._watches:
            watch.put(change)

    def _count(self, change: ReplicaStatus | ReplicaGone) -> None:
        if isinstance(change, ReplicaStatus) and change.phase is Phase.READY:
            if change.id not in self._ready_ids:
                service = self._ready_ids[change.id] = (change.namespace, change.service)
                self._ready[service] += 1
        elif (was := self._ready_ids.pop(change.id, None)) is not None:
            self._ready[was] -= 1
            if not self._ready[was]:
                del self._ready[was]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _least(a: float | None, b: float) -> float:
    return b if a is None else min(a, b)


def _unknown(replica_id: str) -> NotFound:
    return NotFound(f"There is no replica {replica_id} here.")
