"""What a gateway tells of its load."""

from __future__ import annotations

import asyncio

import pytest
from gateway_stand_in import Front, Seen, StandIn, reply, route

from penstock.domain.routes import ServiceLoad
from penstock.gateway.load import MOST, LoadMeter


def services(meter: LoadMeter) -> dict[str, ServiceLoad]:
    return {s.key: s for message in meter.read() for s in message.services}


async def test_request_seconds_are_exact_over_readings(front: Front, stand_in) -> None:
    """A request that spans several readings is told in parts that add up to its time."""
    go = asyncio.Event()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(reply())

    a: StandIn = await stand_in("a", slow)
    front.routes(route("iris", a.route), route("idle"))
    loop = asyncio.get_running_loop()
    meter = LoadMeter(front.gateway, lambda message: None)
    assert services(meter) == {}
    call = asyncio.create_task(front.client.post("/v2/models/iris/infer", content=b"{}"))
    await a.until_seen(1)
    earliest = loop.time()
    first = services(meter)["default/iris"]
    assert (first.requests, first.in_flight, first.waiting) == (0, 1, 0)
    began = loop.time()
    while loop.time() - began < 0.05:
        await asyncio.sleep(0)
    ended = loop.time()
    second = services(meter)["default/iris"]
    assert ended - began - 1e-6 <= second.request_s <= loop.time() - earliest + 1e-6
    go.set()
    await call
    third = services(meter)["default/iris"]
    assert (third.requests, third.in_flight) == (1, 0)
    histogram = front.gateway.snapshot()["penstock_gateway_request_seconds"]["samples"][0][1]
    whole = first.request_s + second.request_s + third.request_s
    assert whole == pytest.approx(histogram[1], abs=1e-6)
    assert services(meter) == {}, "a service without requests is left out"


async def test_waiting_requests_are_told_and_long_lists_are_split(front: Front) -> None:
    names = [f"m{i}" for i in range(MOST + 1)]
    front.routes(*(route(n) for n in names))
    meter = LoadMeter(front.gateway, lambda message: None)
    calls = [
        asyncio.create_task(front.client.post(f"/v2/models/{n}/infer", content=b"{}"))
        for n in names[:3]
    ]
    async with asyncio.timeout(30):
        while len(front.wakes) < 3:
            await asyncio.sleep(0)
    assert {s.waiting for s in services(meter).values()} == {1}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for n in names:
        front.gateway._requests.labels("default", n, "predictor", "", "v2", "200").inc()
    messages = list(meter.read())
    assert [len(m.services) for m in messages] == [MOST, 1]
    assert messages[0].seconds > 0
    assert messages[1].seconds == 0
