"""The replicas as the backend last reported them, in memory, by service.

Fed by the backend's watch. A watch that was broken off may have missed an end, so the list is compared
after each opening and now and then (`resync`). Until the first list was read nothing may be decided from
this cache (`synced`): an empty cache would look like replicas that are all gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import MappingProxyType

from penstock.backends.base import Backend, ReplicaGone, ReplicaStatus
from penstock.control.clock import Clock
from penstock.control.feeds import follow
from penstock.errors import Unavailable

RESYNC_S = 30.0
_NOTHING: MappingProxyType[str, ReplicaStatus] = MappingProxyType({})

ServiceKey = tuple[str, str]
#: Called with what was known (None: nothing) and what is so now (None: gone).
OnChange = Callable[[ReplicaStatus | None, ReplicaStatus | None], None]


class ReplicaCache:
    """Replica statuses by service."""

    def __init__(self, backend: Backend, on_change: OnChange, *, clock: Clock) -> None:
        self._backend = backend
        self._on_change = on_change
        self._clock = clock
        self._by_id: dict[str, ReplicaStatus] = {}
        self._by_service: dict[ServiceKey, dict[str, ReplicaStatus]] = {}
        #: Counts changes, so that a list that was overtaken by the watch removes nothing.
        self._touched: dict[str, int] = {}
        self._moment = 0
        self.synced = False

    def of(self, key: ServiceKey) -> tuple[ReplicaStatus, ...]:
        """Replicas of a service, by id."""
        return tuple(r for _, r in sorted(self._by_service.get(key, _NOTHING).items()))

    def get(self, replica_id: str) -> ReplicaStatus | None:
        return self._by_id.get(replica_id)

    def all(self) -> Iterable[ReplicaStatus]:
        return self._by_id.values()

    def services(self) -> set[ServiceKey]:
        """Services that have a replica."""
        return set(self._by_service)

    def put(self, status: ReplicaStatus) -> None:
        """What the backend says about one replica."""
        old = self._by_id.get(status.id)
        self._moment += 1
        self._touched[status.id] = self._moment
        if old == status:
            return
        self._by_id[status.id] = status
        self._by_service.setdefault((status.namespace, status.service), {})[status.id] = status
        self._on_change(old, status)

    def started(self, status: ReplicaStatus) -> None:
        """What the backend answered to a start. What its watch said of the replica since is newer."""
        if status.id not in self._by_id:
            self.put(status)

    def drop(self, replica_id: str) -> None:
        """The backend forgot a replica. No-op when absent."""
        old = self._by_id.pop(replica_id, None)
        self._touched.pop(replica_id, None)
        if old is None:
            return
        key = (old.namespace, old.service)
        of_service = self._by_service[key]
        del of_service[replica_id]
        if not of_service:
            del self._by_service[key]
        self._on_change(old, None)

    async def resync(self) -> None:
        """Compare with the backend's list. Raises Unavailable."""
        before = self._moment
        listed = await self._backend.list()
        for status in listed:
            if self._touched.get(status.id, 0) <= before:
                self.put(status)
        names = {s.id for s in listed}
        for replica_id in [
            i for i in self._by_id if i not in names and self._touched.get(i, 0) <= before
        ]:
            self.drop(replica_id)
        self.synced = True

    async def run(self) -> None:
        """Follow the backend, for ever. Cancelled from outside."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                follow("replicas", self._backend.watch, self._heard, clock=self._clock)
            )
            tasks.create_task(self._resync_now_and_then())

    def _heard(self, item: ReplicaStatus | ReplicaGone) -> None:
        if isinstance(item, ReplicaGone):
            self.drop(item.id)
        else:
            self.put(item)

    async def _resync_now_and_then(self) -> None:
        while True:
            try:
                await self.resync()
            except Unavailable:
                await self._clock.sleep(1.0)
            else:
                await self._clock.sleep(RESYNC_S)
