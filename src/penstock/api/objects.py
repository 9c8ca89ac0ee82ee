"""Create, read, replace, patch, apply and delete, over the store.

Each function is one verb on one resource; `routes` finds it by path and method. Reads answer what is stored
(secrets redacted); writes go through `admission`. A patch or apply without a resourceVersion is tried again
when another writer was faster; with one, the conflict is the caller's to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api import patches
from penstock.api.admission import Admitted, admit, check_depth
from penstock.api.kinds import Resource, resources, service_kinds
from penstock.api.quota import QuotaGate
from penstock.api.redaction import redact
from penstock.api.wire import ApiError, success
from penstock.control.plane import ControlPlane
from penstock.control.revisions import RESTARTED_AT
from penstock.domain.selectors import FieldSelector, LabelSelector
from penstock.errors import Conflict, Forbidden, InvalidInput, NotFound
from penstock.store.base import Key, Kind, Object
from penstock.store.garbage import FOREGROUND, ORPHAN
from penstock.store.objects import key_of

NAMESPACE = Kind("", "Namespace")
#: Namespaces that cannot be deleted.
KEPT_NAMESPACES = frozenset({"default"})
#: Tries of a read-modify-write against faster writers; the controllers are some, too, with their status.
TRIES = 32
#: Annotations that are set beside a manifest and outlive an apply that does not mention them.
_BESIDE = (RESTARTED_AT,)
#: Finalizers that say what becomes of dependents.
_PROPAGATION = {"Foreground": FOREGROUND, "Orphan": ORPHAN}
#: Metadata that does, too.
_OUTLIVE_APPLY = ("finalizers", "ownerReferences")
#: How a patch is done, by its media type.
PATCHES = {
    "application/merge-patch+json": patches.merge,
    "application/json-patch+json": patches.operate,
    "application/strategic-merge-patch+json": patches.strategic,
}


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: `created`, `configured` or `unchanged`."""

    object: Object
    what: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a listing are wanted."""

    labels: LabelSelector
    fields: FieldSelector

    def picks(self, obj: Mapping[str, Any]) -> bool:
        meta = obj["metadata"]
        return self.labels.matches(meta.get("labels") or {}) and self.fields.matches(
            meta.get("namespace", ""), meta.get("name", "")
        )


class Objects:
    """The verbs."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._store = plane.store
        self._quotas = QuotaGate(plane.store, plane.quotas.usages)

    # -- reading -----------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return redact(await self._get(resource, namespace, name), resource.dialect)

    async def _get(self, resource: Resource, namespace: str, name: str) -> Object:
        try:
            return await self._store.get(_key(resource, namespace, name))
        except NotFound:
            raise _missing(resource, namespace, name) from None

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        selection: Selection,
        *,
        limit: int | None = None,
        continue_: str = "",
    ) -> dict[str, Any]:
        """A list document."""
        listing = await self._store.list(
            resource.stored,
            namespace=namespace,
            labels=selection.labels or None,
            fields=selection.fields or None,
            limit=limit,
            continue_=continue_,
        )
        items = [redact(o, resource.dialect) for o in listing.items]
        metadata: dict[str, Any] = {"resourceVersion": str(listing.version)}
        if listing.continue_:
            metadata["continue"] = listing.continue_
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": items,
        }

    # -- writing -----------------------------------------------------------------------------------

    async def create(
        self, resource: Resource, namespace: str, document: Mapping[str, Any], *, dry_run: bool
    ) -> Written:
        metadata = document.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("resourceVersion"):
            raise ApiError(400, "metadata.resourceVersion must not be set on a new object.")
        admitted = self._admit(document, resource, namespace, None, None)
        await self._check_name(resource, admitted.object)
        if dry_run:
            return Written(redact(admitted.object, resource.dialect), "created", admitted.warnings)
        await self._make_namespace(admitted.object)
        try:
            async with self._quotas.passing(resource, admitted.object, None):
                created = await self._store.create(admitted.object)
        except Conflict:
            name = admitted.object["metadata"].get("name", "")
            raise ApiError(
                409,
                f'{resource.qualified} "{name}" already exists',
                reason="AlreadyExists",
                details=_details(resource, name),
            ) from None
        return Written(redact(created, resource.dialect), "created", admitted.warnings)

    async def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        *,
        dry_run: bool,
    ) -> Written:
        """PUT: the whole object; compare-and-swap when it has a resourceVersion."""
        given = (document.get("metadata") or {}).get("resourceVersion")
        for attempt in range(TRIES):
            stored = await self._get(resource, namespace, name)
            admitted = self._admit(document, resource, namespace, name, stored)
            try:
                return await self._update(
                    resource, stored, admitted, given, dry_run=dry_run, keep=()
                )
            except Conflict as exc:
                if given is not None or attempt == TRIES - 1:
                    raise _conflict(resource, name) from exc
        raise AssertionError("unreachable")

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: str,
        patch: Any,
        *,
        dry_run: bool,
    ) -> Written:
        """Change what is stored by a patch of a media type in `PATCHES`."""
        metadata = patch.get("metadata") if isinstance(patch, Mapping) else None
        given = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        for attempt in range(TRIES):
            stored = await self._get(resource, namespace, name)
            if resource.dialect is None:
                raise ApiError(405, f"{resource.plural} cannot be written.")
            if kind == "application/json-patch+json" and resource.dialect.secret_fields:
                patches.check_reads_nothing(patch, resource.dialect.secret_fields)
            patched = PATCHES[kind](stored, patch)
            if not isinstance(patched, dict):
                raise InvalidInput("What the patch makes is no object.")
            check_depth(patched)
            admitted = self._admit(patched, resource, namespace, name, stored)
            try:
                return await self._update(
                    resource, stored, admitted, given, dry_run=dry_run, keep=()
                )
            except Conflict as exc:
                if given is not None or attempt == TRIES - 1:
                    raise _conflict(resource, name) from exc
        raise AssertionError("unreachable")

    async def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        *,
        dry_run: bool,
    ) -> Written:
        """Create, or replace by what was applied: what you apply is what is stored."""
        for attempt in range(TRIES):
            try:
                stored = await self._store.get(_key(resource, namespace, name))
            except NotFound:
                stored = None
            admitted = self._admit(document, resource, namespace, name, stored)
            try:
                if stored is None:
                    await self._check_name(resource, admitted.object)
                    if dry_run:
                        shown = redact(admitted.object, resource.dialect)
                        return Written(shown, "created", admitted.warnings)
                    await self._make_namespace(admitted.object)
                    async with self._quotas.passing(resource, admitted.object, None):
                        created = await self._store.create(_without_version(admitted.object))
                    return Written(redact(created, resource.dialect), "created", admitted.warnings)
                written = await self._update(
                    resource, stored, admitted, None, dry_run=dry_run, keep=_BESIDE
                )
            except Conflict as exc:
                if isinstance(exc, ApiError) or attempt == TRIES - 1:
                    raise
                continue
            if resource.is_service and not dry_run:
                # The files behind an unchanged manifest may be others by now.
                self._plane.services.refresh((namespace, name))
            return written
        raise AssertionError("unreachable")

    async def _update(
        self,
        resource: Resource,
        stored: Object,
        admitted: Admitted,
        given: Any,
        *,
        dry_run: bool,
        keep: tuple[str, ...],
    ) -> Written:
        if given is not None and given != stored["metadata"]["resourceVersion"]:
            raise Conflict("The object has been modified.")
        old = stored["metadata"]
        metadata = {
            **{k: old[k] for k in _OUTLIVE_APPLY if keep and k in old},
            **admitted.object["metadata"],
            "resourceVersion": old["resourceVersion"],
        }
        beside = {k: v for k, v in (old.get("annotations") or {}).items() if k in keep}
        if beside:
            metadata["annotations"] = {**beside, **(metadata.get("annotations") or {})}
        new = {**admitted.object, "metadata": metadata}
        if dry_run:
            return Written(redact(new, resource.dialect), "configured", admitted.warnings)
        async with self._quotas.passing(resource, new, stored):
            updated = await self._store.update(new)
        same = updated["metadata"]["resourceVersion"] == old["resourceVersion"]
        return Written(
            redact(updated, resource.dialect),
            "unchanged" if same else "configured",
            admitted.warnings,
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        options: Mapping[str, Any],
        *,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """The `Status` of success, or the object while finalizers hold it."""
        if resource.dialect is None:
            raise ApiError(
                405, f"{resource.plural} are made by the platform and cannot be deleted."
            )
        finalizer = _propagation(options)
        stored = await self._get(resource, namespace, name)
        wanted = options.get("preconditions") or {}
        meta = stored["metadata"]
        for field in ("uid", "resourceVersion"):
            if wanted.get(field) not in (None, meta.get(field)):
                raise ApiError(409, f"{field} is {meta.get(field)!r}, not {wanted[field]!r}.")
        if resource.stored == NAMESPACE and name in KEPT_NAMESPACES:
            raise Forbidden(f"The namespace {name} cannot be deleted.")
        if dry_run:
            return success(name, resource.group, resource.plural, meta.get("uid", ""))
        if resource.stored == NAMESPACE:
            await self._empty_namespace(name)
        try:
            if finalizer is not None:
                await self._hold(stored, finalizer)
            gone = await self._store.delete(_key(resource, namespace, name))
        except NotFound:
            raise _missing(resource, namespace, name) from None
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
        self, resource: Resource, namespace: str | None, selection: Selection
    ) -> dict[str, Any]:
        """Delete what a listing would show; answers that list."""
        listed = await self.list(resource, namespace, selection)
        for obj in listed["items"]:
            meta = obj["metadata"]
            try:
                await self.delete(resource, meta.get("namespace", ""), meta["name"], {})
            except NotFound:
                continue
        return listed

    # -- rules -------------------------------------------------------------------------------------

    def _admit(
        self,
        document: Mapping[str, Any],
        resource: Resource,
        namespace: str,
        name: str | None,
        stored: Object | None,
    ) -> Admitted:
        return admit(
            document,
            resource,
            namespace=namespace,
            name=name,
            stored=stored,
            runs_containers=self._plane.backend.runs_containers,
        )

    async def _check_name(self, resource: Resource, obj: Object) -> None:
        """Services share their names over all dialects."""
        if not resource.is_service:
            return
        meta = obj["metadata"]
        for kind in service_kinds():
            if kind == resource.stored or "name" not in meta:
                continue
            try:
                other = await self._store.get(Key(kind, meta["namespace"], meta["name"]))
            except NotFound:
                continue
            raise ApiError(
                409,
                f"The name {meta['namespace']}/{meta['name']} is taken by the "
                f"{other['apiVersion']} {other['kind']}. Delete that one first, or choose another name.",
                reason="AlreadyExists",
                details=_details(resource, meta["name"]),
            )

    async def _make_namespace(self, obj: Object) -> None:
        """On first use; there is no separate step as in a cluster."""
        namespace = obj["metadata"].get("namespace")
        if not namespace:
            return
        try:
            await self._store.get(Key(NAMESPACE, "", namespace))
        except NotFound:
            try:
                await self._store.create(
                    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
                )
            except Conflict:
                pass  # somebody else did, just now

    async def _empty_namespace(self, name: str) -> None:
        everything = Selection(LabelSelector(), FieldSelector())
        for resource in resources():
            if resource.namespaced and resource.dialect is not None:
                await self.delete_many(resource, name, everything)


def _key(resource: Resource, namespace: str, name: str) -> Key:
    return Key(resource.stored, namespace if resource.namespaced else "", name)


def _without_version(obj: Object) -> Object:
    meta = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
    return {**obj, "metadata": meta}


def _details(resource: Resource, name: str) -> dict[str, Any]:
    return {"name": name, "group": resource.group, "kind": resource.plural}


def _propagation(options: Mapping[str, Any]) -> str | None:
    """The finalizer by which the garbage collector knows what becomes of dependents."""
    policy = options.get("propagationPolicy")
    if policy in (None, "Background"):
        return ORPHAN if options.get("orphanDependents") is True else None
    if policy not in _PROPAGATION:
        raise InvalidInput(
            f"propagationPolicy {policy!r} is none of Foreground, Background, Orphan."
        )
    return _PROPAGATION[policy]


def _missing(resource: Resource, namespace: str, name: str) -> ApiError:
    return ApiError(
        404, f'{resource.qualified} "{name}" not found', details=_details(resource, name)
    )


def _conflict(resource: Resource, name: str) -> ApiError:
    return ApiError(
        409,
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again",
        details=_details(resource, name),
    )
