"""Replicas as Kubernetes' Pods, to look at: `kubectl get pods`, `describe pod` and `logs` know nothing else.

A pod here is a process. It has what such tools print, and nothing that would not be so.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any

from penstock.backends.base import Phase, ReplicaStatus
from penstock.domain.status import rfc3339
from penstock.errors import InvalidInput

#: KServe's name of the container that has the model.
CONTAINER = "kserve-container"
_PHASES: Mapping[Phase, str] = {
    Phase.WAITING: "Pending",
    Phase.STARTING: "Running",
    Phase.READY: "Running",
    Phase.BACKOFF: "Running",
    Phase.FAILED: "Failed",
    Phase.DRAINING: "Running",
    Phase.STOPPED: "Succeeded",
}


def pod(r: ReplicaStatus, version: int) -> dict[str, Any]:
    """A replica as a Pod."""
    ready = r.phase is Phase.READY
    started = {} if r.started_at is None else {"startTime": rfc3339(r.started_at)}
    metadata: dict[str, Any] = {
        "name": r.id,
        "namespace": r.namespace,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"penstock:{r.id}:{r.started_at}")),
        "resourceVersion": str(version),
        "labels": {
            "component": r.component,
            "penstock.dev/component": r.component,
            "penstock.dev/revision": r.revision,
            "penstock.dev/service": r.service,
            "serving.kserve.io/inferenceservice": r.service,
        },
    }
    if r.started_at is not None:
        metadata["creationTimestamp"] = rfc3339(r.started_at)
    status: dict[str, Any] = {
        "phase": _PHASES[r.phase],
        "conditions": [
            {"type": "Ready", "status": "True" if ready else "False"},
            {"type": "ContainersReady", "status": "True" if ready else "False"},
        ],
        "containerStatuses": [
            {
                "name": CONTAINER,
                "ready": ready,
                "started": ready,
                "restartCount": r.restarts,
                "image": "",
                "imageID": "",
                "state": _state(r),
            }
        ],
        **started,
    }
    if r.reason:
        status["reason"] = r.reason
    if r.message:
        status["message"] = r.message
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "containers": [{"name": CONTAINER, "image": "", "resources": {}}],
            "nodeName": _node(),
            "restartPolicy": "Always",
        },
        "status": status,
    }


@cache
def _node() -> str:
    return platform.node()


def _state(r: ReplicaStatus) -> dict[str, Any]:
    if r.phase in (Phase.FAILED, Phase.STOPPED):
        ended: dict[str, Any] = {"exitCode": r.exit_code or 0, "reason": r.reason or "Completed"}
        if r.signal is not None:
            ended["signal"] = r.signal
        if r.message:
            ended["message"] = r.message
        return {"terminated": ended}
    if r.phase in (Phase.READY, Phase.DRAINING, Phase.STARTING):
        at = r.started_at
        return {"running": {} if at is None else {"startedAt": rfc3339(at)}}
    reason = "CrashLoopBackOff" if r.phase is Phase.BACKOFF else r.reason or "Waiting"
    return {"waiting": {"reason": reason, **({"message": r.message} if r.message else {})}}


def state_shown(obj: Mapping[str, Any]) -> str:
    """The STATUS that kubectl prints of a pod."""
    status = obj["status"]
    state = status["containerStatuses"][0]["state"]
    for kind in ("waiting", "terminated"):
        if kind in state:
            return str(state[kind]["reason"])
    return str(status["phase"])


def check_log_options(query: Mapping[str, str], r: ReplicaStatus) -> None:
    """InvalidInput for what a log that is one text, without times, cannot answer."""
    container = query.get("container")
    if container not in (None, "", CONTAINER):
        raise InvalidInput(f"container {container} is not valid for pod {r.id}")
    for name in ("sinceSeconds", "sinceTime", "timestamps"):
        if query.get(name) not in (None, "", "false", "0"):
            raise InvalidInput(f"{name} is not possible: lines of a log are kept without times.")
    if query.get("previous") in ("1", "true"):
        if not r.restarts:
            raise InvalidInput(
                f'previous terminated container "{CONTAINER}" in pod "{r.id}" not found'
            )
        raise InvalidInput("A log goes on over restarts: leave out previous.")
