"""The kinds that the API serves, by their paths.

Kinds with a dialect come from its registry and can be written; `Event`, `Pod`, `Revision`, `Replica` and
`Device` are made by the platform and can only be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from penstock import dialects
from penstock.dialects import Dialect
from penstock.store.base import Kind

#: Kinds that mean no service and have a status.
_WITH_STATUS = frozenset({"LocalModelCache", "ResourceQuota"})
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind under one apiVersion."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    dialect: Dialect | None = None
    verbs: tuple[str, ...] = READ + WRITE

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored(self) -> Kind:
        return Kind(self.group, self.kind)

    @property
    def is_service(self) -> bool:
        """The kind means a service."""
        return self.dialect is not None and self.dialect.renderer is not None

    @property
    def has_status(self) -> bool:
        """Its status is a subresource that can be written."""
        return self.is_service or self.kind in _WITH_STATUS

    @property
    def is_graph(self) -> bool:
        """The kind means a graph: it has a service's name and address, and no replicas."""
        return self.dialect is not None and self.dialect.is_graph

    @property
    def qualified(self) -> str:
        """`inferenceservices.penstock.dev`, as kubectl names it in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


EVENT = Resource("", "v1", "Event", "events", "event", ("ev",), verbs=READ)
#: Replicas as tools of Kubernetes know them.
POD = Resource("", "v1", "Pod", "pods", "pod", ("po",), verbs=READ)
REVISION = Resource(
    "penstock.dev", "v1alpha1", "Revision", "revisions", "revision", ("rev",), verbs=READ
)
REPLICA = Resource("penstock.dev", "v1alpha1", "Replica", "replicas", "replica", (), verbs=READ)

DEVICE = Resource(
    "penstock.dev",
    "v1alpha1",
    "Device",
    "devices",
    "device",
    ("dev",),
    namespaced=False,
    verbs=READ,
)
#: There are none: `kubectl cluster-info` asks for those of the cluster's own programs.
SERVICE = Resource("", "v1", "Service", "services", "service", ("svc",), verbs=READ)
#: Kinds that are made from what runs, and stored nowhere.
READINGS = (EVENT, POD, SERVICE, REPLICA, DEVICE)


@cache
def resources() -> tuple[Resource, ...]:
    """Every kind, in the order of discovery."""
    written = tuple(
        Resource(
            d.group,
            d.version,
            d.kind,
            d.plural,
            d.singular,
            d.short_names,
            d.namespaced,
            d,
        )
        for d in dialects.all_dialects()
    )
    return (*written, EVENT, POD, SERVICE, REVISION, REPLICA, DEVICE)


@cache
def by_path() -> Mapping[tuple[str, str, str], Resource]:
    """(group, version, plural) -> resource."""
    return {(r.group, r.version, r.plural): r for r in resources()}


def service_kinds() -> tuple[Kind, ...]:
    return tuple(dict.fromkeys(r.stored for r in resources() if r.is_service))


def discovery_entry(resource: Resource) -> dict[str, Any]:
    """The entry in an APIResourceList."""
    entry: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.is_service or resource is POD:
        entry["categories"] = ["all"]
    return entry
