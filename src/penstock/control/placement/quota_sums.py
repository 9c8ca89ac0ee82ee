"""What the services of a namespace take together, kept while they change.

A namespace of a thousand services and a quota would be listed and summed for each service that is applied;
here a change costs what changed. Amounts are exact fractions, so sums do not drift. Only namespaces with a
quota have one.

A manifest that brings its own services (`domain.assembly`) takes what they do, and they nothing more: which
services are parts of which is found out anew when such a manifest changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from penstock.control.placement.usages import Usages, owners_of
from penstock.domain.quota import Usage
from penstock.store.base import Object


@dataclass(frozen=True, slots=True)
class _Entry:
    """One service's object, by its newest version."""

    version: int
    usage: Usage
    #: Names of the services that it brings.
    brings: frozenset[str]
    name: str
    #: Uids of the objects that control it.
    owners: frozenset[str]
    #: It is no part of another one.
    counts: bool = True


@dataclass(slots=True)
class _Namespace:
    entries: dict[str, _Entry] = field(default_factory=dict)
    #: Of the entries that count, by uid: which services they bring.
    brings: dict[str, frozenset[str]] = field(default_factory=dict)
    total: dict[str, Fraction] = field(default_factory=dict)

    def add(self, usage: Usage, sign: int) -> None:
        for name, amount in usage.items():
            if amount:
                self.total[name] = self.total.get(name, Fraction(0)) + sign * amount

    def is_part(self, name: str, owners: Iterable[str]) -> bool:
        return any(name in self.brings.get(owner, ()) for owner in owners)

    def sum_up(self) -> None:
        """Find out anew who brings whom, and add up."""
        self.brings = {uid: e.brings for uid, e in self.entries.items() if e.brings}
        self.total = {}
        for uid, e in self.entries.items():
            self.entries[uid] = e = replace(e, counts=not self.is_part(e.name, e.owners))
            if e.counts:
                self.add(e.usage, 1)


class QuotaSums:
    """Sums by namespace, of those that were opened."""

    def __init__(self, usages: Usages) -> None:
        self._usages = usages
        self._namespaces: dict[str, _Namespace] = {}

    def __contains__(self, namespace: str) -> bool:
        return namespace in self._namespaces

    def open(self, namespace: str, objects: Iterable[Object]) -> None:
        """Sum up a namespace that has these objects, all that it has."""
        made = self._namespaces[namespace] = _Namespace()
        for obj in objects:
            made.entries[obj["metadata"]["uid"]] = self._entry(obj)
        made.sum_up()

    def close(self, namespace: str) -> None:
        self._namespaces.pop(namespace, None)

    def put(self, namespace: str, obj: Object) -> bool:
        """A newer state of an object, an older one is passed over; whether a sum may be another now."""
        sums = self._namespaces.get(namespace)
        if sums is None:
            return False
        uid = obj["metadata"]["uid"]
        new, old = self._entry(obj), sums.entries.get(uid)
        if old is not None and new.version < old.version:
            return False
        if old is not None and old.usage is new.usage and old.owners == new.owners:
            sums.entries[uid] = replace(old, version=new.version)
            return False
        if new.brings or (old is not None and old.brings):
            sums.entries[uid] = new
            sums.sum_up()
            return True
        if old is not None and old.counts:
            sums.add(old.usage, -1)
        new = replace(new, counts=not sums.is_part(new.name, new.owners))
        if new.counts:
            sums.add(new.usage, 1)
        sums.entries[uid] = new
        return True

    def drop(self, namespace: str, uid: str) -> None:
        """The object is gone. No-op when it was not there."""
        sums = self._namespaces.get(namespace)
        gone = sums.entries.pop(uid, None) if sums is not None else None
        if sums is None or gone is None:
            return
        if gone.brings:
            sums.sum_up()
        elif gone.counts:
            sums.add(gone.usage, -1)

    def total(self, namespace: str) -> Mapping[str, Fraction]:
        """What an open namespace's services take together."""
        return self._namespaces[namespace].total

    def beside(self, namespace: str, new: Object, uid: str | None) -> Usage | None:
        """What those of an open namespace take in which `new` comes in place of the object `uid`, but for it.

        None where `new` is a part of another one, which takes it already.
        """
        sums = self._namespaces[namespace]
        if sums.is_part(new["metadata"].get("name", ""), owners_of(new)):
            return None
        own = sums.entries.get(uid) if uid is not None else None
        if own is None or not own.counts:
            return sums.total
        return {n: v - (own.usage.get(n) or 0) for n, v in sums.total.items()}

    def _entry(self, obj: Object) -> _Entry:
        meta = obj["metadata"]
        usage, brings = self._usages.of(obj)
        return _Entry(
            int(meta["resourceVersion"]), usage, brings, meta["name"], frozenset(owners_of(obj))
        )
