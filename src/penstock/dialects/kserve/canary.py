"""Named canaries: predictors tried beside the service's own, by KServe 0.20's `spec.canary[]`.

A canary says what is different: its predictor is merged over the stable one, block by block and field by
field. It is promoted by giving the predictor its name and content, and rolled back by taking the entry out.
Both are plain edits, so that `kubectl apply` of the next manifest does them too; `promoted` makes the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.dialects.kserve.fields import BLOCKS
from penstock.domain.names import service_problem
from penstock.errors import FieldProblem

#: Fields that only the stable predictor has: a canary's replicas follow its share.
FORBIDDEN = (
    "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling", "scaling", "workerSpec",
    "canaryTrafficPercent",
)  # fmt: skip
#: Names that mean something else in a revision's name or address.
_TAKEN = frozenset(("predictor", "transformer", "explainer", "latest", "previous", "prev"))

Raw = Mapping[str, Any]


def name_problem(name: str) -> str | None:
    """Why a predictor cannot be called so, or None."""
    if name in _TAKEN:
        return f"{name!r} has another meaning in a revision's address; take another name"
    return service_problem(name)


def merged(stable: Raw, canary: Raw) -> dict[str, Any]:
    """The canary's predictor as a whole: what it says, over what the stable one says."""
    base = {k: v for k, v in stable.items() if k != "name"}
    told = [b for b in (*BLOCKS, "model", "containers") if canary.get(b) is not None]
    have = [b for b in (*BLOCKS, "model", "containers") if base.get(b) is not None]
    if told and have and told[0] != have[0]:
        block = base.pop(have[0])
        if told[0] == "model" and have[0] in BLOCKS:
            # `sklearn` is short for a model of that format; the canary may speak of the model only.
            base["model"] = {"modelFormat": {"name": BLOCKS[have[0]].format}, **block}
    return _over(base, canary)


def _over(base: Raw, more: Raw) -> dict[str, Any]:
    out = dict(base)
    for key, value in more.items():
        before = out.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            out[key] = _over(before, value)
        elif value is not None:
            out[key] = value
    return out


def promoted(spec: Raw, name: str) -> dict[str, Any]:
    """`spec` with the canary of that name as its predictor. KeyError when there is none.

    The number of replicas stays the stable one's: the canary had its share of them.
    """
    entries = list(spec.get("canary") or ())
    chosen = next((e for e in entries if _name(e) == name), None)
    if chosen is None:
        raise KeyError(name)
    predictor = merged(spec["predictor"], chosen["predictor"])
    predictor.pop("minReplicas", None)
    if "minReplicas" in spec["predictor"]:
        predictor["minReplicas"] = spec["predictor"]["minReplicas"]
    return without({**spec, "predictor": predictor}, [name])


def without(spec: Raw, names: Iterable[str]) -> dict[str, Any]:
    """`spec` without the canaries of these names."""
    gone = set(names)
    out = {k: v for k, v in spec.items() if k != "canary"}
    left = [e for e in spec.get("canary") or () if _name(e) not in gone]
    return {**out, "canary": left} if left else out


def _name(entry: Any) -> str:
    predictor = entry.get("predictor") if isinstance(entry, Mapping) else None
    return str(predictor.get("name", "")) if isinstance(predictor, Mapping) else ""


def entry_problems(spec: Raw) -> list[FieldProblem]:
    """What is wrong with the entries as such: names, percents, fields that a canary may not have."""
    entries = list(spec.get("canary") or ())
    if not entries:
        return []
    problems = []
    stable = spec.get("predictor") or {}
    seen = {stable.get("name")}
    for i, entry in enumerate(entries):
        at = f"spec.canary[{i}].predictor"
        predictor = entry["predictor"]
        name = predictor.get("name")
        if not isinstance(name, str):
            problems.append(FieldProblem(f"{at}.name", "is required: it is promoted by its name"))
        elif name in seen:
            problems.append(FieldProblem(f"{at}.name", f"there is another predictor named {name}"))
        elif problem := name_problem(name):
            problems.append(FieldProblem(f"{at}.name", problem))
        seen.add(name)
        problems += [
            FieldProblem(f"{at}.{field}", "a canary may not have it: its replicas follow its share")
            for field in FORBIDDEN
            if predictor.get(field) is not None
        ]
    total = sum(e["trafficPercent"] for e in entries)
    if total > 100:
        problems.append(FieldProblem("spec.canary", f"together they take {total}%, more than 100"))
    if stable.get("canaryTrafficPercent") is not None:
        problems.append(
            FieldProblem(
                "spec.predictor.canaryTrafficPercent",
                "may not be given together with canary: one of them divides the requests",
            )
        )
    return problems


def least_replicas(stable: int, percent: int) -> int:
    """A canary's replicas without a word of its own: its part of the stable one's, rounded up."""
    return max(1, -(-stable * percent // 100)) if stable else 0


def promotion_problem(old: Raw, new: Raw) -> FieldProblem | None:
    """A promotion that takes the canary's name and leaves the stable predictor's files in place."""
    name = (new.get("predictor") or {}).get("name")
    entry = next((e for e in old.get("canary") or () if name and _name(e) == name), None)
    if entry is None:
        return None
    stable = _uri(old.get("predictor") or {})
    canary = _uri(merged(old.get("predictor") or {}, entry["predictor"]))
    if _uri(new["predictor"]) == stable != canary:
        return FieldProblem(
            "spec.predictor.name",
            f"names the canary {name}, but storageUri is still the stable predictor's; "
            f"a promotion takes over the canary's too ({canary})",
        )
    return None


def _uri(predictor: Raw) -> Any:
    for block in (*BLOCKS, "model"):
        found = predictor.get(block)
        if isinstance(found, Mapping):
            return found.get("storageUri")
    return None
