"""What services take of their namespaces' quotas, and the quotas' status that says so.

Admission (`api.quota`) holds the sums; here `status.used` and `status.hard` are kept right after whatever
changed: a service or a quota was written or deleted, also while no control plane ran. Namespaces without a
quota cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from penstock import dialects
from penstock.control.clock import Clock
from penstock.control.loop import Loop
from penstock.control.manifests import ManifestCache
from penstock.control.placement.quota_sums import QuotaSums
from penstock.control.placement.usages import Usages
from penstock.domain.quantity import format_quantity
from penstock.domain.quota import Quota, canonical
from penstock.errors import NotFound
from penstock.store.base import Change, ChangeType, Kind, Object, Store

QUOTA = Kind("", "ResourceQuota")
#: Longest wait for the store to tell of what was written.
CATCH_UP_S: Final = 1.0


def quota_of(obj: Object) -> Quota:
    """The quota of a ResourceQuota object."""
    quota = dialects.find(obj["apiVersion"], obj["kind"]).translate(obj).object
    assert isinstance(quota, Quota)  # noqa: S101 - the kind means a quota
    return quota


def status_of(obj: Object, taken: Mapping[str, Fraction]) -> dict[str, Any]:
    """The status of a ResourceQuota whose namespace's services take `taken` together."""
    hard = quota_of(obj).hard
    used = {}
    for resource in hard:
        name = canonical(resource)
        used[resource] = format_quantity(taken.get(name, Fraction(0)) if name else Fraction(0))
    return {"hard": {r: format_quantity(n) for r, n in hard.items()}, "used": used}


class QuotaKeeper:
    """Keeps the sums and writes the status of quotas. `load` before changes are told."""

    def __init__(
        self, store: Store, manifests: ManifestCache, *, clock: Clock, runs_containers: bool
    ) -> None:
        self._store = store
        self._manifests = manifests
        self.usages = Usages(runs_containers=runs_containers)
        self.sums = QuotaSums(self.usages)
        self.loop: Loop[str] = Loop(self._look, clock=clock, concurrency=1)
        #: Version of the store up to which all is in the sums; None while nobody can tell.
        self._position: int | None = None
        self._seen = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def load(self, version: int) -> None:
        """Find the quotas there are, and bring each in step; the cache has all up to `version`."""
        listing = await self._store.list(QUOTA)
        namespaces = {o["metadata"]["namespace"] for o in listing.items}
        objects: dict[str, list[Object]] = {namespace: [] for namespace in namespaces}
        for _, obj in self._manifests.all():
            if (there := objects.get(obj["metadata"].get("namespace", ""))) is not None:
                there.append(obj)
        self.sums = QuotaSums(self.usages)
        for namespace, there in objects.items():
            self.sums.open(namespace, there)
            self.loop.enqueue(namespace)
        self._position = max(version, self._seen)
        self._tell()

    def lost(self) -> None:
        """Changes were missed: `load` comes."""
        self._position = None

    async def caught_up(self, namespace: str, version: int) -> bool:
        """Whether the sums of a namespace with quotas have all that was written up to `version`.

        The store tells of it a moment after a write came back, which this waits for.
        """
        if self._position is not None and self._position < version:
            told = asyncio.get_running_loop().create_future()
            self._waiting.append((version, told))
            try:
                async with asyncio.timeout(CATCH_UP_S):
                    await told
            except TimeoutError:
                return False
            finally:
                self._waiting = [w for w in self._waiting if w[1] is not told]
        return self._position is not None and self._position >= version and namespace in self.sums

    def take(self, change: Change) -> None:
        """Something in the store changed, and the cache of manifests knows it."""
        self._take(change)
        self._seen = max(self._seen, change.version)
        if self._position is not None:
            self._position = max(self._position, change.version)
            self._tell()

    def _take(self, change: Change) -> None:
        namespace = change.key.namespace
        if change.key.kind == QUOTA:
            self._open(namespace)
            self.loop.enqueue(namespace)
        elif change.key.kind not in self._manifests.kinds:
            return
        elif change.type is ChangeType.DELETED:
            uid = change.object["metadata"]["uid"]
            self.usages.forget(uid)
            self.sums.drop(namespace, uid)
            if namespace in self.sums:
                self.loop.enqueue(namespace)
        elif self.sums.put(namespace, change.object):
            self.loop.enqueue(namespace)

    def _tell(self) -> None:
        for version, told in self._waiting:
            if self._position is not None and self._position >= version and not told.done():
                told.set_result(None)

    def _open(self, namespace: str) -> None:
        if namespace not in self.sums:
            every = (obj for _, obj in self._manifests.all())
            self.sums.open(
                namespace, (o for o in every if o["metadata"].get("namespace", "") == namespace)
            )

    async def _look(self, namespace: str) -> None:
        quotas = (await self._store.list(QUOTA, namespace=namespace)).items
        if not quotas:
            # Should one come now, its change opens the namespace again.
            self.sums.close(namespace)
            return
        self._open(namespace)
        for quota in quotas:
            status = status_of(quota, self.sums.total(namespace))
            if status != quota.get("status"):
                try:
                    await self._store.update_status({**quota, "status": status})
                except NotFound:
                    continue  # deleted meanwhile

    async def close(self) -> None:
        await self.loop.close()
