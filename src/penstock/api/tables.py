"""Objects as the server prints them: the `Table` that kubectl asks for.

A service's columns are those of KServe's CRD, so that scripts which cut them keep working; what Penstock adds
shows with `-o wide`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from penstock.api.kinds import Resource
from penstock.api.pods import state_shown
from penstock.domain.quantity import format_bytes

Object = Mapping[str, Any]
Cell = Callable[[Object], Any]

MEDIA_TYPE = "application/json;as=Table;v=v1;g=meta.k8s.io"
#: What may go into a row's `object`.
INCLUDES = ("", "Metadata", "Object", "None")


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column. `wide` ones show with `-o wide` only."""

    name: str
    cell: Cell
    type: str = "string"
    wide: bool = False


def is_wanted(accept: str) -> bool:
    """True when the client takes a Table rather than the object."""
    return _as(accept) == "Table"


def is_metadata_wanted(accept: str) -> bool:
    """True when the client wants names, labels and the like, and not the objects."""
    return _as(accept) in ("PartialObjectMetadata", "PartialObjectMetadataList")


def _as(accept: str) -> str:
    """What the first kind of JSON that a client takes is to be made into; empty for nothing else."""
    for kind in accept.split(","):
        name, *parts = (p.strip() for p in kind.split(";"))
        if name in ("application/json", "*/*", "application/*"):
            said = dict(p.partition("=")[::2] for p in parts)
            return said.get("as", "") if said.get("v") == "v1" else ""
    return ""


def metadata_of(document: Object) -> dict[str, Any]:
    """A list or one object with nothing but its metadata."""
    items = document.get("items")
    return {
        "kind": "PartialObjectMetadata" if items is None else "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": document["metadata"],
        **({} if items is None else {"items": [metadata_of(o) for o in items]}),
    }


def table(resource: Resource, document: Object, include: str = "") -> dict[str, Any]:
    """A list or one object as a Table. `include` says what each row carries of its object."""
    # A bookmark of a watch has a version and no name.
    items = document.get("items", (document,) if "name" in document["metadata"] else ())
    columns = _BY_KIND.get(resource.kind, (NAME, AGE))
    if resource.group == _SELDON and resource.kind in _OF_SELDON:
        columns = _OF_SELDON[resource.kind]
    elif resource.is_graph:
        columns = GRAPH
    elif resource.is_service:
        columns = SERVICE
    meta = document.get("metadata") or {}
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {
            k: meta[k] for k in ("resourceVersion", "continue", "remainingItemCount") if k in meta
        },
        "columnDefinitions": [
            {
                "name": c.name,
                "type": c.type,
                "format": "name" if c is NAME else "",
                "description": "",
                "priority": int(c.wide),
            }
            for c in columns
        ],
        "rows": [_row(columns, item, include) for item in items],
    }


def _row(columns: tuple[Column, ...], obj: Object, include: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [c.cell(obj) for c in columns]}
    if include == "Object":
        row["object"] = dict(obj)
    elif include != "None":
        row["object"] = metadata_of(obj)
    return row


# -- cells --------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Like kubectl's ages: the two largest units while the first is small."""
    s = int(seconds)
    if s < 0:
        return "0s"
    if s < 120:
        return f"{s}s"
    if s < 600:
        return f"{s // 60}m{s % 60}s" if s % 60 else f"{s // 60}m"
    if s < 3 * 3600:
        return f"{s // 60}m"
    if s < 8 * 3600:
        return f"{s // 3600}h{s // 60 % 60}m" if s // 60 % 60 else f"{s // 3600}h"
    if s < 48 * 3600:
        return f"{s // 3600}h"
    if s < 8 * 86400:
        return f"{s // 86400}d{s // 3600 % 24}h" if s // 3600 % 24 else f"{s // 86400}d"
    if s < 2 * 365 * 86400:
        return f"{s // 86400}d"
    return f"{s // (365 * 86400)}y"


def at(*path: str, default: Any = None) -> Cell:
    """The value at a path."""

    def cell(obj: Object) -> Any:
        value: Any = obj
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return default if value is None else value

    return cell


def _since(*path: str) -> Cell:
    read = at(*path)

    def cell(obj: Object) -> str:
        try:
            then = datetime.fromisoformat(str(read(obj)))
        except ValueError:
            return "<unknown>"
        return duration(time.time() - then.timestamp())

    return cell


def _condition(field: str, type_: str = "Ready") -> Cell:
    def cell(obj: Object) -> str:
        for c in (obj.get("status") or {}).get("conditions") or ():
            if c.get("type") == type_:
                return str(c.get(field) or "")
        return ""

    return cell


def _traffic(latest: bool, field: str) -> Cell:
    read = at("status", "components", "predictor", "traffic")

    def cell(obj: Object) -> Any:
        for t in read(obj) or ():
            if (t.get("latestRevision") is True) if latest else t.get("tag") == "prev":
                return t.get(field)
        return None

    return cell


def _replicas(obj: Object) -> str:
    counts = at("status", "penstock", "replicas", "predictor")(obj) or {}
    return f"{counts.get('ready', 0)}/{counts.get('wanted', 0)}"


def _sums(*, limits: bool) -> Cell:
    def cell(obj: Object) -> str:
        status = obj.get("status") or {}
        used = status.get("used") or {}
        return ", ".join(
            f"{resource}: {used.get(resource, '?')}/{hard}"
            for resource, hard in sorted((status.get("hard") or {}).items())
            if resource.startswith("limits.") is limits
        )

    return cell


def _memory(*path: str) -> Cell:
    read = at(*path, default=0)
    return lambda obj: format_bytes(int(read(obj))) if read(obj) else ""


def _restarts(obj: Object) -> int:
    return int(obj["status"]["containerStatuses"][0]["restartCount"])


def _about(obj: Object) -> str:
    about = obj.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _joined(*names: str, field: str) -> Cell:
    read = at(*names)
    return lambda obj: ",".join(str(entry.get(field, "")) for entry in read(obj) or ())


NAME = Column("Name", at("metadata", "name"))
AGE = Column("Age", _since("metadata", "creationTimestamp"), "date")

SERVICE = (
    NAME,
    Column("URL", at("status", "url", default="")),
    Column("Ready", _condition("status")),
    Column("Prev", _traffic(False, "percent"), "integer"),
    Column("Latest", _traffic(True, "percent"), "integer"),
    Column("PrevRolledoutRevision", _traffic(False, "revisionName")),
    Column("LatestReadyRevision", _traffic(True, "revisionName")),
    AGE,
    Column("Replicas", _replicas, wide=True),
    Column("Message", _condition("message"), wide=True),
)

#: KServe's columns of an InferenceGraph.
GRAPH = (
    NAME,
    Column("URL", at("status", "url", default="")),
    Column("Ready", _condition("status")),
    AGE,
    Column("Message", _condition("message"), wide=True),
)


def _graph_and(*parts: str) -> tuple[Column, ...]:
    """Graphs' columns, and whether parts are ready that only some kinds have."""
    wide = (Column(f"{p} Ready", _condition("status", f"{p}Ready"), wide=True) for p in parts)
    return (*GRAPH[:-1], *wide, GRAPH[-1])


#: Seldon V2's kinds have their own: a Model's as its CRD says, the others' conditions.
_SELDON: Final = "mlops.seldon.io"
_OF_SELDON: Mapping[str, tuple[Column, ...]] = {
    "Model": (
        NAME,
        Column("Ready", _condition("status")),
        Column(
            "Desired Replicas",
            at("status", "penstock", "replicas", "predictor", "wanted"),
            "integer",
        ),
        Column("Available Replicas", at("status", "availableReplicas"), "integer"),
        AGE,
        Column("URL", at("status", "url", default=""), wide=True),
        Column("Message", _condition("message"), wide=True),
    ),
    "Pipeline": _graph_and("Models", "Pipeline"),
    "Experiment": _graph_and("Candidates", "Mirror", "Experiment"),
}

_BY_KIND: Mapping[str, tuple[Column, ...]] = {
    "Secret": (
        NAME,
        Column("Type", at("type", default="Opaque")),
        Column("Data", lambda o: len(o.get("data") or {}), "integer"),
        AGE,
    ),
    "ServiceAccount": (
        NAME,
        Column("Secrets", lambda o: len(o.get("secrets") or ()), "integer"),
        AGE,
    ),
    "Namespace": (
        NAME,
        Column(
            "Status",
            lambda o: "Terminating" if o["metadata"].get("deletionTimestamp") else "Active",
        ),
        AGE,
    ),
    "Event": (
        Column("Last Seen", _since("lastTimestamp")),
        Column("Type", at("type", default="")),
        Column("Reason", at("reason", default="")),
        Column("Object", _about),
        Column("Count", at("count", default=1), "integer", wide=True),
        Column("Message", at("message", default="")),
        Column("Name", at("metadata", "name"), wide=True),
    ),
    "Pod": (
        NAME,
        Column("Ready", lambda o: f"{int(o['status']['containerStatuses'][0]['ready'])}/1"),
        Column("Status", state_shown),
        Column("Restarts", _restarts, "integer"),
        AGE,
        Column("Node", at("spec", "nodeName", default=""), wide=True),
        Column("Message", at("status", "message", default=""), wide=True),
    ),
    "Replica": (
        NAME,
        Column("Phase", at("status", "phase", default="")),
        Column("Restarts", at("status", "restarts", default=0), "integer"),
        AGE,
        Column("Address", at("status", "address", default=""), wide=True),
        Column("Reason", at("status", "reason", default=""), wide=True),
    ),
    "PriorityClass": (
        NAME,
        Column("Value", at("value", default=0), "integer"),
        Column("Global-Default", at("globalDefault", default=False), "boolean"),
        AGE,
    ),
    "ResourceQuota": (
        NAME,
        Column("Request", _sums(limits=False)),
        Column("Limit", _sums(limits=True)),
        AGE,
    ),
    "Device": (
        NAME,
        Column("Model", at("spec", "model", default="")),
        Column("Memory", _memory("spec", "memoryBytes")),
        Column("Free", at("status", "free", default=0), "number"),
        Column("Holders", _joined("status", "holders", field="replica")),
        Column("Id", at("spec", "id", default=""), wide=True),
    ),
    "Revision": (
        NAME,
        Column("Service", at("spec", "service", default="")),
        Column("Runtime", at("spec", "runtime", default="")),
        AGE,
    ),
    "ServingRuntime": (
        NAME,
        Column("Disabled", at("spec", "disabled", default=False), "boolean"),
        Column("ModelType", _joined("spec", "supportedModelFormats", field="name")),
        Column("Containers", _joined("spec", "containers", field="name")),
        AGE,
    ),
}
_BY_KIND = {**_BY_KIND, "ClusterServingRuntime": _BY_KIND["ServingRuntime"]}
