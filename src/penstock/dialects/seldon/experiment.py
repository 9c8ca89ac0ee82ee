"""Seldon Core V2's Experiment on models or on pipelines, mlops.seldon.io/v1alpha1.

Candidates are Models, which are services here, or Pipelines, which are graphs: requests for the experiment,
and those for its `default`, are divided among them by weight; a mirror gets copies. The rules are those of
Seldon's scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse, unsaid
from penstock.dialects.kserve.status import render_status as render_kserve
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.pod import Loose
from penstock.dialects.schema import Spec, read
from penstock.dialects.support import Table
from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.names import service_problem
from penstock.domain.status import ServiceStatus
from penstock.errors import FieldProblem


class CandidateFields(Spec):
    renamed: ClassVar[Mapping[str, str]] = {"modelName": "name"}

    name: Annotated[str, Field(min_length=1)]
    weight: Annotated[int, Field(ge=0)]


class MirrorFields(Spec):
    renamed: ClassVar[Mapping[str, str]] = {"modelName": "name"}

    name: Annotated[str, Field(min_length=1)]
    percent: Annotated[int, Field(ge=0, le=100)]


class ExperimentSpec(Spec):
    renamed: ClassVar[Mapping[str, str]] = {"defaultModel": "default"}

    default: str | None = None
    candidates: list[CandidateFields] | None = None
    mirror: MirrorFields | None = None
    resource_type: Literal["pipeline", "model"] | None = None


class ExperimentManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: ExperimentSpec
    status: Loose | None = None


TABLE = Table(())


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """Experiment -> `domain.Experiment`."""
    unsupported, warnings = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(ExperimentManifest, manifest)
    if parsed is None:
        refuse(manifest, problems + unsaid(unsupported, problems))
    problems = check_metadata(parsed.metadata, name_problem=service_problem, namespaced=True)
    problems += unsupported
    spec = parsed.spec
    given = spec.candidates or []
    names = [c.name for c in given]
    for i, name in enumerate(names):
        if name in names[:i]:
            problems.append(
                FieldProblem(f"spec.candidates[{i}].name", f"{name} is a candidate already")
            )
        elif name == parsed.metadata.name:
            problems.append(
                FieldProblem(f"spec.candidates[{i}].name", "is the experiment's own name")
            )
    if not given:
        problems.append(FieldProblem("spec.candidates", "at least one is needed: somebody answers"))
    elif not any(c.weight for c in given):
        problems.append(FieldProblem("spec.candidates", "one of them needs a weight above 0"))
    if spec.mirror is not None and spec.mirror.name in names:
        problems.append(FieldProblem("spec.mirror.name", f"{spec.mirror.name} is a candidate"))
    if spec.default is not None and spec.default not in names:
        problems.append(FieldProblem("spec.default", "must be one of the candidates"))
    if problems:
        refuse(manifest, problems)
    mirror = spec.mirror
    return Translation(
        Experiment(
            namespace=parsed.metadata.namespace or DEFAULT_NAMESPACE,
            name=parsed.metadata.name or "",
            candidates=tuple(Candidate(c.name, c.weight) for c in given),
            default=spec.default or "",
            mirror=mirror.name if mirror is not None else "",
            mirror_percent=mirror.percent if mirror is not None else 0,
            of_graphs=spec.resource_type == "pipeline",
        ),
        tuple(warnings),
    )


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """ExperimentStatus: Seldon's conditions, all of them what Ready is, beside Ready itself."""
    rendered = render_kserve(manifest, status)
    for field in ("components", "modelStatus", "deploymentMode"):
        rendered.pop(field, None)
    ready: Mapping[str, Any] | None = next(
        (c for c in rendered["conditions"] if c["type"] == "Ready"), None
    )
    if ready is not None:
        types = ["ExperimentReady", "CandidatesReady"]
        if (manifest.get("spec") or {}).get("mirror"):
            types.append("MirrorReady")
        rendered["conditions"] = [
            *rendered["conditions"], *({**ready, "type": t, "severity": "Info"} for t in types)
        ]  # fmt: skip
    return rendered


EXPERIMENT = Dialect(
    api_version="mlops.seldon.io/v1alpha1",
    kind="Experiment",
    plural="experiments",
    singular="experiment",
    short_names=("mle", "mlx"),
    namespaced=True,
    model=ExperimentManifest,
    table=TABLE,
    translator=translate,
    renderer=render_status,
    is_graph=True,
)
