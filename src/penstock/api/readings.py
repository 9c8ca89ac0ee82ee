"""Kinds that are read from what runs instead of from manifests: replicas, devices and events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock.api.kinds import DEVICE, EVENT, REPLICA
from penstock.api.wire import ApiError
from penstock.backends.base import ReplicaStatus
from penstock.control.plane import ControlPlane
from penstock.domain.devices import WHOLE, DeviceShare, DeviceStatus
from penstock.domain.status import rfc3339
from penstock.errors import InvalidInput


def replica_object(r: ReplicaStatus) -> dict[str, Any]:
    """A replica in the shape of an object."""
    times = {"startedAt": r.started_at, "readyAt": r.ready_at, "retryAt": r.retry_at}
    status: dict[str, Any] = {
        "phase": r.phase.value,
        "address": r.address,
        "restarts": r.restarts,
        **{k: rfc3339(v) for k, v in times.items() if v is not None},
    }
    optional = {
        "pid": r.pid,
        "reason": r.reason or None,
        "message": r.message or None,
        "exitCode": r.exit_code,
        "signal": r.signal,
        "memoryBytes": r.memory_bytes,
        "limits": r.limits or None,
        "devices": [{"index": d.index, "id": d.id, **_part(d)} for d in r.devices] or None,
    }
    status.update({k: v for k, v in optional.items() if v is not None})
    metadata: dict[str, Any] = {
        "name": r.id,
        "namespace": r.namespace,
        "labels": {
            "penstock.dev/service": r.service,
            "penstock.dev/revision": r.revision,
            "penstock.dev/component": r.component,
        },
    }
    if r.started_at is not None:
        metadata["creationTimestamp"] = rfc3339(r.started_at)
    return {
        "apiVersion": REPLICA.api_version,
        "kind": REPLICA.kind,
        "metadata": metadata,
        "spec": {"service": r.service, "revision": r.revision, "component": r.component},
        "status": status,
    }


def replicas(plane: ControlPlane, namespace: str | None) -> list[dict[str, Any]]:
    """Replicas of a namespace, or of all, by name."""
    found = (r for r in plane.replicas.all() if namespace is None or r.namespace == namespace)
    return [replica_object(r) for r in sorted(found, key=lambda r: (r.namespace, r.id))]


def _part(share: DeviceShare) -> dict[str, Any]:
    part: dict[str, Any] = {"share": share.milli / WHOLE}
    if share.memory_bytes is not None:
        part["memoryBytes"] = share.memory_bytes
    return part


def device_object(status: DeviceStatus) -> dict[str, Any]:
    """An accelerator in the shape of an object; its name is the vendor's and its index."""
    d = status.device
    vendor = d.resource.partition("/")[0].partition(".")[0]
    return {
        "apiVersion": DEVICE.api_version,
        "kind": DEVICE.kind,
        "metadata": {"name": f"{vendor}-{d.index}"},
        "spec": {
            "resource": d.resource,
            "index": d.index,
            "id": d.id,
            "model": d.name,
            "memoryBytes": d.memory_bytes,
        },
        "status": {
            "free": (WHOLE - sum(s.milli for s in status.holders.values())) / WHOLE,
            "reservedBytes": d.reserved_bytes,
            "holders": [
                {"replica": replica, **_part(share)} for replica, share in status.holders.items()
            ],
        },
    }


async def devices(plane: ControlPlane) -> list[dict[str, Any]]:
    """The accelerators that replicas are placed on."""
    return [device_object(status) for status in await plane.backend.devices()]


#: Fields that events can be selected by, as kubectl does.
_EVENT_FIELDS = {
    "involvedObject.name": ("involvedObject", "name"),
    "involvedObject.namespace": ("involvedObject", "namespace"),
    "involvedObject.kind": ("involvedObject", "kind"),
    "involvedObject.uid": ("involvedObject", "uid"),
    "involvedObject.apiVersion": ("involvedObject", "apiVersion"),
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
    "reason": ("reason",),
    "type": ("type",),
}


async def events(
    plane: ControlPlane, namespace: str | None, field_selector: str
) -> list[dict[str, Any]]:
    """Events, oldest first. InvalidInput for a field that cannot be selected by."""
    terms = _event_terms(field_selector)
    found = await plane.store.events(namespace=namespace)
    return [e for e in found if all(_value(e, path) == value for path, value in terms)]


def _event_terms(text: str) -> list[tuple[tuple[str, ...], str]]:
    terms = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        field, equals, value = part.partition("=")
        if not equals or field not in _EVENT_FIELDS:
            raise InvalidInput(
                f"fieldSelector {text!r}: {part!r} is not understood.",
                hint=f"Possible are {', '.join(_EVENT_FIELDS)} with =.",
            )
        terms.append((_EVENT_FIELDS[field], value.lstrip("=")))
    return terms


def _value(event: dict[str, Any], path: Iterable[str]) -> Any:
    value: Any = event
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def list_of(
    kind: str, api_version: str, items: list[dict[str, Any]], version: str
) -> dict[str, Any]:
    return {
        "kind": f"{kind}List",
        "apiVersion": api_version,
        "metadata": {"resourceVersion": version},
        "items": items,
    }


def one(items: list[dict[str, Any]], plural: str, name: str) -> dict[str, Any]:
    """The item of that name; ApiError 404."""
    for item in items:
        if item["metadata"]["name"] == name:
            return item
    raise ApiError(404, f'{plural} "{name}" not found')


__all__ = ["EVENT", "devices", "events", "list_of", "one", "replica_object", "replicas"]
