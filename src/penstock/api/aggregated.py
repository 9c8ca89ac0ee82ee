"""Discovery in two answers instead of one per group: `apidiscovery.k8s.io`, which newer clients ask for."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import msgspec

from penstock.api.kinds import POD, Resource, resources
from penstock.api.scale import can_scale

VERSIONS = ("v2", "v2beta1")


def wanted(accept: str) -> str | None:
    """The version that a client would rather have than the plain lists; None for the plain lists."""
    for kind in accept.split(","):
        name, *parts = (p.strip() for p in kind.split(";"))
        if name not in ("application/json", "*/*", "application/*"):
            continue
        said = dict(p.partition("=")[::2] for p in parts)
        if said.get("g") != "apidiscovery.k8s.io":
            return None
        if said.get("as") == "APIGroupDiscoveryList" and said.get("v") in VERSIONS:
            return said["v"]
    return None


def media_type(version: str) -> str:
    return f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"


@cache
def document(version: str, *, core: bool) -> tuple[bytes, str]:
    """(body, entity tag) of `/api` or `/apis`."""
    groups = dict.fromkeys(r.group for r in resources() if (r.group == "") is core)
    body = msgspec.json.encode(
        {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": [_group(name) for name in groups],
        }
    )
    return body, f'"{hashlib.sha256(body).hexdigest()[:32].upper()}"'


def _group(name: str) -> dict[str, Any]:
    mine = [r for r in resources() if r.group == name]
    return {
        "metadata": {"name": name} if name else {},
        "versions": [
            {
                "version": version,
                "freshness": "Current",
                "resources": [_resource(r) for r in mine if r.version == version],
            }
            for version in dict.fromkeys(r.version for r in mine)
        ],
    }


@cache
def _owner(short_name: str) -> str:
    return next(r.group for r in resources() if short_name in r.short_names)


def _resource(r: Resource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "resource": r.plural,
        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
        "scope": "Namespaced" if r.namespaced else "Cluster",
        "singularResource": r.singular,
        "verbs": list(r.verbs),
    }
    # One group has a short name here, the first: kubectl warns of every other that has it too.
    short = [name for name in r.short_names if _owner(name) == r.group]
    if short:
        entry["shortNames"] = short
    if r.is_service or r is POD:
        entry["categories"] = ["all"]
    below = []
    if r is POD:
        below.append(
            {"subresource": "log", "responseKind": entry["responseKind"], "verbs": ["get"]}
        )
    writes = ["get", "patch", "update"]
    if r.has_status:
        below.append(
            {"subresource": "status", "responseKind": entry["responseKind"], "verbs": writes}
        )
    if can_scale(r):
        kind = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        below.append({"subresource": "scale", "responseKind": kind, "verbs": writes})
    if below:
        entry["subresources"] = below
    return entry
