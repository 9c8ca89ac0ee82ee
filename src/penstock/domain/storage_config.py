"""KServe's `storage` block: a bucket named in a shared secret instead of in a URI.

`storage.key` picks an entry of the Secret `storage-config`; the entry is JSON with `type` (s3, gs, hdfs,
webhdfs), `bucket` and credentials. `storage.parameters` override it, `storage.path` is added. What the
manifest says alone is completed here; where the Secret has to be read the URI stays empty, until
`storage.from_storage_config` has read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.domain.service import Storage
from penstock.errors import InvalidInput

_SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "hdfs": "hdfs", "webhdfs": "webhdfs"}


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
