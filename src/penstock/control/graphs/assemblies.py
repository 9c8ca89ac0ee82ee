"""Services that are made for a graph which brings its own (`domain.assembly`), or for a service's predictors.

Each is an object of the store like any other, owned by the graph's manifest: its controller starts what
runs it, and it goes with its owner (`store.garbage`). This makes them as the manifest wants them, and removes
those that it names no more. All steps are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.control.manifests import ManifestCache, ServiceKey
from penstock.domain.assembly import Assembly
from penstock.domain.service import Service
from penstock.errors import Conflict, NotFound
from penstock.store.base import Key, Kind, Object, Store

#: What parts are.
PART = Kind("penstock.dev", "InferenceService")


class Assemblies:
    """Makes and removes parts. `make` and `leave` belong to one look at a time of a manifest."""

    def __init__(self, store: Store, manifests: ManifestCache) -> None:
        self._store = store
        self._manifests = manifests
        #: Owner's uid -> its parts; None until somebody asked.
        self._parts: dict[str, set[ServiceKey]] | None = None

    async def make(self, manifest: Object, assembly: Assembly | Service) -> list[str]:
        """Bring the store to what the assembly wants; what could not be done, one line each."""
        owner = manifest["metadata"]
        if not assembly.parts and owner["uid"] not in self._known():
            return []
        reference = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "name": owner["name"],
            "uid": owner["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        problems = []
        wanted: set[ServiceKey] = set()
        for part in assembly.parts:
            key = (assembly.namespace, part["metadata"]["name"])
            wanted.add(key)
            made = {
                **part,
                "metadata": {
                    **part["metadata"],
                    "namespace": assembly.namespace,
                    "ownerReferences": [reference],
                },
            }
            if not await self._put(key, made, owner["uid"]):
                problems.append(f"{key[1]} is another object's name; rename that one")
        known = self._known().setdefault(owner["uid"], set())
        for key in known - wanted:
            await self._remove(key)
        known.clear()
        known.update(wanted)
        if not known:
            del self._known()[owner["uid"]]
        return problems

    async def _put(self, key: ServiceKey, wanted: Mapping[str, Any], uid: str) -> bool:
        """Create or update a part; False where the name is somebody else's."""
        found = self._manifests.get(key)
        if found is None:
            try:
                made = await self._store.create(dict(wanted))
            except Conflict:
                made = await self._store.get(Key(PART, *key))
                if _owner(made) != uid:
                    return False
            self._manifests.put(PART, made)
            return True
        kind, have = found
        if kind != PART or _owner(have) != uid:
            return False
        meta = have["metadata"]
        if have.get("spec") == wanted["spec"] and all(
            meta.get(field) == wanted["metadata"].get(field) for field in ("labels", "annotations")
        ):
            return True
        kept = {k: v for k, v in meta.items() if k not in ("labels", "annotations")}
        changed = {**have, "spec": wanted["spec"], "metadata": {**kept, **wanted["metadata"]}}
        self._manifests.wrote(PART, await self._store.update(changed))
        return True

    async def _remove(self, key: ServiceKey) -> None:
        try:
            await self._store.delete(Key(PART, *key))
        except NotFound:
            pass  # somebody was quicker

    def _known(self) -> dict[str, set[ServiceKey]]:
        """Parts by their owners: read once, then kept by who makes them."""
        if self._parts is None:
            self._parts = {}
            for kind, obj in self._manifests.all():
                uid = _owner(obj) if kind == PART else ""
                if uid:
                    meta = obj["metadata"]
                    self._parts.setdefault(uid, set()).add((meta["namespace"], meta["name"]))
        return self._parts


def _owner(obj: Object) -> str:
    """The uid of the manifest that an object is a part of; empty for what is none."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""
