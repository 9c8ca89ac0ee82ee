"""What a dialect is: a pair of pure functions between manifests and the domain.

`translate` reads a manifest as it was applied and answers a domain object and what has no effect here; it
raises `InvalidManifest` with every problem it found. `render_status` gives the domain's status the shape that
users of the dialect know. Dialects do no I/O and keep no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pydantic import BaseModel

from penstock.dialects.bandit_fields import annotated
from penstock.dialects.graph_annotations import graph_annotated
from penstock.dialects.schema import fields, path
from penstock.dialects.support import Effect, Row, Table
from penstock.domain.graph_check import GraphProblem
from penstock.domain.status import ServiceStatus
from penstock.errors import FieldProblem, InvalidManifest

Manifest = Mapping[str, Any]
#: A graph's problem -> the path's parts in the manifest.
Locate = Callable[[GraphProblem], tuple[int | str, ...]]


@dataclass(frozen=True, slots=True)
class Translation:
    """A domain object (`Service`, `ServingRuntime`, `Secret`, ...) and what has no effect here."""

    object: Any
    warnings: tuple[FieldProblem, ...] = ()
    #: Of a graph: (flow, step, part, index) of a problem -> where it is in the manifest.
    locate: Locate | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """One field of a dialect for the documentation: None is supported."""

    path: str
    required: bool = False
    effect: Effect | None = None
    message: str = ""
    only_processes: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """One apiVersion and kind."""

    api_version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    model: type[BaseModel]
    table: Table
    #: (manifest, runs_containers=...) -> Translation; InvalidManifest. See `Dialect.translate`.
    translator: Callable[..., Translation]
    #: (manifest, status, previous rendered status) -> the dialect's `status`; None for kinds without one.
    renderer: Callable[[Manifest, ServiceStatus], dict[str, Any]] | None = None
    #: (old, new) -> problems of changing one into the other.
    update_check: Callable[[Manifest, Manifest], list[FieldProblem]] | None = None
    #: What admission changes before a manifest is kept (a Secret's stringData); identity otherwise.
    admission: Callable[[Manifest], dict[str, Any]] | None = None
    #: Values under this field are secret: write-only in listings, never logged.
    secret_fields: tuple[str, ...] = ()
    #: The kind means a `Graph`, which shares its name with services and has no replicas.
    is_graph: bool = False
    #: Of a kind whose manifests mean a service or a graph with services of its own (`Assembly`): which.
    graph_if: Callable[[Manifest], bool] | None = None

    def means_graph(self, manifest: Manifest) -> bool:
        """Whether this manifest means a graph, not a service."""
        return self.is_graph or (self.graph_if is not None and self.graph_if(manifest))

    @property
    def group(self) -> str:
        """Empty for Kubernetes' own kinds."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def translate(self, manifest: Manifest, *, runs_containers: bool = False) -> Translation:
        """The domain object of `manifest`.

        `runs_containers` is the backend's: pod fields are honoured there and have no effect on a machine that
        runs replicas as processes. InvalidManifest.
        """
        translation = self.translator(manifest, runs_containers=runs_containers)
        means, problems = annotated(manifest, translation.object)
        means, more = graph_annotated(manifest, means)
        problems += more
        if problems:
            refuse(manifest, problems)
        return translation if means is translation.object else replace(translation, object=means)

    def render_status(self, manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
        """`status` as this dialect's users know it."""
        if self.renderer is None:
            raise TypeError(f"{self.kind} has no status of its own")
        return self.renderer(manifest, status)

    def check_update(self, old: Manifest, new: Manifest) -> None:
        """InvalidManifest when `old` may not become `new`."""
        problems = self.update_check(old, new) if self.update_check else []
        if problems:
            refuse(new, problems)

    def admit(self, manifest: Manifest) -> dict[str, Any]:
        """The manifest as it is kept."""
        return self.admission(manifest) if self.admission else dict(manifest)

    def supported(self) -> list[Support]:
        """Every known field and what becomes of it, by path; made from the models and the table."""
        rows: dict[str, Row] = {p: row for row in self.table.rows for p in row.paths()}
        listed: list[Support] = []
        for name, required in fields(self.model):
            plain = name.replace("[]", ".*")
            row = rows.get(plain)
            if row is not None:
                listed.append(Support(name, required, row.effect, row.message, row.only_processes))
            elif not any(plain.startswith(p + ".") for p in rows):
                listed.append(Support(name, required))
        # Rows about single keys of a map, such as one resource name.
        told = {s.path.replace("[]", ".*") for s in listed}
        listed += [
            Support(p.replace(".*", "[]"), False, row.effect, row.message, row.only_processes)
            for p, row in rows.items()
            if p not in told and p.rpartition(".")[0] in told
        ]
        return listed


def about(manifest: Manifest) -> str:
    """`InferenceService default/iris`, as far as the manifest says it."""
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = metadata.get("name") or metadata.get("generateName") or ""
    namespace = metadata.get("namespace")
    full = f"{namespace}/{name}" if namespace and name else str(name)
    return f"{manifest.get('kind') or 'manifest'} {full}".strip()


def unsaid(more: Iterable[FieldProblem], told: Iterable[FieldProblem]) -> list[FieldProblem]:
    """Those of `more` whose places are not told of: one that is wrong needs no second explanation."""
    known = {p.path for p in told}
    return [p for p in more if p.path not in known]


def refuse(manifest: Manifest, problems: list[FieldProblem]) -> NoReturn:
    """Raise InvalidManifest about `manifest`."""
    raise InvalidManifest(problems, about=about(manifest))


__all__ = [
    "Dialect",
    "FieldProblem",
    "Manifest",
    "Support",
    "Translation",
    "about",
    "path",
    "refuse",
    "unsaid",
]
