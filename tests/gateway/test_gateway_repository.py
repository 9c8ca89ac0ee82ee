"""The repository API at a gateway: wakes services, puts them to sleep, lists them, adds statistics up."""

from __future__ import annotations

import asyncio
import json

from gateway_stand_in import reply, route

from penstock.domain.routes import Remove, Route, Sleep, Target, Wake
from penstock.gateway import repository

LOAD = "/v2/repository/models/iris/load"
UNLOAD = "/v2/repository/models/iris/unload"


async def test_a_load_wakes_a_service_and_is_answered_when_it_can_answer(front, stand_in):
    front.routes(route("iris"))
    task = asyncio.create_task(front.client.post(LOAD))
    while not front.wakes:
        await asyncio.sleep(0.001)
    assert front.wakes == [Wake("default/iris", 1)]
    assert not task.done()
    a = await stand_in()
    front.put(route("iris", a.route))
    answer = await task
    assert (answer.status_code, answer.json()) == (200, {"name": "iris", "load": True})
    assert not a.seen, "the replica loaded at its start"
    assert not front.gateway.active


async def test_loads_and_requests_wait_in_one_line(front, stand_in):
    front.routes(route("iris"))
    tasks = [
        asyncio.create_task(front.client.post(path))
        for path in (LOAD, "/v2/models/iris/infer", LOAD, "/v2/models/iris/infer")
    ]
    while len(front.gateway.active) < 4:
        await asyncio.sleep(0.001)
    a = await stand_in()
    front.put(route("iris", a.route))
    assert [(await t).status_code for t in tasks] == [200] * 4
    assert len(a.seen) == 2
    assert not front.gateway.active


async def test_a_load_of_what_is_awake_is_answered_at_once(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route))
    for path in (LOAD, "/serving/default/iris" + LOAD):
        answer = await front.client.post(path, content=b"{}")
        assert (answer.status_code, answer.json()) == (200, {"name": "iris", "load": True})


async def test_a_load_is_bounded_in_time_and_says_why_it_cannot_be(front):
    front.routes(route("iris", timeout_s=0.05))
    answer = await front.client.post(LOAD)
    assert answer.status_code == 504
    front.put(route("iris", targets=(), message="there is no model at models/iris"))
    answer = await front.client.post(LOAD)
    assert answer.status_code == 503
    assert "there is no model at models/iris" in answer.json()["error"]


async def test_load_parameters_and_bodies_that_are_none_are_refused(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.post(LOAD, json={"parameters": {"config": "{}"}})
    assert answer.status_code == 501
    assert "'config'" in answer.json()["error"]
    for body in (b"{", b"[]"):
        assert (await front.client.post(LOAD, content=body)).status_code == 400


async def test_an_unload_asks_for_sleep_until_the_replicas_are_gone(front, stand_in, monkeypatch):
    monkeypatch.setattr(repository, "SAY_AGAIN_S", 0.02)
    a = await stand_in()
    front.routes(route("iris", a.route, may_sleep=True))
    task = asyncio.create_task(front.client.post(UNLOAD, json={"parameters": {}}))
    while len(front.wakes) < 2:
        await asyncio.sleep(0.001)
    assert set(front.wakes) == {Sleep("default/iris")}, "said again: a message may be lost"
    assert not task.done()
    front.put(route("iris", may_sleep=True))
    answer = await task
    assert (answer.status_code, answer.json()) == (200, {"name": "iris", "unload": True})
    answer = await front.client.post(UNLOAD)
    assert answer.status_code == 200, "it sleeps already"


async def test_an_unload_waits_for_every_component_that_may_sleep(front, stand_in, monkeypatch):
    """The transformer that still had the request when the predictor went is told again."""
    monkeypatch.setattr(repository, "SAY_AGAIN_S", 0.02)
    a = await stand_in()
    front.routes(
        route("iris", may_sleep=True),
        route("iris", a.route, component="transformer", may_sleep=True),
        route("iris", a.route, component="explainer"),
    )
    task = asyncio.create_task(front.client.post(UNLOAD))
    while len(front.wakes) < 2:
        await asyncio.sleep(0.001)
    assert not task.done()
    front.put(route("iris", component="transformer", may_sleep=True))
    assert (await task).status_code == 200, "the explainer keeps a replica by its manifest"


async def test_an_unload_that_nobody_carries_out_ends(front, stand_in, monkeypatch):
    monkeypatch.setattr(repository, "UNLOAD_S", 0.05)
    a = await stand_in()
    front.routes(route("iris", a.route, may_sleep=True))
    answer = await front.client.post(UNLOAD)
    assert answer.status_code == 503
    assert "still awake" in answer.json()["error"]
    monkeypatch.setattr(repository, "UNLOAD_S", 10)
    task = asyncio.create_task(front.client.post(UNLOAD))
    while len(front.wakes) < 2:
        await asyncio.sleep(0.001)
    front.gateway.apply(Remove(99, "default/iris"))
    assert (await task).status_code == 404


async def test_a_service_that_keeps_a_replica_says_how_to_take_it_down(front, stand_in):
    a = await stand_in()
    front.routes(route("iris", a.route))
    answer = await front.client.post(UNLOAD)
    assert answer.status_code == 409
    assert "minReplicas: 0" in answer.json()["error"]
    assert "serving.kserve.io/stop" in answer.json()["error"]
    assert front.wakes == []


async def test_the_index_is_of_a_namespace_and_filtered(front, stand_in):
    a = await stand_in()
    front.routes(
        route("iris", a.route),
        route("asleep"),
        route("broken", targets=(), message="no file"),
        Route(namespace="team", name="theirs"),
    )

    async def index(**options):
        answer = await front.client.post("/v2/repository/index", **options)
        assert answer.status_code == 200, answer.text
        return {m["name"]: (m["state"], m["reason"]) for m in answer.json()}

    assert await index() == {
        "asleep": ("UNAVAILABLE", "asleep; the first request wakes it"),
        "broken": ("UNAVAILABLE", "no file"),
        "iris": ("READY", ""),
    }
    assert list(await index(json={"ready": True})) == ["iris"]
    assert list(await index(headers={"penstock-namespace": "team"})) == ["theirs"]
    for body in (b'{"ready":1}', b"[", b"1"):
        answer = await front.client.post("/v2/repository/index", content=body)
        assert answer.status_code == 400


def entry(name: str, success: int, batches: dict[int, int], last: int) -> dict:
    def duration(count: int) -> dict:
        return {"count": count, "ns": count * 1000}

    return {
        "name": name,
        "version": "1",
        "last_inference": last,
        "inference_count": success,
        "execution_count": success,
        "inference_stats": {"success": duration(success), "fail": duration(0)},
        "batch_stats": [
            {"batch_size": s, "compute_infer": duration(n)} for s, n in batches.items()
        ],
    }


def answering(*entries: dict):
    body = json.dumps({"model_stats": entries}).encode()

    async def answer(seen, writer):
        writer.write(reply(body))

    return answer


async def test_statistics_are_added_up_over_replicas_and_listed_over_services(front, stand_in):
    a = await stand_in("a", answering(entry("iris", 3, {1: 2, 8: 1}, 100)))
    b = await stand_in("b", answering(entry("iris", 5, {2: 1, 8: 4}, 90)))
    c = await stand_in("c", answering(entry("digits", 1, {1: 1}, 5)))
    away = await stand_in("away", start=False)
    front.routes(
        route("iris", a.route, b.route),
        route("digits", c.route),
        route("away", away.route),
        route("asleep"),
    )
    digits, iris = (await front.client.get("/v2/models/stats")).json()["model_stats"]
    assert digits == entry("digits", 1, {1: 1}, 5)
    assert iris == entry("iris", 8, {1: 2, 2: 1, 8: 5}, 100)
    one = (await front.client.get("/v2/models/iris/stats")).json()["model_stats"]
    assert one == [iris]
    assert a.seen[-1].line == "GET /v2/models/iris/stats HTTP/1.1"
    alone = (await front.client.get("/v2/models/digits/stats")).json()["model_stats"]
    assert alone == [digits]
    assert (await front.client.post("/v2/models/stats")).status_code == 405


async def test_a_service_named_stats_comes_first(front, stand_in):
    a = await stand_in()
    front.routes(route("stats", a.route))
    assert (await front.client.get("/v2/models/stats")).json() == {"ok": True}


async def test_two_revisions_are_one_service_for_statistics(front, stand_in):
    a = await stand_in("a", answering(entry("iris", 3, {1: 3}, 1)))
    b = await stand_in("b", answering(entry("iris", 4, {1: 4}, 2)))
    targets = tuple(
        Target(revision=f"iris-{s.path.stem}", weight=50, replicas=(s.route,)) for s in (a, b)
    )
    front.routes(route("iris", targets=targets))
    (found,) = (await front.client.get("/v2/models/iris/stats")).json()["model_stats"]
    assert found == entry("iris", 7, {1: 7}, 2)
