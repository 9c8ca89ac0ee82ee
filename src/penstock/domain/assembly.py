"""A graph that brings its own services: one manifest that means several objects.

Seldon's deployments say in one place what runs in each node and how the nodes follow each other. The nodes
become services like any others, owned by the manifest; the graph names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.graph import Graph


@dataclass(frozen=True, slots=True)
class Assembly:
    """A graph and the manifests of the services that are made for it."""

    graph: Graph
    #: InferenceServices of Penstock's own dialect, in the graph's namespace.
    parts: tuple[Mapping[str, Any], ...]

    @property
    def namespace(self) -> str:
        return self.graph.namespace

    @property
    def name(self) -> str:
        return self.graph.name

    def services(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of every service that the graph calls."""
        return self.graph.services()

    def graphs(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of every other graph that it runs."""
        return self.graph.graphs()
