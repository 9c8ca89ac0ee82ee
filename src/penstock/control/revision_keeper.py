"""Revisions of all services: read once, then kept in step with the store by the only one who writes them.

Reading them per service would cost a pass over all revisions for each service at start. What is read is made
sense of when its service is first looked at: a request that waits for one of ten thousand services does not
wait for all of their revisions. The files of each revision are pinned as long as it exists, and released with
it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from penstock.control.models.fetches import ModelFiles
from penstock.control.revisions import (
    REVISION,
    SERVICE_LABEL,
    Kept,
    from_object,
    key_of,
    revision_status,
    superfluous,
    to_object,
)
from penstock.domain.service import Service
from penstock.errors import Internal, NotFound
from penstock.store.base import Object, Store

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]


class RevisionKeeper:
    """What revisions there are. `load` before anything else."""

    def __init__(self, store: Store, files: ModelFiles) -> None:
        self._store = store
        self._files = files
        #: By service and revision name: the uid of the service it belongs to, and the revision.
        self._known: dict[ServiceKey, dict[str, tuple[str, Kept]]] = {}
        #: Objects that were read and not yet made sense of, in the same way.
        self._unread: dict[ServiceKey, dict[str, tuple[str, Object]]] = {}

    async def load(self) -> None:
        """Read all, and let go of files that none of them needs."""
        for obj in (await self._store.list(REVISION)).items:
            meta = obj["metadata"]
            service = (meta.get("labels") or {}).get(SERVICE_LABEL, "")
            owners = meta.get("ownerReferences") or [{}]
            of_service = self._unread.setdefault((meta["namespace"], service), {})
            of_service[meta["name"]] = (str(owners[0].get("uid", "")), obj)
        await self._files.retain(
            owner_of(key, name, uid)
            for key, revisions in self._unread.items()
            for name, (uid, _) in revisions.items()
        )

    def _read(self, key: ServiceKey) -> None:
        """Make sense of what was read of a service."""
        for name, (uid, obj) in self._unread.pop(key, {}).items():
            try:
                kept = from_object(obj)
            except Internal as exc:
                # Of a newer release, perhaps. It is left alone; the service makes another one.
                log.error("%s", exc)
                continue
            self._known.setdefault(key, {})[name] = (uid, kept)

    def services(self) -> set[ServiceKey]:
        """Services that have a revision, whether they exist or not."""
        return self._known.keys() | self._unread.keys()

    def of(self, key: ServiceKey, uid: str) -> tuple[Kept, ...]:
        """Revisions of the service with that uid, of all its workloads, oldest first."""
        self._read(key)
        found = (kept for owner, kept in self._known.get(key, {}).values() if owner == uid)
        return tuple(sorted(found, key=lambda k: k.number))

    def taken(self, key: ServiceKey, name: str) -> bool:
        """Another service has a revision of that name: `iris-v2` beside `iris` with a canary `v2`."""
        base = name.rpartition("-")[0]
        return any(
            name in self._known.get((key[0], other), ())
            or name in self._unread.get((key[0], other), ())
            for other in _prefixes(base)
            if other != key[1]
        )

    async def add(self, key: ServiceKey, kept: Kept, service: Service, manifest: Object) -> None:
        """Keep a new revision, whose files were fetched under its `owner_of` name."""
        uid = manifest["metadata"]["uid"]
        self._read(key)
        await self._store.create(to_object(kept, service, manifest))
        self._known.setdefault(key, {})[kept.name] = (uid, kept)

    async def change(self, key: ServiceKey, kept: Kept) -> None:
        """Write down what became of a revision that is known."""
        uid, old = self._known[key][kept.name]
        if kept == old:
            return
        obj = await self._store.get(key_of(key[0], kept.name))
        await self._store.update_status({**obj, "status": revision_status(kept)})
        self._known[key][kept.name] = (uid, kept)

    async def prune(self, key: ServiceKey, uid: str, in_use: frozenset[str]) -> None:
        """Forget old revisions beyond those that are kept for history."""
        await self._delete(key, [k.name for k in superfluous(self.of(key, uid), in_use)])

    async def delete_others(self, key: ServiceKey, uid: str | None) -> None:
        """Forget those of services of that name with another uid; all of them with None."""
        self._read(key)
        known = self._known.get(key, {})
        await self._delete(key, [name for name, (owner, _) in known.items() if owner != uid])

    async def _delete(self, key: ServiceKey, names: Iterable[str]) -> None:
        known = self._known.get(key, {})
        for name in names:
            uid, _ = known[name]
            try:
                await self._store.delete(key_of(key[0], name))
            except NotFound:
                pass
            await self._files.release(owner_of(key, name, uid))
            del known[name]
        if not known:
            self._known.pop(key, None)


def owner_of(key: ServiceKey, name: str, uid: str) -> str:
    """The name that a revision's files are kept under."""
    return f"{key[0]}/{name}/{uid}"


def _prefixes(base: str) -> Iterable[str]:
    """Services that could have revisions named after `base`: itself, and what stands before each dash."""
    yield base
    at = base.rfind("-")
    while at > 0:
        yield base[:at]
        at = base.rfind("-", 0, at)
