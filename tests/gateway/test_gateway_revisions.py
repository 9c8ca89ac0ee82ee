"""Requests over several revisions: shares that are exact, and addresses of one revision."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice

import pytest
from gateway_stand_in import reply, route
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.routes import Target
from penstock.gateway import table as gateway_table


async def split(front, stand_in, weights=(10, 90), **fields):
    latest, stable = await stand_in("latest"), await stand_in("stable")
    targets = (
        Target("iris-00002", weights[0], (latest.route,), tags=("latest",)),
        Target("iris-00001", weights[1], (stable.route,), tags=("previous",)),
    )
    front.routes(route("iris", targets=targets, **fields))
    return latest, stable


@pytest.mark.parametrize("percent", [0, 1, 10, 25, 50, 99, 100])
async def test_a_canary_by_percent_is_exact_on_a_thousand_concurrent_requests(
    front, stand_in, percent
):
    latest, stable = await split(front, stand_in, (percent, 100 - percent))

    async def client(count: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(count):
            answer = await front.client.get("/v2/models/iris")
            assert answer.status_code == 200
            seen[answer.headers["x-penstock-revision"]] += 1
        return seen

    total = sum(await asyncio.gather(*(client(125) for _ in range(8))), Counter())
    assert total["iris-00002"] == len(latest.seen) == percent * 10
    assert total["iris-00001"] == len(stable.seen) == 1000 - percent * 10


@given(st.lists(st.integers(1, 2000), min_size=2, max_size=6), st.integers(0, 3000))
def test_every_window_of_requests_has_its_shares(weights, start):
    """Within two requests of them, whether the turns are kept or made one by one."""
    found = [gateway_table.Target(Target(str(i), w, ()), []) for i, w in enumerate(weights)]
    order = list(islice(gateway_table.turns(found), start, start + 500))
    total = sum(weights)
    for target, weight in zip(found, weights, strict=True):
        count = 0
        for seen, one in enumerate(order, 1):
            count += one is target
            assert abs(count - seen * weight / total) < len(weights)


def test_turns_begin_as_the_weights_say():
    found = [gateway_table.Target(Target(n, w, ()), []) for n, w in (("a", 5), ("b", 1), ("c", 1))]
    order = "".join(t.revision for t in islice(gateway_table.turns(found), 14))
    assert order == "aabacaa" * 2  # nginx's own example


@pytest.mark.parametrize(
    ("path", "host", "revision"),
    [
        ("/serving/default/iris@latest/v2", None, 2),
        ("/serving/default/iris@previous/v2", None, 1),
        ("/serving/default/iris@prev/v2", None, 1),
        ("/serving/default/iris@iris-00001/v2", None, 1),
        ("/v2", "latest-iris.default.example.com", 2),
        ("/v2", "prev-iris.default.example.com", 1),
        ("/v2", "previous-iris-default.example.com", 1),
        ("/v2", "latest-iris-default.example.com", 2),
    ],
)
async def test_addresses_of_one_revision_whatever_its_share(front, stand_in, path, host, revision):
    latest, stable = await split(front, stand_in, (0, 100))
    answer = await front.client.get(path, headers={"host": host} if host else {})
    assert answer.status_code == 200
    assert answer.headers["x-penstock-revision"] == f"iris-0000{revision}"
    (seen,) = (latest if revision == 2 else stable).seen
    assert seen.line == "GET /v2 HTTP/1.1"


@pytest.mark.parametrize(
    ("value", "revision"),
    [("latest", 2), ("previous", 1), ("iris-00001", 1), ("iris-00002", 2)],
)
async def test_the_header_picks_a_revision(front, stand_in, value, revision):
    await split(front, stand_in)
    for _ in range(5):
        answer = await front.client.get("/v2/models/iris", headers={"x-penstock-revision": value})
        assert answer.headers["x-penstock-revision"] == f"iris-0000{revision}"


async def test_a_revision_that_is_not_there_is_told_with_those_that_are(front, stand_in):
    await split(front, stand_in)
    answer = await front.client.get("/serving/default/iris@iris-00009/v2")
    assert answer.status_code == 404
    assert "iris-00002, latest" in answer.json()["error"]


async def test_a_service_named_like_a_tag_is_still_found_by_its_own_name(front, stand_in):
    own, other = await stand_in("own"), await stand_in("other")
    front.routes(route("latest-iris", own.route), route("iris", other.route))
    answer = await front.client.get("/v2", headers={"host": "latest-iris.default.example.com"})
    assert answer.status_code == 200
    assert len(own.seen) == 1


async def test_a_revision_without_replicas_does_not_stop_the_others(front, stand_in):
    stable = await stand_in("stable")
    targets = (Target("iris-00002", 50), Target("iris-00001", 50, (stable.route,)))
    front.routes(route("iris", targets=targets))
    answers = await asyncio.gather(*(front.client.get("/v2/models/iris") for _ in range(20)))
    assert {a.status_code for a in answers} == {200}
    assert len(stable.seen) == 20


async def test_a_request_for_a_revision_that_is_not_up_is_refused_and_holds_nobody_up(
    front, stand_in
):
    stable = await stand_in("stable")
    targets = (
        Target("iris-00002", 0, tags=("latest",)),
        Target("iris-00001", 100, (stable.route,)),
    )
    front.routes(route("iris", targets=targets))
    answer = await front.client.get("/serving/default/iris@latest/v2")
    assert answer.status_code == 503
    assert "no replica of latest" in answer.json()["error"]
    assert (await front.client.get("/v2/models/iris")).status_code == 200


async def test_a_request_that_waits_for_a_busy_revision_does_not_hold_up_the_others(
    front, stand_in
):
    free = asyncio.Event()

    async def slow(seen, writer):
        await free.wait()
        writer.write(reply())

    latest, stable = await stand_in("latest", slow), await stand_in("stable")
    targets = (
        Target("iris-00002", 0, (latest.route,), concurrency=1, tags=("latest",)),
        Target("iris-00001", 100, (stable.route,)),
    )
    front.routes(route("iris", targets=targets))
    named = [
        asyncio.create_task(front.client.get("/serving/default/iris@latest/v2")) for _ in range(2)
    ]
    await latest.until_seen(1)
    assert (await front.client.get("/v2/models/iris")).status_code == 200
    free.set()
    assert {(await t).status_code for t in named} == {200}
    assert len(latest.seen) == 2
