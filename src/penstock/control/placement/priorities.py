"""PriorityClasses, read once and again after one was written, and the rank they give a service."""

from __future__ import annotations

import logging

from penstock import dialects
from penstock.domain.priority import Priority, PriorityClass, Rank, resolve
from penstock.errors import InvalidManifest
from penstock.store.base import Kind, Store

log = logging.getLogger(__name__)

PRIORITY_CLASS = Kind("scheduling.k8s.io", "PriorityClass")


class Priorities:
    """Ranks by what manifests say."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._classes: dict[str, PriorityClass] | None = None
        self._changes = 0

    def changed(self) -> None:
        """A class was written or deleted: the next question reads them again."""
        self._classes = None
        self._changes += 1

    async def rank(self, asked: Priority) -> tuple[Rank, str]:
        """The rank, and a warning when its class does not exist (then it is 0)."""
        while self._classes is None:
            changes = self._changes
            classes = await self._read()
            if changes == self._changes:
                self._classes = classes
        found = resolve(asked, self._classes)
        if found is None:
            return Rank(), (
                f"priorityClassName: there is no PriorityClass {asked.class_name}, so the priority is 0"
            )
        return found, ""

    async def _read(self) -> dict[str, PriorityClass]:
        found: dict[str, PriorityClass] = {}
        for obj in (await self._store.list(PRIORITY_CLASS)).items:
            try:
                read = dialects.find(obj["apiVersion"], obj["kind"]).translate(obj).object
            except InvalidManifest as exc:
                log.warning("a PriorityClass of another release is left out: %s", exc)
                continue
            assert isinstance(read, PriorityClass)  # noqa: S101 - the kind means a class
            found[read.name] = read
        return found
