"""What an annotation says of a graph in every dialect: whether requests may ask what passed its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from penstock.dialects.schema import path
from penstock.domain.annotations import INSPECT
from penstock.domain.assembly import Assembly
from penstock.domain.graph import Graph
from penstock.errors import FieldProblem


def inspected(manifest: Mapping[str, Any], means: Any) -> tuple[Any, list[FieldProblem]]:
    """What a manifest means, with what its annotation allows, and what is wrong with that."""
    graph = means.graph if isinstance(means, Assembly) else means
    notes = (manifest.get("metadata") or {}).get("annotations") or {}
    text = notes.get(INSPECT)
    if text is None or not isinstance(graph, Graph):
        return means, []
    if text not in ("true", "false"):
        where = path(("metadata", "annotations", INSPECT))
        return means, [FieldProblem(where, 'must be "true" or "false"')]
    graph = msgspec.structs.replace(graph, inspect=text == "true")
    return (replace(means, graph=graph) if isinstance(means, Assembly) else graph), []
