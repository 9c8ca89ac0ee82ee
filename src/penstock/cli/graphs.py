"""`penstock graph show`: a graph's picture, with what its steps did and how long they take."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from typing import Any

from penstock import dialects
from penstock.cli import documents
from penstock.cli.client import Client, Kinds, Served
from penstock.cli.exits import FAILED, NOT_FOUND, CliError
from penstock.cli.getting import Object, find
from penstock.cli.output import clean, note, say
from penstock.cli.top import Snapshot, quantile
from penstock.domain.assembly import Assembly
from penstock.domain.graph import Graph
from penstock.errors import InvalidManifest
from penstock.graphs import drawing, svg
from penstock.graphs.layout import Diagram, Numbers, layout

STEPS = "penstock_graph_steps"
SECONDS = "penstock_graph_step_seconds"


def show(client: Client, name: str, *, namespace: str, output: str) -> None:
    """Draw a graph that was applied, with its numbers since the gateways started."""
    _, obj = find_graph(client, namespace, name.rpartition("/")[2])
    graph = graph_of(obj)
    numbers = numbers_of(client.get("/metrics.json"), graph)
    status = obj.get("status") or {}
    ready: dict[str, Any] = next(
        (c for c in status.get("conditions") or () if c["type"] == "Ready"), {}
    )
    word = {"True": "ready", "False": "not ready"}.get(ready.get("status", ""), "coming up")
    why = ready.get("message", "")
    _print(graph, numbers, output, f"{graph.key} is {word}{': ' + why if why else ''}")


def find_graph(client: Client, namespace: str, name: str) -> tuple[Served, Object]:
    """The graph of that name, whatever its dialect. CliError says so where the name is a service's."""
    services = Kinds(client).services()
    graphs = graph_kinds(services)
    others = [k for k in services if k not in graphs]
    try:
        kind, obj = find(client, [*graphs, *others], namespace, name)
    except CliError as exc:
        if exc.code != NOT_FOUND:
            raise
        raise CliError(f"There is no graph {name} in namespace {namespace}.", NOT_FOUND) from None
    if kind in others or not dialects.find(obj["apiVersion"], obj["kind"]).means_graph(obj):
        raise CliError(
            f"{kind.singular} {name} is one service, not a graph: it has no steps.", FAILED
        )
    return kind, obj


def graph_kinds(services: list[Served]) -> list[Served]:
    """Kinds whose objects are graphs, or may be."""
    graphs = {
        (d.api_version, d.kind)
        for d in dialects.all_dialects()
        if d.is_graph or d.graph_if is not None
    }
    return [k for k in services if (k.api_version, k.kind) in graphs]


def show_file(name: str, output: str) -> None:
    """Draw the graphs of a file, a folder or standard input (`-`), which need not be applied."""
    graphs = []
    for manifest in documents.read([name]):
        try:
            dialect = dialects.of(manifest.document)
            if dialect.means_graph(manifest.document) and dialect.kind != "Experiment":
                graphs.append(graph_of(manifest.document))
        except InvalidManifest as exc:
            for problem in exc.problems:
                note(f"error: {manifest.where(problem.path)}: {clean(str(problem))}")
            raise CliError(f"{exc.about or 'What is given'} cannot be drawn.", FAILED) from None
    if not graphs:
        raise CliError(f"There is no graph in {name}.", FAILED)
    for graph in graphs:
        _print(graph, {}, output, graph.key)


def graph_of(obj: Mapping[str, Any]) -> Graph:
    """The graph that a manifest means."""
    found = dialects.translate(obj).object
    if isinstance(found, Assembly):
        return found.graph
    if not isinstance(found, Graph):
        raise CliError(f"{obj['kind']} {obj['metadata'].get('name')} is no graph.", FAILED)
    return found


def numbers_of(snapshot: Snapshot, graph: Graph) -> dict[str, Numbers]:
    """By `FLOW.STEP`, what was measured of a graph's steps."""
    outcomes: dict[str, dict[str, float]] = {}
    for labels, value in snapshot.get(STEPS, {}).get("samples", ()):
        namespace, name, step, outcome = labels
        if (namespace, name) == (graph.namespace, graph.name):
            outcomes.setdefault(step, {})[outcome] = value
    times: dict[str, tuple[float | None, float | None]] = {}
    family = snapshot.get(SECONDS, {})
    for labels, (counts, _) in family.get("samples", ()):
        namespace, name, step = labels
        if (namespace, name) == (graph.namespace, graph.name):
            bounds = family["bounds"]
            times[step] = (quantile(bounds, counts, 0.5), quantile(bounds, counts, 0.99))
    return {
        step: Numbers(found, *times.get(step, (None, None))) for step, found in outcomes.items()
    }


def diagrams_of(graph: Graph, numbers: Mapping[str, Numbers]) -> list[Diagram]:
    """One for each flow."""
    drawn = []
    for flow in graph.flows:
        own = {
            s.name: numbers[f"{flow.name}.{s.name}"]
            for s in flow.steps
            if f"{flow.name}.{s.name}" in numbers
        }
        title = graph.key if len(graph.flows) == 1 else f"{graph.key} node {flow.name}"
        external = graph.external if flow is graph.flows[0] else None
        drawn.append(layout(flow, own, title, external))
    return drawn


def _print(graph: Graph, numbers: Mapping[str, Numbers], output: str, head: str) -> None:
    diagrams = diagrams_of(graph, numbers)
    if output == "svg":
        say(svg.draw(diagrams).rstrip())
        return
    say(clean(head))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for diagram in diagrams:
        say("")
        if len(diagrams) > 1:
            say(f"{diagram.title}:")
        say(drawing.draw(diagram, width=width))
