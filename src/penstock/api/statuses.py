"""The subresource `status`, written by others than the platform: something that its readers can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from penstock.api import ownership
from penstock.api.admission import identified
from penstock.api.kinds import Resource
from penstock.api.objects import TRIES, Objects, Written, check_version, owner_of, version_of
from penstock.api.redaction import redact
from penstock.api.wire import ApiError, invalid
from penstock.api.write_options import WriteOptions
from penstock.errors import Conflict
from penstock.store.base import Object, Store

_VALUES = ("True", "False", "Unknown")
_TEXTS = ("reason", "message", "lastTransitionTime", "severity")


class Statuses:
    """Writes of a status, and of nothing else."""

    def __init__(self, objects: Objects, store: Store) -> None:
        self._objects = objects
        self._store = store

    async def write(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        make: Callable[[Object], tuple[Mapping[str, Any], bool]],
        options: WriteOptions,
    ) -> Written:
        """Replace the status, and nothing else, by that of the document that `make` makes.

        `make` also says whether the document is applied, so that only what it has is meant.
        """
        for attempt in range(TRIES):
            stored = await self._objects.stored(resource, namespace, name)
            document, applies = make(stored)
            identified(document, resource, namespace=namespace, name=name)
            given = version_of(document)
            status = document.get("status")
            check_status(resource, name, status)
            owner = replace(owner_of(resource, options, "status"), applies=applies)
            if applies:
                config = {"metadata": {}, "status": status or {}}
                over = ownership.apply_over(stored, config, owner)
                if not options.force:
                    over.check_conflicts()
                new = over.result()
                new = {**stored, "status": new.get("status"), "metadata": new["metadata"]}
            else:
                new = ownership.updated(stored, {**stored, "status": status or {}}, owner)
            try:
                check_version(resource, stored, given)
                if not options.dry_run:
                    new = await self._store.update_status(new)
            except Conflict as exc:
                if isinstance(exc, ApiError) or attempt == TRIES - 1:
                    raise
                continue
            same = new["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
            return Written(redact(new, resource.dialect), "unchanged" if same else "configured")
        raise AssertionError("unreachable")


def check_status(resource: Resource, name: str, status: Any) -> None:
    """ApiError 422 with every field that is wrong."""
    causes = [("status", "must be a map")] if not isinstance(status, Mapping | None) else []
    if isinstance(status, Mapping):
        causes += _conditions(status.get("conditions"))
        observed = status.get("observedGeneration")
        if observed is not None and (type(observed) is not int or observed < 0):
            causes.append(("status.observedGeneration", "must be a whole number, 0 or more"))
    if causes:
        raise invalid(resource.kind, resource.group, name, causes)


def _conditions(conditions: Any) -> list[tuple[str, str]]:
    if conditions is None:
        return []
    if not isinstance(conditions, list):
        return [("status.conditions", "must be a list")]
    causes = []
    seen = set()
    for i, condition in enumerate(conditions):
        at = f"status.conditions[{i}]"
        if not isinstance(condition, Mapping):
            causes.append((at, "must be a map"))
            continue
        kind = condition.get("type")
        if not isinstance(kind, str) or not kind:
            causes.append((f"{at}.type", "must be a word"))
        elif kind in seen:
            causes.append((f"{at}.type", f"there is a condition {kind} already"))
        else:
            seen.add(kind)
        if condition.get("status") not in _VALUES:
            causes.append((f"{at}.status", "must be True, False or Unknown"))
        causes += [
            (f"{at}.{field}", "must be text")
            for field in _TEXTS
            if not isinstance(condition.get(field), str | None)
        ]
    return causes
