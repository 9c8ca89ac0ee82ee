"""Fields of an object as a set of paths: what the owners of fields are counted in.

A path is a tuple of Kubernetes' path elements (`f:spec`, `k:{"name":"x"}`, `v:"x"`), as its FieldsV1 has
them. The rules are those of its structured merge: maps are made of their members; a list is one field,
unless `LIST_KEYS` or `LIST_SETS` name it, then it is made of its entries. Only what has nothing below it is
in a set, and the entries of keyed lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

Path: TypeAlias = tuple[str, ...]
Fields: TypeAlias = frozenset[Path]

#: Lists of maps whose entries are told apart by this member. The published OpenAPI says the same.
LIST_KEYS: Mapping[str, str] = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "secrets": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
#: Lists of words that are sets.
LIST_SETS = frozenset({"finalizers"})

_sorted = msgspec.json.Encoder(order="sorted").encode
#: Metadata that has owners; the rest is the store's, or says which object it is.
_OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
_NOT_OWNED = ("apiVersion", "kind", "metadata", "status")


def leaves_of(obj: Mapping[str, Any], *, status: bool = False) -> dict[Path, Any]:
    """Every field of an object that can have an owner, with its value; of its status alone if asked."""
    found: dict[Path, Any] = {}
    for name, value in _ownable(obj, status=status).items():
        _collect(value, (f"f:{name}",), name, found)
    # An object with only `metadata: {}` owns nothing in there.
    found.pop(("f:metadata",), None)
    return found


def _ownable(obj: Mapping[str, Any], *, status: bool) -> dict[str, Any]:
    if status:
        return {"status": obj["status"]} if "status" in obj else {}
    metadata = obj.get("metadata") or {}
    owned = {k: metadata[k] for k in _OWNED_METADATA if k in metadata}
    rest = {k: v for k, v in obj.items() if k not in _NOT_OWNED}
    return {"metadata": owned, **rest}


def _collect(value: Any, path: Path, name: str, found: dict[Path, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for member, inner in value.items():
            _collect(inner, (*path, f"f:{member}"), member, found)
        return
    if isinstance(value, list) and value:
        entries = entries_of(value, name)
        if entries is not None:
            keyed = name in LIST_KEYS
            for element, entry in entries.items():
                found[(*path, element)] = None if keyed else entry
                if keyed:
                    for member, inner in entry.items():
                        _collect(inner, (*path, element, f"f:{member}"), member, found)
            return
    found[path] = value


def entries_of(value: Any, name: str) -> dict[str, Any] | None:
    """A list's entries by path element; None for one that is a single field, or has no order of keys."""
    if not isinstance(value, list):
        return None
    found: dict[str, Any] = {}
    if name in LIST_SETS:
        found = {f"v:{_text(e)}": e for e in value if isinstance(e, str)}
    elif (key := LIST_KEYS.get(name)) is not None:
        found = {
            f"k:{_text({key: e[key]})}": e
            for e in value
            if isinstance(e, Mapping) and isinstance(e.get(key), str)
        }
    else:
        return None
    # With an entry that has no key, or two of one, it is told as a whole.
    return found if len(found) == len(value) else None


def _text(value: Any) -> str:
    return _sorted(value).decode()


def difference(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> tuple[Fields, Fields]:
    """(changed or new, gone) of two objects' leaves.

    What was empty and has something in it now is not gone: whoever made it has it still.
    """
    changed = frozenset(
        path
        for path, value in after.items()
        if path not in before or not _same(before[path], value)
    )
    gone = before.keys() - after.keys()
    filled = {p for p in gone if before[p] in ({}, [])}
    if filled:
        filled &= {path[:i] for path in after for i in range(1, len(path))}
    return changed, frozenset(gone - filled)


def _same(one: Any, other: Any) -> bool:
    # As JSON has it: to Python 1, 1.0 and True are the same value.
    if isinstance(one, Mapping | list) or isinstance(other, Mapping | list):
        return _sorted(one) == _sorted(other)
    return type(one) is type(other) and bool(one == other)


# -- changing an object -------------------------------------------------------------------------------


def merged(live: Any, applied: Any, name: str = "") -> Any:
    """`live` with what is applied laid over it. Changes neither."""
    if isinstance(live, Mapping) and isinstance(applied, Mapping):
        result = dict(live)
        for member, value in applied.items():
            result[member] = merged(live[member], value, member) if member in live else value
        return result
    here, given = entries_of(live, name), entries_of(applied, name)
    if here is None or given is None:
        return applied
    entries = {k: merged(here[k], v) if k in here else v for k, v in given.items()}
    kept = [k for k in here if k in given]
    if kept == [k for k in given if k in here]:
        # Nobody changed the order: entries stay where they are, new ones come last.
        order = [*here, *(k for k in given if k not in here)]
    else:
        order = [*given, *(k for k in here if k not in given)]
    return [entries.get(k, here.get(k)) for k in order]


def without(obj: Mapping[str, Any], gone: Fields, kept: Iterable[Path]) -> dict[str, Any]:
    """`obj` less some of its leaves; maps and lists that this empties go too, unless they are `kept`.

    An entry of a keyed list stays, with its key, while any of `kept` is in it.
    """
    if not gone:
        return dict(obj)
    exact = frozenset(kept)
    prefixes = {path[:i] for path in exact for i in range(1, len(path) + 1)}
    result = _without(obj, (), "", gone, _Kept(exact, prefixes))
    return result if isinstance(result, dict) else {}


_GONE = object()


class _Kept(NamedTuple):
    exact: Fields
    #: These and all that they are in.
    within: set[Path]


def _without(value: Any, path: Path, name: str, gone: Fields, kept: _Kept) -> Any:
    if isinstance(value, Mapping) and value:
        result = {
            member: left
            for member, inner in value.items()
            if (left := _without(inner, (*path, f"f:{member}"), member, gone, kept)) is not _GONE
        }
        return result or ({} if path in kept.exact else _GONE)
    entries = entries_of(value, name) if value else None
    if entries is None:
        return _GONE if path in gone else value
    left_over = []
    key = LIST_KEYS.get(name)
    for element, entry in entries.items():
        at = (*path, element)
        if at in gone and at not in kept.within:
            continue
        if key is None:
            left_over.append(entry)
            continue
        inside = {k: v for k, v in entry.items() if k != key}
        rest = _without(inside, at, "", gone, kept) if inside else {}
        left_over.append({key: entry[key], **({} if rest is _GONE else rest)})
    return left_over or ([] if path in kept.exact else _GONE)


# -- on the wire --------------------------------------------------------------------------------------


def encoded(fields: Iterable[Path]) -> dict[str, Any]:
    """FieldsV1."""
    root: dict[str, Any] = {}
    for path in sorted(fields):
        at = root
        for element in path:
            at = at.setdefault(element, {})
        at["."] = {}
    return _folded(root)


def _folded(tree: dict[str, Any]) -> dict[str, Any]:
    """Without the dot where a field has nothing below it."""
    if tree.keys() == {"."}:
        return {}
    return {k: _folded(v) if k != "." else v for k, v in tree.items()}


def decoded(tree: Any) -> Fields:
    """The paths of a FieldsV1. ValueError for what is none."""
    return frozenset(_paths(tree, ()))


def _paths(tree: Any, path: Path) -> Iterator[Path]:
    if not isinstance(tree, Mapping):
        raise ValueError("fieldsV1 is no map")
    if not tree and path:
        yield path
    for element, below in tree.items():
        if element == ".":
            yield path
        elif element[:2] in ("f:", "k:", "v:", "i:"):
            yield from _paths(below, (*path, element))
        else:
            raise ValueError(f"fieldsV1 has {element!r}, which is no path element")


def shown(path: Path) -> str:
    """`.spec.containers[name="a"].image`, as conflicts are told."""
    return "".join(map(_shown, path))


def _shown(element: str) -> str:
    kind, _, text = element.partition(":")
    if kind == "f":
        return f".{text}"
    if kind == "k":
        try:
            members = json.loads(text)
            return "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in members.items()) + "]"
        except (ValueError, AttributeError):
            return f"[{text}]"
    return f"[={text}]" if kind == "v" else f"[{text}]"
