"""Graphs that call each other in a circle: no request through them would end but at a limit.

A graph that calls itself is found by `domain.graph_check`; a longer way round needs the others' manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from penstock.control.manifests import ServiceKey
from penstock.domain.graph import Graph, asked
from penstock.domain.graph_check import GraphProblem


def circle(
    start: ServiceKey,
    first: Iterable[ServiceKey],
    called: Callable[[ServiceKey], Iterable[ServiceKey]],
) -> tuple[ServiceKey, ...]:
    """A way from `start` over one of `first` back to `start`, both ends in it; empty: there is none."""
    came: dict[ServiceKey, ServiceKey] = {}
    line: list[ServiceKey] = []
    for key in first:
        if key not in came:
            came[key] = start
            line.append(key)
    while line:
        at = line.pop()
        if at == start:
            way = [at]
            while True:
                at = came[at]
                way.append(at)
                if at == start:
                    return tuple(reversed(way))
        for key in called(at):
            if key not in came:
                came[key] = at
                line.append(key)
    return ()


def told(way: Iterable[ServiceKey], namespace: str) -> str:
    """A circle in words."""
    names = (name if space == namespace else f"{space}/{name}" for space, name in way)
    return f"the graphs call each other in a circle: {' -> '.join(names)}"


def circles(
    graph: Graph, called: Callable[[ServiceKey], Iterable[ServiceKey]]
) -> Iterator[GraphProblem]:
    """A problem for each step from which a request would come back to this graph."""
    key = (graph.namespace, graph.name)
    for flow in graph.flows:
        for step in flow.steps:
            target = asked(step.action, graph.namespace)
            if target is None or target == key:
                continue
            way = circle(key, (target,), called)
            if way:
                yield GraphProblem(told(way, graph.namespace), flow.name, step.name, "action")
