"""Secret values go in and never come out.

What is answered has the keys and no values, and says so with an annotation. When such an answer is sent
back (get, edit, apply), the values that were blanked are taken from what is stored, so that editing a label
does not wipe a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.dialects import Dialect
from penstock.dialects.metadata import LAST_APPLIED

REDACTED = "penstock.dev/redacted"


def redact(obj: Mapping[str, Any], dialect: Dialect | None) -> dict[str, Any]:
    """`obj` as it may be shown."""
    if dialect is None or not dialect.secret_fields:
        return dict(obj)
    shown = dict(obj)
    for field in dialect.secret_fields:
        values = shown.get(field)
        if isinstance(values, Mapping):
            shown[field] = dict.fromkeys(values, "")
    metadata = dict(shown.get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), REDACTED: "true"}
    shown["metadata"] = metadata
    return shown


def restore(
    obj: Mapping[str, Any], stored: Mapping[str, Any] | None, dialect: Dialect | None
) -> dict[str, Any]:
    """`obj` with the values that `redact` blanked, if it came from there."""
    if dialect is None or not dialect.secret_fields:
        return dict(obj)
    metadata = dict(obj.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    if annotations.pop(REDACTED, None) is None:
        return dict(obj)
    restored = dict(obj)
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    restored["metadata"] = metadata
    for field in dialect.secret_fields:
        values = restored.get(field)
        known = (stored or {}).get(field) or {}
        if isinstance(values, Mapping):
            restored[field] = {k: v or known.get(k, "") for k, v in values.items()}
    return restored


def without_secrets_applied(obj: dict[str, Any], dialect: Dialect | None) -> dict[str, Any]:
    """`obj` without the values that `kubectl apply` puts into an annotation of it.

    kubectl finds out from that annotation which keys it may remove, so the keys stay.
    """
    annotations = (obj.get("metadata") or {}).get("annotations")
    if dialect is None or not dialect.secret_fields or not isinstance(annotations, Mapping):
        return obj
    text = annotations.get(LAST_APPLIED)
    if text is None:
        return obj
    kept = {k: v for k, v in annotations.items() if k != LAST_APPLIED}
    try:
        applied = msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError, RecursionError):
        applied = None
    if isinstance(applied, dict):
        for field in dialect.secret_fields:
            if field in applied:
                values = applied[field]
                applied[field] = dict.fromkeys(values, "") if isinstance(values, dict) else {}
        kept[LAST_APPLIED] = msgspec.json.encode(applied).decode()
    return {**obj, "metadata": {**obj["metadata"], "annotations": kept}}
