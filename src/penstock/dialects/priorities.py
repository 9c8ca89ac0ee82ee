"""Kubernetes' PriorityClass, scheduling.k8s.io/v1, and a pod's fields that refer to it."""

from __future__ import annotations

from typing import Literal

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.metadata import ObjectMeta, check_metadata
from penstock.dialects.pod import PodFields
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.support import Table
from penstock.domain.names import subdomain_problem
from penstock.domain.priority import BUILT_IN, LEAST, MOST, Priority, PriorityClass
from penstock.errors import FieldProblem

At = tuple[int | str, ...]
NEVER = "Never"


class PriorityClassManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    value: int
    global_default: bool | None = None
    description: str | None = None
    preemption_policy: Literal["Never", "PreemptLowerPriority"] | None = None


NO_TABLE = Table(())


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """PriorityClass -> `domain.PriorityClass`."""
    parsed, problems = read(PriorityClassManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=False)
    name = parsed.metadata.name or ""
    if name.startswith("system-"):
        known = f"; {', '.join(BUILT_IN)} exist already" if name in BUILT_IN else ""
        problems.append(
            FieldProblem("metadata.name", f"names that begin with system- are Kubernetes'{known}")
        )
    if not LEAST <= parsed.value <= MOST:
        problems.append(FieldProblem("value", f"must be from {LEAST} to {MOST}"))
    if problems:
        refuse(manifest, problems)
    return Translation(
        PriorityClass(
            name=name,
            value=parsed.value,
            default=bool(parsed.global_default),
            preempts=parsed.preemption_policy != NEVER,
        )
    )


def priority_of(given: PodFields, at: At) -> tuple[Priority, list[FieldProblem]]:
    """What a component's pod fields say."""
    problems = []
    if given.priority is not None and given.priority_class_name:
        problems.append(
            FieldProblem(
                path((*at, "priority")), "may not be given together with priorityClassName"
            )
        )
    elif given.priority is not None and not LEAST <= given.priority <= MOST:
        problems.append(FieldProblem(path((*at, "priority")), f"must be from {LEAST} to {MOST}"))
    policy = given.preemption_policy
    if policy not in (None, NEVER, "PreemptLowerPriority"):
        problems.append(
            FieldProblem(
                path((*at, "preemptionPolicy")), "must be one of Never, PreemptLowerPriority"
            )
        )
    preempts = None if policy is None else policy != NEVER
    return Priority(given.priority_class_name or "", given.priority, preempts), problems


DIALECTS = (
    Dialect(
        api_version="scheduling.k8s.io/v1",
        kind="PriorityClass",
        plural="priorityclasses",
        singular="priorityclass",
        short_names=("pc",),
        namespaced=False,
        model=PriorityClassManifest,
        table=NO_TABLE,
        translator=translate,
    ),
)
