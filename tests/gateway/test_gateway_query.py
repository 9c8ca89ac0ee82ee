"""One question to many models: everybody's answer, everybody's status, one deadline."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_stand_in import Seen, reply, route

from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.routes import Target

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
        json.dumps({"models": [f"m{i}" for i in range(257)], "instances": [1]}).encode(),
    ],
)
async def test_what_is_no_query_is_refused_as_a_whole(front, stand_in, body):
    stands = await fleet(front, stand_in, 1)
    answer = await front.client.post("/v2/query", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    assert not stands[0].seen


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
