"""The `scale` subresource: `kubectl scale` sets how many replicas a service has at least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.api.kinds import Resource
from penstock.api.wire import ApiError, invalid

MAX_REPLICAS = 10_000
_PATHS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("penstock.dev/v1alpha1", "InferenceService"): ("spec", "predictor", "minReplicas"),
    ("serving.kserve.io/v1beta1", "InferenceService"): ("spec", "predictor", "minReplicas"),
    ("serving.kubeflow.org/v1beta1", "InferenceService"): ("spec", "predictor", "minReplicas"),
}


def can_scale(resource: Resource) -> bool:
    return (resource.api_version, resource.kind) in _PATHS


def scale_of(resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
    """The `Scale` of an object. ApiError 404 when it was applied in a version that has none."""
    meta = obj["metadata"]
    path = _PATHS.get((resource.api_version, resource.kind))
    if path is None or obj["apiVersion"] != resource.api_version:
        raise ApiError(404, f"{obj['apiVersion']} {obj['kind']} has no scale.")
    wanted: Any = obj
    for name in path:
        wanted = wanted.get(name) if isinstance(wanted, Mapping) else None
    counts: Any = obj.get("status") or {}
    for name in ("penstock", "replicas", "predictor"):
        counts = counts.get(name) or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            k: meta[k]
            for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if k in meta
        },
        "spec": {"replicas": 1 if wanted is None else wanted},
        "status": {"replicas": counts.get("ready", 0)},
    }


def as_patch(resource: Resource, name: str, scale: Any) -> dict[str, Any]:
    """The merge patch of the object that a written `Scale` means. ApiError 422."""
    spec = scale.get("spec") if isinstance(scale, Mapping) else None
    replicas = spec.get("replicas", 0) if isinstance(spec, Mapping) else None
    if type(replicas) is not int or not 0 <= replicas <= MAX_REPLICAS:
        text = f"must be a whole number from 0 to {MAX_REPLICAS}"
        raise invalid("Scale", "autoscaling", name, [("spec.replicas", text)])
    patch: Any = replicas
    for part in reversed(_PATHS[resource.api_version, resource.kind]):
        patch = {part: patch}
    metadata = scale.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    return {**patch, "metadata": {"resourceVersion": version}} if version else dict(patch)
