"""Service manifests in memory, as the store's watch tells them.

Several dialects have a kind that means a service, and they share the names: `default/iris` is one service
whatever dialect it was written in. Should two manifests claim a name, the older one has it (`get`) and the
others are told so (`losers`).

After a watch broke off, lists are read while the new watch tells already, and answers to writes of our own
come at any time: what arrives is not in order. The store's versions are. A state of an object that is not
here is news only if it is younger than the last thing known for certain of its kind, which is a list, or an
end that a watch told: all that came before is here, or is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from penstock.store.base import Change, ChangeType, Kind, Object, Store

ServiceKey = tuple[str, str]


def version_of(obj: Object) -> int:
    """resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


class ManifestCache:
    """Objects of the service kinds, by (namespace, name)."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)
        self._objects: dict[ServiceKey, dict[Kind, Object]] = {}
        #: What is not here of a kind did not exist, or not any more, at this version of the store.
        self._certain: dict[Kind, int] = dict.fromkeys(self.kinds, 0)
        #: How many there are by the status of their Ready condition.
        self.ready: Counter[str] = Counter()

    async def load(self, store: Store) -> int:
        """Read everything; returns the version to watch from."""
        version: int | None = None
        for kind in self.kinds:
            listing = await store.list(kind)
            # The oldest of the lists: what changed between two of them is seen (again) by the watch.
            version = listing.version if version is None else min(version, listing.version)
            present = set()
            for obj in listing.items:
                self.put(kind, obj)
                present.add(_key(obj))
            # What is younger than the list came while it was under way.
            absent = [
                key
                for key, objects in self._objects.items()
                if key not in present
                and kind in objects
                and version_of(objects[kind]) <= listing.version
            ]
            for key in absent:
                self._drop(kind, key)
            self._certain_until(kind, listing.version)
        return version or 0

    def put(self, kind: Kind, obj: Object) -> ServiceKey:
        """A newer state of an object; an older one than is known, or of one that is gone, is passed over."""
        key = _key(obj)
        old = self._objects.get(key, {}).get(kind)
        known = self._certain[kind] + 1 if old is None else version_of(old)
        if version_of(obj) >= known:
            self._objects.setdefault(key, {})[kind] = obj
            self.ready[_ready(obj)] += 1
            if old is not None:
                self.ready[_ready(old)] -= 1
        return key

    def _certain_until(self, kind: Kind, version: int) -> None:
        self._certain[kind] = max(self._certain[kind], version)

    def wrote(self, kind: Kind, obj: Object) -> None:
        """What a write of our own came back with. The watch may have told of the object's end before that:
        then it stays forgotten.
        """
        old = self._objects.get(_key(obj), {}).get(kind)
        if old is not None and old["metadata"]["uid"] == obj["metadata"]["uid"]:
            self.put(kind, obj)

    def take(self, change: Change) -> ServiceKey | None:
        """A change from a watch; its service, if it is one of a service kind."""
        if change.key.kind not in self.kinds:
            return None
        if change.type is ChangeType.DELETED:
            key = _key(change.object)
            have = self._objects.get(key, {}).get(change.key.kind)
            if have is not None and version_of(have) <= change.version:
                self._drop(change.key.kind, key)
            # A watch has told of all that there is before it tells of an end.
            self._certain_until(change.key.kind, change.version)
            return key
        return self.put(change.key.kind, change.object)

    def _drop(self, kind: Kind, key: ServiceKey) -> None:
        objects = self._objects[key]
        gone = objects.pop(kind, None)
        if gone is not None:
            self.ready[_ready(gone)] -= 1
        if not objects:
            del self._objects[key]

    def get(self, key: ServiceKey) -> tuple[Kind, Object] | None:
        """The object that has the name."""
        claims = self._claims(key)
        return claims[0] if claims else None

    def losers(self, key: ServiceKey) -> list[tuple[Kind, Object]]:
        """Objects that claim a name which an older object has."""
        return self._claims(key)[1:]

    def _claims(self, key: ServiceKey) -> list[tuple[Kind, Object]]:
        objects = self._objects.get(key)
        if not objects:
            return []
        if len(objects) == 1:
            return list(objects.items())

        def age(claim: tuple[Kind, Object]) -> tuple[Any, ...]:
            kind, obj = claim
            return (obj["metadata"].get("creationTimestamp", ""), kind)

        return sorted(objects.items(), key=age)

    def names(self) -> set[ServiceKey]:
        return set(self._objects)

    def all(self) -> Iterable[tuple[Kind, Object]]:
        """Every object of every service kind."""
        for objects in self._objects.values():
            yield from objects.items()

    def __len__(self) -> int:
        return len(self._objects)


def _ready(obj: Object) -> str:
    """The status of the Ready condition: True, False or Unknown."""
    status = obj.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            return str(condition.get("status", "Unknown"))
    return "Unknown"


def _key(obj: Object) -> ServiceKey:
    meta = obj["metadata"]
    return (meta.get("namespace", ""), meta["name"])
