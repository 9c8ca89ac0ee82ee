"""Requests for a service that sleeps, or is full: held within bounds, then answered."""

from __future__ import annotations

import asyncio

from gateway_stand_in import reply, route

from penstock.domain.routes import Remove, Target
from penstock.gateway import gateway as gateway_module


async def test_a_sleeping_service_is_woken_and_answers_what_waited(front, stand_in):
    front.routes(route("iris"))
    tasks = [
        asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"%d" % i))
        for i in range(5)
    ]
    while len(front.gateway.active) < 5:
        await asyncio.sleep(0.001)
    assert [w.key for w in front.wakes] == ["default/iris"]
    a = await stand_in()
    front.put(route("iris", a.route))
    assert {(await t).status_code for t in tasks} == {200}
    assert sorted(s.body for s in a.seen) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_line_is_bounded_in_requests(front, stand_in):
    front.routes(route("iris", max_waiting=2))
    tasks = [asyncio.create_task(front.client.get("/v2/models/iris")) for _ in range(3)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    (refused,) = done
    answer = await refused
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "overloaded: 2 requests are waiting" in answer.json()["error"]
    a = await stand_in()
    front.put(route("iris", a.route))
    assert {(await t).status_code for t in tasks if t is not refused} == {200}


async def test_the_line_is_bounded_in_bytes(front):
    front.routes(route("iris", max_waiting_bytes=1000))
    answer = await front.client.post("/v2/models/iris/infer", content=b"x" * 2000)
    assert answer.status_code == 503


async def test_all_lines_together_are_bounded_and_each_has_its_part(front, stand_in, monkeypatch):
    """A flooded service fills what there is; another one still has room for its share, and no more."""
    monkeypatch.setattr(gateway_module, "MAX_WAITING_BYTES", 10_000)
    front.routes(route("flooded"), route("other"), route("gone"))

    def ask(name):
        return asyncio.create_task(
            front.client.post(f"/v2/models/{name}/infer", content=b"x" * 3000)
        )

    waiting = [ask("flooded") for _ in range(3)]
    while len(front.gateway.active) < 3:
        await asyncio.sleep(0.001)
    assert (await ask("flooded")).status_code == 503
    waiting.append(ask("other"))
    while len(front.gateway.active) < 4:
        await asyncio.sleep(0.001)
    assert (await ask("other")).status_code == 503, "its part is half"
    deleted = ask("gone")
    while len(front.gateway.active) < 5:
        await asyncio.sleep(0.001)
    front.gateway.apply(Remove(99, "default/gone"))
    assert (await deleted).status_code == 404
    a, b = await stand_in("a"), await stand_in("b")
    front.put(route("flooded", a.route))
    front.put(route("other", b.route))
    assert {(await t).status_code for t in waiting} == {200}
    assert front.gateway._waiting_bytes == 0


async def test_the_line_is_bounded_in_time(front):
    front.routes(route("iris", timeout_s=0.05))
    answer = await front.client.get("/v2/models/iris")
    assert answer.status_code == 504
    assert "No replica of default/iris was ready within 0.05 s" in answer.json()["error"]


async def test_a_service_that_cannot_run_says_why_at_once(front):
    front.routes(route("iris", message="models/iris holds no model", targets=()))
    answer = await front.client.get("/v2/models/iris")
    assert answer.status_code == 503
    assert "models/iris holds no model" in answer.json()["error"]


async def test_deleting_a_service_answers_what_waited(front):
    front.routes(route("iris"))
    task = asyncio.create_task(front.client.get("/v2/models/iris"))
    while not front.gateway.active:
        await asyncio.sleep(0.001)
    front.gateway.apply(Remove(99, "default/iris"))
    answer = await task
    assert answer.status_code == 404
    assert "was deleted" in answer.json()["error"]


async def test_a_client_that_leaves_the_line_is_forgotten(front, stand_in):
    front.routes(route("iris"))
    _, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"GET /v2/models/iris HTTP/1.1\r\nhost: x\r\n\r\n")
    while not front.gateway.active:
        await asyncio.sleep(0.001)
    writer.transport.abort()
    while front.gateway.active:
        await asyncio.sleep(0.001)
    a = await stand_in()
    front.put(route("iris", a.route))
    assert (await front.client.get("/v2/models/iris")).status_code == 200
    assert len(a.seen) == 1


async def test_concurrency_is_a_hard_limit_per_replica(front, stand_in):
    release = asyncio.Semaphore(0)
    most = 0
    running = 0

    async def one_at_a_time(seen, writer):
        nonlocal most, running
        running += 1
        most = max(most, running)
        await release.acquire()
        running -= 1
        writer.write(reply())

    a = await stand_in(answer=one_at_a_time)
    targets = (Target(revision="iris-00001", weight=100, replicas=(a.route,), concurrency=2),)
    front.routes(route("iris", targets=targets))
    tasks = [asyncio.create_task(front.client.get("/v2/models/iris")) for _ in range(6)]
    await a.until_seen(2)
    for _ in range(6):
        release.release()
    assert {(await t).status_code for t in tasks} == {200}
    assert most == 2
    assert len(a.seen) == 6


async def test_a_changed_route_keeps_requests_under_way(front, stand_in):
    release = asyncio.Event()

    async def hold(seen, writer):
        await release.wait()
        writer.write(reply())

    a = await stand_in("a", hold)
    front.routes(route("iris", a.route))
    task = asyncio.create_task(front.client.get("/v2/models/iris"))
    await a.until_seen(1)
    b = await stand_in("b")
    front.put(
        route("iris", targets=(Target(revision="iris-00002", weight=100, replicas=(b.route,)),))
    )
    answer = await front.client.get("/v2/models/iris")
    assert answer.headers["x-penstock-revision"] == "iris-00002"
    release.set()
    assert (await task).headers["x-penstock-revision"] == "iris-00001"


async def test_a_kept_head_is_planned_again_when_its_service_changes(front, stand_in):
    a, b = await stand_in("a"), await stand_in("b")
    front.routes(route("iris", a.route))
    for _ in range(2):
        await front.client.get("/v2/models/iris")
    front.put(route("iris", b.route))
    await front.client.get("/v2/models/iris")
    assert (len(a.seen), len(b.seen)) == (2, 1)


async def test_a_body_that_comes_in_while_the_route_changes_goes_to_the_new_replicas(
    front, stand_in
):
    """Its head was planned with the old description; the old replicas are gone when it is sent."""
    old, new = await stand_in("old"), await stand_in("new")
    front.routes(route("iris", old.route))
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
    while not front.gateway.active:
        await asyncio.sleep(0.001)
    front.put(route("iris", new.route))
    writer.write(b"cd")
    async with asyncio.timeout(30):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert [s.body for s in new.seen] == [b"abcd"]
    # Nothing is left in the line for others to wait behind.
    assert (await front.client.get("/v2/models/iris")).status_code == 200
    writer.close()
