"""What the API serves, as clients ask before anything else: `/api`, `/apis` and the lists below them."""

from __future__ import annotations

import platform
from typing import Any

from penstock._version import __version__
from penstock.api.kinds import POD, discovery_entry, resources
from penstock.api.scale import can_scale
from penstock.api.wire import ApiError


def core_versions() -> dict[str, Any]:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def groups() -> dict[str, Any]:
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(g) for g in _names()]}


def group(name: str) -> dict[str, Any]:
    if name not in _names():
        raise ApiError(404, f"There is no API group {name}; there are {', '.join(_names())}.")
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)}


def resource_list(group_name: str, version: str) -> dict[str, Any]:
    found = [r for r in resources() if (r.group, r.version) == (group_name, version)]
    if not found:
        raise ApiError(404, f"There is no API version {group_name}/{version}.".replace("/v", " v"))
    entries: list[dict[str, Any]] = []
    for r in found:
        entries.append(discovery_entry(r))
        if r is POD:
            entries.append(
                {
                    "name": "pods/log",
                    "singularName": "",
                    "namespaced": True,
                    "kind": "Pod",
                    "verbs": ["get"],
                }
            )
        if r.has_status:
            entries.append(
                {
                    "name": f"{r.plural}/status",
                    "singularName": "",
                    "namespaced": r.namespaced,
                    "kind": r.kind,
                    "verbs": ["get", "patch", "update"],
                }
            )
        if can_scale(r):
            entries.append(
                {
                    "name": f"{r.plural}/scale",
                    "singularName": "",
                    "namespaced": True,
                    "group": "autoscaling",
                    "version": "v1",
                    "kind": "Scale",
                    "verbs": ["get", "patch", "update"],
                }
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": found[0].api_version,
        "resources": entries,
    }


def version() -> dict[str, Any]:
    """Kubernetes' version document: the API conventions are those of 1.30."""
    return {
        "major": "1",
        "minor": "30",
        "gitVersion": f"v1.30.0+penstock-{__version__}",
        "platform": f"{platform.system().lower()}/{platform.machine()}",
        "penstock": __version__,
    }


def _names() -> list[str]:
    return list(dict.fromkeys(r.group for r in resources() if r.group))


def _group(name: str) -> dict[str, Any]:
    # Penstock's own version is preferred where a group has several, then the order of the registry.
    versions = [
        {"groupVersion": f"{name}/{v}", "version": v}
        for v in dict.fromkeys(r.version for r in resources() if r.group == name)
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}
