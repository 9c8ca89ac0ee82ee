"""What passed each step, for a request that asks: which values, how many of them, and who is told nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from graph_services import Answer, GraphFrontUnderTest, add
from graph_stand_in import Running, graph, sources, step

from penstock import dialects
from penstock.cli import inspecting
from penstock.domain.assembly import Assembly
from penstock.domain.graph import Answers, Graph, HandOn, OnFailure, RunGraph, Switch
from penstock.errors import InvalidManifest
from penstock.graphs.inspection import MOST_BYTES, Inspector
from penstock.graphs.values import Body, Several, Tensors

JSON_V2 = {"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}


def looked(value: Any, elements: int = 64) -> Any:
    return json.loads(bytes(Inspector(elements).look(value)))


def test_a_few_elements_of_a_tensor_are_written_and_the_rest_is_counted() -> None:
    told = looked(Tensors({"x": np.arange(12, dtype=np.float32).reshape(3, 4)}), 5)
    assert told == {
        "tensors": [
            {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": [0, 1, 2, 3, 4], "more": 7}
        ]
    }


def test_elements_that_json_has_no_word_for() -> None:
    texts = np.empty(3, object)
    texts[:] = [b"a\xff", "é", b"x" * 1000]
    told = looked(
        Tensors(
            {"t": texts, "n": np.array([np.nan, np.inf]), "h": np.array([1.5], np.float16)},
            {"h": "BF16"},
        )
    )["tensors"]
    assert [t["datatype"] for t in told] == ["BYTES", "FP64", "BF16"]
    assert told[0]["data"][:2] == ["a\ufffd", "é"]
    assert len(told[0]["data"][2]) == 257
    assert told[1]["data"] == [None, None]


def test_bodies_as_json_as_text_or_by_their_size() -> None:
    failed = Body(b'{"error":"no"}', status=400)
    assert looked(failed) == {"status": 400, "json": {"error": "no"}}
    assert looked(Body(b"{no json")) == {"content_type": "application/json", "text": "{no json"}
    long = looked(Body(b'"' + b"a" * 5000 + b'"'))
    assert (len(long["text"]), long["more_bytes"]) == (4096, 906)
    image = looked(Body(b"\x89PNG", b"image/png"))
    assert image == {"content_type": "image/png", "bytes": 4}


def test_members_of_a_list_have_their_keys() -> None:
    told = looked(Several(["a", "b"], [Body(b"1"), Tensors({"y": np.array([2])})]))
    assert told["members"][0] == {"key": "a", "json": 1}
    assert told["members"][1]["tensors"][0]["data"] == [2]


def test_one_requests_values_are_bounded_together() -> None:
    inspector = Inspector(10_000)
    value = Tensors({"x": np.random.default_rng(0).random(10_000)})
    sizes = [len(bytes(inspector.look(value))) for _ in range(50)]
    assert sum(sizes) < MOST_BYTES + max(sizes) + 50 * 20
    assert bytes(inspector.look(value)) == b'{"left_out":true}'


async def test_nothing_is_written_for_a_request_that_asks_for_a_trace() -> None:
    run = Running(graph(step("a"), output=sources("a")), {"n": 1}, trace=True)
    run.caller.of("a").answer({"n": 2})
    await run.end()
    (record,) = run.execution.records or ()
    assert (record.given, record.gave) == (None, None)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v2/models/g/infer?inspect=1", {}), ("/v2/models/g/infer", {"x-penstock-inspect": "1"})],
)
async def test_each_step_tells_what_it_was_given_and_gave(
    front: GraphFrontUnderTest, path: str, headers: dict[str, str]
) -> None:
    await front.serve(a=add(1), b=add(10))
    front.graph(
        graph(
            step("choice", action=Switch(("id", ""))),
            step("a", "choice"),
            step("b", "a"),
            output=sources("b"),
            propagate=(".*",),
        )
    )
    answer = await front.client.post(path, json=JSON_V2, headers=headers)
    assert answer.status_code == 200
    told = answer.json()
    assert told["graph"] == "default/g"
    assert told["request"]["tensors"][0]["data"] == [1, 2]
    steps = {s["step"]: s for s in told["steps"]}
    assert steps["root.choice"]["branch"] == [0]
    assert steps["root.a"]["given"]["tensors"][0]["data"] == [1, 2]
    assert steps["root.b"]["given"] == steps["root.a"]["gave"]
    assert steps["root.b"]["gave"]["tensors"][0]["data"] == [12, 13]
    assert 0 < steps["root.b"]["ms"] <= told["ms"]
    assert told["answer"]["status"] == 200
    assert told["answer"]["json"]["outputs"][0]["data"] == [12, 13]
    assert told["answer"]["json"]["id"] == "7"
    # The services hear nothing of it.
    for service in front.services.values():
        assert service.seen[0].head.get(b"x-penstock-inspect") is None


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v2/models/a/infer?inspect=1", {}, 400),
        ("/v1/models/a:predict?inspect=3", {}, 400),
        ("/serving/default/a/v2/models/a/infer", {"x-penstock-inspect": "1"}, 400),
        ("/v2/models/a/infer?inspect=0", {}, 200),
        ("/v2/models/a/infer", {"x-penstock-inspect": "0"}, 200),
        # A model's own paths have their own parameters.
        ("/serving/default/a/report?inspect=1", {}, 200),
    ],
)
async def test_a_service_has_no_steps_to_be_shown(
    front: GraphFrontUnderTest, path: str, headers: dict[str, str], status: int
) -> None:
    await front.serve(a=lambda given: given)
    answer = await front.client.post(path, json=JSON_V2, headers=headers)
    assert answer.status_code == status
    if status == 400:
        assert "default/a is no graph" in answer.json()["error"]


def test_what_steps_say_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b]0;title\x07 \x1b[2J"
    step_ = {
        "step": f"root.{text}",
        "outcome": "ok",
        "ms": 1.0,
        "detail": text,
        "gave": {"text": text},
    }
    answer = {"status": 200, "text": text}
    inspecting._print(
        {
            "graph": "default/g",
            "ms": 1.0,
            "request": {"text": text},
            "steps": [step_],
            "answer": answer,
        }
    )
    out = capsys.readouterr().out
    assert "title" in out
    assert all(c.isprintable() or c == "\n" for c in out)


@pytest.mark.parametrize("headers", [{}, {"x-penstock-inspect": "0"}, {"x-penstock-trace": "1"}])
async def test_who_does_not_ask_gets_the_answer_alone(
    front: GraphFrontUnderTest, headers: dict[str, str]
) -> None:
    await front.serve(a=add(1))
    front.graph(graph(step("a")))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [2, 3]


async def test_a_failed_step_tells_what_was_answered_to_it(front: GraphFrontUnderTest) -> None:
    def refuse(_: Any) -> Any:
        raise Answer(418, {"error": "a teapot"})

    await front.serve(a=add(1), b=refuse)
    front.graph(graph(step("a"), step("b", "a"), answers=Answers.SELDON_V2))
    answer = await front.client.post("/v2/models/g/infer?inspect=1", json=JSON_V2)
    assert answer.status_code == 400
    told = answer.json()
    last = told["steps"][-1]
    assert (last["outcome"], last["gave"]) == (
        "failed", {"status": 418, "json": {"error": "a teapot"}},
    )  # fmt: skip
    assert told["answer"] == {"status": 400, "text": "b : a teapot"}


async def test_a_soft_failure_is_what_the_step_gave(front: GraphFrontUnderTest) -> None:
    def refuse(_: Any) -> Any:
        raise Answer(503, {"error": "later"})

    await front.serve(a=refuse)
    front.graph(graph(step("a", on_failure=OnFailure.ANSWER), answers=Answers.KSERVE))
    answer = await front.client.post("/serving/default/g?inspect=1", json={"n": 1})
    told = answer.json()
    assert told["steps"][0]["outcome"] == "ignored"
    assert told["steps"][0]["gave"] == {"status": 503, "json": {"error": "later"}}


async def test_a_binary_answer_is_told_by_its_size(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(graph(step("a")))
    asked = {**JSON_V2, "parameters": {"binary_data_output": True}}
    answer = await front.client.post("/v2/models/g/infer?inspect=1", json=asked)
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    told = answer.json()
    assert told["answer"]["content_type"] == "application/octet-stream"
    assert told["answer"]["bytes"] > 8
    assert told["steps"][0]["gave"]["tensors"][0]["data"] == [2, 3]


async def test_a_graph_that_asks_nobody_tells_its_steps_too(front: GraphFrontUnderTest) -> None:
    front.graph(graph(step("a", action=HandOn())))
    answer = await front.client.post("/v2/models/g/infer?inspect=1", json=JSON_V2)
    assert [s["step"] for s in answer.json()["steps"]] == ["root.a"]


async def test_how_many_elements_are_shown(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(graph(step("a")))
    many = {"inputs": [{"name": "x", "shape": [100], "datatype": "FP32", "data": list(range(100))}]}
    for asked, shown in (("1", 64), ("true", 64), ("3", 3), ("99999999999", 64)):
        answer = await front.client.post(f"/v2/models/g/infer?inspect={asked}", json=many)
        assert len(answer.json()["steps"][0]["given"]["tensors"][0]["data"]) == shown


@pytest.mark.parametrize("answers", list(Answers))
async def test_a_graph_whose_values_are_nobodys_business(
    front: GraphFrontUnderTest, answers: Answers
) -> None:
    await front.serve(a=add(1))
    front.graph(msgspec.structs.replace(graph(step("a")), inspect=False, answers=answers))
    answer = await front.client.post("/v2/models/g/infer?inspect=1", json=JSON_V2)
    assert answer.status_code == 403
    assert "penstock.dev/inspect" in answer.json()["error"]
    assert not front.services["a"].seen


async def test_a_graph_inside_of_another_keeps_its_values_to_itself() -> None:
    inner = msgspec.structs.replace(graph(step("b")), name="inner", inspect=False)
    outer = graph(step("a"), step("in", "a", action=RunGraph("inner")))
    run = Running(outer, {"n": 1}, others=(inner,), inspector=Inspector())
    run.caller.of("a").answer({"n": 2})
    await asyncio.sleep(0)
    run.caller.of("b").answer({"n": 3})
    await run.end()
    passed = {r.path: (r.given, r.gave) for r in run.execution.records or ()}
    assert passed["root.b"] == (None, None)
    assert [json.loads(bytes(v)) for v in passed["root.in"]] == [
        {"json": {"n": 2}},
        {"json": {"n": 3}},
    ]


MANIFESTS: dict[str, dict[str, Any]] = {
    "Pipeline": {"apiVersion": "penstock.dev/v1alpha1", "spec": {"steps": [{"name": "a"}]}},
    "InferenceGraph": {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "spec": {"nodes": {"root": {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}}},
    },
    "SeldonDeployment": {
        "apiVersion": "machinelearning.seldon.io/v1",
        "spec": {
            "predictors": [
                {
                    "name": "p",
                    "graph": {
                        "name": "m",
                        "implementation": "AVERAGE_COMBINER",
                        "children": [
                            {
                                "name": n,
                                "implementation": "SKLEARN_SERVER",
                                "modelUri": "models/iris",
                            }
                            for n in ("a", "b")
                        ],
                    },
                }
            ]
        },
    },
}


def graph_of(kind: str, note: str | None) -> Graph:
    notes = {} if note is None else {"annotations": {"penstock.dev/inspect": note}}
    found = dialects.translate(
        {**MANIFESTS[kind], "kind": kind, "metadata": {"name": "g", "namespace": "n", **notes}}
    ).object
    graph = found.graph if isinstance(found, Assembly) else found
    assert isinstance(graph, Graph)
    return graph


@pytest.mark.parametrize("kind", MANIFESTS)
def test_an_annotation_says_so_in_every_dialect(kind: str) -> None:
    assert graph_of(kind, None).inspect
    assert graph_of(kind, "true").inspect
    assert not graph_of(kind, "false").inspect
    with pytest.raises(InvalidManifest, match='must be "true" or "false"') as refused:
        graph_of(kind, "no")
    assert refused.value.problems[0].path == 'metadata.annotations["penstock.dev/inspect"]'
