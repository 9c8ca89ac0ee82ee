"""What steps of graphs cost and how they end, as metrics. Families appear with a gateway's first graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from penstock.graphs.program import CompiledStep, Program
    from penstock.graphs.values import Value
    from penstock.observe.metrics import Registry

_SECONDS: Final = "seconds"


class GraphMetrics:
    """Counts for every graph of a gateway (a `penstock.graphs.execution.Observer`)."""

    def __init__(self, registry: Registry) -> None:
        self._steps = registry.counter(
            "penstock_graph_steps",
            "Steps of graphs, by how they ended: ok, skipped, failed, ignored (failed softly) or canceled.",
            ("namespace", "graph", "step", "outcome"),
        )
        self._seconds = registry.histogram(
            "penstock_graph_step_seconds",
            "From a step's start to its end, waiting for a replica included.",
            ("namespace", "graph", "step"),
        )

    def step(self, program: Program, step: CompiledStep, outcome: str, seconds: float) -> None:
        series = step.series
        counter = series.get(outcome)
        if counter is None:
            graph = program.graph
            names = (graph.namespace, graph.name, step.path)
            counter = series[outcome] = self._steps.labels(*names, outcome)
            series[_SECONDS] = self._seconds.labels(*names)
        counter.value += 1
        if outcome != "skipped":
            series[_SECONDS].observe(seconds)

    def value(self, program: Program, step: CompiledStep | None, given: bool, value: Value) -> None:
        """Values are not counted."""

    def forget(self, namespace: str, graph: str) -> None:
        """The graph is gone."""
        for family in (self._steps, self._seconds):
            gone: list[Any] = [k for k in family.children if k[:2] == (namespace, graph)]
            for labels in gone:
                family.remove(*labels)
