"""Bandits in graphs: the branch that a splitter takes, and the id by which a graph's answer can be rewarded.

One request may meet several bandits: splitters, those of graphs inside of the graph, and services that have
one. Its answer has one id for all of them, and a reward for it is credited to all that had a part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.domain.graph import Splitter
from penstock.domain.learning import bandit_key
from penstock.gateway.learning.features import features_of
from penstock.gateway.learning.forward import id_lines, with_id
from penstock.gateway.learning.request_ids import Choice

if TYPE_CHECKING:
    from penstock.domain.routes import Route
    from penstock.gateway.gateway import Gateway
    from penstock.graphs.calls import Context
    from penstock.graphs.program import CompiledStep, Program
    from penstock.http.head import RequestHead


class SplitterBandits:
    """The bandits of all splitters of a gateway's graphs (a `penstock.graphs.execution.Chooser`)."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __call__(
        self, program: Program, step: CompiledStep, action: Splitter, context: Context
    ) -> int | None:
        service = self._gateway.table.by_key(program.key)
        if service is None or action.bandit is None:
            return None
        bandits = self._gateway.bandits
        graph = program.graph
        key = bandit_key(graph.namespace, graph.name, service.route.uid, step.path)
        learner = bandits.learner(key, action.bandit)
        names = action.branches
        there = [i for i, weight in enumerate(action.weights) if weight > 0]
        features: tuple[float, ...] = ()
        if context.client is not None:
            features = features_of(action.bandit, context.client, None)
        branch = there[
            learner.choose([names[i] for i in there], [action.weights[i] for i in there], features)
        ]
        learner.pulled(names[branch])
        if features or not action.bandit.dimensions:
            context.chose(Choice(key, names[branch], features))
        return branch


def equip(gateway: Gateway, route: Route) -> None:
    """Have a graph's splitters learn; ids that name them are known from here on, after a restart, too."""
    graphs = gateway.graphs
    if graphs.bandits is None:
        graphs.bandits = SplitterBandits(gateway)
    assert route.graph is not None  # noqa: S101 - the table has looked
    for flow in route.graph.flows:
        for step in flow.steps:
            action = step.action
            if isinstance(action, Splitter) and action.bandit is not None:
                key = bandit_key(route.namespace, route.name, route.uid, f"{flow.name}.{step.name}")
                learner = gateway.bandits.learner(key, action.bandit)
                learner.retain(action.branches)


def new_id(gateway: Gateway, choices: list[Choice]) -> str:
    """An id for all that was chosen for a request."""
    bandits = gateway.bandits
    return bandits.ids.make([c for c in choices if c.arm], bandits.now())


def told(
    gateway: Gateway,
    key: str,
    head: RequestHead,
    choices: list[Choice],
    own: str,
    asked: str | None,
) -> bytes:
    """Header lines of a graph's answer that tell the arms and the id; `asked` is V2's id of the client."""
    bandits = gateway.bandits
    if asked:
        bandits.know(key, asked, own)
    return id_lines(head, bandits, key, ", ".join(c.arm for c in choices if c.arm), own)


def identified(
    gateway: Gateway, key: str, headers: bytes, body: Any, own: str
) -> tuple[bytes, Any]:
    """Header lines and body of a V2 answer in JSON that has an id."""
    body, fields, chosen = with_id(body, headers, b"application/json", None, own)
    if chosen and chosen != own:
        gateway.bandits.know(key, chosen, own)
    return fields, body
