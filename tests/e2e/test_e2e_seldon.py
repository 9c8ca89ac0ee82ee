"""SeldonDeployments through the real processes: a graph's nodes as services, one class alone, their end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from platform_harness import Platform, until

import grpc
from penstock.protocols.grpc import seldon

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROW = {"data": {"names": ["a", "b", "c", "d"], "ndarray": [[2.0, 1.4, 0.55, 0.08]]}}


@pytest.fixture(scope="module")
def flowers(platform: Platform, folder: Path) -> Platform:
    """The example, applied and ready."""
    shutil.copytree(EXAMPLES / "seldon_units", folder / "examples" / "seldon_units")
    platform.run("apply", "-f", str(EXAMPLES / "seldon_graph.yaml"))
    platform.run("wait", "sdep/flowers", "--for=condition=Ready", "--timeout=60s")
    return platform


def apply(platform: Platform, document: dict[str, Any], code: int = 0) -> str:
    return platform.run("apply", "-f", "-", stdin=json.dumps(document), code=code)


def predict(platform: Platform, name: str, message: Any) -> Any:
    url = f"{platform.http}/seldon/default/{name}/api/v1.0/predictions"
    answer = httpx.post(url, json=message, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def services(platform: Platform) -> set[str]:
    path = "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices"
    return {i["metadata"]["name"] for i in platform.get(path)["items"]}


def test_the_graph_answers_as_seldons(flowers: Platform) -> None:
    answer = predict(flowers, "flowers", ROW)
    assert len(answer["data"]["ndarray"][0]) == 3
    assert abs(sum(answer["data"]["ndarray"][0]) - 1) < 1e-6
    assert answer["meta"]["tags"] == {"unit": "cm"}
    branch = answer["meta"]["routing"]["picks"]
    assert set(answer["meta"]["requestPath"]) >= {"inches", "picks", ("one", "first")[branch]}


def test_what_passed_each_node_is_shown_to_who_asks(flowers: Platform) -> None:
    shown = flowers.run("graph", "inspect", "flowers", "-f", "-", stdin=json.dumps(ROW))
    assert "default/flowers answered 200" in shown
    assert "main.inches (flowers-main-inches): ok" in shown
    assert "main.picks (flowers-main-picks): ok" in shown
    refused = {"data": {"ndarray": [["a", "b"]]}}
    failed = flowers.run(
        "graph", "inspect", "flowers", "-f", "-", code=1, stdin=json.dumps(refused)
    )
    assert "failed" in failed


def test_its_status_is_seldons_and_its_nodes_are_services(flowers: Platform) -> None:
    found = flowers.get(
        "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments/flowers"
    )
    assert found["status"]["state"] == "Available"
    assert found["status"]["address"]["url"].endswith("/serving/default/flowers")
    parts = {n for n in services(flowers) if n.startswith("flowers-")}
    assert parts == {f"flowers-main-{n}" for n in ("inches", "picks", "one", "first", "second")}
    shown = flowers.run("graph", "show", "flowers")
    assert "picks" in shown


def test_rewards_reach_the_router_and_move_the_requests(flowers: Platform) -> None:
    """The child that is rewarded gets most of the requests."""
    url = f"{flowers.http}/seldon/default/flowers/api/v1.0/feedback"
    for _ in range(60):
        answer = predict(flowers, "flowers", ROW)
        reward = float(answer["meta"]["routing"]["picks"] == 1)
        feedback = {"request": ROW, "response": answer, "reward": reward}
        assert httpx.post(url, json=feedback, timeout=30).status_code == 200
    taken = [predict(flowers, "flowers", ROW)["meta"]["routing"]["picks"] for _ in range(40)]
    assert sum(taken) > 28
    text = httpx.get(flowers.api + "/metrics", timeout=10).text
    assert "penstock_unit_gauge" in text
    assert 'key="pulls"' in text


def test_a_graph_that_becomes_one_model_leaves_no_services(flowers: Platform) -> None:
    document = yaml.safe_load((EXAMPLES / "seldon_graph.yaml").read_text())
    document["metadata"]["name"] = "shrinks"
    apply(flowers, document)
    flowers.run("wait", "sdep/shrinks", "--for=condition=Ready", "--timeout=60s")
    graph = document["spec"]["predictors"][0]["graph"]
    del graph["children"][0]["children"][1]
    apply(flowers, document)
    until(
        lambda: "shrinks-main-first" not in services(flowers), "a node that is named no more to go"
    )
    document["spec"]["predictors"][0]["graph"] = {
        "name": "alone",
        "implementation": "SKLEARN_SERVER",
        "modelUri": "models/iris",
    }
    apply(flowers, document)
    until(lambda: not any(n.startswith("shrinks-") for n in services(flowers)), "all nodes to go")
    until(
        lambda: (
            httpx.post(
                f"{flowers.http}/seldon/default/shrinks/api/v1.0/predictions", json=ROW, timeout=30
            ).status_code
            == 200
        ),
        "the model to answer",
    )
    apply(
        flowers,
        {**document, "spec": yaml.safe_load((EXAMPLES / "seldon_graph.yaml").read_text())["spec"]},
    )
    flowers.run("wait", "sdep/shrinks", "--for=condition=Ready", "--timeout=60s")
    flowers.run("delete", "sdep", "shrinks")
    until(lambda: not any(n.startswith("shrinks-") for n in services(flowers)), "everything to go")


def test_one_class_is_a_service(flowers: Platform, folder: Path) -> None:
    (folder / "unit").mkdir()
    (folder / "unit" / "Doubles.py").write_text(
        "class Doubles:\n"
        "    def __init__(self, by=2):\n"
        "        self.by = by\n"
        "    def predict(self, X, names):\n"
        "        return X * self.by\n"
    )
    node = {
        "name": "doubles",
        "type": "MODEL",
        "modelUri": "unit",
        "parameters": [{"name": "by", "value": "3", "type": "INT"}],
    }
    container = {"name": "doubles", "env": [{"name": "MODEL_NAME", "value": "Doubles"}]}
    predictor = {
        "name": "main",
        "graph": node,
        "componentSpecs": [{"spec": {"containers": [container]}}],
    }
    document = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "doubles"},
        "spec": {"predictors": [predictor]},
    }
    apply(flowers, document)
    flowers.run("wait", "sdep/doubles", "--for=condition=Ready", "--timeout=60s")
    answer = predict(flowers, "doubles", {"data": {"tensor": {"shape": [1, 2], "values": [1, 2]}}})
    assert answer["data"]["tensor"]["values"] == [3.0, 6.0]


def test_a_class_without_its_method_is_not_ready_and_says_so(flowers: Platform) -> None:
    document = yaml.safe_load((EXAMPLES / "seldon_graph.yaml").read_text())
    document["metadata"]["name"] = "wrong"
    document["spec"]["predictors"][0]["graph"]["parameters"][0]["value"] = "Picks"
    document["spec"]["predictors"][0]["graph"]["parameters"].pop()
    apply(flowers, document)

    def status() -> Any:
        path = "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments/wrong"
        return flowers.get(path).get("status") or {}

    until(lambda: "transform_input" in status().get("description", ""), "the reason to be told")
    assert status()["state"] == "Failed"
    flowers.run("delete", "sdep", "wrong")


def test_an_image_is_refused_with_what_to_do(flowers: Platform) -> None:
    node = {
        "name": "m",
        "type": "MODEL",
        "children": [{"name": "n", "implementation": "SIMPLE_MODEL"}],
    }
    container = {"name": "m", "image": "seldonio/mock_classifier:1.0"}
    predictor = {
        "name": "p",
        "graph": node,
        "componentSpecs": [{"spec": {"containers": [container]}}],
    }
    document = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "image"},
        "spec": {"predictors": [predictor]},
    }
    said = apply(flowers, document, code=1)
    assert "spec.predictors[0].componentSpecs[0].spec.containers[0].image" in said
    assert "modelUri of its node" in said


def test_seldons_bandit_learns_over_rest_and_grpc(flowers: Platform) -> None:
    """The image of its router is known by what it does: rewards are kept, and counted once."""
    leaf = {"implementation": "SIMPLE_MODEL"}
    predictor = {
        "name": "p",
        "graph": {
            "name": "eg-router",
            "type": "ROUTER",
            "parameters": [
                {"name": "n_branches", "value": "2", "type": "INT"},
                {"name": "epsilon", "value": "0.1", "type": "FLOAT"},
                {"name": "verbose", "value": "1", "type": "BOOL"},
                {"name": "branch_names", "value": "rf:xgb", "type": "STRING"},
            ],
            "children": [{"name": "a", **leaf}, {"name": "b", **leaf}],
        },
        "componentSpecs": [
            {
                "spec": {
                    "containers": [
                        {"name": "eg-router", "image": "seldonio/mab_epsilon_greedy:1.6.0-dev"}
                    ]
                }
            }
        ],
    }
    document = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "mab"},
        "spec": {"predictors": [predictor]},
    }
    apply(flowers, document)
    flowers.run("wait", "sdep/mab", "--for=condition=Ready", "--timeout=60s")
    url = f"{flowers.http}/seldon/default/mab/api/v1.0/feedback"
    metadata = (("seldon", "mab"), ("namespace", "default"))
    until(
        lambda: (
            httpx.post(
                f"{flowers.http}/seldon/default/mab/api/v1.0/predictions", json=ROW, timeout=30
            ).status_code
            == 200
        ),
        "the route",
    )
    with grpc.insecure_channel(flowers.grpc) as channel:
        reward = channel.unary_unary(
            "/seldon.protos.Seldon/SendFeedback",
            request_serializer=seldon.FeedbackProto.SerializeToString,
            response_deserializer=seldon.MessageProto.FromString,
        )
        ask = channel.unary_unary(
            "/seldon.protos.Seldon/Predict",
            request_serializer=seldon.MessageProto.SerializeToString,
            response_deserializer=seldon.MessageProto.FromString,
        )
        request = seldon.to_proto(seldon.message_of(ROW))
        for _ in range(25):
            answer = predict(flowers, "mab", ROW)
            taken = answer["meta"]["routing"]["eg-router"]
            feedback = {"response": {"meta": answer["meta"]}, "reward": float(taken == 1)}
            assert httpx.post(url, json=feedback, timeout=30).status_code == 200
            reply = ask(request, metadata=metadata, timeout=30)
            given = seldon.FeedbackProto(
                response=reply, reward=float(reply.meta.routing["eg-router"] == 1)
            )
            reward(given, metadata=metadata, timeout=30)
        again = httpx.post(url, json=feedback, timeout=30)
        assert again.status_code == 409
        assert "not counted again" in again.json()["status"]["info"]
        with pytest.raises(grpc.RpcError) as failed:
            reward(given, metadata=metadata, timeout=30)
        assert failed.value.code() is grpc.StatusCode.ABORTED
    taken = [predict(flowers, "mab", ROW)["meta"]["routing"]["eg-router"] for _ in range(40)]
    assert sum(taken) > 28
    shown = flowers.run("bandit", "show", "mab")
    assert "xgb" in shown


def test_an_explainer_of_a_graph_from_apply_to_delete(flowers: Platform, folder: Path) -> None:
    """It asks the graph; its change, its failing, its being left out and coming back are seen to."""
    rows = "sepal,width,petal,thin\n" + "\n".join(
        f"{a},{a / 2},{a / 4},0.1" for a in (1.0, 1.5, 2.0, 2.5, 3.0)
    )
    training = folder / "models" / "asks"
    training.mkdir(parents=True)
    (training / "train.csv").write_text(rows)
    document = yaml.safe_load((EXAMPLES / "seldon_graph.yaml").read_text())
    document["metadata"]["name"] = "told"
    predictor = document["spec"]["predictors"][0]
    # One model, so that the answer is the same each time.
    predictor["graph"]["children"] = [
        {"name": "one", "implementation": "SKLEARN_SERVER", "modelUri": "models/iris"}
    ]
    explainer = {"type": "KernelShap", "modelUri": "models/asks", "config": {"seed": "1"}}
    predictor["explainer"] = explainer
    apply(flowers, document)
    flowers.run("wait", "sdep/told", "--for=condition=Ready", "--timeout=60s")
    url = f"{flowers.http}/seldon/default/told-explainer/main/api/v1.0/explain"

    def explained() -> Any:
        answer = httpx.post(url, json=ROW, timeout=60)
        return answer.json() if answer.status_code == 200 else None

    data = until(explained, "the explanation")["data"]
    assert len(data["shap_values"]) == 3, "one for each class"
    assert data["feature_names"] == ["sepal", "width", "petal", "thin"]

    def status() -> Any:
        path = "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments/told"
        return flowers.get(path)["status"]

    predictor["explainer"] = {**explainer, "type": "Counterfactuals", "config": {}}
    apply(flowers, document)
    until(lambda: (explained() or {}).get("meta", {}).get("name") == "Counterfactuals", "a change")

    (training / "train.csv").unlink()
    predictor["explainer"] = {**explainer, "config": {"seed": "2"}}
    apply(flowers, document)
    until(lambda: "told-main-explainer" in status().get("description", ""), "what is wrong")
    assert predict(flowers, "told", ROW)["meta"]["tags"] == {"unit": "cm"}

    predictor["explainer"] = None
    apply(flowers, document)
    until(lambda: "told-main-explainer" not in services(flowers), "the explainer to go")
    until(lambda: status()["state"] == "Available", "the rest to be all there is")
    until(lambda: httpx.post(url, json=ROW, timeout=60).status_code == 404, "its address to go")

    (training / "train.csv").write_text(rows)
    predictor["explainer"] = explainer
    apply(flowers, document)
    assert until(explained, "it to be back")["meta"]["name"] == "KernelShap"
    flowers.run("delete", "sdep", "told")
    until(lambda: not any(n.startswith("told-") for n in services(flowers)), "everything to go")
