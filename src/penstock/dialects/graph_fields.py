"""What the dialects of graphs share: where a graph's problem is in a manifest, and a graph's status."""

from __future__ import annotations

from typing import Any

from penstock.dialects.base import Locate, Manifest
from penstock.dialects.schema import path
from penstock.domain.graph import Graph
from penstock.domain.graph_check import check
from penstock.domain.status import ServiceStatus, rfc3339
from penstock.errors import FieldProblem

#: Why fields about pods have no effect on a graph.
IN_GATEWAY = "graphs run in the gateways; they have no process of their own"


def problems_of(graph: Graph, locate: Locate) -> list[FieldProblem]:
    """What is wrong with a graph, at the manifest's own paths."""
    return [FieldProblem(path(locate(p)), p.message) for p in check(graph)]


def arms_of(status: ServiceStatus) -> list[dict[str, Any]]:
    """What bandits have learned, as every dialect's `status.penstock.bandit` has it."""
    return [
        {
            **({"step": a.step} if a.step else {}),
            "arm": a.arm,
            "requests": a.requests,
            "rewards": a.rewards,
            "mean": round(a.mean, 6),
        }
        for a in status.arms
    ]


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """InferenceGraphStatus of KServe; Penstock's Pipeline has the same."""
    rendered: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "conditions": [
            {
                "type": c.type,
                "status": str(c.status),
                **({"lastTransitionTime": rfc3339(c.since)} if c.since is not None else {}),
                **({"reason": c.reason} if c.reason else {}),
                **({"message": c.message} if c.message else {}),
            }
            for c in status.conditions
        ],
        "deploymentMode": "Standard",
    }
    if status.url:
        rendered["url"] = status.url
    own: dict[str, Any] = {"warnings": list(status.warnings)} if status.warnings else {}
    if status.arms:
        own["bandit"] = arms_of(status)
    if own:
        rendered["penstock"] = own
    return rendered
