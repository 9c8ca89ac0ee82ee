"""Kubernetes' resource paths, taken apart."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.api.kinds import Resource, by_path
from penstock.api.wire import ApiError


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a collection (no name), an object, or something below one."""

    resource: Resource
    namespace: str | None
    name: str | None = None
    below: str | None = None


def parse(path: str) -> Target:
    """`/api/v1/...` or `/apis/GROUP/VERSION/...`; ApiError 404 for what is not served."""
    parts = [p for p in path.split("/") if p]
    if parts[:1] == ["api"] and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise _unknown(path)
    table = by_path()
    namespace: str | None = None
    # /namespaces/NS/PLURAL is a path in a namespace; /namespaces/NS is the namespace itself.
    if rest[0] == "namespaces" and len(rest) >= 3 and (group, version, rest[2]) in table:
        namespace, rest = rest[1], rest[2:]
    resource = table.get((group, version, rest[0]))
    if resource is None or len(rest) > 3:
        raise _unknown(path)
    if namespace is not None and not resource.namespaced:
        raise _unknown(path)
    name = rest[1] if len(rest) > 1 else None
    below = rest[2] if len(rest) > 2 else None
    if resource.namespaced and namespace is None and name is not None:
        raise _unknown(path)
    return Target(resource, namespace if resource.namespaced else "", name, below)


def _unknown(path: str) -> ApiError:
    return ApiError(404, f"The server could not find the requested resource: {path}")
