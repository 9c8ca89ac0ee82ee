"""A thousand services' metrics page: seconds of the loop's time are a few, and no step of it is long.

Time is that of the thread's own processor, so a busy machine makes no difference.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from control_fakes import FakeClock

from penstock.control.metrics import MetricsCollector
from penstock.control.metrics import Process as Source
from penstock.observe.metrics import LATENCY_S, Registry
from penstock.server.statistics import Metrics

SERVICES = 1000
#: A step of the loop, seconds. What else the control plane does waits so long at most.
LONGEST_S = 0.05
WHOLE_S = 1.0


def model(service: str, requests: int) -> bytes:
    """What a model process answers."""
    r = Registry()
    m = Metrics(r, namespace="default", service=service, revision=f"{service}-00001")
    m.requests(service, "v1", 200).inc(requests)
    for histogram in (
        m.request_seconds(service, "v1"),
        m.queue_seconds(service),
        m.predict_seconds(service),
        m.batch_rows(service),
        m.load_seconds(service),
    ):
        histogram.observe(0.001 * requests)
    m.memory.labels("default", service, f"{service}-00001", f"{service}-00001-0").set(5e6)
    return msgspec.json.encode(m.snapshot())


def gateway(requests: int) -> bytes:
    r = Registry()
    names = ("namespace", "service", "component", "revision", "protocol")
    counts = r.counter("penstock_gateway_requests", "", (*names, "status"))
    seconds = r.histogram("penstock_gateway_request_seconds", "", names, LATENCY_S)
    for i in range(SERVICES):
        labels = ("default", f"s{i}", "predictor", f"s{i}-00001", "v1")
        counts.labels(*labels, "200").inc(requests)
        seconds.labels(*labels).observe(0.001 * requests)
    return msgspec.json.encode(r.snapshot())


@pytest.fixture(autouse=True)
def _only_new_garbage() -> Iterator[None]:
    """The collector's looks at what the test run holds are no part of this; see `penstock.api.pauses`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Steps:
    """The longest step of the loop since it was asked last."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._task = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self._longest = max(self._longest, time.thread_time() - before)

    async def longest(self) -> float:
        await asyncio.sleep(0)
        found, self._longest = self._longest, 0.0
        return found

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_a_page_of_a_thousand_services_is_made_in_short_steps() -> None:
    answers: dict[str, bytes] = {}

    def all_had(requests: int) -> None:
        answers["gateway"] = gateway(requests)
        answers.update({f"s{i}": model(f"s{i}", requests) for i in range(SERVICES)})

    async def read(addresses: Sequence[str]) -> list[Any]:
        return await asyncio.to_thread(
            lambda: [msgspec.json.decode(answers[address]) for address in addresses]
        )

    processes = {f"s{i}": Source(f"s{i}", ("default", f"s{i}")) for i in range(SERVICES)}
    processes["gateway"] = Source("gateway")
    clock = FakeClock()
    collector = MetricsCollector(lambda: processes, Registry(), clock=clock, read=read)
    steps = Steps()
    for requests in (1, 2):  # all of it is new, and then all of it changes
        all_had(requests)
        await clock.advance(2)
        await steps.longest()
        before = time.thread_time()
        page = await collector.text()
        assert time.thread_time() - before < WHOLE_S
        assert await steps.longest() < LONGEST_S
        assert page.count(b"\npenstock_requests_total{") == SERVICES
        assert page.count(b"\npenstock_gateway_requests_total{") == SERVICES
    await steps.close()
    await collector.close()
