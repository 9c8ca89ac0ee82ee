"""Revisions as objects in the store, so that they outlive the control plane and people can read them.

A `Revision` object belongs to its service (ownerReference) and is never edited: its spec is the snapshot,
its status says whether it was ever ready. `Kept` is what controllers see of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import msgspec

from penstock.domain.annotations import RESTARTED_AT
from penstock.domain.process import ServedModel
from penstock.domain.revision import Revision, digest
from penstock.domain.service import EMPTY, Component, EnvVar, Service
from penstock.domain.status import from_rfc3339, rfc3339
from penstock.domain.workload import WorkloadId, id_of
from penstock.errors import Internal
from penstock.store.base import Key, Kind, Object

REVISION = Kind("penstock.dev", "Revision")
API_VERSION = "penstock.dev/v1alpha1"
SERVICE_LABEL = "penstock.dev/service"
#: Revisions kept for history; the one that serves and those that run are kept beyond it.
HISTORY = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a revision is that gets its requests in steps."""

    #: Index of the step; as many as there are steps when it is through.
    step: int = 0
    #: Why it was given up; empty while it was not.
    back: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A revision and what became of it."""

    revision: Revision
    #: Digest of what was asked for: the component and the restart mark, without the files.
    asked: str
    #: Local path of the verified files.
    path: str
    uri: str = ""
    size_bytes: int = 0
    #: The framework's options: the runtime's, and over them the model's.
    options: Mapping[str, Any] = EMPTY
    #: Environment: the runtime's, then the component's; secrets by reference.
    env: tuple[EnvVar, ...] = ()
    #: The models of a repository (see `repository_files`); empty where the files are one model's.
    models: tuple[ServedModel, ...] = ()
    #: Unix seconds when it first was ready; None while it never was.
    ready_at: float | None = None
    #: Counts, over the revisions of its role, when this one last took all requests; 0 while it never did.
    rollout: int = 0
    stage: Stage | None = None

    @property
    def name(self) -> str:
        return self.revision.name

    @property
    def number(self) -> int:
        return self.revision.number

    @property
    def workload(self) -> WorkloadId:
        return id_of(self.revision.component)


def asked_digest(service: Service, component: Component | None = None) -> str:
    """What the manifest asks to run in a component (the predictor), before anything was fetched."""
    mark = service.annotations.get(RESTARTED_AT, "")
    return digest(component or service.predictor) + (f"@{mark}" if mark else "")


def next_number(kept: Iterable[Kept]) -> int:
    return max((k.number for k in kept), default=0) + 1


def to_object(kept: Kept, service: Service, owner: Object) -> Object:
    """The store's object for a revision of the service in the manifest `owner`."""
    meta = owner["metadata"]
    r = kept.revision
    return {
        "apiVersion": API_VERSION,
        "kind": REVISION.kind,
        "metadata": {
            "name": r.name,
            "namespace": service.namespace,
            "labels": {SERVICE_LABEL: service.name},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "service": service.name,
            "number": r.number,
            "digest": r.digest,
            "asked": kept.asked,
            "created": r.created,
            "files": r.files,
            "runtime": r.runtime,
            "framework": r.framework,
            "path": kept.path,
            "uri": kept.uri,
            "sizeBytes": kept.size_bytes,
            "options": plain(kept.options),
            "env": plain(kept.env),
            **({"models": plain(kept.models)} if kept.models else {}),
            "component": plain(r.component),
        },
    }


def from_object(obj: Object) -> Kept:
    """`Kept` of a store's object; Internal when it is no revision that this release can read."""
    spec: Mapping[str, Any] = obj.get("spec") or {}
    try:
        revision = Revision(
            name=obj["metadata"]["name"],
            number=int(spec["number"]),
            digest=spec["digest"],
            created=float(spec["created"]),
            component=msgspec.convert(spec["component"], Component),
            files=spec.get("files", ""),
            runtime=spec.get("runtime", ""),
            framework=spec.get("framework", ""),
        )
        status = obj.get("status") or {}
        ready_at = status.get("readyAt")
        return Kept(
            revision,
            asked=spec["asked"],
            path=spec.get("path", ""),
            uri=spec.get("uri", ""),
            size_bytes=int(spec.get("sizeBytes", 0)),
            options=spec.get("options") or {},
            env=msgspec.convert(spec.get("env") or [], tuple[EnvVar, ...]),
            models=msgspec.convert(spec.get("models") or [], tuple[ServedModel, ...]),
            ready_at=from_rfc3339(ready_at) if ready_at else None,
            rollout=int(status.get("rollout", 0)),
            stage=msgspec.convert(status["stage"], Stage) if status.get("stage") else None,
        )
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as exc:
        name = obj.get("metadata", {}).get("name")
        raise Internal(f"The stored revision {name} cannot be read: {exc!r}.") from exc


def revision_status(kept: Kept) -> dict[str, Any]:
    """The status of a revision: when it was ready first, when it took all requests."""
    status: dict[str, Any] = {}
    if kept.ready_at is not None:
        status["readyAt"] = rfc3339(kept.ready_at)
    if kept.rollout:
        status["rollout"] = kept.rollout
    if kept.stage is not None:
        status["stage"] = {"step": kept.stage.step, "back": kept.stage.back}
    return status


def key_of(namespace: str, name: str) -> Key:
    return Key(REVISION, namespace, name)


def superfluous(kept: tuple[Kept, ...], in_use: frozenset[str]) -> tuple[Kept, ...]:
    """Those to forget, oldest first: beyond the last `HISTORY` of their role and not in use."""
    by_role: dict[str, list[Kept]] = {}
    for k in kept:
        by_role.setdefault(k.workload.role, []).append(k)
    for of in by_role.values():
        if len({k.workload for k in of}) > 1:
            # Their numbers tell nothing of each other.
            of.sort(key=lambda k: k.revision.created)
    return tuple(k for of in by_role.values() for k in of[:-HISTORY] if k.name not in in_use)


def plain(value: Any) -> Any:
    """JSON values of a domain object; absent optional fields are left out."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        out = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return {k: v for k, v in out.items() if v is not None and v != {} and v != []}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
