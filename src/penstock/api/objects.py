"""Create, read, replace, patch and apply, over the store; `deletions` deletes.

Each function is one verb on one resource; `routes` finds it by path and method. Reads answer what is stored
(secrets redacted); writes go through `admission`. A patch or apply without a resourceVersion is tried again
when another writer was faster; with one, the conflict is the caller's to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.api import ownership, patches
from penstock.api.admission import Admitted, admit, check_depth, identified
from penstock.api.kinds import Resource, service_kinds
from penstock.api.ownership import Owner
from penstock.api.quota import QuotaGate
from penstock.api.redaction import redact
from penstock.api.selections import Selection
from penstock.api.wire import ApiError, details_of, invalid, missing
from penstock.api.write_options import STRICT, WriteOptions
from penstock.control.plane import ControlPlane
from penstock.domain.annotations import GIVEN_UP, PINNED, PROMOTED, RESTARTED_AT
from penstock.errors import Conflict, InvalidInput, NotFound
from penstock.store.base import Key, Kind, Listing, Object
from penstock.store.objects import updated, with_name

NAMESPACE = Kind("", "Namespace")
#: What `penstock apply` calls itself: it means the whole manifest, whatever others had written.
OWN_MANAGER = "penstock"
#: Generated names that are tried.
_NAME_TRIES = 8
#: Tries of a read-modify-write against faster writers; the controllers are some, too, with their status.
TRIES = 32
#: Annotations that are set beside a manifest and outlive an apply that does not mention them.
_BESIDE = (RESTARTED_AT, PINNED, PROMOTED, GIVEN_UP)
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
class Change:
    """An object as it is to be stored; `version`: the resourceVersion that the change itself names."""

    object: Object
    warnings: tuple[str, ...] = ()
    version: Any = None


class Objects:
    """The verbs."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._store = plane.store
        self._quotas = QuotaGate(plane.store, plane.quotas)

    # -- reading -----------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return redact(await self.stored(resource, namespace, name), resource.dialect)

    async def stored(self, resource: Resource, namespace: str, name: str) -> Object:
        try:
            return await self._store.get(key(resource, namespace, name))
        except NotFound:
            raise missing(resource, namespace, name) from None

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        selection: Selection,
        *,
        limit: int | None = None,
        continue_: str = "",
        version: int | None = None,
    ) -> dict[str, Any]:
        """A list document, of the newest state or of a kept version."""
        listing = await self._store.list(
            resource.stored,
            namespace=namespace,
            labels=selection.labels or None,
            fields=selection.fields or None,
            limit=limit,
            continue_=continue_,
            version=version,
        )
        items = [redact(o, resource.dialect) for o in listing.items]
        return list_of(resource, replace(listing, items=items))

    # -- writing -----------------------------------------------------------------------------------

    async def create(
        self,
        resource: Resource,
        namespace: str,
        document: Mapping[str, Any],
        options: WriteOptions,
    ) -> Written:
        metadata = document.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("resourceVersion"):
            raise ApiError(400, "metadata.resourceVersion must not be set on a new object.")
        obj = identified(document, resource, namespace=namespace, name=None)
        for left in reversed(range(_NAME_TRIES)):
            admitted = self._admit(with_name(obj), resource, None, options)
            new = ownership.updated(None, admitted.object, owner_of(resource, options))
            beside = await self._store.get_many(keys_beside(resource, new))
            try:
                return await self._create(resource, new, admitted.warnings, options, beside)
            except Conflict:
                name = new["metadata"].get("name", "")
                if left and not obj["metadata"].get("name"):
                    continue  # the generated name was taken
                raise ApiError(
                    409,
                    f'{resource.qualified} "{name}" already exists',
                    reason="AlreadyExists",
                    details=details_of(resource, name),
                ) from None
        raise AssertionError("unreachable")

    async def _create(
        self,
        resource: Resource,
        new: Object,
        warnings: tuple[str, ...],
        options: WriteOptions,
        beside: Mapping[Key, Object],
    ) -> Written:
        """Keep a new object. `beside`: what there is of `keys_beside`."""
        _check_name(resource, beside)
        await self._check_tensors(resource, new, None)
        if not options.dry_run:
            await self._make_namespace(new, beside)
            async with self._quotas.passing(resource, new, None):
                new = await self._store.create(new)
        return Written(redact(new, resource.dialect), "created", warnings)

    async def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        options: WriteOptions,
    ) -> Written:
        """PUT: the whole object; compare-and-swap when it has a resourceVersion."""

        def change(stored: Object) -> Change:
            obj = identified(document, resource, namespace=namespace, name=name)
            admitted = self._admit(obj, resource, stored, options)
            new = ownership.updated(stored, _kept_owners(admitted.object, stored), owner)
            return Change(new, admitted.warnings)

        owner = owner_of(resource, options)
        metadata = document.get("metadata")
        given = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        return await self._change(resource, namespace, name, change, given, options)

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: str,
        patch: Any,
        options: WriteOptions,
        *,
        subresource: str = "",
    ) -> Written:
        """Change what is stored by a patch of a media type in `PATCHES`."""
        dialect = resource.dialect
        if dialect is None:
            raise ApiError(405, f"{resource.plural} cannot be written.")
        owner = owner_of(resource, options, subresource)

        def change(stored: Object) -> Change:
            if kind == "application/json-patch+json" and dialect.secret_fields:
                patches.check_reads_nothing(patch, dialect.secret_fields)
            patched = PATCHES[kind](stored, patch)
            if not isinstance(patched, dict):
                raise InvalidInput("What the patch makes is no object.")
            check_depth(patched)
            obj = identified(patched, resource, namespace=namespace, name=name)
            admitted = self._admit(obj, resource, stored, options)
            new = ownership.updated(stored, admitted.object, owner)
            return Change(new, admitted.warnings, version_of(patched))

        return await self._change(resource, namespace, name, change, _version_in(patch), options)

    async def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        options: WriteOptions,
    ) -> Written:
        """Server-side apply: create, or lay what is applied over what others own."""
        own = key(resource, namespace, name)
        around = keys_beside(resource, {"metadata": {"namespace": namespace, "name": name}})
        for attempt in range(TRIES):
            found = await self._store.get_many((own, *around))
            stored = found.get(own)
            config, change = self._applied(resource, namespace, name, document, stored, options)
            given = config["metadata"].pop("resourceVersion", None)
            try:
                if stored is None:
                    if given:
                        raise _conflict(resource, name)
                    return await self._create(
                        resource, change.object, change.warnings, options, found
                    )
                check_version(resource, stored, given)
                written = await self._update(resource, stored, change, options)
            except Conflict as exc:
                if isinstance(exc, ApiError) or attempt == TRIES - 1:
                    raise
                continue
            if resource.is_service and not options.dry_run:
                # The files behind an unchanged manifest may be others by now.
                self._plane.services.refresh((namespace, name))
            return written
        raise AssertionError("unreachable")

    def _applied(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Mapping[str, Any],
        stored: Object | None,
        options: WriteOptions,
    ) -> tuple[Object, Change]:
        """What is applied, as it is counted, and what is to be stored."""
        config = identified(document, resource, namespace=namespace, name=name)
        if config["metadata"].get("managedFields"):
            raise ApiError(400, "metadata.managedFields must be nil")
        config["metadata"].pop("managedFields", None)
        dialect = resource.dialect
        assert dialect is not None  # noqa: S101 - `identified` refuses kinds without one
        if dialect.admission is not None:
            # A Secret's stringData is counted as the data it becomes.
            admitted = self._admit(config, resource, stored, options)
            own = (*config, *dialect.secret_fields)
            config = {k: v for k, v in admitted.object.items() if k in own}
        owner = replace(owner_of(resource, options), applies=True)
        warnings: tuple[str, ...] = ()
        whole = options.manager == OWN_MANAGER
        if stored is not None and stored["apiVersion"] != resource.api_version:
            # Fields of another version have other names: there is nothing to lay this over.
            whole = True
            warnings = (f"it was {stored['apiVersion']}, and is replaced as a whole",)
        over: ownership.Apply | None = None
        if stored is None:
            new = ownership.applied_first(config, owner)
        elif whole:
            new = ownership.replaced(stored, _beside(config, stored), config, owner)
        else:
            over = ownership.apply_over(stored, config, owner)
            new = over.result()
        obj = identified(new, resource, namespace=namespace, name=name)
        admitted = self._admit(obj, resource, stored, options)
        if over is not None and not options.force:
            # After the check, because what is wrong in itself is wrong whoever owns it.
            over.check_conflicts()
        kept = admitted.object
        if options.validation != STRICT:
            kept = ownership.trimmed(kept, stored)
        return config, Change(kept, (*warnings, *admitted.warnings))

    async def _change(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Change],
        given: Any,
        options: WriteOptions,
    ) -> Written:
        """Read, change, write; again after a faster writer, unless a version was `given`."""
        for attempt in range(TRIES):
            stored = await self.stored(resource, namespace, name)
            changed = change(stored)
            # A JSON patch may have set it, too.
            check_version(resource, stored, changed.version if given is None else given)
            try:
                return await self._update(resource, stored, changed, options)
            except Conflict as exc:
                if isinstance(exc, ApiError) or given is not None or attempt == TRIES - 1:
                    raise _conflict(resource, name) from exc
        raise AssertionError("unreachable")

    async def _update(
        self, resource: Resource, stored: Object, change: Change, options: WriteOptions
    ) -> Written:
        version = stored["metadata"]["resourceVersion"]
        new = {
            **change.object,
            "metadata": {**change.object["metadata"], "resourceVersion": version},
        }
        await self._check_tensors(resource, new, stored)
        if options.dry_run:
            shown = updated(stored, new, version=int(version)) or stored
            what = "unchanged" if shown is stored else "configured"
            return Written(redact(shown, resource.dialect), what, change.warnings)
        async with self._quotas.passing(resource, new, stored):
            now = await self._store.update(new)
        same = now["metadata"]["resourceVersion"] == version
        return Written(
            redact(now, resource.dialect), "unchanged" if same else "configured", change.warnings
        )

    # -- rules -------------------------------------------------------------------------------------

    def _admit(
        self,
        obj: Object,
        resource: Resource,
        stored: Object | None,
        options: WriteOptions,
    ) -> Admitted:
        return admit(
            obj,
            resource,
            stored=stored,
            runs_containers=self._plane.backend.runs_containers,
            validation=options.validation,
        )

    async def _check_tensors(self, resource: Resource, obj: Object, stored: Object | None) -> None:
        """A graph's steps can work with the models that run now."""
        dialect = resource.dialect
        if dialect is None or not dialect.is_graph:
            return
        if stored is not None and stored.get("spec") == obj.get("spec"):
            return  # what was taken once is judged by its status
        problems = await self._plane.graphs.problems(obj)
        if problems:
            name = obj["metadata"].get("name", "")
            told = ((p.path, p.message) for p in problems)
            raise invalid(resource.kind, resource.group, name, told)

    async def _make_namespace(self, obj: Object, beside: Mapping[Key, Object]) -> None:
        """On first use; there is no separate step as in a cluster."""
        namespace = obj["metadata"].get("namespace")
        if not namespace or Key(NAMESPACE, "", namespace) in beside:
            return
        try:
            await self._store.create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            )
        except Conflict:
            pass  # somebody else did, just now


def keys_beside(resource: Resource, obj: Object) -> tuple[Key, ...]:
    """What a new object depends on: who could have its name, and its namespace."""
    meta = obj["metadata"]
    namespace = meta.get("namespace")
    found = (Key(NAMESPACE, "", namespace),) if namespace and resource.namespaced else ()
    if not resource.is_service or "name" not in meta:
        return found
    # Services share their names over all dialects.
    kinds = (kind for kind in service_kinds() if kind != resource.stored)
    return (*found, *(Key(kind, namespace or "", meta["name"]) for kind in kinds))


def _check_name(resource: Resource, beside: Mapping[Key, Object]) -> None:
    for found, other in beside.items():
        if found.kind in service_kinds() and found.kind != resource.stored:
            raise ApiError(
                409,
                f"The name {found.namespace}/{found.name} is taken by the "
                f"{other['apiVersion']} {other['kind']}. Delete that one first, or choose another name.",
                reason="AlreadyExists",
                details=details_of(resource, found.name),
            )


def key(resource: Resource, namespace: str, name: str) -> Key:
    return Key(resource.stored, namespace if resource.namespaced else "", name)


def list_of(resource: Resource, listing: Listing) -> dict[str, Any]:
    """The list document of a listing."""
    metadata: dict[str, Any] = {"resourceVersion": str(listing.version)}
    if listing.continue_:
        metadata["continue"] = listing.continue_
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": listing.items,
    }


def owner_of(resource: Resource, options: WriteOptions, subresource: str = "") -> Owner:
    return Owner(options.manager, resource.api_version, subresource=subresource)


def version_of(document: Mapping[str, Any]) -> Any:
    metadata = document.get("metadata")
    return metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None


def _version_in(patch: Any) -> Any:
    return version_of(patch) if isinstance(patch, Mapping) else None


def check_version(resource: Resource, stored: Object, given: Any) -> None:
    if given not in (None, "", stored["metadata"]["resourceVersion"]):
        raise _conflict(resource, stored["metadata"]["name"])


def _beside(config: Object, stored: Object) -> Object:
    """`config` in the place of all that is stored, but for what is set beside a manifest.

    An annotation that a manifest had is none of that: it goes with its line.
    """
    old = stored["metadata"]
    metadata = {**{k: old[k] for k in _OUTLIVE_APPLY if k in old}, **config["metadata"]}
    applied = {f for o, of in ownership.owners_of(stored).items() if o.applies for f in of.fields}
    beside = {
        k: v
        for k, v in (old.get("annotations") or {}).items()
        if k in _BESIDE and ("f:metadata", "f:annotations", f"f:{k}") not in applied
    }
    if beside:
        metadata["annotations"] = {**beside, **(metadata.get("annotations") or {})}
    return {**config, "metadata": metadata}


def _kept_owners(new: Object, stored: Object) -> Object:
    """A replacement that says nothing of the owners means those that are stored."""
    metadata = new["metadata"]
    if metadata.get("managedFields") is not None:
        return new
    kept = stored["metadata"].get("managedFields")
    return {**new, "metadata": {**metadata, "managedFields": kept}} if kept else new


def _conflict(resource: Resource, name: str) -> ApiError:
    return ApiError(
        409,
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again",
        details=details_of(resource, name),
    )
