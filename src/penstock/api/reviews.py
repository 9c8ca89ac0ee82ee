"""`kubectl auth can-i` and `whoami`: whoever got in may do all that is served, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.api.kinds import resources

PATHS = (
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
)
#: There are no users: who has the token, or sits at the machine, is this one.
USER = {"username": "penstock", "groups": ["system:authenticated"]}


def answer(path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The review with its status."""
    if path == PATHS[2]:
        status: dict[str, Any] = {"userInfo": USER}
    else:
        status = _rules() if path == PATHS[1] else _access(document)
    return {**document, "metadata": document.get("metadata") or {}, "status": status}


def _access(document: Mapping[str, Any]) -> dict[str, Any]:
    spec = document.get("spec")
    asked = spec.get("resourceAttributes") if isinstance(spec, Mapping) else None
    if not isinstance(asked, Mapping):
        return {"allowed": True}
    group, plural, verb = (asked.get(k, "") for k in ("group", "resource", "verb"))
    for r in resources():
        if plural in (r.plural, "*") and group in (r.group, "*") and verb in (*r.verbs, "*"):
            return {"allowed": True}
    return {"allowed": False, "reason": "it is not served here"}


def _rules() -> dict[str, Any]:
    return {
        "resourceRules": [
            {"verbs": list(r.verbs), "apiGroups": [r.group], "resources": [r.plural]}
            for r in resources()
        ],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}],
        "incomplete": False,
    }
