"""SeldonDeployments of several nodes: who is asked what, and what the answer says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seldon_platform import deployed, deployment, node, parameter


def plus(
    name: str, by: float, *children: dict[str, Any], type_: str = "MODEL", cls: str = "Plus"
) -> Any:
    made = node(name, type_, cls, parameters=[parameter("by", str(by), "FLOAT")])
    if children:
        made["children"] = list(children)
    return made


async def test_a_transformer_before_and_one_after_a_model(tmp_path: Path) -> None:
    """Input first, then the child, then the output: (1 + 10) * 2 + 100."""
    model = node("model", "MODEL", implementation="SKLEARN_SERVER", modelUri="x")
    graph = plus(
        "after", 100, plus("before", 10, model, type_="TRANSFORMER"), type_="OUTPUT_TRANSFORMER"
    )
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.rows([1.0, 2.0])
    assert answer["data"] == {"names": ["t:0", "t:1"], "ndarray": [[122.0, 124.0]]}
    assert answer["meta"]["requestPath"] == {
        "before": "dep-main-before",
        "model": "dep-main-model",
        "after": "dep-main-after",
    }
    assert "routing" not in answer["meta"]


async def test_a_router_asks_one_child(tmp_path: Path) -> None:
    graph = node("router", "ROUTER", "Chooses", children=[plus("a", 1), plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        for branch, by in ((0, 1), (1, 2)):
            answer = await d.rows([branch])
            assert answer["data"]["ndarray"] == [[branch + by]]
            assert answer["meta"]["routing"] == {"router": branch}
            assert set(answer["meta"]["requestPath"]) == {"router", "ab"[branch]}


async def test_a_router_may_ask_all_or_none(tmp_path: Path) -> None:
    """-1: all are asked and the first one's answer counts. -2: the request itself is the answer."""
    graph = node("router", "ROUTER", "Chooses", children=[plus("a", 1), plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.rows([-1])
        assert answer["data"]["ndarray"] == [[0]]
        assert answer["meta"]["routing"] == {"router": -1}
        assert set(answer["meta"]["requestPath"]) == {"router", "a", "b"}
        answer = await d.rows([-2])
        assert answer["data"]["ndarray"] == [[-2]]
        assert answer["meta"]["routing"] == {"router": -2}


@pytest.mark.parametrize("branch", [2, -3, 7])
async def test_a_branch_that_is_none_fails_the_request(tmp_path: Path, branch: int) -> None:
    graph = node("router", "ROUTER", "Chooses", children=[plus("a", 1), plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {"ndarray": [[branch]]}})
    assert answer.status_code == 500
    assert f"answered branch {branch}; 0 to 1" in answer.json()["status"]["info"]


async def test_a_combiner_gets_every_childs_answer(tmp_path: Path) -> None:
    graph = node("sum", "COMBINER", "Sums", children=[plus("a", 1), plus("b", 2), plus("c", 3)])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.rows([1.0, 1.0])
    assert answer["data"]["ndarray"] == [[9.0, 9.0]]
    assert answer["meta"]["tags"] == {"summed": True}
    assert list(answer["meta"]["requestPath"]) == ["a", "b", "c", "sum"]


async def test_tags_metrics_and_names_come_along(tmp_path: Path) -> None:
    """Tags of every unit on the way, its metrics in order, the last one's names; the puid is the client's."""
    graph = plus("outer", 1, plus("inner", 2, cls="Tagged"), type_="TRANSFORMER", cls="Tagged")
    async with deployed(tmp_path, deployment(graph)) as d:
        message = {"data": {"ndarray": [[1.0]]}, "meta": {"puid": "mine", "tags": {"client": "x"}}}
        answer = await d.predict(message)
        body = answer.json()
        assert answer.headers["seldon-puid"] == "mine"
        assert d.unit("dep-main-inner").metas[0]["puid"] == "mine"
        assert d.unit("dep-main-inner").metas[0]["tags"] == {"client": "x", "by1": True}
    assert body["meta"]["puid"] == "mine"
    assert body["meta"]["tags"] == {"client": "x", "by1": True, "by2": True}
    assert [m["key"] for m in body["meta"]["metrics"]] == ["calls1", "calls2"]
    assert body["data"]["names"] == ["c2"]


async def test_a_tensor_is_answered_by_a_tensor(tmp_path: Path) -> None:
    graph = plus(
        "t", 1, node("m", implementation="SKLEARN_SERVER", modelUri="x"), type_="TRANSFORMER"
    )
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {"tensor": {"shape": [1, 2], "values": [1, 2]}}})
    assert answer.json()["data"]["tensor"] == {"shape": [1, 2], "values": [4.0, 6.0]}


async def test_text_bytes_and_json_pass_as_they_are(tmp_path: Path) -> None:
    """A message without an array goes from unit to unit as a message; a combiner may mix both."""
    says = node("says", "MODEL", "Says")
    graph = node("join", "COMBINER", "Joins", children=[says, node("again", "MODEL", "Says")])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"strData": "you"})
        assert answer.json()["strData"] == "hello: you|hello: you"
        answer = await d.predict({"data": {"ndarray": [[1]]}})
        assert answer.json()["strData"] == "{'seen': [[1]]}|{'seen': [[1]]}"


async def test_built_in_units_need_no_process(tmp_path: Path) -> None:
    leaf = {"implementation": "SIMPLE_MODEL"}
    graph = node(
        "mean",
        implementation="AVERAGE_COMBINER",
        children=[
            node("one", **leaf),
            node(
                "router",
                implementation="SIMPLE_ROUTER",
                children=[node("x", **leaf), node("y", **leaf)],
            ),
        ],
    )
    async with deployed(tmp_path, deployment(graph)) as d:
        assert d.parts == {}
        answer = await d.rows([5])
    assert answer["data"]["names"] == ["class0", "class1", "class2"]
    assert np.allclose(answer["data"]["ndarray"], [[0.1, 0.9, 0.5]])
    assert answer["meta"]["routing"] == {"router": 0}


@pytest.mark.parametrize(("ratio", "expected"), [("1.0", {0}), ("0.0", {1}), ("0.5", {0, 1})])
async def test_an_ab_test_divides_by_its_ratio(
    tmp_path: Path, ratio: str, expected: set[int]
) -> None:
    graph = node(
        "ab",
        implementation="RANDOM_ABTEST",
        parameters=[parameter("ratioA", ratio, "FLOAT")],
        children=[
            node("a", implementation="SIMPLE_MODEL"),
            node("b", implementation="SIMPLE_MODEL"),
        ],
    )
    async with deployed(tmp_path, deployment(graph)) as d:
        taken = {(await d.rows([1]))["meta"]["routing"]["ab"] for _ in range(60)}
    assert taken == expected


async def test_the_mean_of_different_shapes_is_refused(tmp_path: Path) -> None:
    shapes = [
        node(f"s{n}", "MODEL", "Shapes", parameters=[parameter("columns", str(n), "INT")])
        for n in (1, 2)
    ]
    graph = node("mean", implementation="AVERAGE_COMBINER", children=shapes)
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {"ndarray": [[1]]}})
    assert answer.status_code == 400
    assert "[1, 1], [1, 2]" in answer.json()["status"]["info"]


async def test_several_predictors_share_requests_and_a_shadow_gets_copies(tmp_path: Path) -> None:
    first = {**plus("m", 1, plus("t", 0)), "predictor": {"traffic": 50}}
    second = {**plus("m", 2, plus("t", 0)), "predictor": {"traffic": 50}}
    shadow = {**plus("m", 3, plus("t", 0)), "predictor": {"shadow": True}}
    async with deployed(tmp_path, deployment(first, second, shadow)) as d:
        seen = {}
        for _ in range(40):
            answer = await d.rows([0.0])
            seen[answer["data"]["ndarray"][0][0]] = answer["meta"]["requestPath"]
        assert seen == {
            1.0: {"m": "dep-main-m", "t": "dep-main-t"},
            2.0: {"m": "dep-p1-m", "t": "dep-p1-t"},
        }
        assert len(d.unit("dep-p2-m").metas) > 30


async def test_methods_add_to_what_a_type_does(tmp_path: Path) -> None:
    graph = plus("both", 1, plus("m", 10))
    graph["type"] = None
    graph["methods"] = ["TRANSFORM_INPUT", "TRANSFORM_OUTPUT"]
    async with deployed(tmp_path, deployment(graph)) as d:
        assert (await d.rows([0.0]))["data"]["ndarray"] == [[12.0]]


# -- feedback


async def test_feedback_follows_the_answers_routing(tmp_path: Path) -> None:
    """The router and the model that answered learn; the other model and the transformer do not."""
    a = plus("ta", 0, plus("a", 1), type_="TRANSFORMER")
    graph = node("router", "ROUTER", "Chooses", children=[a, plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        response = await d.rows([0])
        request = {"data": {"ndarray": [[0]]}}
        answer = await d.feedback({"request": request, "response": response, "reward": 0.5})
        assert answer.status_code == 200, answer.text
        assert d.unit("dep-main-router").learned == [(0.5, 0)]
        assert d.unit("dep-main-a").learned == [(0.5, None)]
        assert d.unit("dep-main-b").learned == d.unit("dep-main-ta").learned == []
        response = await d.rows([1])
        await d.feedback({"request": request, "response": response, "reward": 1})
        assert d.unit("dep-main-b").learned == [(1.0, None)]


async def test_feedback_without_routing_reaches_every_model(tmp_path: Path) -> None:
    graph = node("router", "ROUTER", "Chooses", children=[plus("a", 1), plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.feedback({"reward": 1.0})
        assert answer.status_code == 200, answer.text
        assert d.unit("dep-main-a").learned == d.unit("dep-main-b").learned == [(1.0, None)]


async def test_feedback_reaches_the_predictor_that_answered(tmp_path: Path) -> None:
    graphs = [{**plus("m", n, plus("t", 0)), "predictor": {"traffic": 50}} for n in (1, 2)]
    async with deployed(tmp_path, deployment(*graphs)) as d:
        response = await d.rows([0.0])
        await d.feedback({"response": response, "reward": 1})
        one, other = ("main", "p1") if response["data"]["ndarray"] == [[1.0]] else ("p1", "main")
        assert d.unit(f"dep-{one}-m").learned == [(1.0, None)]
        assert d.unit(f"dep-{other}-m").learned == []


async def test_bad_feedback_is_refused(tmp_path: Path) -> None:
    graph = plus("m", 1, plus("n", 1))
    async with deployed(tmp_path, deployment(graph)) as d:
        for document in ({"reward": "much"}, {"response": 1}, [1]):
            answer = await d.feedback(document)
            assert answer.status_code == 400, answer.text
            assert answer.json()["status"]["status"] == "FAILURE"


# -- what goes wrong


async def test_a_unit_that_raises_fails_the_request(tmp_path: Path) -> None:
    graph = plus("t", 1, node("bad", "MODEL", "Fails"), type_="TRANSFORMER")
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {"ndarray": [[1]]}})
    assert answer.status_code == 500
    status = answer.json()["status"]
    assert status["status"] == "FAILURE"
    assert "main.bad" in status["info"]
    assert "RuntimeError" in status["info"]
    assert "not today" not in answer.text


async def test_a_unit_that_is_gone_fails_the_request(tmp_path: Path) -> None:
    graph = plus("t", 1, plus("gone", 1), type_="TRANSFORMER")
    async with deployed(tmp_path, deployment(graph), absent=("dep-main-gone",)) as d:
        answer = await d.predict({"data": {"ndarray": [[1]]}})
        assert answer.status_code == 503
        assert "could not be loaded" in answer.json()["status"]["info"]
        for path in ("/ready", "/api/v1.0/health/status"):
            answer = await d.client.get(d.prefix + path)
            assert answer.status_code == 503
            assert "dep-main-gone" in answer.text


async def test_a_slow_unit_ends_with_the_graphs_deadline(tmp_path: Path) -> None:
    graph = plus("t", 1, node("slow", "MODEL", "Slow"), type_="TRANSFORMER")
    manifest = deployment(graph, annotations={"seldon.io/rest-timeout": "300"})
    async with deployed(tmp_path, manifest) as d:
        answer = await d.predict({"data": {"ndarray": [[1]]}})
    assert answer.status_code == 504
    assert "within 0.3 s" in answer.json()["status"]["info"]


@pytest.mark.parametrize(
    "message",
    [{}, {"data": {"ndarray": [[1], [1, 2]]}}, {"data": {"ndarray": 1}}, [1], {"strData": 1}],
)
async def test_bad_messages_are_refused_before_any_unit(tmp_path: Path, message: Any) -> None:
    graph = plus("m", 1, plus("n", 1))
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict(message)
        assert answer.status_code == 400, answer.text
        assert answer.json()["status"]["reason"] == "MICROSERVICE_BAD_DATA"
        assert d.unit("dep-main-m").metas == []


# -- other protocols and questions


async def test_v1_and_v2_clients_are_answered_in_their_own_shape(tmp_path: Path) -> None:
    graph = plus(
        "t", 1, node("m", implementation="SKLEARN_SERVER", modelUri="x"), type_="TRANSFORMER"
    )
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.client.post("/v1/models/dep:predict", json={"instances": [[1.0, 2.0]]})
        assert answer.json() == {"predictions": [[4.0, 6.0]]}
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        answer = await d.client.post("/v2/models/dep/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["data"] == [4.0, 6.0]
        assert "parameters" not in answer.json()


async def test_forms_and_the_older_path_are_taken(tmp_path: Path) -> None:
    graph = node("a", "TRANSFORMER", "Plus", children=[node("s", "MODEL", "Says")])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.client.post(
            f"{d.prefix}/api/v0.1/predictions", files={"data": (None, '{"ndarray": [[1]]}')}
        )
        assert answer.json()["jsonData"] == {"seen": [[2.0]]}


async def test_metadata_names_the_nodes(tmp_path: Path) -> None:
    graph = node("router", "ROUTER", "Chooses", children=[plus("a", 1), plus("b", 2)])
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = (await d.client.get(f"{d.prefix}/api/v1.0/metadata")).json()
        assert answer["name"] == "dep"
        assert set(answer["models"]) == {"router", "a", "b"}
        answer = (await d.client.get(f"{d.prefix}/api/v1.0/metadata/a")).json()
        assert answer["service"] == "dep-main-a"
        gone = await d.client.get(f"{d.prefix}/api/v1.0/metadata/c")
        assert gone.status_code == 404
        assert gone.json()["status"] == {
            "code": 404,
            "info": "There is no node c; there is router, a, b.",
            "reason": "NotFound",
            "status": "FAILURE",
        }
        assert (await d.client.get(f"{d.prefix}/live")).text == "pong"
        assert (await d.client.get(f"{d.prefix}/ready")).json() == {"name": "dep", "ready": True}


@pytest.mark.parametrize("kind", ["ndarray", "tensor", "tftensor"])
async def test_a_simple_model_answers_in_the_kind_it_is_asked_in(tmp_path: Path, kind: str) -> None:
    simple = {"implementation": "SIMPLE_MODEL"}
    graph = {
        "name": "r", "implementation": "SIMPLE_ROUTER",
        "children": [{"name": "a", **simple}, {"name": "b", **simple}],
    }  # fmt: skip
    data = {
        "ndarray": [[1.0]],
        "tensor": {"shape": [1, 1], "values": [1.0]},
        "tftensor": {"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "1"}]}, "floatVal": [1]},
    }
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {kind: data[kind]}})
        assert set(answer.json()["data"]) == {"names", kind}
        answer = await d.predict({"strData": "x"})
        assert answer.json()["data"]["tensor"]["values"] == [0.1, 0.9, 0.5]


async def test_numpys_numbers_go_along_between_nodes(tmp_path: Path) -> None:
    """Tags and metrics go beside the binary tensors."""
    units = [node(name, type_, "Numpys") for name, type_ in (("a", "TRANSFORMER"), ("b", "MODEL"))]
    async with deployed(tmp_path, deployment({**units[0], "children": [units[1]]})) as d:
        answer = await d.rows([1.0])
    assert answer["meta"]["tags"] == {"f": 0.5, "l": [1, 2]}
    assert [m["key"] for m in answer["meta"]["metrics"]] == ["level", "level"]


async def test_what_is_no_number_goes_through_a_graph(tmp_path: Path) -> None:
    child = node("m", "MODEL", implementation="SKLEARN_SERVER", modelUri="x")
    graph = node("t", "TRANSFORMER", "Echoes", children=[child])
    message = {"data": {"tensor": {"shape": [1, 2], "values": ["NaN", "-Infinity"]}}}
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict(message)
        assert answer.json()["data"]["tensor"]["values"] == ["NaN", "-Infinity"]


async def test_a_router_that_answers_no_number_fails_the_request(tmp_path: Path) -> None:
    children = [plus("a", 1), plus("b", 2)]
    graph = node("router", "ROUTER", "RouteNan", children=children)
    async with deployed(tmp_path, deployment(graph)) as d:
        answer = await d.predict({"data": {"ndarray": [[1.0]]}})
    assert answer.status_code == 500
    assert "branch" in answer.json()["status"]["info"]
