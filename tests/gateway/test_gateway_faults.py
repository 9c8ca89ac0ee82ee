"""A fault inside the gateway costs one request; a replica that hangs costs one, and not those after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_stand_in import Seen, reply, route

from penstock.gateway import replicas
from penstock.gateway.proxy import Forward
from penstock.http.client import Upstream


async def until_idle(front: Any) -> None:
    async with asyncio.timeout(30):
        while front.gateway.active:
            await asyncio.sleep(0.001)


def outstanding(front: Any, name: str = "iris") -> list[int]:
    service = front.gateway.table.get("default", name)
    return [r.outstanding for t in service.targets for r in t.replicas]


@pytest.mark.parametrize("body", [b"", b"x" * 1000], ids=["whole", "gathered"])
async def test_a_request_that_cannot_be_sent_is_a_500_and_leaves_nothing(
    front, stand_in, monkeypatch, body
):
    a = await stand_in()
    front.routes(route("iris", a.route))

    def broken(*args, **kwargs):
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(Upstream, "request", broken)
        answer = await front.client.post("/v2/models/iris/infer", content=body)
    assert answer.status_code == 500
    assert "injected" not in answer.text
    await until_idle(front)
    assert outstanding(front) == [0]
    assert (await front.client.get("/v2/models/iris")).status_code == 200


async def test_one_of_a_line_that_cannot_be_sent_does_not_stop_the_others(
    front, stand_in, monkeypatch
):
    front.routes(route("iris"))
    tasks = [
        asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"%d" % i))
        for i in range(3)
    ]
    while len(front.gateway.active) < 3:
        await asyncio.sleep(0.001)
    real = Upstream.request
    calls = 0

    def sometimes(self, head, body, sink, **options):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("injected")
        return real(self, head, body, sink, **options)

    monkeypatch.setattr(Upstream, "request", sometimes)
    a = await stand_in()
    front.put(route("iris", a.route))
    assert sorted([(await t).status_code for t in tasks]) == [200, 200, 500]
    await until_idle(front)
    service = front.gateway.table.get("default", "iris")
    assert (len(service.waiting), service.waiting_bytes, outstanding(front)) == (0, 0, [0])


async def test_the_sweep_goes_on_after_a_request_that_cannot_be_ended(front, monkeypatch):
    front.routes(route("iris", timeout_s=0.05))
    real = Forward.expire
    calls = 0

    def sometimes(self):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("injected")
        real(self)

    monkeypatch.setattr(Forward, "expire", sometimes)
    assert (await front.client.get("/v2/models/iris")).status_code == 500
    assert (await front.client.get("/v2/models/iris")).status_code == 504
    await until_idle(front)


async def test_a_request_that_can_neither_be_sent_nor_answered_leaves_nothing(
    front, stand_in, monkeypatch
):
    a = await stand_in()
    front.routes(route("iris", a.route))

    def broken(*args, **kwargs):
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(Upstream, "request", broken)
        patch.setattr(Forward, "fail", broken)
        with pytest.raises(Exception, match="disconnected"):
            await front.client.get("/v2/models/iris")
    await until_idle(front)
    assert (await front.client.get("/v2/models/iris")).status_code == 200


async def hang(seen: Seen, writer: asyncio.StreamWriter) -> None:
    if b"hang" in seen.body:
        await asyncio.Event().wait()
    writer.write(reply())


async def hang_once(front: Any, *replicas: Any) -> None:
    """A request finds no answer in its time; those after it have all the time there is."""
    front.routes(route("iris", *replicas, timeout_s=0.3))
    assert (await front.client.post("/v2/models/iris/infer", content=b"hang")).status_code == 504
    front.put(route("iris", *replicas, timeout_s=30))


async def test_after_a_hang_the_next_request_waits_for_the_replacement(
    front, stand_in, monkeypatch
):
    monkeypatch.setattr(replicas, "DOUBT_S", 60)
    a = await stand_in("a", hang)
    await hang_once(front, a.route)
    task = asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"good"))
    while not front.gateway.active:
        await asyncio.sleep(0.001)
    assert len(a.seen) == 1, "it was not sent to the replica that hangs"
    await a.stop()
    await a.start()
    assert (await task).status_code == 200


async def test_others_are_chosen_instead_of_a_replica_that_hangs(front, stand_in, monkeypatch):
    monkeypatch.setattr(replicas, "DOUBT_S", 60)
    a, b = await stand_in("a", hang), await stand_in("b")
    await hang_once(front, a.route, b.route)
    for _ in range(5):
        assert (await front.client.get("/v2/models/iris")).status_code == 200
    assert (len(a.seen), len(b.seen)) == (1, 5)


async def test_a_short_deadline_of_a_client_says_nothing_about_the_replica(front, stand_in):
    a = await stand_in("a", hang)
    front.routes(route("iris", a.route, timeout_s=30))
    answer = await front.client.post(
        "/v2/models/iris/infer", content=b"hang", headers={"x-request-timeout-ms": "50"}
    )
    assert answer.status_code == 504
    answer = await front.client.post("/v2/models/iris/infer", content=b"good")
    assert answer.status_code == 200


async def test_a_doubted_replica_that_answers_another_request_is_chosen_again(
    front, stand_in, monkeypatch
):
    monkeypatch.setattr(replicas, "DOUBT_S", 60)
    release = asyncio.Event()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if b"slow" in seen.body:
            await release.wait()
        await hang(seen, writer)

    a = await stand_in("a", slow)
    front.routes(route("iris", a.route, timeout_s=30))
    second = asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"slow"))
    await a.until_seen(1)
    await hang_once(front, a.route)
    third = asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"good"))
    await a.until_seen(2)
    release.set()
    assert (await second).status_code == 200
    assert (await third).status_code == 200


async def test_a_server_that_was_only_slow_is_chosen_again_after_a_while(
    front, stand_in, monkeypatch
):
    monkeypatch.setattr(replicas, "DOUBT_S", 0.05)
    a = await stand_in("a", hang)
    await hang_once(front, a.route)
    assert (await front.client.post("/v2/models/iris/infer", content=b"good")).status_code == 200
    assert len(a.seen) == 2
