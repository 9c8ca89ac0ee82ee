"""What annotations say of a graph in every dialect: is it stopped, what do its steps get, who sees inside.

KServe's headers are said in the configuration of a whole cluster, Seldon's are fixed; here a graph says them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from penstock.dialects.schema import path
from penstock.domain.annotations import HEADERS, INSPECT, STOP, stops
from penstock.domain.assembly import Assembly
from penstock.domain.experiment import Experiment
from penstock.domain.graph import Graph
from penstock.errors import FieldProblem


def header_patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Names of headers as regular expressions; what is no plain name is one already."""
    return tuple(f"^{n}$" if n.replace("-", "").isalnum() else n for n in names)


def graph_annotated(manifest: Mapping[str, Any], means: Any) -> tuple[Any, list[FieldProblem]]:
    """What a manifest means, with what its annotations say of its graph, and what is wrong with that."""
    graph = means.graph if isinstance(means, Assembly) else means
    notes = (manifest.get("metadata") or {}).get("annotations") or {}
    if isinstance(means, Experiment):
        return (replace(means, stopped=True) if stops(notes) else means), []
    inspect, headers = notes.get(INSPECT), notes.get(HEADERS)
    stopped = stops(notes)
    if (inspect is None and headers is None and not stopped) or not isinstance(graph, Graph):
        return means, []
    problems = []
    if stopped:
        graph = msgspec.structs.replace(graph, stopped=True)
        if isinstance(means, Assembly):
            means = replace(means, parts=tuple(_stopped(part) for part in means.parts))
    if inspect is not None:
        if inspect not in ("true", "false"):
            problems.append(_wrong(INSPECT, 'must be "true" or "false"'))
        graph = msgspec.structs.replace(graph, inspect=inspect == "true")
    if headers is not None:
        patterns = header_patterns([n.strip() for n in headers.split(",") if n.strip()])
        if not patterns:
            problems.append(_wrong(HEADERS, "names of headers are expected, with commas between"))
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                problems.append(_wrong(HEADERS, f"{pattern}: no regular expression: {error}"))
        graph = msgspec.structs.replace(graph, propagate=(*graph.propagate, *patterns))
    if problems:
        return means, problems
    return (replace(means, graph=graph) if isinstance(means, Assembly) else graph), []


def _stopped(part: Mapping[str, Any]) -> dict[str, Any]:
    """A service that is made for the graph goes with it."""
    metadata = part["metadata"]
    annotations = {**(metadata.get("annotations") or {}), STOP: "true"}
    return {**part, "metadata": {**metadata, "annotations": annotations}}


def _wrong(annotation: str, message: str) -> FieldProblem:
    return FieldProblem(path(("metadata", "annotations", annotation)), message)
