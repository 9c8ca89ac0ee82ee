"""KServe's annotations: which are known, and what is said about those that have no effect here."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.dialects.scaling_fields import KNATIVE, is_read
from penstock.dialects.schema import nearest, path
from penstock.errors import FieldProblem

PREFIX = "serving.kserve.io/"
DEPLOYMENT_MODE = PREFIX + "deploymentMode"
AUTOSCALER_CLASS = PREFIX + "autoscalerClass"
STORAGE_SECRET = PREFIX + "storageSecretName"

_AUTOSCALER = "replicas are scaled by the autoscaler built in, by concurrency or rps"
_AUTOSCALING = "is not read here; minReplicas, maxReplicas, scaleMetric and scaleTarget are"
_CLUSTER = "is for a cluster; it has no effect here"

#: Known annotation -> what to say when it is there; None: it is read, or means what is so anyway.
_KNOWN: dict[str, str | None] = {
    "stop": None,
    "deploymentMode": None,
    "storageSecretName": None,
    "autoscalerClass": None,
    "disable-localmodel": None,
    "enable-prometheus-scraping": None,
    "enable-metric-aggregation": None,
    "metrics": _AUTOSCALING,
    "targetUtilizationPercentage": _AUTOSCALING,
    "enable-tag-routing": None,
    "nodegroup": _CLUSTER,
    "gke-accelerator": _CLUSTER,
    "gpu-resource-types": _CLUSTER,
    "disable-auto-update": "a revision keeps the runtime it was started with in any case",
    "server-type": _CLUSTER,
    "local-model": _CLUSTER,
}
_MODES = ("Standard", "RawDeployment")
_OTHER_MODES = ("Knative", "Serverless", "ModelMesh")
#: Classes that mean: nobody here changes the number of replicas.
FIXED = ("none", "external")
_AUTOSCALERS = ("hpa", "keda", "external", "none")


def warnings(annotations: Mapping[str, str], at: tuple[int | str, ...]) -> list[FieldProblem]:
    """What must be said about the annotations; foreign ones are nobody's business."""
    said = []
    for key, value in annotations.items():
        message = _about(key, value)
        if message:
            said.append(FieldProblem(path((*at, key)), message))
    return said


def problems(annotations: Mapping[str, str], at: tuple[int | str, ...]) -> list[FieldProblem]:
    """What KServe's own webhook refuses."""
    value = annotations.get(AUTOSCALER_CLASS)
    if value is None or value in _AUTOSCALERS:
        return []
    near = nearest(value, _AUTOSCALERS)
    hint = f", did you mean {near}?" if near else ""
    message = f"must be one of {', '.join(_AUTOSCALERS)}{hint}"
    return [FieldProblem(path((*at, AUTOSCALER_CLASS)), message)]


def _about(key: str, value: str) -> str | None:
    if key.startswith(KNATIVE):
        return None if is_read(key) else _AUTOSCALING
    if key.startswith("queue.sidecar.serving.knative.dev/"):
        return _CLUSTER
    if not key.startswith(PREFIX):
        return None
    name = key.removeprefix(PREFIX)
    if name.startswith("exp-dra-"):
        return _CLUSTER
    if name not in _KNOWN:
        near = nearest(name, list(_KNOWN))
        return f"unknown annotation, did you mean {PREFIX}{near}?" if near else "unknown annotation"
    if key == DEPLOYMENT_MODE and value not in _MODES:
        if value in _OTHER_MODES:
            return f"there is no {value} here; the service runs as Standard"
        near = nearest(value, _MODES + _OTHER_MODES)
        return f"unknown mode; the service runs as Standard{f' (did you mean {near}?)' if near else ''}"
    if key == AUTOSCALER_CLASS and value not in FIXED:
        return _AUTOSCALER if value in _AUTOSCALERS else f"must be one of {', '.join(_AUTOSCALERS)}"
    return _KNOWN[name]
