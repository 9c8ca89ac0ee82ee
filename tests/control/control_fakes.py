"""A clock that tests move by hand, and a backend whose replicas do what a test says."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.backends.base import Backend, Phase, ReplicaGone, ReplicaList, ReplicaStatus
from penstock.control.clock import Clock, Timer
from penstock.control.loop import Loop
from penstock.domain.process import ProcessSpec
from penstock.domain.service import Component
from penstock.errors import Conflict, NotFound, PenstockError, Unavailable
from penstock.storage import Progress
from penstock.store.sqlite import SqliteStore


class _Timer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock(Clock):
    """Time stands still until `advance`."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall = now
        self._mono = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._wall + self._mono

    def monotonic(self) -> float:
        return self._mono

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = _Timer(self._mono + delay_s, callback)
        heapq.heappush(self._timers, (timer.due, next(self._count), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move time, running what falls due on the way and what that starts."""
        end = self._mono + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._mono = max(self._mono, due)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
                await drain_ready()
        self._mono = end
        await drain_ready()


async def drain_ready(rounds: int = 20) -> None:
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def at_rest(store: SqliteStore, loop: Loop[Any]) -> None:
    """Until nothing is under way: no operation of the store, no change that is not told, no look.

    The store's threads take their operations in turn, so one that does nothing ends behind all that were
    asked for before it; what those lead to is seen in the next round.
    """
    seen = (-1, -1)
    quiet = 0
    while quiet < 4:
        for thread in (store._writer, store._reader):
            if thread is not None:
                await thread.submit(lambda _: None)
        await drain_ready(50)
        await loop.settled()
        now = (store.version, loop.looks)
        quiet = quiet + 1 if now == seen else 0
        seen = now


class FakeBackend(Backend):
    """Replicas in memory. `behave` decides what a started replica becomes."""

    def __init__(self, behave: Callable[[str, ProcessSpec], Phase] | None = None) -> None:
        self.behave = behave or (lambda replica_id, spec: Phase.READY)
        self.replicas: dict[str, ReplicaStatus] = {}
        self.specs: dict[str, ProcessSpec] = {}
        self.frameworks: dict[str, str] = {}
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.hurried: list[str] = []
        #: Raise Unavailable from everything.
        self.away = False
        #: Keep stopped replicas in DRAINING until `finish` is called.
        self.slow_stop = False
        self._watchers: set[asyncio.Queue[ReplicaStatus | ReplicaGone | None]] = set()

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The node cannot be reached.")

    async def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        self._check()
        if replica_id in self.replicas:
            if self.specs[replica_id] != spec:
                raise Conflict(f"{replica_id} runs with another spec.")
            return self.replicas[replica_id]
        self.started.append(replica_id)
        self.specs[replica_id] = spec
        self.frameworks[replica_id] = framework
        status = ReplicaStatus(
            id=replica_id,
            namespace=spec.namespace,
            service=spec.service,
            revision=spec.revision,
            component=spec.component,
            phase=Phase.STARTING,
            address=f"unix:/run/{replica_id}.sock",
            priority=spec.priority if spec.device is not None else None,
        )
        self.replicas[replica_id] = status
        phase = self.behave(replica_id, spec)
        if phase is not Phase.STARTING:
            asyncio.get_running_loop().call_soon(lambda: self.set(replica_id, phase))
        return status

    async def hurry(self, replica_id: str) -> None:
        self._check()
        self.hurried.append(replica_id)

    def set(self, replica_id: str, phase: Phase, **changes: object) -> None:
        """Make a replica something else and tell the watchers. No-op when it is gone."""
        if replica_id not in self.replicas:
            return
        if phase is Phase.FAILED and not changes:
            changes = {"reason": "ModelLoadFailed", "message": "EOFError: the file is empty"}
        self.replicas[replica_id] = replace(self.replicas[replica_id], phase=phase, **changes)  # type: ignore[arg-type]
        self._tell(self.replicas[replica_id])

    def remove(self, replica_id: str) -> None:
        if self.replicas.pop(replica_id, None) is not None:
            self._tell(ReplicaGone(replica_id))

    def lose_all(self) -> None:
        """The node was killed: every replica is gone and the watches break."""
        self.replicas.clear()
        for queue in self._watchers:
            queue.put_nowait(None)

    async def stop(self, replica_id: str, *, grace_s: float | None = None) -> None:
        self._check()
        if replica_id not in self.replicas:
            return
        self.stopped.append(replica_id)
        if self.slow_stop:
            self.set(replica_id, Phase.DRAINING)
        else:
            self.remove(replica_id)

    async def list(self) -> ReplicaList:
        self._check()
        return list(self.replicas.values())

    async def watch(self) -> AsyncIterator[ReplicaStatus | ReplicaGone]:
        self._check()
        queue: asyncio.Queue[ReplicaStatus | ReplicaGone | None] = asyncio.Queue()
        for status in self.replicas.values():
            queue.put_nowait(status)
        self._watchers.add(queue)
        try:
            while (item := await queue.get()) is not None:
                yield item
            raise Unavailable("The node went away.")
        finally:
            self._watchers.discard(queue)

    def _tell(self, item: ReplicaStatus | ReplicaGone) -> None:
        for queue in self._watchers:
            queue.put_nowait(item)

    async def logs(
        self, replica_id: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        self._check()
        if replica_id not in self.replicas:
            raise NotFound(f"There is no replica {replica_id}.")
        lines = [b"loading\n", b"ready\n"]
        for line in lines[-tail:] if tail is not None else lines:
            yield line


class FakeFetched:
    """Files that are there."""

    def __init__(self, digest: str) -> None:
        self.path = Path(f"/models/{digest}")
        self.digest = digest
        self.size_bytes = 100


class FakeFiles:
    """Models by URI: a digest, an error to raise, or a future to wait for."""

    def __init__(self) -> None:
        self.by_uri: dict[str, str | PenstockError | asyncio.Event] = {}
        self.fetched: list[str] = []
        self.pinned: set[str] = set()
        self.missing: set[str] = set()

    def uri(self, component: Component) -> str:
        assert component.model is not None
        return component.model.storage.uri

    async def fetch(
        self,
        namespace: str,
        component: Component,
        progress: Progress,
        *,
        revision: str,
    ) -> FakeFetched:
        uri = self.uri(component)
        self.fetched.append(uri)
        found = self.by_uri.get(uri, f"sha256:{uri}")
        if isinstance(found, asyncio.Event):
            progress(1_000_000, 2_000_000, None)
            await found.wait()
            found = f"sha256:{uri}"
        if isinstance(found, PenstockError):
            raise found
        self.missing.discard(f"/models/{found}")
        self.pinned.add(revision)
        return FakeFetched(found)

    async def release(self, revision: str) -> None:
        self.pinned.discard(revision)

    async def retain(self, revisions: Iterable[str]) -> None:
        self.pinned &= set(revisions)

    def present(self, path: str) -> bool:
        return path not in self.missing
