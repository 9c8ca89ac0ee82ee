"""Manifests in, domain objects out; domain status in, the dialect's status out.

`find` looks a dialect up by apiVersion and kind; `all_dialects` lists them, for discovery and documentation.
A dialect (`base`) is a file of its kind's name, with its fields read by `schema` and a table of what is
understood and not done (`support`). KServe's fields are the common ground: other dialects of services are
turned into them, and dialects of graphs share `graph_fields`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from penstock.dialects.base import Dialect, Support, Translation
from penstock.errors import FieldProblem, InvalidManifest

__all__ = ["Dialect", "Support", "Translation", "all_dialects", "find", "of", "translate"]


@cache
def _registry() -> Mapping[tuple[str, str], Dialect]:
    # Imported on first use: building the models takes some 50 ms, and most of the command line needs none.
    from penstock.dialects import core, penstock, penstock_pipeline, priorities, quotas
    from penstock.dialects.kserve import graph as kserve_graph
    from penstock.dialects.kserve import kfserving
    from penstock.dialects.kserve import local_model as kserve_local_model
    from penstock.dialects.kserve import runtime as kserve_runtime
    from penstock.dialects.kserve import service as kserve
    from penstock.dialects.kserve import storage_container as kserve_storage_container
    from penstock.dialects.kserve import trained_model as kserve_trained_model
    from penstock.dialects.seldon import v1 as seldon_v1
    from penstock.dialects.seldon import v2 as seldon_v2

    dialects = (
        penstock.DIALECT,
        penstock_pipeline.DIALECT,
        *kserve_runtime.OWN,
        *kserve.DIALECTS,
        kserve_graph.DIALECT,
        kserve_trained_model.DIALECT,
        *kserve_local_model.DIALECTS,
        kserve_storage_container.DIALECT,
        *kfserving.DIALECTS,
        *seldon_v1.DIALECTS,
        *seldon_v2.DIALECTS,
        *kserve_runtime.DIALECTS,
        *core.DIALECTS,
        *quotas.DIALECTS,
        *priorities.DIALECTS,
    )
    return {(d.api_version, d.kind): d for d in dialects}


def all_dialects() -> tuple[Dialect, ...]:
    """Every dialect, Penstock's own first."""
    return tuple(_registry().values())


def find(api_version: str, kind: str) -> Dialect:
    """The dialect of an apiVersion and kind; InvalidManifest with what was probably meant."""
    registry = _registry()
    found = registry.get((api_version, kind))
    if found is not None:
        return found
    same_version = [k for v, k in registry if v == api_version]
    if same_version:
        from penstock.dialects.seldon import v2 as seldon_v2

        if api_version == seldon_v2.API_VERSION and kind in seldon_v2.LATER:
            raise InvalidManifest([FieldProblem("kind", f"{kind}: {seldon_v2.LATER[kind]}")])
        near = difflib.get_close_matches(kind, same_version, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(same_version)}"
        raise InvalidManifest([FieldProblem("kind", f"{api_version} has no kind {kind!r}; {hint}")])
    with_kind = [v for v, k in registry if k == kind]
    if with_kind:
        hint = f"{kind} is known as {' and '.join(with_kind)}"
    else:
        versions = sorted({v for v, _ in registry})
        near = difflib.get_close_matches(api_version, versions, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(versions)}"
    raise InvalidManifest([FieldProblem("apiVersion", f"unknown version {api_version!r}; {hint}")])


def of(manifest: Any) -> Dialect:
    """The dialect of a manifest; InvalidManifest when it is no manifest or of no known kind."""
    if not isinstance(manifest, Mapping):
        raise InvalidManifest(
            [FieldProblem("", "a manifest is a map with apiVersion, kind and metadata")]
        )
    problems = [
        FieldProblem(field, "is required" if manifest.get(field) is None else "must be a string")
        for field in ("apiVersion", "kind")
        if not isinstance(manifest.get(field), str)
    ]
    if problems:
        raise InvalidManifest(problems)
    return find(manifest["apiVersion"], manifest["kind"])


def translate(manifest: Any, *, runs_containers: bool = False) -> Translation:
    """`of(manifest).translate(manifest)`."""
    return of(manifest).translate(manifest, runs_containers=runs_containers)
