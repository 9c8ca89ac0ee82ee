"""What services take of their namespaces' quotas, and the quotas' status that says so.

Admission (`api.quota`) holds the sums; here `status.used` and `status.hard` are kept right after whatever
changed: a service or a quota was written or deleted, also while no control plane ran. Namespaces without a
quota cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from penstock import dialects
from penstock.control.clock import Clock
from penstock.control.loop import Loop
from penstock.control.manifests import ManifestCache
from penstock.domain.quantity import format_quantity
from penstock.domain.quota import Quota, canonical, usage
from penstock.domain.service import Service
from penstock.errors import InvalidManifest, NotFound
from penstock.store.base import Change, ChangeType, Kind, Object, Store

QUOTA = Kind("", "ResourceQuota")

Usage = Mapping[str, Fraction | None]


class Usages:
    """What each service's object takes, remembered while the object means the same."""

    def __init__(self, *, runs_containers: bool) -> None:
        self._runs_containers = runs_containers
        #: By uid: what it was made from, and it.
        self._known: dict[str, tuple[str, Usage]] = {}

    def of(self, obj: Object) -> Usage:
        """What a stored object takes."""
        uid, made_from = obj["metadata"]["uid"], mark(obj)
        known = self._known.get(uid)
        if known is None or known[0] != made_from:
            known = self._known[uid] = (made_from, self.of_new(obj))
        return known[1]

    def of_new(self, obj: Object) -> Usage:
        """What an object would take."""
        dialect = dialects.find(obj["apiVersion"], obj["kind"])
        try:
            service = dialect.translate(obj, runs_containers=self._runs_containers).object
        except InvalidManifest:
            return {}  # stored by another release; nothing of it runs
        if not isinstance(service, Service):
            return {}
        return usage(service, f"{dialect.plural}.{dialect.group}")

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)


def mark(obj: Object) -> str:
    """What a service's usage depends on; a written status changes none of it."""
    meta = obj["metadata"]
    return f"{meta.get('generation')}|{meta.get('annotations')}"


def quota_of(obj: Object) -> Quota:
    """The quota of a ResourceQuota object."""
    quota = dialects.find(obj["apiVersion"], obj["kind"]).translate(obj).object
    assert isinstance(quota, Quota)  # noqa: S101 - the kind means a quota
    return quota


def status_of(obj: Object, taken: list[Usage]) -> dict[str, Any]:
    """The status of a ResourceQuota whose namespace's services take `taken`."""
    hard = quota_of(obj).hard
    used = {}
    for resource in hard:
        name = canonical(resource)
        sums = (u.get(name) or Fraction(0) for u in taken) if name is not None else ()
        used[resource] = format_quantity(sum(sums, Fraction(0)))
    return {"hard": {r: format_quantity(n) for r, n in hard.items()}, "used": used}


class QuotaKeeper:
    """Writes the status of quotas. `load` before changes are told."""

    def __init__(
        self, store: Store, manifests: ManifestCache, *, clock: Clock, runs_containers: bool
    ) -> None:
        self._store = store
        self._manifests = manifests
        self.usages = Usages(runs_containers=runs_containers)
        self.loop: Loop[str] = Loop(self._look, clock=clock, concurrency=1)
        self._namespaces: set[str] = set()
        #: What the services of those namespaces meant when they were last looked at, by uid.
        self._marks: dict[str, str] = {}

    async def load(self) -> None:
        """Find the quotas there are, and bring each in step."""
        listing = await self._store.list(QUOTA)
        self._namespaces = {o["metadata"]["namespace"] for o in listing.items}
        for namespace in self._namespaces:
            self.loop.enqueue(namespace)

    def take(self, change: Change) -> None:
        """Something in the store changed, and the cache of manifests knows it."""
        namespace = change.key.namespace
        if change.key.kind == QUOTA:
            self._namespaces.add(namespace)
        elif change.key.kind not in self._manifests.kinds:
            return
        elif change.type is ChangeType.DELETED:
            uid = change.object["metadata"]["uid"]
            self.usages.forget(uid)
            self._marks.pop(uid, None)
        elif namespace in self._namespaces:
            uid, means = change.object["metadata"]["uid"], mark(change.object)
            if self._marks.get(uid) == means:
                return
            self._marks[uid] = means
        if namespace in self._namespaces:
            self.loop.enqueue(namespace)

    async def _look(self, namespace: str) -> None:
        quotas = (await self._store.list(QUOTA, namespace=namespace)).items
        if not quotas:
            self._namespaces.discard(namespace)
            return
        taken = [
            self.usages.of(obj)
            for _, obj in self._manifests.all()
            if obj["metadata"].get("namespace", "") == namespace
        ]
        for quota in quotas:
            status = status_of(quota, taken)
            if status != quota.get("status"):
                try:
                    await self._store.update_status({**quota, "status": status})
                except NotFound:
                    continue  # deleted meanwhile

    async def close(self) -> None:
        await self.loop.close()
