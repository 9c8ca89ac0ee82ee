"""Explainers of SeldonDeployments with several nodes: what they ask, where they are, what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers import environment
from seldon_oracle import HERE
from seldon_platform import deployed, deployment, node, parameter

EXPLAINER = {"type": "KernelShap", "config": {"seed": "1"}}
#: The graph answers 10 for a first column above 0, 20 otherwise; the second one has no say.
ROW = [1.0, 5.0]


@pytest.fixture
def training(tmp_path: Path) -> str:
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [-2.0, 3.0], [2.0, 3.0]])
    folder = tmp_path / "explainer"
    folder.mkdir()
    np.save(folder / "train.npy", rows)
    return str(folder)


def weighing(name: str, *weights: float) -> dict[str, Any]:
    text = parameter("weights", " ".join(map(str, weights)))
    return node(name, "MODEL", "Weighs", parameters=[text])


def explained(training: str, **more: Any) -> dict[str, Any]:
    return {"explainer": {**EXPLAINER, "modelUri": training, **more}}


def graph(training: str, *weights: float, **more: Any) -> dict[str, Any]:
    """Adds one on the way in, and weighs the columns."""
    made = node("plus", "TRANSFORMER", "Plus", children=[weighing("weighs", *(weights or (10, 0)))])
    return {**made, "predictor": {**explained(training), **more}}


def shares(answer: Any) -> list[float]:
    """What each column has to do with the answer, exactly as Shapley has it."""
    assert answer.status_code == 200, answer.text
    (values,) = answer.json()["data"]["shap_values"]
    return [round(v, 6) for v in np.ravel(values)]


MESSAGE = {"data": {"names": ["a", "b"], "ndarray": [ROW]}}


@pytest.mark.parametrize(
    "path",
    [
        "/seldon/default/dep-explainer/main/api/v1.0/explain",
        "/seldon/default/dep-explainer/main/api/v0.1/explain",
        "/seldon/dep-explainer/main/api/v1.0/explain",
        "/seldon/default/dep/api/v1.0/explain",
        "/serving/default/dep/api/v1.0/explain",
        "/serving/default/dep@main/api/v1.0/explain",
    ],
)
async def test_a_graph_is_explained_as_a_whole(tmp_path: Path, training: str, path: str) -> None:
    """The mean of the first column is 0: its share of the answer at 1 is 10 times 1."""
    async with deployed(tmp_path, deployment(graph(training))) as d:
        assert shares(await d.client.post(path, json=MESSAGE)) == [10.0, 0.0]
        assert len(d.unit("dep-main-weighs").seen) < 5, "rows are asked many at a time"


async def test_the_services_own_addresses_explain_it(tmp_path: Path, training: str) -> None:
    async with deployed(tmp_path, deployment(graph(training))) as d:
        instances = {"instances": [ROW]}
        for path in (
            "/v1/models/dep:explain",
            "/serving/default/dep/v1/models/dep:explain",
            "/seldon/default/dep-explainer/main/v1/models/whatever:explain",
            "/serving/default/dep/components/explainer/v1/models/dep:explain",
        ):
            assert shares(await d.client.post(path, json=instances)) == [10.0, 0.0], path
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": ROW}
        for path in (
            "/v2/models/dep/explain",
            "/seldon/default/dep-explainer/main/v2/models/classifier/infer",
        ):
            answer = await d.client.post(path, json={"inputs": [tensor]})
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["name"] == "explanation"
        about = (await d.client.get("/v1/models/dep:explain")).json()
        assert about["explainer"] == "KernelShap"


async def test_each_predictor_is_explained_by_itself(tmp_path: Path, training: str) -> None:
    """Whatever its share of the requests: none of an explanation's questions go to the other one."""
    manifest = deployment(
        graph(training, 10, 0, traffic=100),
        graph(training, 0, 7, traffic=0),
        {**weighing("alone", 3, 3), "predictor": {"shadow": True}},
    )
    async with deployed(tmp_path, manifest) as d:
        at = "/seldon/default/dep-explainer/{}/api/v1.0/explain"
        assert shares(await d.client.post(at.format("main"), json=MESSAGE)) == [10.0, 0.0]
        found = shares(await d.client.post(at.format("p1"), json=MESSAGE))
        assert found == [0.0, 24.5], "7 times 5 less the mean of 1.5"
        found = shares(await d.client.post("/v1/models/dep:explain", json={"instances": [ROW]}))
        assert found == [10.0, 0.0], "the first one that has an explainer"
        assert (await d.client.post(at.format("p2"), json=MESSAGE)).status_code == 404
        assert not d.unit("dep-p2-alone").seen, "nor are they copied to a shadow"


async def test_one_predictor_may_be_asked_by_its_name(tmp_path: Path, training: str) -> None:
    manifest = deployment(
        {**weighing("a", 2, 0), "type": "TRANSFORMER", "predictor": {"traffic": 100}},
        {**weighing("b", 0, 2), "type": "TRANSFORMER", "predictor": {"traffic": 0}},
    )
    async with deployed(tmp_path, manifest) as d:
        for name, value in (("main", 2.0), ("p1", 10.0)):
            path = f"/seldon/default/dep@{name}/api/v1.0/predictions"
            answer = await d.client.post(path, json=MESSAGE)
            assert answer.json()["data"]["ndarray"] == [[value]]
        answer = await d.client.post(
            "/seldon/default/dep/api/v1.0/predictions",
            json=MESSAGE,
            headers={"x-penstock-revision": "p1"},
        )
        assert answer.json()["data"]["ndarray"] == [[10.0]]
        answer = await d.client.post("/serving/default/dep@p2/api/v1.0/predictions", json=MESSAGE)
        assert answer.status_code == 404
        assert "dep has no predictor p2" in answer.json()["error"]


async def test_a_predictors_name_may_be_a_revisions_tag(tmp_path: Path) -> None:
    manifest = deployment(
        {**weighing("a", 2, 0), "type": "TRANSFORMER", "predictor": {"traffic": 100}},
        {
            **weighing("b", 0, 2),
            "type": "TRANSFORMER",
            "predictor": {"traffic": 0, "name": "prev"},
        },
    )
    async with deployed(tmp_path, manifest) as d:
        path = "/seldon/default/dep@prev/api/v1.0/predictions"
        answer = await d.client.post(path, json=MESSAGE)
        assert answer.json()["data"]["ndarray"] == [[10.0]]


async def test_text_goes_through_the_graph(tmp_path: Path) -> None:
    graph = {
        **node("lower", "TRANSFORMER", "Lowers", children=[node("finds", "MODEL", "Finds")]),
        "predictor": {"explainer": {"type": "AnchorText", "config": {"seed": "2"}}},
    }
    async with deployed(tmp_path, deployment(graph)) as d:
        for message in ({"strData": "a GOOD film"}, {"data": {"ndarray": ["a GOOD film"]}}):
            answer = await d.client.post("/seldon/default/dep/api/v1.0/explain", json=message)
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"]["anchor"] == ["GOOD"]


async def test_a_graph_without_an_explainer_says_so(tmp_path: Path) -> None:
    """It does not predict instead."""
    manifest = deployment(node("t", "TRANSFORMER", "Plus", children=[weighing("w", 1, 1)]))
    async with deployed(tmp_path, manifest) as d:
        answer = await d.client.post("/seldon/default/dep/api/v1.0/explain", json=MESSAGE)
        assert answer.status_code == 501
        assert answer.json()["status"]["info"] == "dep has no explainer."
        for path in ("/v1/models/dep:explain", "/v2/models/dep/explain"):
            answer = await d.client.post(path, json={"instances": [ROW]})
            assert (answer.status_code, answer.json()) == (501, {"error": "dep has no explainer."})
        answer = await d.client.post("/seldon/default/dep/api/v1.0/prediction", json=MESSAGE)
        assert answer.status_code == 404


async def test_a_node_that_fails_fails_the_explanation(tmp_path: Path, training: str) -> None:
    broken = {
        **node("t", "TRANSFORMER", "Plus", children=[node("m", "MODEL", "Fails")]),
        "predictor": explained(training),
    }
    async with deployed(tmp_path, deployment(broken)) as d:
        answer = await d.client.post("/seldon/default/dep/api/v1.0/explain", json=MESSAGE)
        assert answer.status_code == 500
        assert answer.json()["status"]["status"] == "FAILURE"
        assert "The step main.m failed" in answer.json()["status"]["info"]


async def test_an_explainer_that_is_gone_leaves_the_graph_as_it_is(
    tmp_path: Path, training: str
) -> None:
    manifest = deployment(graph(training))
    async with deployed(tmp_path, manifest, absent=("dep-main-explainer",)) as d:
        answer = await d.client.post("/seldon/default/dep/api/v1.0/explain", json=MESSAGE)
        assert answer.status_code == 503
        assert "it could not be loaded" in answer.json()["status"]["info"]
        assert (await d.rows(ROW))["data"]["ndarray"] == [[20.0]]
        assert (await d.client.get("/seldon/default/dep/ready")).status_code == 200


@pytest.mark.timeout(120)
async def test_seldons_own_client_predicts_and_explains(tmp_path: Path, training: str) -> None:
    """Every payload, over REST and gRPC, through a graph that hands on what is no number."""
    weighs = weighing("weighs", 10, 0)
    shows = {**node("shows", "TRANSFORMER", "Echoes", children=[weighs])}
    async with deployed(tmp_path, deployment({**shows, "predictor": explained(training)})) as d:
        done = await asyncio.create_subprocess_exec(
            environment("seldon") / "python", "-W", "ignore", HERE / "seldon_graph_client.py",
            str(d.client.base_url).removeprefix("http://"), f"127.0.0.1:{d.port}", "dep",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await done.communicate()
    assert done.returncode == 0, err.decode()[-3000:]
    told = json.loads(out.splitlines()[-1])
    for transport in ("rest", "grpc"):
        for kind in ("ndarray", "raw"):
            success, answer, message = told[f"{transport} {kind}"]
            assert success, (transport, kind, message)
            assert answer["data"]["ndarray"] == [[10.0]]
            assert answer["data"]["names"] == ["t:0"]
        success, answer, message = told[f"{transport} tensor"]
        assert success, message
        assert answer["data"]["tensor"] == {"shape": [1, 1], "values": [10.0]}
        assert told[f"{transport} strData"][1]["strData"] == "text"
        assert told[f"{transport} binData"][1]["binData"] == "AGJ5dGVz"
        assert told[f"{transport} jsonData"][1]["jsonData"] == {"a": [1, None]}
    for what in ("explain", "explain tensor"):
        success, answer, message = told[what]
        assert success, message
        assert [round(v, 6) for v in np.ravel(answer["data"]["shap_values"])] == [10.0, 0.0]
