"""What each service takes of its namespace's quotas, by its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from penstock import dialects
from penstock.domain.assembly import Assembly
from penstock.domain.quota import COUNT, Usage, added, usage
from penstock.domain.service import Service
from penstock.errors import InvalidManifest
from penstock.store.base import Object


class Usages:
    """What each service's object takes, remembered while the object means the same.

    A manifest that brings its own services (`domain.assembly`) takes what they do, from the moment it is
    admitted; the services that are made for it then take nothing more.
    """

    def __init__(self, *, runs_containers: bool) -> None:
        self._runs_containers = runs_containers
        #: By uid: what it was made from, it, and the names of the services that it brings.
        self._known: dict[str, tuple[str, Usage, frozenset[str]]] = {}

    def of(self, obj: Object) -> tuple[Usage, frozenset[str]]:
        """What a stored object takes by itself, and the names of the services that it brings."""
        uid, made_from = obj["metadata"]["uid"], mark(obj)
        known = self._known.get(uid)
        if known is None or known[0] != made_from:
            known = self._known[uid] = (made_from, *self._read(obj))
        return known[1], known[2]

    def of_new(self, obj: Object) -> Usage:
        """What an object would take."""
        return self._read(obj)[0]

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


def owners_of(obj: Object) -> Iterator[str]:
    """Uids of the objects that control one."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            yield owner.get("uid", "")


def mark(obj: Object) -> str:
    """What a service's usage depends on; a written status changes none of it."""
    meta = obj["metadata"]
    return f"{meta.get('generation')}|{meta.get('annotations')}"
