"""Manifests for the dialects' tests, and valid values for any field of a dialect's models."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from penstock import dialects
from penstock.errors import FieldProblem, InvalidManifest

KSERVE = "serving.kserve.io/v1beta1"
OWN = "penstock.dev/v1alpha1"


def isvc(
    predictor: Any, *, api_version: str = KSERVE, name: str = "iris", **metadata: Any
) -> dict[str, Any]:
    """An InferenceService with a predictor."""
    return {
        "apiVersion": api_version,
        "kind": "InferenceService",
        "metadata": {"name": name, **metadata},
        "spec": {"predictor": predictor},
    }


def problems_of(manifest: Any) -> list[str]:
    """`path: message` of everything that is wrong with a manifest; empty when it is accepted."""
    try:
        dialects.translate(manifest)
    except InvalidManifest as e:
        return [str(p) for p in e.problems] or ["refused, and no problem is told"]
    return []


def warnings_of(manifest: Any) -> list[str]:
    return [str(w) for w in dialects.translate(manifest).warnings]


def paths(problems: list[FieldProblem] | tuple[FieldProblem, ...]) -> list[str]:
    return [p.path for p in problems]


def valid(annotation: Any) -> Any:
    """A value that pydantic takes for `annotation`, and that is not the field's absence."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return valid(next(a for a in get_args(annotation) if a is not type(None)))
    if origin is list:
        return [valid(get_args(annotation)[0])]
    if origin is dict:
        return {"a": valid(get_args(annotation)[1])}
    if origin is Literal:
        return get_args(annotation)[0]
    if origin is not None and hasattr(annotation, "__metadata__"):
        return valid(annotation.__origin__)
    if annotation is Any:
        return "x"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            info.alias or name: valid(info.annotation)
            for name, info in annotation.model_fields.items()
            if info.is_required()
        }
    return {bool: True, int: 7, str: "x", float: 0.5}[annotation]


def with_field(manifest: Any, model: type[BaseModel], field: str) -> tuple[Any, str]:
    """`manifest` with a valid value at `field` (`*` in lists becomes [0]), and the path of it."""
    *parents, last = field.split(".")
    at: Any = manifest
    annotation: Any = model
    shown = ""
    for part in parents:
        if part == "*":
            annotation = _plain(get_args(_plain(annotation))[0])
            if not at:
                at.append(valid(annotation))
            at = at[0]
            shown += "[0]"
            continue
        annotation = _plain(_field(annotation, part))
        at = at.setdefault(part, [] if get_origin(annotation) is list else _map(annotation))
        shown += f".{part}" if shown else part
    known = _field(annotation, last)
    at[last] = "1" if known is None else valid(known)
    return manifest, f"{shown}.{last}" if shown else last


def _map(annotation: Any) -> Any:
    return valid(annotation) if isinstance(annotation, type) else {}


def _field(annotation: Any, name: str) -> Any:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    return next(
        info.annotation for n, info in annotation.model_fields.items() if (info.alias or n) == name
    )


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation
