"""Kinds that are read from what runs instead of from manifests: replicas, pods, devices and events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.api import pods
from penstock.api.feeds import DeviceFeed, ReplicaFeed
from penstock.api.kinds import DEVICE, EVENT, POD, REPLICA, SERVICE, Resource
from penstock.api.selections import Selection
from penstock.api.wire import missing
from penstock.backends.base import ReplicaStatus
from penstock.control.plane import ControlPlane
from penstock.control.revisions import SERVICE_LABEL
from penstock.domain.devices import WHOLE, DeviceShare, DeviceStatus
from penstock.domain.status import rfc3339
from penstock.store.base import Listing, Watch


def replica_object(r: ReplicaStatus, version: int) -> dict[str, Any]:
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
        "resourceVersion": str(version),
        "labels": {
            SERVICE_LABEL: r.service,
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


def _part(share: DeviceShare) -> dict[str, Any]:
    part: dict[str, Any] = {"share": share.milli / WHOLE}
    if share.memory_bytes is not None:
        part["memoryBytes"] = share.memory_bytes
    return part


def device_object(status: DeviceStatus, version: int) -> dict[str, Any]:
    """An accelerator in the shape of an object; its name is the vendor's and its index."""
    d = status.device
    return {
        "apiVersion": DEVICE.api_version,
        "kind": DEVICE.kind,
        "metadata": {"name": device_name(status), "resourceVersion": str(version)},
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


def device_name(status: DeviceStatus) -> str:
    d = status.device
    return f"{d.resource.partition('/')[0].partition('.')[0]}-{d.index}"


def _wanted(namespace: str | None, selection: Selection) -> Callable[[ReplicaStatus], bool]:
    """What can be told of a replica, rather than of its object, against a selection."""
    of_service = [r for r in selection.labels.requirements if r.key == SERVICE_LABEL]

    def wanted(r: ReplicaStatus) -> bool:
        labels = {SERVICE_LABEL: r.service}
        return namespace in (None, "", r.namespace) and all(q.matches(labels) for q in of_service)

    return wanted


class Readings:
    """Lists and watches of what is not stored."""

    def __init__(self, plane: ControlPlane) -> None:
        self._store = plane.store
        self._plane = plane
        self._none = ReplicaFeed()
        self._replicas = ReplicaFeed()
        self._devices = DeviceFeed(lambda: plane.backend.devices(), device_name)
        for r in plane.replicas.all():
            self._replicas.put(r.id, r)
        plane.replica_listeners.append(self._replicas.changed)

    async def list(
        self, resource: Resource, namespace: str | None, selection: Selection
    ) -> Listing:
        """What there is, by namespace and name; events oldest first. Unavailable."""
        if resource is EVENT:
            listing = await self._store.list_events(namespace=namespace)
            return Listing([e for e in listing.items if selection.picks(e)], listing.version)
        if resource is SERVICE:
            return Listing([], self._none.version)
        if resource is DEVICE:
            await self._devices.look()
            found, version = self._devices.objects(device_object), self._devices.version
        else:
            render = pods.pod if resource is POD else replica_object
            # Of thousands one service's are asked for: what is not wanted is not rendered.
            found = self._replicas.objects(render, _wanted(namespace, selection))
            version = self._replicas.version
        picked = [
            obj
            for obj in found
            if selection.picks(obj)
            and (namespace in (None, "") or obj["metadata"]["namespace"] == namespace)
        ]
        picked.sort(key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"]))
        return Listing(picked, version)

    def watch(self, resource: Resource, since: int) -> Watch:
        """Changes after a version of `list`; `Expired`."""
        if resource is EVENT:
            return self._store.watch_events(since=since)
        if resource is SERVICE:
            return self._none.watch(since, replica_object, resource.stored)
        if resource is DEVICE:
            return self._devices.watch(since, device_object, resource.stored)
        render = pods.pod if resource is POD else replica_object
        return self._replicas.watch(since, render, resource.stored)

    def replica(self, resource: Resource, namespace: str, name: str) -> ReplicaStatus:
        """ApiError 404."""
        found = self._plane.replicas.get(name)
        if found is None or found.namespace != namespace:
            raise missing(resource, namespace, name)
        return found
