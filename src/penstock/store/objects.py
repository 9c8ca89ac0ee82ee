"""What a store does to an object: the metadata it owns, and when an update changes something.

Pure functions, the same for every implementation that keeps objects itself; the rules are Kubernetes' for
kinds with a status subresource.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.domain.status import rfc3339
from penstock.errors import Conflict, InvalidInput, TooLarge
from penstock.store.base import Key, Kind, Object

#: As etcd has it, roughly: what is larger is no manifest.
MAX_OBJECT_BYTES = 2 * 1024 * 1024

#: Metadata that the store decides on, whatever an update says.
_OWNED = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
#: Characters of a generated name.
MAX_GENERATED = 63
#: Letters that make no words and cannot be mistaken for each other, as Kubernetes has them.
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

_encoder = msgspec.json.Encoder(decimal_format="number")
_sorted = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(dict[str, Any])


def kind_of(obj: Mapping[str, Any]) -> Kind:
    """Group and kind; InvalidInput when the object does not say them."""
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str) or not api_version or not kind:
        raise InvalidInput("An object needs apiVersion and kind.")
    return Kind(api_version.rpartition("/")[0], kind)


def key_of(obj: Mapping[str, Any]) -> Key:
    """Identity; InvalidInput when the object has none."""
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
        raise InvalidInput("An object needs metadata.name.")
    namespace = metadata.get("namespace") or ""
    if not isinstance(namespace, str):
        raise InvalidInput("metadata.namespace must be a string.")
    return Key(kind_of(obj), namespace, name)


def show(key: Key) -> str:
    """`InferenceService default/iris`."""
    full = f"{key.namespace}/{key.name}" if key.namespace else key.name
    return f"{key.kind.kind} {full}"


def encode(obj: Object) -> bytes:
    """JSON with the fields in the order they were applied; InvalidInput for what JSON cannot say."""
    try:
        data = _encoder.encode(obj)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise InvalidInput(f"The object cannot be kept as JSON: {e}.") from e
    if len(data) > MAX_OBJECT_BYTES:
        raise TooLarge(f"The object has {len(data)} bytes; at most {MAX_OBJECT_BYTES} are kept.")
    return data


def decode(data: bytes) -> Object:
    return _decoder.decode(data)


def with_name(obj: Object) -> Object:
    """`obj`, named after its generateName when it has no name."""
    metadata = obj.get("metadata")
    if (
        not isinstance(metadata, Mapping)
        or metadata.get("name")
        or not metadata.get("generateName")
    ):
        return obj
    suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
    # A long beginning is cut, so that the whole is a name still.
    front = str(metadata["generateName"])[: MAX_GENERATED - len(suffix)]
    return {**obj, "metadata": {**metadata, "name": f"{front}{suffix}"}}


def created(obj: Object, *, version: int, now: float) -> Object:
    """A new object as it is kept."""
    metadata = {k: v for k, v in obj["metadata"].items() if k not in _OWNED}
    metadata |= {
        "uid": str(uuid.uuid4()),
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": rfc3339(now),
    }
    return {k: metadata if k == "metadata" else v for k, v in obj.items() if k != "status"}


def check_version(key: Key, old: Object, given: str | None, *, required: bool = True) -> None:
    """Conflict unless `given` is the object's newest version; InvalidInput when it must be said."""
    newest = old["metadata"]["resourceVersion"]
    if given is None or given == "":
        if required:
            raise InvalidInput(
                f"{show(key)}: metadata.resourceVersion must be given for an update."
            )
        return
    if str(given) != newest:
        raise Conflict(
            f"{show(key)} was changed meanwhile: version {given} was given, {newest} is the newest.",
            hint="Read it again and repeat the change.",
        )


def updated(old: Object, new: Object, *, version: int) -> Object | None:
    """`old` with everything but its status replaced; None when that changes nothing."""
    before, given = old["metadata"], new["metadata"]
    uid = given.get("uid")
    if uid and uid != before["uid"]:
        raise Conflict(
            f"{show(key_of(old))} is another object than the one that was read: it was deleted and "
            "created again."
        )
    if "deletionTimestamp" in before:
        added = set(given.get("finalizers") or ()) - set(before.get("finalizers") or ())
        if added:
            raise InvalidInput(
                f"{show(key_of(old))} is being deleted: no finalizer can be added ({', '.join(added)})."
            )
    metadata = {k: v for k, v in given.items() if k not in _OWNED}
    metadata |= {k: before[k] for k in _OWNED if k in before}
    result = {k: v for k, v in new.items() if k != "status"}
    result["metadata"] = metadata
    if "status" in old:
        result["status"] = old["status"]
    # Compared as JSON: to Python 1, 1.0 and True are the same value.
    if _sorted.encode(result) == _sorted.encode(old):
        return None
    if _content(result) != _content(old):
        metadata["generation"] = before["generation"] + 1
    metadata["resourceVersion"] = str(version)
    return result


def status_updated(old: Object, new: Object, *, version: int) -> Object | None:
    """`old` with the status of `new`, and its managedFields if any; None when that changes nothing."""
    result = {k: v for k, v in old.items() if k != "status"}
    owners = new["metadata"].get("managedFields")
    if owners is not None:
        result["metadata"] = {**old["metadata"], "managedFields": owners}
    if new.get("status") is not None:
        result["status"] = new["status"]
    if _sorted.encode(result) == _sorted.encode(old):
        return None
    return with_version(result, version)


def marked_for_deletion(old: Object, *, version: int, now: float) -> Object | None:
    """`old`, waiting for its finalizers; None when it already does."""
    if "deletionTimestamp" in old["metadata"]:
        return None
    metadata = {
        **old["metadata"],
        "deletionTimestamp": rfc3339(now),
        "deletionGracePeriodSeconds": 0,
        "generation": old["metadata"]["generation"] + 1,
        "resourceVersion": str(version),
    }
    return {**old, "metadata": metadata}


def with_version(obj: Object, version: int) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}


def is_finished(obj: Object) -> bool:
    """Being deleted, and nothing holds it any more."""
    metadata = obj["metadata"]
    return "deletionTimestamp" in metadata and not metadata.get("finalizers")


def _content(obj: Object) -> bytes:
    return _sorted.encode({k: v for k, v in obj.items() if k not in ("metadata", "status")})
