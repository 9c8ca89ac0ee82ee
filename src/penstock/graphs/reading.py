"""What the executor reads out of values: conditions, a router's branch, V1's answers as its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.domain.graph import Action, Call, CallUrl, Router, RunFlow, RunGraph
from penstock.errors import PenstockError
from penstock.graphs.values import Body, Value, json_of

if TYPE_CHECKING:
    from penstock.domain.conditions import Path


def exists(path: Path, value: Value) -> bool:
    """Whether the path exists in the value's JSON; not in what is no JSON."""
    try:
        return path.exists(json_of(value))
    except PenstockError:
        return False


def as_instances(value: Value) -> Value:
    """A V1 answer as the next V1 request: `predictions` become `instances`."""
    if not isinstance(value, Body):
        return value
    document = value.document
    if not isinstance(document, dict) or "predictions" not in document:
        return value
    changed = {("instances" if k == "predictions" else k): v for k, v in document.items()}
    return Body.of(changed)


def branch_in(value: Value) -> int | None:
    """The branch in a router's answer: a number, the first element of its data or tensors; None: none."""
    try:
        found = json_of(value)
    except PenstockError:
        return None
    if isinstance(found, dict):
        data = found.get("data")
        if isinstance(data, dict):
            tensor = data.get("tensor")
            found = data.get("ndarray", tensor.get("values") if isinstance(tensor, dict) else None)
        elif "outputs" in found and isinstance(found["outputs"], list) and found["outputs"]:
            found = found["outputs"][0].get("data")
        else:
            found = found.get("predictions", found.get("branch", data))
    while isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def target_of(action: Action) -> str:
    """Whom or what an action runs, for people."""
    if isinstance(action, Call):
        return action.service
    if isinstance(action, Router):
        return action.call.service
    if isinstance(action, CallUrl):
        return action.url
    if isinstance(action, RunFlow):
        return action.flow
    if isinstance(action, RunGraph):
        return action.graph
    return ""
