"""A service's status in KServe's shape, for every dialect whose users read it so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.dialects.base import Manifest
from penstock.dialects.graph_fields import arms_of
from penstock.domain.service import Role
from penstock.domain.status import (
    CanaryStatus,
    ComponentStatus,
    Condition,
    Failure,
    RevisionTraffic,
    ServiceStatus,
    Transition,
    Truth,
    rfc3339,
)

#: Ready, and the conditions that it is the sum of.
_DECIDING = frozenset(
    ("Ready", "PredictorReady", "TransformerReady", "ExplainerReady", "IngressReady")
)


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """InferenceServiceStatus of v1beta1; what KServe has no field for is under `penstock`."""
    # KServe's tag of the revision before; both words are addresses here.
    previous = "prev" if str(manifest.get("apiVersion", "")).startswith("serving.") else "previous"
    rendered: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "conditions": [_condition(c) for c in sorted(status.conditions, key=lambda c: c.type)],
        "deploymentMode": "Standard",
        "components": {str(role): _component(c, previous) for role, c in status.components.items()},
        "modelStatus": _model_status(status),
    }
    if status.url:
        rendered["url"] = status.url
    if status.address:
        rendered["address"] = {"url": status.address}
    if status.runtime:
        name = "clusterServingRuntimeName" if status.runtime_is_cluster else "servingRuntimeName"
        rendered[name] = status.runtime
    if status.canaries:
        rendered["canaryStatuses"] = [_canary(c) for c in status.canaries]
    own: dict[str, Any] = {}
    if status.framework:
        own["framework"] = status.framework
    if status.warnings:
        own["warnings"] = list(status.warnings)
    if status.arms:
        own["bandit"] = arms_of(status)
    replicas = {
        str(role): {"wanted": c.replicas, "ready": c.ready_replicas, "failed": c.failed_replicas}
        for role, c in status.components.items()
    }
    if any(c.replicas or c.ready_replicas or c.failed_replicas for c in status.components.values()):
        own["replicas"] = replicas
    limits = {str(role): c.limits for role, c in status.components.items() if c.limits}
    if limits:
        own["limits"] = limits
    if beside := _beside(status):
        own["components"] = beside
    if own:
        rendered["penstock"] = own
    return rendered


def _condition(condition: Condition) -> dict[str, Any]:
    rendered: dict[str, Any] = {"type": condition.type, "status": str(condition.status)}
    if condition.since is not None:
        rendered["lastTransitionTime"] = rfc3339(condition.since)
    if condition.reason:
        rendered["reason"] = condition.reason
    if condition.message:
        rendered["message"] = condition.message
    # Knative's convention: what Ready does not depend on is for information.
    if condition.type not in _DECIDING:
        rendered["severity"] = "Info"
    return rendered


def _component(component: ComponentStatus, previous: str) -> dict[str, Any]:
    named = {
        "latestCreatedRevision": component.latest_created_revision,
        "latestReadyRevision": component.latest_ready_revision,
        "latestRolledoutRevision": component.latest_rolledout_revision,
        "previousRolledoutRevision": component.previous_rolledout_revision,
        "url": component.url,
    }
    rendered: dict[str, Any] = {key: value for key, value in named.items() if value}
    if component.url:
        rendered["restUrl"] = component.url
    if component.traffic:
        rendered["traffic"] = [_traffic(t, previous) for t in component.traffic]
    return rendered


def _traffic(traffic: RevisionTraffic, previous: str) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "revisionName": traffic.revision,
        "percent": traffic.percent,
        "latestRevision": traffic.latest,
    }
    if traffic.tag:
        rendered["tag"] = previous if traffic.tag == "previous" else traffic.tag
    if traffic.url:
        rendered["url"] = traffic.url
    return rendered


def _canary(canary: CanaryStatus) -> dict[str, Any]:
    return {
        "name": canary.name,
        "ready": canary.ready is Truth.TRUE,
        "trafficPercent": canary.percent,
        "modelStatus": _states(canary),
    }


def _beside(status: ServiceStatus) -> dict[str, Any]:
    """What is not as it was asked for beside the predictor, whose own is `modelStatus`."""
    found = {}
    for role, component in status.components.items():
        if role is Role.PREDICTOR or component.transition is None:
            continue
        if component.transition is not Transition.UP_TO_DATE or component.failure is not None:
            rendered: dict[str, Any] = {"transitionStatus": str(component.transition)}
            if component.failure is not None:
                rendered["lastFailureInfo"] = _failure(component.failure)
            found[str(role)] = rendered
    return found


def _states(status: ServiceStatus | CanaryStatus) -> dict[str, Any]:
    states: dict[str, str] = {"targetModelState": str(status.target)}
    if status.active is not None:
        states["activeModelState"] = str(status.active)
    rendered: dict[str, Any] = {"transitionStatus": str(status.transition), "states": states}
    if status.failure is not None:
        rendered["lastFailureInfo"] = _failure(status.failure)
    return rendered


def _model_status(status: ServiceStatus) -> dict[str, Any]:
    predictor = status.components.get(Role.PREDICTOR)
    if predictor is not None and predictor.transition is not None:
        status = replace(status, transition=predictor.transition, failure=predictor.failure)
    rendered = _states(status)
    if predictor is not None:
        rendered["copies"] = {
            "failedCopies": predictor.failed_replicas,
            "totalCopies": predictor.ready_replicas,
        }
    return rendered


def _failure(failure: Failure) -> dict[str, Any]:
    info: dict[str, Any] = {"reason": str(failure.reason), "message": failure.message}
    if failure.location:
        info["location"] = failure.location
    if failure.revision:
        info["modelRevisionName"] = failure.revision
    if failure.time is not None:
        info["time"] = rfc3339(failure.time)
    if failure.exit_code is not None:
        info["exitCode"] = failure.exit_code
    return info
