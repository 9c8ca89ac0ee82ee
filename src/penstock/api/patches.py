"""Changing a document by a document: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and Kubernetes'
strategic merge patch, which is for its own kinds only. None changes what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.api.wire import ApiError
from penstock.errors import Forbidden, InvalidInput

#: Each may walk the whole document.
MAX_OPERATIONS = 1_000
#: Bytes that all `copy` operations of a patch may add: each could double the document.
MAX_COPIED = 3 * 1024 * 1024

#: Lists that a strategic patch merges by this key ("" for lists of words); all others are replaced.
_KEYED: Mapping[str, str] = {
    "finalizers": "",
    "ownerReferences": "uid",
    "secrets": "name",
    "imagePullSecrets": "name",
}
_DIRECTIVES = ("$setElementOrder/", "$retainKeys", "$deleteFromPrimitiveList/")

_encode = msgspec.json.Encoder(order="deterministic").encode


def merge(target: Any, patch: Any) -> Any:
    """`target` with `patch` merged in; null takes a member away."""
    if not isinstance(patch, dict):
        return patch
    result: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


# -- JSON patch ---------------------------------------------------------------------------------------


def operate(document: Any, operations: Any) -> Any:
    """`document` after a list of operations, all or none of them.

    Raises InvalidInput for what is no JSON patch, ApiError 422 when one cannot be done.
    """
    if not isinstance(operations, list):
        raise InvalidInput("A JSON patch is a list of operations.")
    if len(operations) > MAX_OPERATIONS:
        raise InvalidInput(f"A JSON patch has at most {MAX_OPERATIONS} operations.")
    copied = 0
    for i, operation in enumerate(operations):
        if not isinstance(operation, Mapping):
            raise InvalidInput(f"Operation {i} of the JSON patch is no object.")
        op = operation.get("op")
        path = _pointer(operation, "path", i)
        if op in ("add", "replace", "test") and "value" not in operation:
            raise InvalidInput(f"Operation {i} of the JSON patch ({op}) has no value.")
        try:
            match op:
                case "add":
                    document = _put(document, path, operation["value"], _add)
                case "remove":
                    document = _put(document, path, None, _remove)
                case "replace":
                    document = _put(document, path, operation["value"], _replace)
                case "test":
                    if _encode(_find(document, path)) != _encode(operation["value"]):
                        raise LookupError("the value is another")
                case "copy":
                    value = _find(document, _pointer(operation, "from", i))
                    copied += len(_encode(value))
                    if copied > MAX_COPIED:
                        raise InvalidInput(f"The JSON patch copies more than {MAX_COPIED} bytes.")
                    document = _put(document, path, value, _add)
                case "move":
                    source = _pointer(operation, "from", i)
                    if len(path) > len(source) and path[: len(source)] == source:
                        raise LookupError("a value cannot go into itself")
                    value = _find(document, source)
                    document = _put(_put(document, source, None, _remove), path, value, _add)
                case _:
                    raise InvalidInput(f"Operation {i} of the JSON patch has no known op.")
        except LookupError as exc:
            text = str(exc.args[0] if exc.args else exc)
            raise ApiError(
                422, f"The JSON patch cannot be applied: {op} {operation['path']}: {text}."
            ) from exc
    return document


def check_reads_nothing(operations: Any, secret: Sequence[str]) -> None:
    """Forbidden for a JSON patch that would tell what is in these top-level fields.

    `test` says by its failure what a value is not, `copy` and `move` take it to where it can be read.
    """
    for operation in operations if isinstance(operations, list) else ():
        op = operation.get("op") if isinstance(operation, Mapping) else None
        if op not in ("test", "copy", "move"):
            continue
        pointer = operation.get("path" if op == "test" else "from")
        first = str(pointer).split("/")[1:2]
        if not first or first[0].replace("~1", "/").replace("~0", "~") in secret:
            raise Forbidden(f"A JSON patch cannot {op} secret values: they are write-only.")


Change = Callable[[Any, str, Any], Any]


def _pointer(operation: Mapping[str, Any], field: str, i: int) -> list[str]:
    pointer = operation.get(field)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise InvalidInput(f"Operation {i} of the JSON patch needs a {field}, such as /spec.")
    return [p.replace("~1", "/").replace("~0", "~") for p in pointer.split("/")[1:]]


def _find(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        document = _child(document, part)
    return document


def _child(parent: Any, part: str) -> Any:
    if isinstance(parent, Mapping):
        if part not in parent:
            raise LookupError(f"there is no {part}")
        return parent[part]
    if isinstance(parent, list):
        return parent[_index(part, len(parent) - 1)]
    raise LookupError(f"there is nothing below, so no {part}")


def _index(part: str, last: int) -> int:
    if not (part.isascii() and part.isdigit()) or (part != "0" and part.startswith("0")):
        raise LookupError(f"{part!r} is no index")
    if len(part) > 9 or int(part) > last:
        raise LookupError(f"the list has no {part}")
    return int(part)


def _put(document: Any, path: Sequence[str], value: Any, change: Change) -> Any:
    """A copy of `document`, along the path only, with its last step changed."""
    if not path:
        if change is _remove:
            raise LookupError("the whole document cannot be removed")
        return value
    part, *rest = path
    if not rest:
        return change(document, part, value)
    inner = _put(_child(document, part), rest, value, change)
    if isinstance(document, list):
        at = _index(part, len(document) - 1)
        return [*document[:at], inner, *document[at + 1 :]]
    return {**document, part: inner}


def _add(parent: Any, part: str, value: Any) -> Any:
    if isinstance(parent, Mapping):
        return {**parent, part: value}
    if isinstance(parent, list):
        at = len(parent) if part == "-" else _index(part, len(parent))
        return [*parent[:at], value, *parent[at:]]
    raise LookupError(f"there is nothing to put {part} into")


def _replace(parent: Any, part: str, value: Any) -> Any:
    _child(parent, part)
    if isinstance(parent, list):
        at = _index(part, len(parent) - 1)
        return [*parent[:at], value, *parent[at + 1 :]]
    return {**parent, part: value}


def _remove(parent: Any, part: str, _: Any) -> Any:
    _child(parent, part)
    if isinstance(parent, list):
        at = _index(part, len(parent) - 1)
        return [*parent[:at], *parent[at + 1 :]]
    return {k: v for k, v in parent.items() if k != part}


# -- strategic merge patch ----------------------------------------------------------------------------


def strategic(target: Any, patch: Any) -> Any:
    """`target` with a strategic merge patch: as `merge`, but a few lists are merged by a key."""
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    result: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name == "$patch" or name.startswith(_DIRECTIVES):
            continue
        if value is None:
            result.pop(name, None)
        elif isinstance(value, list) and name in _KEYED:
            result[name] = _merged_list(result.get(name) or [], value, _KEYED[name])
        else:
            result[name] = strategic(result.get(name), value)
    for name, words in patch.items():
        field = name.removeprefix("$deleteFromPrimitiveList/")
        if field != name and isinstance(words, list) and isinstance(result.get(field), list):
            result[field] = [w for w in result[field] if w not in words]
    return result


def _merged_list(target: list[Any], patch: list[Any], key: str) -> list[Any]:
    if not key:
        return [*target, *(w for w in patch if w not in target)]
    if any(isinstance(entry, dict) and entry.get("$patch") == "replace" for entry in patch):
        return [e for e in patch if not (isinstance(e, dict) and "$patch" in e)]
    result = list(target)
    for entry in patch:
        if not isinstance(entry, dict) or key not in entry:
            raise InvalidInput(f"An entry of a merged list has no {key}.")
        at = next(
            (i for i, e in enumerate(result) if isinstance(e, dict) and e.get(key) == entry[key]),
            None,
        )
        if entry.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(entry)
        else:
            result[at] = strategic(result[at], entry)
    return result
