"""`penstock bandit show`: what a service's or graph's bandits have learned of their arms, now."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock import dialects
from penstock.cli.client import Client, Kinds
from penstock.cli.exits import FAILED, CliError
from penstock.cli.getting import find
from penstock.cli.output import say, table
from penstock.domain.bandit import Bandit
from penstock.domain.graph import Graph, Splitter

PULLS = "penstock_bandit_pulls"
REWARDS = "penstock_bandit_rewards"
TOTAL = "penstock_bandit_reward_sum"
SQUARES = "penstock_bandit_reward_squares"

HEADERS = ("ARM", "REQUESTS", "SHARE", "REWARDS", "MEAN", "DEVIATION")

Snapshot = Mapping[str, Mapping[str, Any]]


@dataclass
class Line:
    """One arm."""

    arm: str
    requests: int = 0
    rewards: int = 0
    mean: float = 0.0
    deviation: float = 0.0


def show(client: Client, name: str, *, namespace: str, output: str) -> None:
    """Print the arms of every bandit of a service or graph."""
    kind, obj = find(client, Kinds(client).services(), namespace, name.rpartition("/")[2])
    bandits = bandits_of(dialects.translate(obj).object)
    name = obj["metadata"]["name"]
    if not bandits:
        raise CliError(f"{kind.singular} {name} has no bandit.", FAILED)
    learned = lines_of(client.get("/metrics.json"), namespace, name)
    if output == "json":
        document = {
            step: {"policy": b.policy.value, "arms": [asdict(a) for a in learned.get(step, ())]}
            for step, b in bandits.items()
        }
        say(json.dumps(document, indent=2))
        return
    for step, bandit in bandits.items():
        where = f" at {step}" if step else ""
        say(f"{namespace}/{name}{where}: {bandit.policy.value}")
        lines = learned.get(step, [])
        if not lines:
            say("no requests yet")
            continue
        everything = sum(a.requests for a in lines)
        rows = [
            (
                a.arm,
                str(a.requests),
                f"{a.requests / everything:.1%}" if everything else "-",
                str(a.rewards),
                f"{a.mean:.4g}" if a.rewards else "-",
                f"{a.deviation:.4g}" if a.rewards > 1 else "-",
            )
            for a in lines
        ]
        say(table(HEADERS, rows))


def bandits_of(means: Any) -> dict[str, Bandit]:
    """By step (empty: the service's own), the bandits that a manifest asks for."""
    graph = getattr(means, "graph", means)
    if isinstance(graph, Graph):
        return {
            f"{flow.name}.{step.name}": step.action.bandit
            for flow in graph.flows
            for step in flow.steps
            if isinstance(step.action, Splitter) and step.action.bandit is not None
        }
    traffic = getattr(means, "traffic", None)
    bandit = getattr(traffic, "bandit", None)
    return {"": bandit} if bandit is not None else {}


def lines_of(snapshot: Snapshot, namespace: str, name: str) -> dict[str, list[Line]]:
    """By step, what was learned of each arm."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for family in (PULLS, REWARDS, TOTAL, SQUARES):
        for labels, value in snapshot.get(family, {}).get("samples", ()):
            if tuple(labels[:2]) == (namespace, name):
                step, arm = labels[2:]
                found.setdefault(step, {}).setdefault(arm, {})[family] = value
    return {
        step: [_line(arm, values) for arm, values in sorted(arms.items())]
        for step, arms in found.items()
    }


def _line(arm: str, values: Mapping[str, float]) -> Line:
    n, total = int(values.get(REWARDS, 0)), values.get(TOTAL, 0.0)
    line = Line(arm, int(values.get(PULLS, 0)), n)
    if n:
        line.mean = total / n
    if n > 1:
        scatter = max(0.0, values.get(SQUARES, 0.0) - total * total / n)
        line.deviation = math.sqrt(scatter / (n - 1))
    return line
