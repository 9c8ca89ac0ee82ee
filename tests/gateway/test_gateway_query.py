"""One question to many models: everybody's answer, everybody's status, one deadline."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from gateway_stand_in import Seen, reply, route

from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.graph import Call, Flow, Graph, Inputs, Source, Step
from penstock.domain.routes import Route, Target
from penstock.gateway.queries import asking
from penstock.gateway.queries.question import MOST_MODELS
from penstock.protocols.content_coding import MOST_INFLATED

INPUTS = [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]


def v2(name: str, value: float) -> bytes:
    output = {"name": "y", "shape": [1], "datatype": "FP64", "data": [value]}
    return json.dumps({"model_name": name, "outputs": [output]}).encode()


async def fleet(
    front: Any, stand_in: Any, count: int = 3, answer: Any = None, **fields: Any
) -> Any:
    """Services m0, m1, ... that answer their number."""

    def says(i: int) -> Any:
        async def say(seen: Seen, writer: asyncio.StreamWriter) -> None:
            if ":predict" in seen.line:
                writer.write(reply(json.dumps({"predictions": [i]}).encode()))
            else:
                writer.write(reply(v2(f"m{i}", i)))

        return say

    stands = [await stand_in(f"m{i}", answer or says(i)) for i in range(count)]
    front.routes(*(route(f"m{i}", s.route, **fields) for i, s in enumerate(stands)))
    return stands


async def ask(front: Any, path: str = "/v2/query", **body: Any) -> list[dict[str, Any]]:
    answer = await front.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_every_model_answers_in_the_order_asked(front, stand_in):
    stands = await fleet(front, stand_in)
    results = await ask(front, models=["m2", "m0", "m1", "m2"], inputs=INPUTS)
    assert [r["model"] for r in results] == ["m2", "m0", "m1"]
    assert [r["outputs"][0]["data"] for r in results] == [[2], [0], [1]]
    assert {r["status"] for r in results} == {200}
    assert all(0 < r["seconds"] < 60 for r in results)
    assert [r["revision"] for r in results] == ["m2-00001", "m0-00001", "m1-00001"]
    (seen,) = stands[0].seen
    assert seen.line == "POST /v2/models/m0/infer HTTP/1.1"
    assert json.loads(seen.body) == {"inputs": INPUTS}


async def test_rows_and_parameters_are_v1s(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    (result,) = await ask(front, models=["m0"], instances=[[1, 2]], parameters={"top": 3})
    assert result["predictions"] == [0]
    assert json.loads(stand.seen[0].body) == {"instances": [[1, 2]], "top": 3}
    (result,) = await ask(
        front, models=["m0"], inputs=INPUTS, parameters={"p": 1}, outputs=[{"name": "y"}]
    )
    body = {"inputs": INPUTS, "parameters": {"p": 1}, "outputs": [{"name": "y"}]}
    assert json.loads(stand.seen[1].body) == body


async def test_each_has_its_own_status(front, stand_in):
    async def fails(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"error":"no"}', status="500 No"))

    async def dies(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def babbles(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"hello"))

    async def streams(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (b'{"predictions"', b":[7]}"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    kinds = {"fails": fails, "dies": dies, "babbles": babbles, "streams": streams}
    stands = {n: await stand_in(n, a) for n, a in kinds.items()}
    front.routes(
        *(route(n, s.route) for n, s in stands.items()),
        route("broken", message="it cannot be loaded"),
    )
    names = [*kinds, "broken", "nobody", "../etc", "a b", ""]
    results = {r["model"]: r for r in await ask(front, models=names, instances=[1])}
    assert {n: r["status"] for n, r in results.items()} == {
        "fails": 500, "dies": 502, "babbles": 200, "streams": 200, "broken": 503, "nobody": 404,
        "../etc": 404, "a b": 404, "": 404,
    }  # fmt: skip
    assert results["fails"]["error"] == "no"
    assert results["babbles"]["answer"] == "hello"
    assert results["streams"]["predictions"] == [7]
    assert "cannot be loaded" in results["broken"]["error"]


async def test_one_deadline_for_all_and_the_quick_are_not_lost(front, stand_in):
    forever = asyncio.Event()

    async def hangs(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await forever.wait()

    quick, slow = await stand_in("quick"), await stand_in("slow", hangs)
    front.routes(route("quick", quick.route), route("slow", slow.route))
    results = await ask(front, models=["slow", "quick"], instances=[1], timeout=2)
    assert [r["status"] for r in results] == [504, 200]
    assert not front.gateway.active
    forever.set()


async def test_sleeping_models_are_woken(front, stand_in):
    front.routes(route("asleep", may_sleep=True))
    (result,) = await ask(front, models=["asleep"], instances=[1], timeout=0.1)
    assert result["status"] == 504
    assert front.wakes[0].key == "default/asleep"


async def test_a_selector_chooses_by_labels(front, stand_in):
    stands = [await stand_in(f"m{i}") for i in range(4)]
    labels = [{"team": "red"}, {"team": "red", "old": "yes"}, {"team": "blue"}, {}]
    front.routes(
        *(route(f"m{i}", s.route, labels=tuple(labels[i].items())) for i, s in enumerate(stands))
    )
    for selector, expected in (
        ("team=red", ["m0", "m1"]),
        ("team in (red, blue),!old", ["m0", "m2"]),
        ("team", ["m0", "m1", "m2"]),
        ("team=green", []),
    ):
        found = [r["model"] for r in await ask(front, selector=selector, instances=[1])]
        assert found == expected


async def test_models_of_another_namespace(front, stand_in):
    stand = await stand_in("m")
    there = route("m", stand.route)
    front.routes(type(there)(namespace="team", name="m", targets=there.targets))
    (result,) = await ask(front, "/serving/team/v2/query", models=["m"], instances=[1])
    assert result["status"] == 200
    answer = await front.client.post(
        "/v2/query",
        json={"models": ["m"], "instances": [1]},
        headers={"penstock-namespace": "team"},
    )
    assert answer.json()["results"][0]["status"] == 200
    (result,) = await ask(front, models=["m"], instances=[1])
    assert result["status"] == 404


async def test_headers_go_along_and_those_of_the_question_do_not(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    headers = {
        "x-request-id": "q1", "traceparent": "00-1-2-3", "x-penstock-revision": "gone", "x-mine": "yes",
    }  # fmt: skip
    body = {"models": ["m0"], "instances": [1]}
    answer = await front.client.post("/v2/query", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["results"][0]["status"] == 200
    seen = stand.seen[0].headers
    assert (seen["x-request-id"], seen["traceparent"], seen["x-mine"]) == ("q1", "00-1-2-3", "yes")
    assert "x-penstock-revision" not in seen


async def test_more_models_than_are_asked_at_a_time(front, stand_in):
    under_way = most = 0

    async def counts(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)  # the others of its turn come
        under_way -= 1
        writer.write(reply())

    stand = await stand_in("all", counts)
    front.routes(*(route(f"m{i}", stand.route) for i in range(200)))
    names = [f"m{i}" for i in range(200)]
    results = await ask(front, models=names, instances=[1])
    assert [r["model"] for r in results] == names
    assert {r["status"] for r in results} == {200}
    assert 1 < most <= 64


async def test_an_answer_of_a_bandit_can_be_rewarded(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    targets = (Target("m0-00001", 50, (stand.route,)), Target("m0-00002", 50, (stand.route,)))
    front.routes(route("m0", targets=targets, bandit=Bandit(PolicyName.UCB1), uid="u"))
    (result,) = await ask(front, models=["m0"], instances=[1])
    assert result["arm"] == result["revision"]
    assert front.gateway.bandits.ids.read(result["id"]) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"models":["m0"]}',
        b'{"instances":[1]}',
        b'{"models":["m0"],"selector":"a=b","instances":[1]}',
        b'{"models":["m0"],"instances":[1],"inputs":[]}',
        b'{"models":[],"instances":[1]}',
        b'{"models":"m0","instances":[1]}',
        b'{"models":["m0"],"instances":1}',
        b'{"models":["m0"],"inputs":{}}',
        b'{"models":["m0"],"instances":[1],"outputs":[]}',
        b'{"models":["m0"],"instances":[1],"parameters":[]}',
        b'{"models":["m0"],"instances":[1],"timeout":0}',
        b'{"models":["m0"],"instances":[1],"timeout":1e9}',
        b'{"models":["m0"],"instances":[1],"timeout":"5s"}',
        b'{"models":["m0"],"instances":[1],"tiemout":5}',
        b'{"selector":"a=b=c","instances":[1]}',
        b'{"models":[1],"instances":[1]}',
        b'{"models":["m0"],"instances":' + b"[" * 5000,
        json.dumps(
            {"models": [f"m{i}" for i in range(MOST_MODELS + 1)], "instances": [1]}
        ).encode(),
    ],
)
async def test_what_is_no_query_is_refused_as_a_whole(front, stand_in, body):
    stands = await fleet(front, stand_in, 1)
    answer = await front.client.post("/v2/query", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    assert not stands[0].seen


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "The body is no query: it is empty. It looks like "),
        (b'{"model":["m0"],"instances":[1]}', "unknown field `model`. It looks like "),
    ],
)
async def test_what_a_query_looks_like_is_told(front, body, said):
    answer = (await front.client.post("/v2/query", content=body)).json()["error"]
    assert said in answer
    example = answer.partition("It looks like ")[2].removesuffix(".")
    (await front.client.post("/v2/query", content=example)).raise_for_status()


async def test_other_methods_and_paths(front, stand_in):
    assert (await front.client.get("/v2/query")).status_code == 405
    assert (await front.client.post("/v2/queries", json={})).status_code == 404
    assert (await front.client.post("/x/y/v2/query", json={})).status_code == 404
    bad = await front.client.post(
        "/v2/query",
        json={"models": ["a"], "instances": [1]},
        headers={"x-request-timeout-ms": "soon"},
    )
    assert bad.status_code == 400


async def test_a_client_that_hangs_up_cancels_all_of_it(front, stand_in):
    forever = asyncio.Event()
    arrived = asyncio.Event()

    async def hangs(seen: Seen, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await forever.wait()

    await fleet(front, stand_in, 3, hangs)
    task = asyncio.create_task(ask(front, models=["m0", "m1", "m2"], instances=[1]))
    await asyncio.wait_for(arrived.wait(), 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def idle() -> None:
        while front.gateway.active:
            await asyncio.sleep(0)

    await asyncio.wait_for(idle(), 30)
    forever.set()


async def test_the_gateways_document_has_what_only_it_answers(front, stand_in):
    document = (await front.client.get("/v2/openapi.json")).json()
    paths = {"/v2/query", "/feedback", "/v2/models/{model}/feedback"}
    assert paths <= document["paths"].keys()
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


async def test_a_pipeline_and_an_experiment_are_called_as_seldon_calls_them(front, stand_in):
    stands = await fleet(front, stand_in, 2)
    trial = Experiment("default", "trial", (Candidate("m0", 1),))
    front.routes(
        *(route(f"m{i}", s.route) for i, s in enumerate(stands)),
        Route(namespace="default", name="trial", experiment=trial),
    )
    results = await ask(front, models=["trial.experiment", "m1.pipeline"], instances=[1])
    assert [(r["model"], r["status"]) for r in results] == [
        ("trial.experiment", 200),
        ("m1.pipeline", 404),
    ]
    assert results[0]["route"] == ":m0_1:"


async def test_one_revision_is_asked_beside_another(front, stand_in):
    one, two = await stand_in("one"), await stand_in("two")
    targets = (
        Target("m-00001", 100, (one.route,), tags=("previous",)),
        Target("m-00002", 0, (two.route,), tags=("latest",)),
    )
    front.routes(route("m", targets=targets))
    names = ["m@latest", "m@previous", "m@m-00001", "m@m-00009"]
    results = await ask(front, models=names, instances=[1])
    assert [r["model"] for r in results] == names
    assert [r.get("revision") for r in results] == ["m-00002", "m-00001", "m-00001", None]
    assert [r["status"] for r in results] == [200, 200, 200, 404]


@pytest.mark.parametrize("namespace", ["", "a b", "d\xe9", "team/m", "team?x=", "..", "x" * 64])
async def test_what_is_no_namespace_is_refused(front, stand_in, namespace):
    """Otherwise it would be a part of the path that each model is asked at."""
    stand = await stand_in("m")
    there = route("m", stand.route)
    front.routes(type(there)(namespace="team", name="m", targets=there.targets))
    answer = await front.client.post(
        "/v2/query",
        json={"models": ["m"], "instances": [1]},
        headers={"penstock-namespace": namespace.encode("latin-1")},
    )
    assert answer.status_code == 400, answer.text
    assert "no namespace" in answer.json()["error"]
    assert not stand.seen


@pytest.mark.parametrize("path", ["/v2/query", "/v2/models/m0/infer"])
async def test_a_deadline_of_thousands_of_digits_is_the_clients_mistake(front, stand_in, path):
    await fleet(front, stand_in, 1)
    body = {"models": ["m0"], "instances": [1]} if path == "/v2/query" else {"inputs": INPUTS}
    answer = await front.client.post(path, json=body, headers={"x-request-timeout-ms": "9" * 5000})
    assert answer.status_code == 400, answer.text


async def test_as_many_header_fields_as_a_client_may_send(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    headers = {f"x-mine-{i}": "yes" for i in range(98)}
    body = {"models": ["m0"], "instances": [1]}
    request = front.client.build_request("POST", "/v2/query", json=body, headers=headers)
    for name in {"accept", "accept-encoding", "connection", "user-agent", "content-type"}:
        del request.headers[name]
    assert len(request.headers) == 100
    answer = await front.client.send(request)
    assert answer.status_code == 200, answer.text
    assert stand.seen[0].headers["x-mine-0"] == "yes"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity", "br"])
async def test_a_compressed_question(front, stand_in, coding):
    (stand,) = await fleet(front, stand_in, 1)
    plain = json.dumps({"models": ["m0"], "inputs": INPUTS}).encode()
    body = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, bytes)(plain)
    headers = {"content-encoding": coding}
    answer = await front.client.post("/v2/query", content=body, headers=headers)
    if coding == "br":
        assert answer.status_code == 501
    else:
        assert answer.json()["results"][0]["status"] == 200
        assert "content-encoding" not in stand.seen[0].headers
    broken = await front.client.post(
        "/v2/query", content=plain, headers={"content-encoding": "gzip"}
    )
    assert broken.status_code == 400
    bomb = gzip.compress(b" " * (MOST_INFLATED + 1))
    large = await front.client.post("/v2/query", content=bomb, headers={"content-encoding": "gzip"})
    assert large.status_code == 413


async def test_an_id_goes_along(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    await ask(front, models=["m0"], inputs=INPUTS, id="q7")
    assert json.loads(stand.seen[0].body)["id"] == "q7"


async def test_an_id_that_is_no_text_is_not_handed_on(front, stand_in):
    async def says(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"id":7,"outputs":[]}'))

    await fleet(front, stand_in, 1, says)
    (result,) = await ask(front, models=["m0"], inputs=INPUTS)
    assert "id" not in result


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    ],
)
async def test_raw_tensors_cannot_be_asked_for(front, stand_in, more):
    """Several models' answers are one JSON document."""
    stands = await fleet(front, stand_in, 1)
    body = {"models": ["m0"], "inputs": INPUTS, **more}
    answer = await front.client.post("/v2/query", json=body)
    assert answer.status_code == 400
    assert "binary" in answer.json()["error"]
    assert not stands[0].seen
    harmless = {"parameters": {"binary_data_output": False}}
    (result,) = await ask(front, models=["m0"], inputs=INPUTS, **harmless)
    assert result["status"] == 200


async def test_parameters_take_no_place_of_the_rows(front, stand_in):
    (stand,) = await fleet(front, stand_in, 1)
    body = {"models": ["m0"], "instances": [1], "parameters": {"instances": [2]}}
    answer = await front.client.post("/v2/query", json=body)
    assert answer.status_code == 400
    assert "instances" in answer.json()["error"]
    assert not stand.seen


@pytest.mark.parametrize("by", ["header", "query"])
async def test_each_result_has_its_trace_where_one_is_asked_for(front, stand_in, by):
    stands = await fleet(front, stand_in, 2)
    flow = Flow("main", (Step("m0", Call("m0")),), Inputs((Source("m0"),)))
    graph = Graph("default", "g", (flow,))
    front.routes(
        *(route(f"m{i}", s.route) for i, s in enumerate(stands)),
        Route(namespace="default", name="g", graph=graph),
    )
    answer = await front.client.post(
        "/v2/query" + ("?trace=1" if by == "query" else ""),
        json={"models": ["g", "m1"], "inputs": INPUTS},
        headers={"x-penstock-trace": "1"} if by == "header" else {},
    )
    of_graph, of_model = answer.json()["results"]
    assert of_graph["status"] == of_model["status"] == 200
    assert [s["step"] for s in of_graph["trace"]["steps"]] == ["main.m0"]
    assert "trace" not in of_model


async def test_answers_that_come_in_pieces_share_what_all_may_have(front, stand_in, monkeypatch):
    """Or dozens of large answers would be held before they are found to be too many."""
    monkeypatch.setattr(asking, "MOST_BYTES", 1000)
    forever = asyncio.Event()

    async def streams(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (600, b"x" * 600))
        await writer.drain()
        await forever.wait()  # held, not ended

    await fleet(front, stand_in, 2, streams)
    results = await ask(front, models=["m0", "m1"], instances=[1], timeout=1)
    assert 413 in [r["status"] for r in results]
    forever.set()


async def test_many_that_hang_keep_nobody_from_being_asked(front, stand_in):
    forever = asyncio.Event()

    async def hangs(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await forever.wait()

    quick, slow = await stand_in("quick"), await stand_in("slow", hangs)
    count = 3 * asking.AT_ONCE
    front.routes(
        *(route(f"slow{i}", slow.route) for i in range(count)),
        *(route(f"quick{i}", quick.route) for i in range(8)),
    )
    names = [f"slow{i}" for i in range(count)] + [f"quick{i}" for i in range(8)]
    results = await ask(front, models=names, instances=[1], timeout=2)
    assert [r["status"] for r in results] == [504] * count + [200] * 8
    forever.set()


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions":["\xff"]}',
        b'{"error":"\xff"}',
        b'["\xff"]',
        b"\xff",
        b'{"predictions":[NaN]}',
        b'{"outputs":[1]} x',
        b'{"predictions":["\\ud800"]}',
        b"{" * 5000,
        b"",
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "500 No"])
async def test_what_one_model_answers_spoils_no_others_answer(front, stand_in, body, status):
    async def babbles(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(body, status=status))

    babbler, other = await stand_in("babbler", babbles), await stand_in("other")
    front.routes(route("babbler", babbler.route), route("other", other.route))
    results = await ask(front, models=["babbler", "other"], instances=[1])
    assert [r["status"] for r in results] == [int(status[:3]), 200]
    assert results[1]["answer"] == {"ok": True}
