"""An experiment: requests for one name divided among services, or graphs, that stay what they are.

Seldon Core V2's Experiment on models or pipelines. Unlike a canary, which is a predictor of one service, its
candidates have manifests, replicas and scaling of their own, and are reached under their own names, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A service that takes a share; `weight` is relative to the other candidates'."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Experiment:
    """Who gets the requests. The member `default` gives those for its own name to the experiment."""

    namespace: str
    name: str
    candidates: tuple[Candidate, ...]
    #: One of the candidates, or empty: the experiment is reached under its own name only.
    default: str = ""
    #: A service that gets copies, whose answers are dropped; empty: none.
    mirror: str = ""
    #: Of a hundred requests, how many are copied.
    mirror_percent: int = 0
    #: Its members are graphs, not services.
    of_graphs: bool = False
    #: It takes no requests: those for `default` are that member's own again.
    stopped: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def services(self) -> tuple[tuple[str, str], ...]:
        """Namespace and name of every service it names."""
        return () if self.of_graphs else self._members()

    def graphs(self) -> tuple[tuple[str, str], ...]:
        """Namespace and name of every graph it names."""
        return self._members() if self.of_graphs else ()

    def _members(self) -> tuple[tuple[str, str], ...]:
        names = [c.name for c in self.candidates] + ([self.mirror] if self.mirror else [])
        return tuple((self.namespace, name) for name in names)
