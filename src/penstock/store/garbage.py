"""What belongs to a deleted object goes too: garbage collection by ownerReferences.

The rules are Kubernetes': an object goes when it has owners and none of them exists any more, the same uid
being the same owner. An owner that is being deleted in the foreground (finalizer `foregroundDeletion`) waits
until the dependents that block it are gone; one with the finalizer `orphan` lets go of its dependents first.

The collector is told every change and keeps the graph of owners in memory, so a deletion costs what depends
on it and not a walk over the store. What it is told is a hint only: before anything is deleted its owners
are looked up, because a dependent may be seen before its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from dataclasses import dataclass, field

from penstock.errors import Conflict, NotFound, PenstockError
from penstock.store.base import Change, ChangeType, Key, Kind, Object, Store
from penstock.store.objects import key_of

log = logging.getLogger(__name__)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"

#: Seconds before a deletion that failed is tried again.
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Owner:
    uid: str
    #: As a dependent in `namespace` means it: the owner is there, or cluster-scoped.
    kind: Kind
    name: str
    blocks: bool


@dataclass(slots=True)
class _Graph:
    owners: dict[Key, tuple[_Owner, ...]] = field(default_factory=dict)
    dependents: dict[str, set[Key]] = field(default_factory=dict)

    def put(self, key: Key, owners: tuple[_Owner, ...]) -> bool:
        """Remember the owners of an object; True when they are news."""
        if self.owners.get(key, ()) == owners:
            return False
        self.remove(key)
        if owners:
            self.owners[key] = owners
            for owner in owners:
                self.dependents.setdefault(owner.uid, set()).add(key)
        return bool(owners)

    def remove(self, key: Key) -> None:
        for owner in self.owners.pop(key, ()):
            keys = self.dependents.get(owner.uid)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self.dependents[owner.uid]


class GarbageCollector:
    """Deletes what has no owner left. `load` what there is, `take` every change, `run` until cancelled."""

    def __init__(
        self,
        store: Store,
        *,
        skip: Container[Kind] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Kinds in `skip` are deleted by somebody else, in good order."""
        self._store = store
        self._skip = skip
        self._sleep = sleep
        self._graph = _Graph()
        # One entry per object at most, so bounded by the store.
        self._pending: dict[Key, None] = {}
        self._work = asyncio.Event()

    async def load(
        self, known: Iterable[Object] = (), known_kinds: Collection[Kind] = frozenset()
    ) -> None:
        """Look at everything that has owners, or that waits for its dependents to go.

        `known` are the objects of `known_kinds`, which somebody has read already.
        """
        for obj in known:
            self._begin(obj)
        for kind in await self._store.kinds():
            if kind not in self._skip and kind not in known_kinds:
                for obj in (await self._store.list(kind)).items:
                    self._begin(obj)

    def _begin(self, obj: Object) -> None:
        key = key_of(obj)
        if self._graph.put(key, _owners(obj)) or _waits_for(obj):
            self._later(key)

    def take(self, change: Change) -> None:
        """A change of the store, in order."""
        metadata = change.object["metadata"]
        if change.type is ChangeType.DELETED:
            self._graph.remove(change.key)
            self._later(*self._graph.dependents.get(metadata["uid"], ()))
            # Its going may be what an owner waits for.
            self._later(*(o for owner in _owners(change.object) for o in _keys(owner, change.key)))
            return
        if change.key.kind in self._skip:
            return
        if self._graph.put(change.key, _owners(change.object)):
            self._later(change.key)
        if "deletionTimestamp" in metadata and _waits_for(change.object):
            self._later(change.key)

    def _later(self, *keys: Key) -> None:
        for key in keys:
            self._pending[key] = None
        if keys:
            self._work.set()

    async def run(self) -> None:
        """Collect, for ever. Cancelled from outside."""
        while True:
            await self._work.wait()
            self._work.clear()
            failed: list[Key] = []
            while self._pending:
                key = next(iter(self._pending))
                del self._pending[key]
                try:
                    await self._look_at(key)
                except NotFound:
                    pass
                except Conflict:
                    # Changed meanwhile: look again.
                    self._pending[key] = None
                except PenstockError as e:
                    log.warning("garbage collection of %s failed and is tried again: %s", key, e)
                    failed.append(key)
            if failed:
                await self._sleep(RETRY_S)
                self._later(*failed)

    async def _look_at(self, key: Key) -> None:
        obj = await self._store.get(key)
        if "deletionTimestamp" in obj["metadata"]:
            if _waits_for(obj):
                await self._finish(key, obj)
            return
        owners = _owners(obj)
        if owners and not await self._any_exists(key, owners):
            log.info("%s goes: no owner of it is left", key)
            await self._store.delete(key, version=obj["metadata"]["resourceVersion"])

    async def _any_exists(self, dependent: Key, owners: tuple[_Owner, ...]) -> bool:
        for owner in owners:
            for key in _keys(owner, dependent):
                with contextlib.suppress(NotFound):
                    if (await self._store.get(key))["metadata"]["uid"] == owner.uid:
                        return True
        return False

    async def _finish(self, key: Key, obj: Object) -> None:
        """Foreground deletion or orphaning of one owner; takes its finalizer away when done."""
        uid = obj["metadata"]["uid"]
        finalizers = list(obj["metadata"].get("finalizers") or ())
        orphans = ORPHAN in finalizers
        waits = False
        for dependent in tuple(self._graph.dependents.get(uid, ())):
            with contextlib.suppress(NotFound):
                child = await self._store.get(dependent)
                references = child["metadata"].get("ownerReferences") or []
                if not any(r.get("uid") == uid for r in references):
                    continue
                if orphans:
                    await self._store.update(_without_owner(child, uid))
                    continue
                waits = waits or any(
                    r.get("uid") == uid and r.get("blockOwnerDeletion") for r in references
                )
                others = tuple(o for o in _owners(child) if o.uid != uid)
                if "deletionTimestamp" not in child["metadata"] and not (
                    others and await self._any_exists(dependent, others)
                ):
                    version = child["metadata"]["resourceVersion"]
                    gone = await self._store.delete(dependent, version=version)
                    if not gone["metadata"].get("finalizers"):
                        self._graph.remove(dependent)
        if waits:
            # The deletion of the last dependent brings us back here.
            still = [
                d
                for d in self._graph.dependents.get(uid, ())
                if any(o.uid == uid and o.blocks for o in self._graph.owners.get(d, ()))
            ]
            if still:
                return
        kept = [f for f in finalizers if f not in (FOREGROUND, ORPHAN)]
        await self._store.update({**obj, "metadata": {**obj["metadata"], "finalizers": kept}})


def _waits_for(obj: Object) -> bool:
    return any(f in (FOREGROUND, ORPHAN) for f in obj["metadata"].get("finalizers") or ())


def _owners(obj: Object) -> tuple[_Owner, ...]:
    return tuple(
        _Owner(
            uid=str(r.get("uid", "")),
            kind=Kind(str(r.get("apiVersion", "")).rpartition("/")[0], str(r.get("kind", ""))),
            name=str(r.get("name", "")),
            blocks=bool(r.get("blockOwnerDeletion")),
        )
        for r in obj["metadata"].get("ownerReferences") or ()
    )


def _keys(owner: _Owner, dependent: Key) -> tuple[Key, ...]:
    """Where an owner can be: in the dependent's namespace, or cluster-scoped."""
    here = Key(owner.kind, dependent.namespace, owner.name)
    return (here, here._replace(namespace="")) if dependent.namespace else (here,)


def _without_owner(obj: Object, uid: str) -> Object:
    references = [r for r in obj["metadata"].get("ownerReferences") or () if r.get("uid") != uid]
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": references}}
