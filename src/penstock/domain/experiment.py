"""An experiment: requests for one name divided among services that stay services of their own.

Seldon Core V2's Experiment on models. Unlike a canary, which is a predictor of one service, its candidates
have manifests, replicas and scaling of their own, and are reached under their own names, too.
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
    """Who gets the requests. The service `default` gives those for its own name to the experiment."""

    namespace: str
    name: str
    candidates: tuple[Candidate, ...]
    #: One of the candidates, or empty: the experiment is reached under its own name only.
    default: str = ""
    #: A service that gets copies, whose answers are dropped; empty: none.
    mirror: str = ""
    #: Of a hundred requests, how many are copied.
    mirror_percent: int = 0

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def services(self) -> tuple[tuple[str, str], ...]:
        """Namespace and name of every service it names."""
        names = [c.name for c in self.candidates] + ([self.mirror] if self.mirror else [])
        return tuple((self.namespace, name) for name in names)

    def graphs(self) -> tuple[tuple[str, str], ...]:
        """None: candidates are services."""
        return ()
