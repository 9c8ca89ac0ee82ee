"""Who owns which field of an object: `metadata.managedFields`, by Kubernetes' rules.

Whoever writes a field owns it. An apply that would change a field of another owner is a conflict, unless it
is forced; what an owner applied once and no longer applies goes, unless somebody else owns it, too. All
other writes take what they change. The controllers' own status has no owners.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from penstock.api.field_sets import (
    Fields,
    Path,
    decoded,
    difference,
    encoded,
    leaves_of,
    merged,
    shown,
    without,
)
from penstock.api.wire import ApiError
from penstock.dialects.metadata import LAST_APPLIED
from penstock.domain.status import rfc3339

Object = Mapping[str, Any]

#: Owners by updates that are told apart; the oldest are put together beyond it, as Kubernetes does.
MAX_UPDATERS = 10
_ANCIENT = "ancient-changes"
#: Who owns what was there before anybody was counted.
_BEFORE = "before-first-apply"
#: The owner that kubectl applies as, on the server's side; what it applied on its own side is its, too.
_KUBECTL = "kubectl"
#: Bytes of the annotation that kubectl keeps on its own side.
_MAX_LAST_APPLIED = 256 * 1024


@dataclass(frozen=True, slots=True)
class Owner:
    """One entry of managedFields, less its fields. `applies`: by apply, not by update."""

    manager: str
    api_version: str
    applies: bool = False
    subresource: str = ""

    def told(self, time_: str) -> str:
        """As a conflict names it."""
        text = msgspec.json.encode(self.manager).decode()
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.applies:
            return text
        return f"{text} using {self.api_version}" + (f" at {time_}" if time_ else "")


@dataclass(frozen=True, slots=True)
class Owned:
    """What an owner has, and since when."""

    fields: Fields
    time: str


Owners = dict[Owner, Owned]


def owners_of(obj: Object) -> Owners:
    """The owners that an object's metadata tells; entries that cannot be read have none."""
    try:
        return read_owners(obj["metadata"].get("managedFields") or ())
    except ValueError:
        return {}


def read_owners(entries: Iterable[Any]) -> Owners:
    """ValueError for entries that are none."""
    found: Owners = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ValueError("an entry of managedFields is no map")
        manager, api_version = entry.get("manager", ""), entry.get("apiVersion", "")
        operation, subresource = entry.get("operation"), entry.get("subresource", "")
        at = entry.get("time", "")
        if not all(isinstance(t, str) for t in (manager, api_version, subresource, at)):
            raise ValueError("an entry of managedFields has no manager")
        if operation not in ("Apply", "Update"):
            raise ValueError(f"operation is {operation!r}, not Apply or Update")
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1":
            raise ValueError("fieldsType is not FieldsV1")
        owner = Owner(manager, api_version, operation == "Apply", subresource)
        found[owner] = Owned(decoded(entry.get("fieldsV1") or {}), at)
    return found


def with_owners(obj: Object, owners: Owners) -> dict[str, Any]:
    """`obj` with these owners in its metadata."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    entries = [
        {
            "manager": owner.manager,
            "operation": "Apply" if owner.applies else "Update",
            "apiVersion": owner.api_version,
            **({"time": owned.time} if owned.time else {}),
            "fieldsType": "FieldsV1",
            "fieldsV1": encoded(owned.fields),
            **({"subresource": owner.subresource} if owner.subresource else {}),
        }
        for owner, owned in _capped(owners).items()
        if owned.fields
    ]
    if entries:
        metadata["managedFields"] = entries
    return {**obj, "metadata": metadata}


def _capped(owners: Owners) -> Owners:
    """Appliers first, then updaters from the oldest; of these at most `MAX_UPDATERS`."""
    appliers = {k: v for k, v in owners.items() if k.applies}
    updaters = sorted(
        ((k, v) for k, v in owners.items() if not k.applies), key=lambda item: item[1].time
    )
    while len(updaters) > MAX_UPDATERS:
        oldest = updaters[0][0]
        at = Owner(_ANCIENT, oldest.api_version, subresource=oldest.subresource)
        same = [i for i in updaters[1:] if i[0].subresource == oldest.subresource][:1]
        if not same:
            break
        put = Owned(updaters[0][1].fields | same[0][1].fields, same[0][1].time)
        updaters = [(at, put), *(i for i in updaters[1:] if i is not same[0])]
    return {**appliers, **dict(updaters)}


def trimmed(obj: Object, stored: Object | None) -> dict[str, Any]:
    """`obj` whose owners have nothing that is not there: fields were left out after they were counted.

    Where only such fields were new, nothing is: who has what had before had it since then.
    """
    leaves = leaves_of(obj)
    there = {path[:i] for path in leaves for i in range(1, len(path) + 1)}
    before = owners_of(stored) if stored is not None and leaves_of(stored) == leaves else {}
    owners = {}
    for owner, owned in owners_of(obj).items():
        if owner.subresource != "status":
            owned = replace(owned, fields=owned.fields & there)
            was = before.get(owner)
            if was is not None and was.fields == owned.fields:
                owned = was
        owners[owner] = owned
    return with_owners(obj, owners)


# -- writes -------------------------------------------------------------------------------------------


def updated(stored: Object | None, new: Object, owner: Owner) -> dict[str, Any]:
    """`new` with its owners, written over `stored` by anything but an apply.

    managedFields that `new` brings along are taken: an empty list, or one empty entry, forgets all.
    """
    status = owner.subresource == "status"
    given = new["metadata"].get("managedFields")
    owners = owners_of(stored) if stored is not None else {}
    if isinstance(given, list):
        if given in ([], [{}]):
            return with_owners(new, {})
        try:
            # Without one entry that counts, those that are stored stay.
            owners = read_owners(given) or owners
        except ValueError:
            pass
    before = leaves_of(stored, status=status) if stored is not None else {}
    changed, gone = difference(before, leaves_of(new, status=status))
    mine = owners.get(owner, Owned(frozenset(), ""))
    owners = _taken(owners, owner, changed | gone)
    fields = (mine.fields - gone) | changed
    if fields:
        at = mine.time if fields == mine.fields and not changed else _now()
        owners[owner] = Owned(fields, at)
    return with_owners(new, owners)


def applied_first(config: Object, owner: Owner) -> dict[str, Any]:
    """What is to be stored when `config` is applied and there is nothing yet."""
    wanted = frozenset(leaves_of(config, status=owner.subresource == "status"))
    return with_owners(config, {owner: Owned(wanted, _now())})


class Apply(NamedTuple):
    """An apply over an object that there is."""

    stored: Object
    config: Object
    owner: Owner
    live: dict[Path, Any]
    document: dict[str, Any]
    others: Owners
    last: Owned
    wanted: Fields
    changed: Fields
    #: What is there no more, or is another value.
    lost: Fields

    def result(self) -> dict[str, Any]:
        """What is to be stored, whatever others own."""
        owners = _taken(self.others, self.owner, self.lost)
        unchanged = self.last.time and self.wanted == self.last.fields and not self.changed
        owners[self.owner] = Owned(self.wanted, self.last.time if unchanged else _now())
        return with_owners(_annotated(self.document, self.config, self.owner), owners)

    def check_conflicts(self) -> None:
        """ApiError 409 with every field of others that this would change."""
        lost = self.lost
        conflicts = {k: v.fields & lost for k, v in self.others.items() if v.fields & lost}
        if conflicts and not _applied_before(self.stored, self.owner, conflicts, self.live):
            raise _conflict(conflicts, self.others)


def apply_over(stored: Object, config: Object, owner: Owner) -> Apply:
    """Lay `config` over what is stored: see `Apply.check_conflicts` and `Apply.result`."""
    status = owner.subresource == "status"
    wanted = frozenset(leaves_of(config, status=status))
    owners = owners_of(stored)
    live = leaves_of(stored, status=status)
    if not any((o.subresource == "status") is status for o in owners):
        owners[Owner(_BEFORE, str(stored["apiVersion"]), subresource=owner.subresource)] = Owned(
            frozenset(live), str(stored["metadata"].get("creationTimestamp") or "")
        )
    others = {k: v for k, v in owners.items() if k != owner}
    elsewhere = frozenset[Path]().union(*(o.fields for o in others.values()))
    last = owners.get(owner, Owned(frozenset(), ""))
    laid = merged(stored, {**config, "metadata": _mergeable(config)})
    gone = (last.fields - wanted - elsewhere) & leaves_of(laid, status=status).keys()
    document = {"metadata": {}, **without(laid, gone, elsewhere | wanted)}
    changed, removed = difference(live, leaves_of(document, status=status))
    # What is gone and not this owner's had a map or a list put in its place, or was in one.
    lost = changed | removed
    return Apply(stored, config, owner, live, document, others, last, wanted, changed, lost)


def replaced(stored: Object, new: Object, config: Object, owner: Owner) -> dict[str, Any]:
    """`new` with its owners when one of them applied all of it, whatever others had."""
    changed, gone = difference(leaves_of(stored), leaves_of(new))
    owners = owners_of(stored)
    last = owners.get(owner, Owned(frozenset(), ""))
    wanted = frozenset(leaves_of(config))
    owners = _taken(owners, owner, changed | gone)
    same = last.time and wanted == last.fields and not changed
    owners[owner] = Owned(wanted, last.time if same else _now())
    return with_owners(new, owners)


def _mergeable(config: Object) -> dict[str, Any]:
    return {k: v for k, v in config["metadata"].items() if k != "managedFields"}


def _taken(owners: Owners, by: Owner, fields: Fields) -> Owners:
    """`owners` without `by`, and without these fields."""
    left = {k: replace(v, fields=v.fields - fields) for k, v in owners.items() if k != by}
    return {k: v for k, v in left.items() if v.fields}


def _now() -> str:
    return rfc3339(time.time())


def _conflict(conflicts: Mapping[Owner, Fields], owners: Owners) -> ApiError:
    count = sum(map(len, conflicts.values()))
    causes = []
    lines = []
    for owner, fields in conflicts.items():
        told = owner.told(owners[owner].time)
        paths = [shown(p) for p in sorted(fields)]
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {told}", "field": p}
            for p in paths
        ]
        if count == 1:
            lines.append(f"conflict with {told}: {paths[0]}")
        else:
            lines.append(f"conflicts with {told}:\n" + "\n".join(f"- {p}" for p in paths))
    noun = "conflict" if count == 1 else "conflicts"
    return ApiError(
        409, f"Apply failed with {count} {noun}: " + "\n".join(lines), details={"causes": causes}
    )


# -- kubectl's move from its own side to the server's --------------------------------------------------


def _last_applied(stored: Object) -> dict[str, Any] | None:
    text = (stored["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if not isinstance(text, str):
        return None
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _applied_before(
    stored: Object,
    owner: Owner,
    conflicts: Mapping[Owner, Fields],
    live: Mapping[Path, Any],
) -> bool:
    """True when all that conflicts is as kubectl applied it on its own side: then it is kubectl's."""
    if owner.manager != _KUBECTL:
        return False
    document = _last_applied(stored)
    if document is None or not isinstance(document.get("metadata"), Mapping):
        return False
    before = leaves_of(document)
    # What that annotation does not say, such as itself, is not among them.
    mine = before.keys() - difference(live, before)[0]
    return all(fields <= mine for fields in conflicts.values())


def _annotated(document: dict[str, Any], config: Object, owner: Owner) -> dict[str, Any]:
    """With what was applied in the annotation, where kubectl keeps one, so that both its ways agree."""
    if owner.manager != _KUBECTL or owner.subresource or _last_applied(document) is None:
        return document
    annotations = dict(document["metadata"]["annotations"])
    meta = dict(config["metadata"])
    noted = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    plain = {**config, "metadata": {**meta, "annotations": noted}}
    plain["metadata"].pop("managedFields", None)
    text = msgspec.json.encode(plain, order="sorted").decode() + "\n"
    if len(text) > _MAX_LAST_APPLIED:
        annotations.pop(LAST_APPLIED)
    else:
        annotations[LAST_APPLIED] = text
    return {**document, "metadata": {**document["metadata"], "annotations": annotations}}
