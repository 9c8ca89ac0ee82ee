"""What services take of their namespaces' quotas, and the quotas' status that says so.

Admission (`api.quota`) holds the sums; here `status.used` and `status.hard` are kept right after whatever
changed: a service or a quota was written or deleted, also while no control plane ran. Namespaces without a
quota cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from penstock import dialects
from penstock.control.clock import Clock
from penstock.control.loop import Loop
from penstock.control.manifests import ManifestCache
from penstock.domain.assembly import Assembly
from penstock.domain.quantity import format_quantity
from penstock.domain.quota import COUNT, Quota, added, canonical, usage
from penstock.domain.service import Service
from penstock.errors import InvalidManifest, NotFound
from penstock.store.base import Change, ChangeType, Kind, Object, Store

QUOTA = Kind("", "ResourceQuota")

Usage = Mapping[str, Fraction | None]


class Usages:
    """What each service's object takes, remembered while the object means the same.

    A manifest that brings its own services (`domain.assembly`) takes what they do, from the moment it is
    admitted; the services that are made for it then take nothing more.
    """

    def __init__(self, *, runs_containers: bool) -> None:
        self._runs_containers = runs_containers
        #: By uid: what it was made from, it, and the names of the services that it brings.
        self._known: dict[str, tuple[str, Usage, frozenset[str]]] = {}

    def of(self, obj: Object) -> Usage:
        """What a stored object takes by itself."""
        return self._look(obj)[1]

    def of_new(self, obj: Object) -> Usage:
        """What an object would take."""
        return self._read(obj)[0]

    def of_all(
        self, objects: Iterable[Object], *, new: Object | None = None, uid: str | None = None
    ) -> list[Usage] | None:
        """What a namespace's objects take, but for the one with that uid, in whose place `new` comes.

        None where `new` is a part of another one, which takes it already.
        """
        looked = [(obj, self._look(obj)) for obj in objects]
        brings = {obj["metadata"]["uid"]: names for obj, (_, _, names) in looked if names}
        if brings and new is not None and _is_part(new, brings):
            return None
        return [
            usage
            for obj, (_, usage, _) in looked
            if obj["metadata"]["uid"] != uid and not (brings and _is_part(obj, brings))
        ]

    def _look(self, obj: Object) -> tuple[str, Usage, frozenset[str]]:
        uid, made_from = obj["metadata"]["uid"], mark(obj)
        known = self._known.get(uid)
        if known is None or known[0] != made_from:
            known = self._known[uid] = (made_from, *self._read(obj))
        return known

    def _read(self, obj: Object) -> tuple[Usage, frozenset[str]]:
        dialect = dialects.find(obj["apiVersion"], obj["kind"])
        kind = f"{dialect.plural}.{dialect.group}"
        try:
            means = dialect.translate(obj, runs_containers=self._runs_containers).object
            if isinstance(means, Service):
                return usage(means, kind), frozenset()
            if isinstance(means, Assembly):
                parts = [self._read(dict(part))[0] for part in means.parts]
                names = frozenset(part["metadata"]["name"] for part in means.parts)
                return added([*parts, {COUNT + kind: Fraction(1)}]), names
        except InvalidManifest:
            return {}, frozenset()  # stored by another release; nothing of it runs
        return {COUNT + kind: Fraction(1)}, frozenset()

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)


def _is_part(obj: Object, brings: Mapping[str, frozenset[str]]) -> bool:
    """Whether an object is one of the services that another one brings."""
    meta = obj["metadata"]
    owners = meta.get("ownerReferences")
    return bool(owners) and any(
        meta.get("name") in brings.get(o.get("uid", ""), ()) for o in owners if o.get("controller")
    )


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
        taken = self.usages.of_all(
            obj
            for _, obj in self._manifests.all()
            if obj["metadata"].get("namespace", "") == namespace
        )
        assert taken is not None  # noqa: S101 - there is nothing new
        for quota in quotas:
            status = status_of(quota, taken)
            if status != quota.get("status"):
                try:
                    await self._store.update_status({**quota, "status": status})
                except NotFound:
                    continue  # deleted meanwhile

    async def close(self) -> None:
        await self.loop.close()
