"""Signs of life: often while models are asked, rarely at rest."""

from __future__ import annotations

import asyncio
import json
import os

import numpy as np

from penstock.server.execution import Call, Executor
from penstock.server.pulse import Pulse
from penstock.server.status import Status
from penstock.server.workers import Watchdog, Workers


class Timers:
    """An event loop as far as a pulse uses one."""

    def __init__(self) -> None:
        self.pending: list[tuple[float, object]] = []

    def call_later(self, delay_s: float, call, *args):
        timer = Timer(self, delay_s, call)
        self.pending.append(timer)
        return timer

    def fire(self) -> float:
        (timer,) = self.pending
        self.pending.clear()
        timer.call()
        return timer.delay_s


class Timer:
    def __init__(self, timers: Timers, delay_s: float, call) -> None:
        self.timers, self.delay_s, self.call = timers, delay_s, call

    def cancel(self) -> None:
        self.timers.pending.remove(self)


class Rig:
    def __init__(self, **options) -> None:
        self.reader, self.writer = os.pipe()
        self.timers = Timers()
        self.pulse = Pulse(Status(self.writer), beat_s=2, rest_s=20, **options)
        self.pulse.begin(self.timers)

    def said(self) -> list[str]:
        os.set_blocking(self.reader, False)
        try:
            lines = os.read(self.reader, 65536).splitlines()
        except BlockingIOError:
            return []
        return [f"{e['event']} {e.get('for_s', '')}".strip() for e in map(json.loads, lines)]

    def close(self) -> None:
        self.pulse.close()
        os.close(self.reader)
        os.close(self.writer)


def test_a_process_that_nobody_asks_says_how_long_it_rests():
    """The start is a beat; after a beat without calls it is silent for as long as it says."""
    rig = Rig()
    assert rig.said() == ["beat"]
    assert rig.timers.fire() == 2
    assert rig.said() == ["rest 20"]
    assert rig.timers.fire() == 20
    assert rig.said() == ["rest 20"]
    rig.close()
    assert rig.timers.pending == []


def test_the_first_call_ends_the_rest():
    """It beats at once, before the call can hold up the loop, and every two seconds from then on."""
    rig = Rig()
    rig.timers.fire()
    rig.said()
    rig.pulse.stir()
    assert rig.said() == ["beat"]
    rig.pulse.stir()  # one beat, not one a call
    assert rig.said() == []
    assert rig.timers.fire() == 2
    assert rig.said() == ["beat"]
    assert rig.timers.fire() == 2
    assert rig.said() == ["rest 20"]
    rig.close()


def test_there_is_no_rest_during_a_call_or_while_calls_are_watched():
    watched = True
    rig = Rig(watched=lambda: watched)
    rig.pulse.enter()
    rig.said()
    rig.timers.fire()
    rig.timers.fire()
    assert rig.said() == ["beat", "beat"]
    rig.pulse.leave()
    rig.timers.fire()
    rig.timers.fire()
    assert rig.said() == ["beat", "beat"]
    watched = False
    rig.timers.fire()
    assert rig.said() == ["rest 20"]
    rig.close()


async def test_it_beats_on_a_real_loop():
    reader, writer = os.pipe()
    pulse = Pulse(Status(writer), beat_s=0.01, rest_s=0.02)
    pulse.begin(asyncio.get_running_loop())
    heard = b""
    async with asyncio.timeout(10):
        while heard.count(b"rest") < 3:
            heard += await asyncio.to_thread(os.read, reader, 65536)
    pulse.close()
    os.close(reader)
    os.close(writer)


class Counted:
    """A pulse that only counts."""

    def __init__(self) -> None:
        self.under_way = self.calls = 0

    def enter(self) -> None:
        self.under_way += 1
        self.calls += 1

    def leave(self) -> None:
        self.under_way -= 1

    stir = enter


async def test_jobs_of_threads_are_calls():
    pulse = Counted()
    workers = Workers(name="w", threads=1, timeout_s=10, hung=lambda message: None, pulse=pulse)
    seen = await workers.call(lambda: pulse.under_way)
    assert (seen, pulse.calls) == (1, 1)
    async with asyncio.timeout(10):
        while pulse.under_way:
            await asyncio.sleep(0)
    workers.close()


async def test_awaited_predictions_are_calls():
    pulse = Counted()
    watchdog = Watchdog(10, lambda message: None, pulse=pulse)
    seen = []

    class Model:
        reentrant = False

        async def predict(self, inputs, parameters):
            seen.append(pulse.under_way)
            return inputs

    executor = Executor(
        Model(), name="m", timeout_s=10, hung=lambda message: None, watchdog=watchdog
    )
    done = asyncio.get_running_loop().create_future()
    executor.run(Call(({"x": np.zeros((1, 1))},), {}, 1, 8, done.set_result))
    call = await asyncio.wait_for(done, 10)
    assert call.error is None
    assert (seen, pulse.under_way) == ([1], 0)
    executor.close()
    watchdog.close()
