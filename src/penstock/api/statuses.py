"""What may be written as a status by others than the platform: something that its readers can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.api.kinds import Resource
from penstock.api.wire import invalid

_VALUES = ("True", "False", "Unknown")
_TEXTS = ("reason", "message", "lastTransitionTime", "severity")


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
