"""Bandits in graphs: splitters, steps that call a service with one, graphs in graphs, Seldon's routers."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from typing import Any

from gateway_stand_in import Seen, reply, route
from learning_plane import Plane
from test_gateway_bandits import V2_BODY

from penstock import dialects
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.routes import Route, Target

INPUTS = [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]
SPLIT = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "fork"},
    "spec": {
        "steps": [
            {
                "name": "which",
                "split": [{"step": "a", "weight": 50}, {"step": "b", "weight": 50}],
                "bandit": {"policy": "thompson", "seed": 3},
            },
            {"name": "a"},
            {"name": "b"},
        ]
    },
}
SELDON = {
    "apiVersion": "machinelearning.seldon.io/v1",
    "kind": "SeldonDeployment",
    "metadata": {"name": "mab"},
    "spec": {
        "predictors": [
            {
                "name": "default",
                "graph": {
                    "name": "eg",
                    "implementation": "EPSILON_GREEDY",
                    "parameters": [
                        {"name": "epsilon", "value": "0.1", "type": "FLOAT"},
                        {"name": "n_branches", "value": "3", "type": "INT"},
                        {"name": "seed", "value": "5", "type": "INT"},
                    ],
                    "children": [
                        {"name": f"m{i}", "implementation": "SIMPLE_MODEL"} for i in range(3)
                    ],
                },
            }
        ]
    },
}


def graph_route(manifest: Any) -> Route:
    means = dialects.translate(manifest).object
    graph = getattr(means, "graph", means)
    return Route("default", graph.name, graph=graph, uid="g1")


async def say_v2(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(V2_BODY))


async def test_a_splitter_takes_the_branch_that_rewards_speak_for(
    front: Any,
    stand_in: Any,
    plane: Plane,
) -> None:
    stands = [await stand_in(n, say_v2) for n in ("a", "b")]
    front.routes(route("a", stands[0].route), route("b", stands[1].route), graph_route(SPLIT))
    taken: Counter[str] = Counter()
    for i in range(80):
        answer = await front.client.post("/v2/models/fork/infer", json={"inputs": INPUTS})
        assert answer.status_code == 200, answer.text
        arm = answer.headers["x-penstock-arm"]
        assert answer.json()["id"] == answer.headers["x-request-id"]
        taken[arm] += i >= 40
        body = {"id": answer.json()["id"], "reward": float(arm == "b")}
        told = await front.client.post("/v2/models/fork/feedback", json=body)
        assert told.json()["credited"] == [
            {"namespace": "default", "name": "fork", "arm": arm, "step": "pipeline.which"}
        ]
        again = await front.client.post("/feedback", json=body)
        assert again.status_code == 409
    assert taken["b"] > 34


async def test_one_reward_goes_to_all_bandits_that_had_a_part(
    front: Any,
    stand_in: Any,
    plane: Plane,
) -> None:
    """A splitter, a service behind it, and a graph around both."""
    stand = await stand_in("a", say_v2)
    targets = (Target("a-00001", 50, (stand.route,)), Target("a-00002", 50, (stand.route,)))
    services = [
        route(n, targets=targets, bandit=Bandit(PolicyName.UCB1), uid=f"u{n}") for n in ("a", "b")
    ]
    outer, called = (
        {**SPLIT, "metadata": {"name": name}, "spec": {"steps": [{"name": "inner", how: "fork"}]}}
        for name, how in (("outer", "pipeline"), ("called", "model"))
    )
    front.routes(*services, *map(graph_route, (SPLIT, outer, called)))
    for name in ("fork", "outer", "called"):
        answer = await front.client.post(f"/v2/models/{name}/infer", json={"inputs": INPUTS})
        assert answer.status_code == 200, answer.text
        told = await front.client.post(
            "/feedback", json={"id": answer.headers["x-request-id"], "reward": 1}
        )
        credited = told.json()["credited"]
        assert [c["name"] for c in credited] == ["fork", credited[0]["arm"]]
        assert credited[1]["arm"].startswith("a-0000")


async def test_an_id_of_the_clients_own_and_graphs_without_bandits(
    front: Any,
    stand_in: Any,
    plane: Plane,
) -> None:
    stand = await stand_in("a", say_v2)
    plain = copy.deepcopy(SPLIT)
    plain["metadata"]["name"] = "plain"
    del plain["spec"]["steps"][0]["bandit"]
    front.routes(
        route("a", stand.route), route("b", stand.route), graph_route(SPLIT), graph_route(plain)
    )
    answer = await front.client.post("/v2/models/fork/infer", json={"id": "mine", "inputs": INPUTS})
    assert answer.json()["id"] == "mine"
    body = {"id": "mine", "reward": 1}
    assert (await front.client.post("/v2/models/fork/feedback", json=body)).status_code == 200
    answer = await front.client.post("/v2/models/plain/infer", json={"inputs": INPUTS})
    assert "x-request-id" not in answer.headers
    told = await front.client.post("/v2/models/plain/feedback", json=body)
    assert told.status_code == 404


async def test_seldons_learning_routers_are_rewarded_by_its_feedback(
    front: Any,
    stand_in: Any,
    plane: Plane,
) -> None:
    front.routes(graph_route(SELDON))
    path = "/seldon/default/mab/api/v1.0"
    taken: Counter[int] = Counter()
    for i in range(120):
        message = {"data": {"ndarray": [[1.0]]}}
        answer = await front.client.post(f"{path}/predictions", json=message)
        assert answer.status_code == 200, answer.text
        meta = answer.json()["meta"]
        branch = meta["routing"]["eg"]
        assert meta["puid"] == answer.headers["x-request-id"]
        taken[branch] += i >= 60
        body = {"request": message, "response": answer.json(), "reward": float(branch == 2)}
        told = await front.client.post(f"{path}/feedback", json=body)
        assert told.status_code == 200, told.text
        if i == 0:
            again = await front.client.post(f"{path}/feedback", json=body)
            assert again.status_code == 409
            assert again.json()["status"]["status"] == "FAILURE"
    assert taken[2] > 40
    # A puid that the client chose.
    message = {"data": {"ndarray": [[1.0]]}, "meta": {"puid": "mine"}}
    answer = await front.client.post(f"{path}/predictions", json=message)
    assert answer.json()["meta"]["puid"] == "mine"
    body = {"request": message, "response": answer.json(), "reward": 1}
    assert (await front.client.post(f"{path}/feedback", json=body)).status_code == 200
    assert (await front.client.post(f"{path}/feedback", json=body)).status_code == 409
