"""Object metadata, the same in every dialect: Kubernetes' ObjectMeta and the rules for its names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.dialects.schema import Spec, path
from penstock.domain.names import (
    MAX_ANNOTATIONS_BYTES,
    key_problem,
    label_problem,
    label_value_problem,
)
from penstock.errors import FieldProblem

DEFAULT_NAMESPACE = "default"

#: Annotation that kubectl apply keeps the last manifest in; says nothing to anybody else.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class OwnerReference(Spec):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Spec):
    """What a user writes, and what a store adds (uid and below)."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[OwnerReference] | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    self_link: str | None = None
    managed_fields: list[dict[str, Any]] | None = None


def check_metadata(
    meta: ObjectMeta, *, name_problem: Callable[[str], str | None], namespaced: bool
) -> list[FieldProblem]:
    """Problems with names, labels and annotations."""
    problems: list[FieldProblem] = []

    def note(at: tuple[str | int, ...], problem: str | None) -> None:
        if problem:
            problems.append(FieldProblem(path(("metadata", *at)), problem))

    if meta.name:
        note(("name",), name_problem(meta.name))
    elif meta.generate_name:
        # A store appends to it, so it may end with '-'.
        note(("generateName",), name_problem(meta.generate_name.rstrip("-") or "-"))
    else:
        note(("name",), "is required")
    if not namespaced:
        if meta.namespace:
            note(("namespace",), "must be absent: the kind is cluster-scoped")
    elif meta.namespace:
        note(("namespace",), label_problem(meta.namespace))
    for key, value in (meta.labels or {}).items():
        note(("labels", key), key_problem(key) or label_value_problem(value))
    problems += check_annotations(meta.annotations or {}, ("metadata", "annotations"))
    for i, finalizer in enumerate(meta.finalizers or ()):
        note(("finalizers", i), key_problem(finalizer))
    return problems


def check_annotations(annotations: dict[str, str], at: tuple[str | int, ...]) -> list[FieldProblem]:
    """Problems with keys, and with the size of all of them."""
    problems = [
        FieldProblem(path((*at, key)), problem)
        for key in annotations
        if (problem := key_problem(key.lower()))
    ]
    size = sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items())
    if size > MAX_ANNOTATIONS_BYTES:
        problems.append(
            FieldProblem(path(at), f"{size} bytes in all; at most {MAX_ANNOTATIONS_BYTES} fit")
        )
    return problems


def check_labels(labels: dict[str, str], at: tuple[str | int, ...]) -> list[FieldProblem]:
    """Problems with labels elsewhere than in the metadata."""
    return [
        FieldProblem(path((*at, key)), problem)
        for key, value in labels.items()
        if (problem := key_problem(key) or label_value_problem(value))
    ]
