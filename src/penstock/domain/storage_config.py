"""KServe's `storage` block: a bucket named in a shared secret instead of in a URI.

`storage.key` picks an entry of the Secret `storage-config`; the entry is JSON with `type` (s3, gs, hdfs,
webhdfs), `bucket` and credentials. `storage.parameters` override it, `storage.path` is added. The URI is
known only once the secret was read, so a dialect leaves it empty and a controller completes it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.domain.service import Storage
from penstock.errors import InvalidInput

#: The Secret that `storage.key` looks into, and the keys that stand in when none is named.
SECRET_NAME = "storage-config"  # noqa: S105 - the name of a Secret, not one
DEFAULT_KEY = "default"

_SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "hdfs": "hdfs", "webhdfs": "webhdfs"}


def needs_secret(storage: Storage) -> bool:
    """True when the URI must be completed from the storage secret."""
    return not storage.uri


def default_key(storage: Storage) -> str:
    """The entry to read: the one named, or `default`, or `default_TYPE` when a type is given."""
    if storage.key:
        return storage.key
    type_ = storage.parameters.get("type")
    return f"{DEFAULT_KEY}_{type_}" if type_ else DEFAULT_KEY


def complete(storage: Storage, entry: Mapping[str, str]) -> Storage:
    """`storage` with its URI made from the secret's `entry`, its own parameters and its path.

    InvalidInput when the type or the bucket is said nowhere.
    """
    merged = {**entry, **storage.parameters}
    type_ = merged.get("type", "")
    scheme = _SCHEMES.get(type_)
    if scheme is None:
        raise InvalidInput(
            f"The storage type {type_!r} is not supported.", hint=f"Use {', '.join(_SCHEMES)}."
        )
    path = (storage.path or "").strip("/")
    if scheme in ("hdfs", "webhdfs"):
        return replace(storage, uri=f"{scheme}://{path}")
    bucket = merged.get("bucket", "")
    if not bucket:
        raise InvalidInput(
            f"The {type_} storage names no bucket.",
            hint="Put it into storage.parameters.bucket or into the secret's entry.",
        )
    return replace(storage, uri=f"{scheme}://{bucket}/{path}".rstrip("/"))
