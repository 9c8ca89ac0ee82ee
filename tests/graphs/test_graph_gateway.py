"""Graphs in the gateway: protocols in front, services behind, deadlines, hang-ups, metrics, traces."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from graph_services import Answer, GraphFrontUnderTest, add
from graph_stand_in import graph, sources, step

from penstock.domain.graph import (
    Answers,
    Batch,
    CallUrl,
    Combine,
    Graph,
    HandOn,
    Join,
    OnFailure,
    RunGraph,
    Switch,
)
from penstock.domain.routes import Address, Route
from penstock.http.client import Upstream
from penstock.http.server import HttpServer, Limits
from penstock.protocols.content_coding import MOST_INFLATED

JSON_V2 = {"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}


def chain(*names: str, **more: Any) -> Graph:
    return graph(*(step(n, p) for p, n in zip(("", *names), names, strict=False)), **more)


def binary(**more: Any) -> tuple[bytes, dict[str, str]]:
    """The tensors of `JSON_V2` as bytes: a body, and the header that it needs."""
    x = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    header = json.dumps({"inputs": [x], **more}).encode()
    content = header + np.array([1, 2], np.float32).tobytes()
    return content, {"inference-header-content-length": str(len(header))}


async def test_v2_json_goes_through_a_chain_as_binary_tensors(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1), b=add(10))
    front.graph(chain("a", "b"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "g",
        "id": "7",
        "outputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [12.0, 13.0]}],
    }
    (exchange,) = front.services["b"].seen
    assert exchange.head.path == "/v2/models/b/infer"
    assert exchange.head.get(b"inference-header-content-length") is not None


async def test_binary_tensors_in_and_out(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    content, headers = binary(parameters={"binary_data_output": True})
    answer = await front.client.post(
        "/serving/default/g/v2/models/g/infer", content=content, headers=headers
    )
    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[length:], np.float32).tolist() == [2, 3]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_request(front: GraphFrontUnderTest, coding: str) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    coded = {"content-encoding": coding}
    content, length = binary()
    for body, headers in (
        (json.dumps(JSON_V2).encode(), coded),
        (content, {**coded, **length}),
    ):
        answer = await front.client.post("/v2/models/g/infer", content=pack(body), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == [2.0, 3.0]
    for exchange in front.services["a"].seen:
        assert exchange.head.get(b"content-encoding") is None
    broken = await front.client.post("/v2/models/g/infer", content=b"{}", headers=coded)
    assert broken.status_code == 400
    bomb = pack(b" " * (MOST_INFLATED + 1))
    large = await front.client.post("/v2/models/g/infer", content=bomb, headers=coded)
    assert large.status_code == 413


async def test_v1_stays_v1(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda d: {"predictions": [x + 1 for x in d["instances"]]})
    front.graph(chain("a"))
    answer = await front.client.post("/v1/models/g:predict", json={"instances": [1, 2]})
    assert answer.json() == {"predictions": [2, 3]}
    assert front.services["a"].seen[0].head.path == "/v1/models/a:predict"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/serving/default/g", {}),
        ("/serving/default/g/", {}),
        ("/", {"host": "g.default.example.com"}),
        ("/anything", {"host": "g-default.example.com"}),
        ("/v2/models/g/infer", {}),
        ("/v2/models/whatever/infer", {"seldon-model": "g.pipeline"}),
    ],
)
async def test_every_address_of_a_service_is_one_of_a_graph(
    front: GraphFrontUnderTest, path: str, headers: dict[str, str]
) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    answer = await front.client.post(path, json=JSON_V2, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [2.0, 3.0]


async def test_what_is_asked_about_a_graph(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a", "b"))
    get = front.client.get
    assert (await get("/v2/models/g")).json()["platform"] == "penstock_graph"
    not_ready = await get("/v2/models/g/ready")
    assert not_ready.status_code == 503
    missing = (await get("/serving/default/g/readyz")).json()["missing"]
    assert missing == ["default/b does not exist"]
    await front.serve(b=add(1))
    assert (await get("/v2/models/g/ready")).status_code == 200
    assert (await get("/v1/models/g")).json() == {"name": "g", "ready": True}
    assert (await get("/serving/default/g/nothing")).status_code == 404
    for method in ("PUT", "DELETE", "PATCH"):
        refused = await front.client.request(method, "/serving/default/g", content=b"{}")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await front.client.head("/serving/default/g")).status_code == 200


@pytest.mark.parametrize("dialect", [Answers.KSERVE, Answers.PENSTOCK])
async def test_an_error_that_is_no_json_is_a_member_of_the_object_too(
    front: GraphFrontUnderTest, dialect: Answers
) -> None:
    """A proxy's page in place of a step that may fail does not take the other answers away."""

    def says(status: int, page: bytes) -> Any:
        def answer(_: Any) -> Any:
            raise Answer(status, page)

        return answer

    await front.serve(
        a=says(502, b"<h1>Bad Gateway</h1>"),
        b=lambda _: {"predictions": [1]},
        c=says(503, b""),
        d=says(200, b"<h1>hi</h1>"),
    )
    bears = {"on_failure": OnFailure.ANSWER}
    steps = step("a", **bears), step("b"), step("c", **bears)
    joined = sources("a", "b", "c", combine=Combine.OBJECT)
    front.graph(graph(*steps, output=joined, answers=dialect))
    answer = await front.client.post("/v1/models/g:predict", json={"instances": [1]})
    assert answer.status_code == 200
    assert answer.json() == {
        "a": {"error": "<h1>Bad Gateway</h1>"},
        "b": {"predictions": [1]},
        "c": {"error": "answered 503"},
    }
    odd = sources("b", "d", combine=Combine.OBJECT)
    front.graph(graph(step("b"), step("d", **bears), output=odd, answers=dialect))
    answer = await front.client.post("/v1/models/g:predict", json={"instances": [1]})
    assert answer.status_code == 500
    assert "root: the answer of d is no JSON" in answer.json()["error"]


async def test_an_error_names_its_step_once(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda given: {})
    loop = graph(step("a", "", "a", join=Join.ANY), output=sources("a.x"), max_revisits=1)
    front.graph(loop)
    answer = (await front.client.post("/v1/models/g:predict", json={"instances": [1]})).json()
    assert answer["error"].startswith("The step root.a was to run again more than 1 times")
    assert answer["error"].endswith("(maxRevisits).")


async def test_a_graph_that_answers_without_a_step_is_ready(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    borne = step("b", on_failure=OnFailure.SKIP)
    front.graph(graph(step("a"), borne, output=sources("a", "b", join=Join.OUTER)))
    assert (await front.client.get("/v2/models/g/ready")).status_code == 200
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.json()["outputs"][0]["data"] == [2.0, 3.0]


async def test_a_step_that_is_gone(front: GraphFrontUnderTest) -> None:
    front.graph(chain("a"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 503
    assert answer.json() == {
        "error": "The step root.a failed: The service default/a does not exist.",
        "step": "root.a",
    }


async def test_a_step_whose_process_dies(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))

    def die(_: Any) -> Any:
        front.services["b"].seen[-1].abort()
        raise Answer(200, {})

    await front.serve(b=die)
    front.graph(chain("a", "b"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 502
    assert answer.json()["step"] == "root.b"


async def test_a_step_that_answers_another_protocol(front: GraphFrontUnderTest) -> None:
    def odd(_: Any) -> Any:
        raise Answer(200, {"hello": 1})

    await front.serve(a=odd)
    front.graph(chain("a"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 502
    assert "the answer is no V2 response" in answer.json()["error"]


async def test_a_models_own_error_keeps_its_status(front: GraphFrontUnderTest) -> None:
    def refuse(_: Any) -> Any:
        raise Answer(400, {"error": "input 'y' is missing"})

    await front.serve(a=refuse)
    front.graph(chain("a"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 400
    assert answer.json()["error"] == "The step root.a failed: a: input 'y' is missing"


async def test_a_body_that_is_wrong_never_reaches_a_step(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    bad = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}]}
    answer = await front.client.post("/v2/models/g/infer", json=bad)
    assert answer.status_code == 400
    assert "shape" in answer.json()["error"]
    assert not front.services["a"].seen


async def test_a_graph_that_gives_nothing_is_an_error_of_its_own(
    front: GraphFrontUnderTest,
) -> None:
    await front.serve(a=add(1), b=add(1))
    front.graph(graph(step("a"), step("b", "a.gone")))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 422
    assert answer.json()["error"] == (
        "The graph default/g gave no answer: b was skipped (a has no tensor gone)."
    )


async def test_the_deadline_is_the_graphs(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1), b=add(1))
    front.services["b"].held = []
    slow = chain("a", "b")
    front.graph(Graph(slow.namespace, slow.name, slow.flows, timeout_s=0.1))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 504
    assert "did not answer within 0.1 s" in answer.json()["error"]
    assert "root.b" in answer.json()["error"]
    assert "spec.timeout raises the limit" in answer.json()["error"]
    await asyncio.wait_for(front.services["b"].hung_up.wait(), 30)
    assert not front.gateway.active
    front.services["b"].hung_up.clear()
    answer = await front.client.post("/v2/models/g/infer?trace=1", json=JSON_V2)
    late = json.loads(answer.headers["x-penstock-trace"])["steps"][1]
    assert late["outcome"] == "running"
    assert late["ms"] > 50, "so far"
    # A limit of the caller's own is not raised by the manifest.
    shorter = {"x-request-timeout-ms": "50"}
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2, headers=shorter)
    assert "did not answer within 0.05 s" in answer.json()["error"]
    assert "spec.timeout" not in answer.json()["error"]


async def test_a_clients_own_deadline_counts(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.services["a"].held = []
    front.graph(chain("a"))
    answer = await front.client.post(
        "/v2/models/g/infer", json=JSON_V2, headers={"x-request-timeout-ms": "50"}
    )
    assert answer.status_code == 504


async def test_a_client_that_hangs_up_stops_every_step(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1), b=add(1))
    for name in "ab":
        front.services[name].held = []
    front.graph(graph(step("a"), step("b"), output=sources("a", "b")))
    request = asyncio.create_task(front.client.post("/v2/models/g/infer", json=JSON_V2))
    for name in "ab":
        await asyncio.wait_for(front.services[name].arrived.wait(), 30)
    request.cancel()
    for name in "ab":
        await asyncio.wait_for(front.services[name].hung_up.wait(), 30)
    assert not front.gateway.active
    assert front.samples("penstock_graph_steps")["default", "g", "root.a", "canceled"] == 1


async def test_a_sleeping_service_is_woken_and_waited_for(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    awake = front.services["a"].route()
    front.put(Route("default", "a", may_sleep=True))
    front.graph(chain("a"))
    request = asyncio.create_task(front.client.post("/v2/models/g/infer", json=JSON_V2))
    while not front.wakes:
        await asyncio.sleep(0)
    assert front.wakes[0].key == "default/a"
    front.put(awake)
    assert (await request).status_code == 200


async def test_requests_and_steps_are_counted(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1), b=add(1))
    front.graph(graph(step("a"), step("b", "a.gone"), output=sources("a", "b", join=Join.OUTER)))
    for _ in range(3):
        await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert front.samples("penstock_graph_steps") == {
        ("default", "g", "root.a", "ok"): 3,
        ("default", "g", "root.b", "skipped"): 3,
    }
    assert front.samples("penstock_graph_step_seconds").keys() == {("default", "g", "root.a")} | {
        k for k in front.samples("penstock_graph_step_seconds") if k[2] == "root.b"
    }
    requests = front.samples("penstock_gateway_requests")
    assert requests["default", "g", "predictor", "", "v2", "200"] == 3
    assert requests["default", "a", "predictor", "a-00001", "v2", "200"] == 3
    front.remove("g")
    assert not front.samples("penstock_graph_steps")
    assert (await front.client.post("/v2/models/g/infer", json=JSON_V2)).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v2/models/g/infer?trace=1", {}), ("/v2/models/g/infer", {"x-penstock-trace": "1"})],
)
async def test_a_trace_tells_what_each_step_did(
    front: GraphFrontUnderTest, path: str, headers: dict[str, str]
) -> None:
    await front.serve(a=add(1), b=add(1))
    front.graph(
        graph(
            step("choice", action=Switch(("id", ""))),
            step("a", "choice"),
            step("b", "a.gone"),
            output=sources("a", "b", join=Join.OUTER),
        )
    )
    answer = await front.client.post(path, json=JSON_V2, headers=headers)
    trace = json.loads(answer.headers["x-penstock-trace"])
    assert trace["graph"] == "default/g"
    steps = {s["step"]: s for s in trace["steps"]}
    assert steps["root.choice"]["branch"] == [0]
    assert (steps["root.a"]["outcome"], steps["root.a"]["target"]) == ("ok", "a")
    assert 0 < steps["root.a"]["ms"] <= trace["ms"]
    assert steps["root.b"]["detail"] == "a has no tensor gone"
    plain = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert "x-penstock-trace" not in plain.headers


async def test_a_trace_says_inside_of_which_step_another_graphs_steps_ran(
    front: GraphFrontUnderTest,
) -> None:
    await front.serve(a=add(1))
    inner = msgspec.structs.replace(graph(step("a")), name="inner")
    middle = msgspec.structs.replace(graph(step("deep", action=RunGraph("inner"))), name="middle")
    front.graph(inner)
    front.graph(middle)
    one, two = step("one", action=RunGraph("middle")), step("two", action=RunGraph("inner"))
    front.graph(graph(one, two, output=sources("one", "two", combine=Combine.OBJECT)))
    answer = await front.client.post("/v2/models/g/infer?trace=1", json=JSON_V2)
    steps = json.loads(answer.headers["x-penstock-trace"])["steps"]
    assert {(s.get("within", ""), s["step"]) for s in steps} == {
        ("", "root.one"),
        ("", "root.two"),
        ("root.one", "root.deep"),
        ("root.one/root.deep", "root.a"),
        ("root.two", "root.a"),
    }
    told = (await front.client.post("/v2/models/g/infer?inspect=1", json=JSON_V2)).json()
    assert [s["within"] for s in told["steps"] if s["step"] == "root.deep"] == ["root.one"]


async def test_an_error_inside_of_another_graph_says_where(front: GraphFrontUnderTest) -> None:
    front.graph(msgspec.structs.replace(graph(step("a")), name="inner"))
    front.graph(graph(step("one", action=RunGraph("inner"))))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 503
    assert answer.json()["step"] == "root.one/root.a"
    assert "The step root.one/root.a failed: " in answer.json()["error"]


async def test_a_trace_of_many_steps_stays_a_header(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    names = [f"step-with-a-long-name-{i}" for i in range(200)]
    hands = [step(n, p, action=HandOn()) for p, n in zip(["a", *names], names, strict=False)]
    front.graph(graph(step("a"), *hands))
    answer = await front.client.post("/v2/models/g/infer?trace=1", json=JSON_V2)
    trace = json.loads(answer.headers["x-penstock-trace"])
    assert trace["more"] + len(trace["steps"]) == 201


async def test_headers_go_along_as_the_graph_says(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    g = chain("a")
    front.graph(Graph(g.namespace, g.name, g.flows, propagate=("^authorization$", "^x-team-")))
    sent = {"Authorization": "Bearer t", "X-Team-A": "1", "X-Request-Id": "r1", "X-Other": "no"}
    await front.client.post("/v2/models/g/infer", json=JSON_V2, headers=sent)
    head = front.services["a"].seen[0].head
    assert head.get(b"authorization") == b"Bearer t"
    assert head.get(b"x-team-a") == b"1"
    assert head.get(b"x-request-id") == b"r1"
    assert head.get(b"x-other") is None


async def test_a_graph_may_be_a_step_of_another(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    outer = graph(step("g"), step("a", "g"))
    front.graph(Graph("default", "outer", outer.flows))
    answer = await front.client.post("/v2/models/outer/infer", json=JSON_V2)
    assert answer.json()["outputs"][0]["data"] == [3.0, 4.0]


async def test_graphs_that_call_each_other_for_ever_are_stopped(
    front: GraphFrontUnderTest,
) -> None:
    one = graph(step("two"))
    two = graph(step("one"))
    front.graph(Graph("default", "one", one.flows))
    front.graph(Graph("default", "two", two.flows))
    answer = await front.client.post("/v2/models/one/infer", json=JSON_V2)
    assert answer.status_code == 503
    assert "more than 16 deep" in answer.json()["error"]


async def test_rows_of_several_requests_in_one_call(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda arrays: {"y": arrays["x"] * 2})
    front.graph(graph(step("a", batch=Batch(4, window_s=30))))
    bodies = [
        {"inputs": [{"name": "x", "shape": [n], "datatype": "FP32", "data": list(range(n))}]}
        for n in (1, 3)
    ]
    answers = await asyncio.gather(
        *(front.client.post("/v2/models/g/infer", json=b) for b in bodies)
    )
    assert [a.json()["outputs"][0]["data"] for a in answers] == [[0.0], [0.0, 2.0, 4.0]]
    assert len(front.services["a"].seen) == 1


async def test_half_a_batch_goes_when_its_window_is_over(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda arrays: {"y": arrays["x"] * 2})
    front.graph(graph(step("a", batch=Batch(100, window_s=0.02))))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]


async def test_a_batch_that_answers_other_rows_fails(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda arrays: {"y": arrays["x"][:1]})
    front.graph(graph(step("a", batch=Batch(2, window_s=30))))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.status_code == 500
    assert "a batch of 2 rows was answered with another number of rows" in answer.json()["error"]


async def test_an_address_outside(front: GraphFrontUnderTest) -> None:
    seen = []

    def outside(exchange: Any) -> None:
        seen.append(exchange.head)
        exchange.send(200, b"content-type: application/json\r\n", b'{"predictions":[9]}')

    server = HttpServer(outside, limits=Limits(), streaming=False)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    url = f"http://127.0.0.1:{port}/v1/models/x:predict?k=v"
    front.graph(graph(step("a", action=CallUrl(url))))
    answer = await front.client.post("/v1/models/g:predict", json={"instances": [1]})
    assert answer.json() == {"predictions": [9]}
    assert seen[0].target == "/v1/models/x:predict?k=v"
    assert seen[0].get(b"host") == f"127.0.0.1:{port}".encode()
    server.close()
    front.gateway._graphs.close()  # type: ignore[union-attr]
    answer = await front.client.post("/v1/models/g:predict", json={"instances": [1]})
    assert answer.status_code == 502
    assert "no connection" in answer.json()["error"]


@pytest.mark.parametrize(("of_step", "of_graph"), [(301, 502), (304, 502), (402, 402), (599, 599)])
async def test_a_steps_status_is_the_graphs_where_it_is_an_error(
    front: GraphFrontUnderTest, of_step: int, of_graph: int
) -> None:
    """A redirection would send the client to where only the step may go."""

    def answer(_: Any) -> Any:
        raise Answer(of_step, {})

    await front.serve(a=answer)
    front.graph(graph(step("a")))
    told = await front.client.post("/v1/models/g:predict", json={"instances": [1]})
    assert told.status_code == of_graph
    assert f"answered {of_step}" in told.json()["error"]
    assert "location" not in told.headers


async def test_kserves_answers(front: GraphFrontUnderTest) -> None:
    def refuse(_: Any) -> Any:
        raise Answer(418, {"why": "teapot"})

    await front.serve(a=refuse, b=lambda d: d)
    g = graph(
        step("choice", action=Switch(("x",))),
        step("a", "choice", on_failure=OnFailure.FAIL),
    )
    front.graph(Graph("default", "k", g.flows, answers=Answers.KSERVE))
    nothing = await front.client.post("/serving/default/k", json={"y": 1})
    assert nothing.status_code == 404
    assert nothing.json() == {
        "error": "Failed to process request",
        "cause": "None of the routes matched with the switch condition",
    }
    hard = await front.client.post("/serving/default/k", json={"x": 1})
    assert (hard.status_code, hard.json()) == (418, {"why": "teapot"})


async def test_a_kserve_graph_hands_bodies_on_as_they_are(front: GraphFrontUnderTest) -> None:
    await front.serve(a=lambda d: d, b=lambda d: d)
    g = chain("a", "b")
    front.graph(Graph("default", "k", g.flows, answers=Answers.KSERVE))
    odd = b'{"any":  [1, "\\u00e9"]}'
    await front.client.post(
        "/serving/default/k", content=odd, headers={"content-type": "application/json"}
    )
    assert bytes(front.services["a"].seen[0].body or b"") == odd


async def test_answers_in_pieces_are_put_together(front: GraphFrontUnderTest) -> None:
    big = np.arange(300_000, dtype=np.float32)
    await front.serve(a=lambda arrays: {"y": big}, b=add(1))
    front.graph(chain("a", "b"))
    answer = await front.client.post("/v2/models/g/infer", json=JSON_V2)
    assert answer.json()["outputs"][0]["data"][-1] == 300_000


def test_a_gateway_without_graphs_does_not_import_the_executor() -> None:
    code = (
        "import sys, penstock.gateway.process;"
        "print([m for m in ('penstock.graphs', 'penstock.gateway.graphs.front') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_gateway_that_reads_no_body_imports_no_arrays_and_no_http_server_of_others() -> None:
    """A third of its start and 10 MB of each gateway process would be these."""
    code = (
        "import sys, penstock.gateway.process;"
        "print([m for m in ('numpy', 'prometheus_client', 'http.server') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_https_outside_is_verified() -> None:
    """Upstreams take a TLS context; a server without TLS is refused."""
    import ssl

    server = HttpServer(lambda e: e.send(200, b"", b""), limits=Limits(), streaming=False)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    upstream = Upstream(
        Address(host="127.0.0.1", port=port), tls=ssl.create_default_context(), connect_timeout_s=1
    )
    failed = asyncio.get_running_loop().create_future()

    class Sink:
        def on_error(self, exc: Exception) -> None:
            failed.set_result(str(exc))

    upstream.request(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", None, Sink(), method="GET")  # type: ignore[arg-type]
    assert "no connection" in await failed
    upstream.close()
    server.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/g/infer", 200),
        ("/v2/models/g/infer/", 200),
        ("/v2/models/g/versions/1/infer", 200),
        ("/v2/pipelines/g/infer", 200),
        ("/v1/models/g:predict", 200),
        ("/v1/models/g/versions/1:predict", 200),
        ("/serving/default/g", 200),
        ("/serving/default/g/any/path", 200),
        ("/v2/models/g/explain", 404),
        ("/v2/models/g/generate", 404),
        ("/v2/models/g/nonsense", 404),
        ("/v2/pipelines/g/nonsense", 404),
        ("/v1/models/g:explain", 404),
        ("/v1/models/g:pradict", 404),
    ],
)
async def test_a_call_that_is_none_of_a_graphs_is_not_answered_by_a_prediction(
    front: GraphFrontUnderTest, path: str, status: int
) -> None:
    await front.serve(a=add(1))
    front.graph(chain("a"))
    answer = await front.client.post(path, json=JSON_V2)
    assert answer.status_code == status, answer.text
    assert len(front.services["a"].seen) == (status == 200)
    if status == 404:
        assert "/v2/models/NAME/infer" in answer.json()["error"]
