"""Secret values go in and never come out.

What is answered has the keys and no values, and says so with an annotation. When such an answer is sent
back (get, edit, apply), the values that were blanked are taken from what is stored, so that editing a label
does not wipe a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects import Dialect

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
