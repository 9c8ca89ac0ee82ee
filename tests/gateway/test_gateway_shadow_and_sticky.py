"""Copies that cost the primary nothing, and clients that stay where they were."""

from __future__ import annotations

import asyncio

import pytest
from gateway_stand_in import reply, route

from penstock.domain.routes import Shadow, Sticky, Target
from penstock.gateway.shadow import MOST_AT_ONCE


async def pair(front, stand_in, weights=(0, 100), answer=None, **fields):
    latest = await stand_in("latest", answer) if answer else await stand_in("latest")
    stable = await stand_in("stable")
    targets = (
        Target("iris-00002", weights[0], (latest.route,), tags=("latest",)),
        Target("iris-00001", weights[1], (stable.route,), tags=("previous",)),
    )
    front.routes(route("iris", targets=targets, **fields))
    return latest, stable


def copies(front) -> dict[str, float]:
    samples = front.gateway.snapshot()["penstock_gateway_shadow_requests"]["samples"]
    return {labels[-1]: value for labels, value in samples}


@pytest.mark.parametrize(("percent", "copied"), [(100, 20), (25, 5), (0, 0)])
async def test_copies_go_to_the_shadow_and_answers_come_from_the_primary(
    front, stand_in, percent, copied
):
    latest, stable = await pair(front, stand_in, shadow=Shadow("iris-00002", percent))
    for i in range(20):
        answer = await front.client.post("/v2/models/iris/infer", json={"n": i})
        assert answer.headers["x-penstock-revision"] == "iris-00001"
    await latest.until_seen(copied)
    assert len(stable.seen) == 20
    assert len(latest.seen) == copied
    bodies = {s.body for s in stable.seen}
    assert {s.body for s in latest.seen} <= bodies


async def test_a_shadow_that_never_answers_slows_nobody_and_is_bounded(front, stand_in):
    async def never(seen, writer):
        await asyncio.Event().wait()

    _, stable = await pair(front, stand_in, answer=never, shadow=Shadow("iris-00002", 100))
    async with asyncio.timeout(30):
        for _ in range(MOST_AT_ONCE + 10):
            assert (await front.client.post("/v2/models/iris/infer", json={})).status_code == 200
    assert len(stable.seen) == MOST_AT_ONCE + 10
    assert copies(front) == {"dropped": 10}


async def test_a_shadow_that_is_away_or_errors_is_counted_and_seen_by_nobody(front, stand_in):
    async def broken(seen, writer):
        writer.write(reply(b"no", status="500 Internal Server Error"))

    latest, _ = await pair(front, stand_in, answer=broken, shadow=Shadow("iris-00002", 100))
    assert (await front.client.post("/v2/models/iris/infer", json={})).status_code == 200
    async with asyncio.timeout(30):
        while copies(front) != {"500": 1}:
            await asyncio.sleep(0)
    await latest.stop()
    for _ in range(3):
        assert (await front.client.post("/v2/models/iris/infer", json={})).status_code == 200
    async with asyncio.timeout(30):
        while sum(copies(front).values()) < 4:
            await asyncio.sleep(0)
    assert set(copies(front)) <= {"500", "lost", "no replica"}


async def test_a_request_for_one_revision_and_a_get_are_not_copied(front, stand_in):
    latest, _ = await pair(front, stand_in, shadow=Shadow("iris-00002", 100))
    await front.client.get("/v2/models/iris")
    await front.client.post("/serving/default/iris@previous/v2/models/iris/infer", json={})
    await front.client.post("/v2/models/iris/infer", json={})
    await latest.until_seen(1)
    assert len(latest.seen) == 1


SIZE = 3 * 1024 * 1024


async def pieces(count: int = SIZE // 65536):
    for i in range(count):
        yield bytes([i % 256]) * 65536


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_streams_is_copied_as_it_passes(front, stand_in, chunked):
    latest, stable = await pair(front, stand_in, shadow=Shadow("iris-00002", 100))
    body = b"".join([piece async for piece in pieces()])
    answer = await front.client.post("/v2/models/iris/infer", content=pieces() if chunked else body)
    assert answer.headers["x-penstock-revision"] == "iris-00001"
    await latest.until_seen(1)
    assert latest.seen[0].body == stable.seen[0].body == body
    assert latest.seen[0].line == stable.seen[0].line
    async with asyncio.timeout(30):
        while copies(front) != {"200": 1}:
            await asyncio.sleep(0)


async def test_a_shadow_that_does_not_read_loses_its_copy_and_slows_nobody(
    front, stand_in, tmp_path
):
    """What waits for it is bounded, whatever the body's size."""
    latest, stable = await pair(front, stand_in, shadow=Shadow("iris-00002", 100))
    await latest.stop()
    stuck = asyncio.Event()

    async def deaf(reader, writer):
        await stuck.wait()
        writer.close()

    server = await asyncio.start_unix_server(deaf, str(latest.path), limit=1024)
    async with asyncio.timeout(20):
        answer = await front.client.post("/v2/models/iris/infer", content=pieces(256))
    assert answer.status_code == 200
    assert len(stable.seen[0].body) == 256 * 65536
    assert copies(front) == {"behind": 1}
    assert front.gateway.table.by_key("default/iris").shadow.under_way == set()
    stuck.set()
    server.close()


async def test_a_client_that_breaks_off_its_body_ends_the_copy_too(front, stand_in):
    await pair(front, stand_in, shadow=Shadow("iris-00002", 100))
    _, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(
        b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
        + b"x" * 200_000
    )
    shadow = front.gateway.table.by_key("default/iris").shadow
    async with asyncio.timeout(30):
        while not shadow.under_way:
            await asyncio.sleep(0)
        writer.close()
        while copies(front) != {"incomplete": 1}:
            await asyncio.sleep(0)
    assert shadow.under_way == set()


async def test_whole_bodies_that_copies_hold_are_bounded_together(front, stand_in, monkeypatch):
    monkeypatch.setattr("penstock.gateway.shadow.MOST_BYTES", 1000)
    go = asyncio.Event()

    async def slow(seen, writer):
        await go.wait()
        writer.write(reply())

    await pair(front, stand_in, answer=slow, shadow=Shadow("iris-00002", 100))
    for _ in range(3):
        await front.client.post("/v2/models/iris/infer", content=b"x" * 400)
    assert copies(front) == {"too large": 1}
    go.set()
    async with asyncio.timeout(30):
        while copies(front).get("200") != 2:
            await asyncio.sleep(0)
    assert front.gateway.table.by_key("default/iris").shadow.held_bytes == 0


async def test_a_cookie_keeps_a_client_at_its_revision(front, stand_in):
    await pair(front, stand_in, (50, 50), sticky=Sticky())
    first = await front.client.get("/v2/models/iris")  # the client keeps cookies
    stays = first.headers["x-penstock-route"]
    assert f"penstock-route-iris={stays}" in first.headers["set-cookie"]
    for _ in range(10):
        answer = await front.client.get("/v2/models/iris")
        assert answer.headers["x-penstock-revision"] == stays
    front.client.cookies.clear()
    seen = set()
    for _ in range(4):
        answer = await front.client.get("/v2/models/iris")
        front.client.cookies.clear()
        seen.add(answer.headers["x-penstock-revision"])
    assert len(seen) == 2


@pytest.mark.parametrize("told", ["iris-00001", "iris-00002"])
async def test_a_header_works_like_the_cookie(front, stand_in, told):
    await pair(front, stand_in, (50, 50), sticky=Sticky())
    for _ in range(5):
        answer = await front.client.get("/v2/models/iris", headers={"x-penstock-route": told})
        assert answer.headers["x-penstock-revision"] == told


async def test_nobody_stays_with_a_revision_that_was_rolled_back_or_is_gone(front, stand_in):
    await pair(front, stand_in, (0, 100), sticky=Sticky())
    for told in ("iris-00002", "iris-00007"):
        answer = await front.client.get("/v2/models/iris", headers={"x-penstock-route": told})
        assert answer.headers["x-penstock-revision"] == "iris-00001"


async def test_a_hash_of_a_header_keeps_users_and_a_growing_share_gives_none_back(front, stand_in):
    latest, stable = await stand_in("latest"), await stand_in("stable")

    async def in_canary(percent: int) -> set[int]:
        targets = (
            Target("iris-00002", percent, (latest.route,)),
            Target("iris-00001", 100 - percent, (stable.route,)),
        )
        front.routes(route("iris", targets=targets, sticky=Sticky("x-user")))
        found = set()
        for user in range(300):
            answers = [
                await front.client.get("/v2/models/iris", headers={"x-user": str(user)})
                for _ in range(2)
            ]
            names = {a.headers["x-penstock-revision"] for a in answers}
            assert len(names) == 1
            if names == {"iris-00002"}:
                found.add(user)
        return found

    ten, half = await in_canary(10), await in_canary(50)
    assert ten < half
    assert 10 <= len(ten) <= 55
    assert 115 <= len(half) <= 185


async def test_stickiness_gives_way_when_the_revision_has_no_replica(front, stand_in):
    stable = await stand_in("stable")
    targets = (Target("iris-00002", 50), Target("iris-00001", 50, (stable.route,)))
    front.routes(route("iris", targets=targets, sticky=Sticky()))
    answer = await front.client.get("/v2/models/iris", headers={"x-penstock-route": "iris-00002"})
    assert answer.status_code == 200
    assert answer.headers["x-penstock-revision"] == "iris-00001"
