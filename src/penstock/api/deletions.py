"""Deletion of one object or of many, as the options say: who goes with it, in which order, or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api.kinds import Resource, resources
from penstock.api.objects import NAMESPACE, TRIES, Objects, key
from penstock.api.redaction import redact
from penstock.api.selections import Selection
from penstock.api.wire import ApiError, missing, success
from penstock.api.write_options import is_dry
from penstock.errors import Conflict, Forbidden, InvalidInput, NotFound
from penstock.store.base import Object, Store
from penstock.store.garbage import FOREGROUND, ORPHAN
from penstock.store.objects import key_of

#: Namespaces that cannot be deleted.
KEPT_NAMESPACES = frozenset({"default"})
#: Finalizers by which the garbage collector knows what becomes of dependents.
_FINALIZERS = {"Foreground": FOREGROUND, "Orphan": ORPHAN, "Background": None}


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Kubernetes' DeleteOptions. A grace period has no effect: replicas are drained as their service says."""

    dry_run: bool = False
    finalizer: str | None = None
    preconditions: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, query: Mapping[str, str], body: Mapping[str, Any]) -> DeleteOptions:
        """From the query and the body of a DELETE, the body before the query. InvalidInput."""
        if body.get("kind", "DeleteOptions") != "DeleteOptions":
            raise InvalidInput(f"The body of a DELETE is DeleteOptions, not {body['kind']!r}.")
        dry = body.get("dryRun") or []
        if not isinstance(dry, list) or any(d != "All" for d in dry):
            raise InvalidInput(f"dryRun is {dry!r}; only All is possible.")
        preconditions = body.get("preconditions")
        if preconditions is not None and not isinstance(preconditions, Mapping):
            raise InvalidInput("preconditions must be a map.")
        return cls(
            bool(dry) or is_dry(query),
            _finalizer(
                body.get("propagationPolicy") or query.get("propagationPolicy") or None,
                body.get("orphanDependents", query.get("orphanDependents")),
            ),
            preconditions,
        )


def _finalizer(policy: Any, orphans: Any) -> str | None:
    if policy is None:
        return ORPHAN if orphans in (True, "true", "1") else None
    if not isinstance(policy, str) or policy not in _FINALIZERS:
        raise InvalidInput(
            f"propagationPolicy {policy!r} is none of Foreground, Background, Orphan."
        )
    return _FINALIZERS[policy]


class Deletions:
    """The verbs `delete` and `deletecollection`."""

    def __init__(self, objects: Objects, store: Store) -> None:
        self._objects = objects
        self._store = store

    async def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions
    ) -> dict[str, Any]:
        """The `Status` of success, or the object while finalizers hold it."""
        if resource.dialect is None:
            raise ApiError(
                405, f"{resource.plural} are made by the platform and cannot be deleted."
            )
        stored = await self._objects.stored(resource, namespace, name)
        meta = stored["metadata"]
        wanted = options.preconditions or {}
        for field in ("uid", "resourceVersion"):
            if wanted.get(field) not in (None, meta.get(field)):
                raise ApiError(409, f"{field} is {meta.get(field)!r}, not {wanted[field]!r}.")
        if resource.stored == NAMESPACE and name in KEPT_NAMESPACES:
            raise Forbidden(f"The namespace {name} cannot be deleted.")
        if options.dry_run:
            return success(name, resource.group, resource.plural, meta.get("uid", ""))
        if resource.stored == NAMESPACE:
            await self._empty_namespace(name)
        try:
            version = meta["resourceVersion"] if wanted.get("resourceVersion") else None
            if options.finalizer is not None:
                await self._hold(stored, options.finalizer)
                version = None
            gone = await self._store.delete(key(resource, namespace, name), version=version)
        except NotFound:
            raise missing(resource, namespace, name) from None
        if gone["metadata"].get("finalizers"):
            return redact(gone, resource.dialect)
        return success(name, resource.group, resource.plural, meta.get("uid", ""))

    async def _hold(self, stored: Object, finalizer: str) -> None:
        """Give an object a finalizer, whoever writes its status meanwhile."""
        for left in reversed(range(TRIES)):
            meta = stored["metadata"]
            kept = [*(meta.get("finalizers") or ()), finalizer]
            if finalizer in kept[:-1] or meta.get("deletionTimestamp"):
                return
            try:
                await self._store.update({**stored, "metadata": {**meta, "finalizers": kept}})
            except Conflict:
                if not left:
                    raise
                stored = await self._store.get(key_of(stored))
            else:
                return

    async def delete_many(
        self,
        resource: Resource,
        namespace: str | None,
        selection: Selection,
        options: DeleteOptions,
    ) -> dict[str, Any]:
        """Delete what a listing would show; answers that list."""
        listed = await self._objects.list(resource, namespace, selection)
        for obj in listed["items"]:
            meta = obj["metadata"]
            try:
                await self.delete(resource, meta.get("namespace", ""), meta["name"], options)
            except NotFound:
                continue
        return listed

    async def _empty_namespace(self, name: str) -> None:
        everything = Selection()
        for resource in resources():
            if resource.namespaced and resource.dialect is not None:
                await self.delete_many(resource, name, everything, DeleteOptions())
