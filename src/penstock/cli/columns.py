"""Which columns a kind's table has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.cli.output import age, size

Object = dict[str, Any]
Cell = Callable[[Object], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A header and how its cell is made. `wide` columns show with -o wide only."""

    header: str
    cell: Cell
    wide: bool = False


def at(*path: str, default: str = "") -> Cell:
    """The value at a path, as text."""

    def cell(obj: Object) -> str:
        value: Any = obj
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return default if value is None else str(value)

    return cell


def ready(obj: Object) -> dict[str, Any]:
    """The Ready condition, or an empty map."""
    for c in (obj.get("status") or {}).get("conditions") or ():
        if c.get("type") == "Ready":
            return dict(c)
    return {}


def _ready_word(obj: Object) -> str:
    status = obj.get("status") or {}
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return "Unknown"
    return str(ready(obj).get("status", "Unknown"))


def _reason(obj: Object) -> str:
    c = ready(obj)
    return str(c.get("message") or c.get("reason") or "")


def _replicas(obj: Object) -> str:
    counts = ((obj.get("status") or {}).get("penstock") or {}).get("replicas") or {}
    predictor = counts.get("predictor") or {}
    return f"{predictor.get('ready', 0)}/{predictor.get('wanted', 0)}"


def _revision(obj: Object) -> str:
    predictor = ((obj.get("status") or {}).get("components") or {}).get("predictor") or {}
    serving = str(predictor.get("latestReadyRevision", ""))
    created = str(predictor.get("latestCreatedRevision", ""))
    if created and serving and created != serving:
        return f"{serving} (next {created})"
    return serving or created or "-"


def _runtime(obj: Object) -> str:
    status = obj.get("status") or {}
    return str(status.get("clusterServingRuntimeName") or status.get("servingRuntimeName") or "-")


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _formats(obj: Object) -> str:
    listed = (obj.get("spec") or {}).get("supportedModelFormats") or ()
    return ",".join(str(f.get("name", "")) for f in listed)


def _secret_keys(obj: Object) -> str:
    return ",".join(sorted(obj.get("data") or {})) or "-"


def _size(obj: Object) -> str:
    return size((obj.get("spec") or {}).get("sizeBytes"))


def _was_ready(obj: Object) -> str:
    return "True" if (obj.get("status") or {}).get("readyAt") else "False"


def _memory(obj: Object) -> str:
    return size((obj.get("status") or {}).get("memoryBytes"))


def _used(obj: Object) -> str:
    status = obj.get("status") or {}
    used = status.get("used") or {}
    sums = sorted((status.get("hard") or {}).items())
    return ", ".join(f"{r}: {used.get(r, '?')} of {hard}" for r, hard in sums) or "-"


def _devices(obj: Object) -> str:
    held = (obj.get("status") or {}).get("devices") or ()
    return ", ".join(f"{d['index']} ({d['share']:g})" for d in held) or "-"


def _device_memory(obj: Object) -> str:
    found = (obj.get("spec") or {}).get("memoryBytes")
    # As vendors and limits count it: a device of 16 GiB is none of 17.2 GB to its users.
    return f"{found / 2**30:.3g} GiB" if found else "-"


def _holders(obj: Object) -> str:
    holders = (obj.get("status") or {}).get("holders") or ()
    return ", ".join(f"{h['replica']} ({h['share']:g})" for h in holders) or "-"


def _why(obj: Object) -> str:
    status = obj.get("status") or {}
    parts = (status.get("reason"), status.get("message"))
    return ": ".join(str(p) for p in parts if p)


def _about(obj: Object) -> str:
    about = obj.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


NAME = Column("NAME", at("metadata", "name"))
AGE = Column("AGE", _age)
NAMESPACE = Column("NAMESPACE", at("metadata", "namespace"))
GROUP = Column("API VERSION", at("apiVersion"), wide=True)

_GRAPH = (
    NAME,
    Column("READY", _ready_word),
    Column("URL", at("status", "url", default="-")),
    AGE,
    GROUP,
    Column("MESSAGE", _reason),
)

_BY_KIND: dict[str, tuple[Column, ...]] = {
    "InferenceGraph": _GRAPH,
    "Pipeline": _GRAPH,
    "Experiment": _GRAPH,
    "InferenceService": (
        NAME,
        Column("READY", _ready_word),
        Column("REVISION", _revision),
        Column("REPLICAS", _replicas),
        Column("URL", at("status", "url", default="-")),
        AGE,
        Column("RUNTIME", _runtime, wide=True),
        GROUP,
        Column("MESSAGE", _reason),
    ),
    "Revision": (
        NAME,
        Column("SERVICE", at("spec", "service")),
        Column("WAS READY", _was_ready),
        Column("RUNTIME", at("spec", "runtime")),
        Column("SIZE", _size),
        Column("FROM", at("spec", "uri"), wide=True),
        Column("FILES", lambda o: at("spec", "files")(o)[:19], wide=True),
        AGE,
    ),
    "Replica": (
        NAME,
        Column("PHASE", at("status", "phase")),
        Column("RESTARTS", at("status", "restarts")),
        Column("MEMORY", _memory),
        Column("PID", at("status", "pid", default="-"), wide=True),
        Column("LIMITS", at("status", "limits", default="-"), wide=True),
        Column("DEVICES", _devices, wide=True),
        Column("ADDRESS", at("status", "address"), wide=True),
        AGE,
        Column("WHY", _why),
    ),
    "PriorityClass": (
        NAME,
        Column("VALUE", at("value")),
        Column("DEFAULT", at("globalDefault", default="False")),
        AGE,
    ),
    "ResourceQuota": (NAME, Column("USED", _used), AGE),
    "Device": (
        NAME,
        Column("MODEL", at("spec", "model", default="-")),
        Column("MEMORY", _device_memory),
        Column("FREE", at("status", "free")),
        Column("HELD BY", _holders),
        Column("ID", at("spec", "id"), wide=True),
    ),
    "Event": (
        Column("LAST", lambda o: age(o.get("lastTimestamp"))),
        Column("TYPE", at("type")),
        Column("REASON", at("reason")),
        Column("OBJECT", _about),
        Column("COUNT", at("count")),
        Column("MESSAGE", at("message")),
    ),
    "Secret": (NAME, Column("TYPE", at("type")), Column("KEYS", _secret_keys), AGE),
    "ServingRuntime": (
        NAME,
        Column("DISABLED", at("spec", "disabled", default="False")),
        Column("FORMATS", _formats),
        GROUP,
        AGE,
    ),
}
_BY_KIND["ClusterServingRuntime"] = _BY_KIND["ServingRuntime"]
for _kind in ("KFService", "KFServing", "KFSERVICE", "SeldonDeployment", "Model", "TrainedModel"):
    _BY_KIND[_kind] = _BY_KIND["InferenceService"]


def columns_of(kind: str, *, wide: bool, all_namespaces: bool) -> list[Column]:
    """The columns for a kind; others than those known here have a name and an age."""
    columns = _BY_KIND.get(kind, (NAME, GROUP, AGE))
    front = [NAMESPACE] if all_namespaces else []
    return front + [c for c in columns if wide or not c.wide]
