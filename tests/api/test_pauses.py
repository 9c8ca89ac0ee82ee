"""The garbage collector does not hold the control plane up, and garbage goes all the same."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from penstock.api.pauses import (
    ENOUGH,
    EVERYTHING_S,
    GROWN_BYTES,
    GROWN_PART,
    LOOK_S,
    keep_short,
    resident,
)
from penstock.control.clock import Clock


class StepClock(Clock):
    """Every sleep lasts until the test lets it end."""

    def __init__(self) -> None:
        self.time = 0.0
        self._asked = asyncio.Event()
        self._go = asyncio.Event()

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, delay_s: float) -> None:
        self._asked.set()
        await self._go.wait()
        self._go.clear()

    async def step(self, seconds: float = LOOK_S) -> None:
        """Let the sleep end, and wait for the next one."""
        self.time += seconds
        self._asked.clear()
        self._go.set()
        await self._asked.wait()


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[StepClock]:
    made = StepClock()
    before = gc.get_threshold()
    begun = asyncio.Event()
    begun.set()
    task = asyncio.create_task(keep_short(made, begun))
    await made._asked.wait()
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_what_lives_is_put_aside_soon_after_it_was_made(clock: StepClock) -> None:
    aside = gc.get_freeze_count()
    whole = gc.get_stats()[2]["collections"]
    kept = [[i] for i in range(300_000)]
    # The oldest generation looked at nothing by itself meanwhile.
    assert gc.get_stats()[2]["collections"] == whole
    await clock.step()
    assert gc.get_freeze_count() >= aside + len(kept)
    assert gc.get_count()[2] < ENOUGH


async def test_what_a_start_makes_is_put_aside_without_a_look() -> None:
    """Requests wait meanwhile, and all of it lives."""
    made, begun = StepClock(), asyncio.Event()
    task = asyncio.create_task(keep_short(made, begun))
    try:
        await made._asked.wait()
        aside, whole = gc.get_freeze_count(), gc.get_stats()[2]["collections"]
        kept = [[i] for i in range(300_000)]
        await made.step()
        assert gc.get_freeze_count() >= aside + len(kept)
        begun.set()
        await made.step()
        assert gc.get_stats()[2]["collections"] == whole
        more = [[i] for i in range(300_000)]
        await made.step()
        assert gc.get_stats()[2]["collections"] == whole + 1
        assert more
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_at_rest_looks_at_nothing(clock: StepClock) -> None:
    await clock.step()
    whole = gc.get_stats()[2]["collections"]
    for _ in range(20):
        await clock.step()
    assert gc.get_stats()[2]["collections"] == whole


async def test_garbage_of_cycles_that_was_put_aside_goes_at_the_next_look_at_everything(
    clock: StepClock,
) -> None:
    class Node:
        def __init__(self) -> None:
            self.other: Any = self

    node = Node()
    gone = weakref.ref(node)
    kept = [[i] for i in range(100_000)]
    await clock.step()
    del node
    await clock.step()
    assert gone() is not None
    await clock.step(EVERYTHING_S)
    assert gone() is None
    assert kept


async def test_growth_has_everything_looked_at() -> None:
    """What was under way when it was put aside can be large, and end as garbage of a cycle."""

    class Node:
        def __init__(self) -> None:
            self.other: Any = self

    size = 100 * 2**20
    made, begun = StepClock(), asyncio.Event()
    begun.set()
    task = asyncio.create_task(keep_short(made, begun, lambda: size))
    try:
        await made._asked.wait()
        node = Node()
        gone = weakref.ref(node)
        kept = [[i] for i in range(100_000)]
        await made.step()
        del node
        size += GROWN_BYTES
        await made.step()
        assert gone() is not None
        size += 1
        await made.step()
        assert gone() is None
        # From there on anew: a part of what there is, when that is more.
        size = 2**30
        await made.step()
        whole = gc.get_stats()[2]["collections"]
        size += int(size * GROWN_PART)
        await made.step()
        assert gc.get_stats()[2]["collections"] == whole
        size += 1
        await made.step()
        assert gc.get_stats()[2]["collections"] == whole + 1
        assert kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_is_in_use_is_measured() -> None:
    before = resident()
    block = bytearray(b"x" * 50 * 2**20)
    assert resident() - before > 40 * 2**20
    assert block
