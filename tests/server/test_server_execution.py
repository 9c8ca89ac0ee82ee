"""Execution: short calls in the loop, long ones beside it, and answers that are none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from server_models import Doubler, Function, Gated, not_hung, rows

from penstock.errors import DeadlineExceeded, InvalidInput, ModelError
from penstock.runtimes.base import Arrays, Runtime
from penstock.server import execution
from penstock.server.execution import FIRST_TRIAL, Call, Estimate, Executor, checked
from penstock.server.workers import Watchdog, Workers


async def run(executor: Executor, arrays: Arrays, expect_rows: int | None = None) -> Call:
    """One call with one member, ended."""
    ended: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
    count = len(next(iter(arrays.values()))) if expect_rows is None else expect_rows
    nbytes = sum(a.nbytes for a in arrays.values())
    executor.run(Call((arrays,), {}, count, nbytes, ended.set_result))
    return await asyncio.wait_for(ended, 10)


def executor_of(runtime: Runtime, **fields: Any) -> Executor:
    return Executor(runtime, name="m", **{"timeout_s": 30, "hung": not_hung, **fields})


async def test_a_call_known_to_be_short_runs_in_the_loop() -> None:
    model = Doubler()
    executor = executor_of(model, inline_below_s=float("inf"))
    await run(executor, rows(1))  # nothing is known yet: a thread
    await run(executor, rows(1))
    assert model.threads == {"predict-m", "MainThread"}


async def test_a_long_call_runs_in_a_thread_while_the_loop_turns() -> None:
    model = Gated()
    executor = executor_of(model)
    executor.estimate.in_loop(8, 0.002)
    call = asyncio.create_task(run(executor, rows(1)))
    assert await asyncio.to_thread(model.entered.acquire, timeout=10)
    for _ in range(5):
        await asyncio.sleep(0)  # the loop is free
    assert not call.done()
    model.gate.release()
    assert (await call).outputs is not None


async def test_a_model_that_gets_slow_moves_to_a_thread_and_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = pause = 0.0
    threads: list[bool] = []
    monkeypatch.setattr(execution, "perf_counter", lambda: now)

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        nonlocal now
        threads.append(threading.current_thread() is not threading.main_thread())
        now += pause
        return inputs

    executor = executor_of(Function(predict), inline_below_s=0.02)
    executor.estimate.in_loop(8, 0.0)
    await run(executor, rows(1))
    pause = 0.15
    await run(executor, rows(1))
    await run(executor, rows(1))
    pause = 0.0
    for _ in range(30):
        await run(executor, rows(1))
    assert threads[:3] == [False, False, True]
    assert threads[-1] is False


def test_an_estimate_grows_with_size_until_it_is_measured() -> None:
    estimate = Estimate(0.005)
    assert not estimate.short(100)  # nothing is known
    estimate.in_loop(100, 0.001)
    assert estimate.short(120)
    assert estimate.short(1)
    assert estimate.short(500)
    assert not estimate.short(1000)  # 8 times as much
    estimate.in_thread(1000, 0.002, 0.002)
    assert estimate.short(1000)


def test_one_slow_call_in_the_loop_is_forgiven_and_several_are_not() -> None:
    estimate = Estimate(0.001)
    estimate.in_loop(100, 0.0003)
    estimate.in_loop(100, 0.015)
    assert estimate.short(100)
    for _ in range(5):
        estimate.in_loop(100, 0.015)
    assert not estimate.short(100)


def test_a_very_slow_call_in_the_loop_is_the_last_one_there() -> None:
    estimate = Estimate(0.001)
    estimate.in_loop(100, 0.0001)
    estimate.in_loop(100, 0.5)
    assert not estimate.short(100)


def sent_to_a_thread() -> Estimate:
    estimate = Estimate(0.001)
    estimate.in_loop(8, 0.5)
    for _ in range(40):
        estimate.in_thread(8, 0.005, 0.005)
    assert not estimate.short(8)
    return estimate


def test_a_short_call_that_only_waits_for_the_lock_gets_back_to_the_loop() -> None:
    """In a thread beside a busy loop its time is mostly the lock's, its processor time is not."""
    estimate = sent_to_a_thread()
    for _ in range(FIRST_TRIAL):
        assert not estimate.short(8)
        estimate.in_thread(8, 0.005, 0.0002)
    assert estimate.short(8)  # one trial
    estimate.in_loop(8, 0.0003)
    assert estimate.short(8)  # and it stays there


def test_a_call_that_waits_for_something_else_is_tried_ever_more_seldom() -> None:
    estimate = sent_to_a_thread()
    trials: list[int] = []
    for i in range(8 * FIRST_TRIAL):
        if estimate.short(8):
            trials.append(i)
            estimate.in_loop(8, 0.005)
        else:
            estimate.in_thread(8, 0.005, 0.0002)
    assert trials == [FIRST_TRIAL, 3 * FIRST_TRIAL + 1, 7 * FIRST_TRIAL + 2]


def test_a_call_that_would_hold_the_loop_for_long_is_never_tried() -> None:
    estimate = sent_to_a_thread()
    for _ in range(10 * FIRST_TRIAL):
        estimate.in_thread(8, 0.2, 0.0002)
        assert not estimate.short(8)


async def test_a_reentrant_model_runs_in_several_threads() -> None:
    barrier = threading.Barrier(2, timeout=10)

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        barrier.wait()
        return inputs

    executor = executor_of(Function(predict, reentrant=True), cores=2)
    assert executor.slots == 2
    both = await asyncio.gather(run(executor, rows(1)), run(executor, rows(2)))
    assert all(c.error is None for c in both)


async def test_an_async_predict_is_awaited() -> None:
    class Asks(Runtime):
        async def predict(  # type: ignore[override]
            self, inputs: Arrays, parameters: Mapping[str, Any]
        ) -> Arrays:
            await asyncio.sleep(0)
            return inputs

    executor = executor_of(Asks())
    calls = await asyncio.gather(*(run(executor, rows(i)) for i in range(10)))
    assert [c.outputs["x"][0, 0] for c in calls if c.outputs] == list(range(10))


async def test_an_async_predict_that_takes_too_long_is_stopped() -> None:
    stopped = asyncio.Event()

    class Waits(Runtime):
        async def predict(  # type: ignore[override]
            self, inputs: Arrays, parameters: Mapping[str, Any]
        ) -> Arrays:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return inputs

    call = await run(executor_of(Waits(), timeout_s=0.05), rows(1))
    assert isinstance(call.error, DeadlineExceeded)
    assert stopped.is_set()


@pytest.mark.parametrize("where", ["loop", "thread"])
@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (InvalidInput("4 features expected"), InvalidInput, "4 features expected"),
        (ValueError("row [1, 2, 3] of Bob"), ModelError, "ValueError"),
        (SystemExit(3), ModelError, "SystemExit"),
        (MemoryError(), ModelError, "MemoryError"),
        (StopIteration(), ModelError, "StopIteration"),
    ],
)
async def test_what_a_model_raises_becomes_an_error_without_the_users_data(
    where: str, raised: BaseException, expected: type[Exception], said: str
) -> None:
    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        raise raised

    executor = executor_of(Function(predict), inline_below_s=float("inf") if where == "loop" else 0)
    executor.estimate.in_loop(8, 0.0)
    for _ in range(2):  # and the next call is served
        call = await run(executor, rows(1))
        assert type(call.error) is expected
        assert said in str(call.error)
        assert "Bob" not in str(call.error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "NoneType where named arrays"),
        (np.zeros(1), "ndarray where named arrays"),
        ({}, "no output at all"),
        ({"y": [1]}, "list for output 'y'"),
        ({"y": np.zeros(1, complex)}, "complex128 for output 'y'"),
        ({"y": np.zeros(1, "M8[s]")}, "datetime64[s] for output 'y'"),
        ({"y": np.zeros(2)}, "2 rows in output 'y' for 1 row of input"),
        ({"y": np.array(1.0)}, "a scalar in output 'y' for 1 row of input"),
    ],
)
def test_nonsense_is_a_model_error_that_says_what_it_is(answer: Any, said: str) -> None:
    with pytest.raises(ModelError) as refused:
        checked("m", answer, 1)
    assert said in str(refused.value)


def test_any_number_of_rows_is_an_answer_where_nothing_is_batched() -> None:
    answer = {"y": np.zeros(3), "z": np.array(1)}
    assert checked("m", answer, -1) is answer


async def test_a_call_that_hangs_in_a_thread_is_reported() -> None:
    model = Gated()
    reported: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    executor = executor_of(model, timeout_s=0.05, hung=reported.set_result)
    executor.run(Call((rows(1),), {}, 1, 8, lambda call: None))
    assert "did not return from predict within 0.05 s" in await asyncio.wait_for(reported, 10)
    model.gate.release()


async def test_a_call_that_hangs_in_the_loop_is_reported_by_the_watchdog() -> None:
    reported = threading.Event()
    watchdog = Watchdog(0.05, lambda message: reported.set())

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        assert reported.wait(10)
        return inputs

    executor = executor_of(Function(predict), watchdog=watchdog, inline_below_s=float("inf"))
    executor.estimate.in_loop(8, 0.0)
    call = await run(executor, rows(1))
    assert call.error is None
    watchdog.close()


def test_the_watchdog_sleeps_without_calls_and_wakes_for_one_that_hangs() -> None:
    """Idle looks come to an end, and the call after them is seen all the same, time after time."""
    reported = threading.Event()
    watchdog = Watchdog(0.05, lambda message: reported.set())
    for _ in range(3):
        watchdog.enter("m", time.perf_counter())
        watchdog.leave()
        deadline = time.monotonic() + 30
        while not watchdog._asleep:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    watchdog.enter("m", time.perf_counter())
    assert reported.wait(10)
    watchdog.close()


def test_a_watchdog_that_sleeps_ends_when_it_is_closed() -> None:
    watchdog = Watchdog(0.05, lambda message: None)
    watchdog.enter("m", time.perf_counter())
    watchdog.leave()
    deadline = time.monotonic() + 30
    while not watchdog._asleep:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    watchdog.close()
    assert watchdog._thread is not None
    watchdog._thread.join(10)
    assert not watchdog._thread.is_alive()


async def test_workers_hand_back_results_and_exceptions() -> None:
    workers = Workers(name="w", threads=2, timeout_s=10, hung=not_hung)
    assert await workers.call(lambda: 7) == 7
    with pytest.raises(KeyError):
        await workers.call(lambda: {}["x"])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await workers.call(lambda: next(iter(())))
    workers.close()


async def test_each_worker_thread_is_prepared_before_its_first_call() -> None:
    prepared: list[str] = []
    workers = Workers(
        name="w",
        threads=1,
        timeout_s=10,
        hung=not_hung,
        on_thread_start=lambda: prepared.append(threading.current_thread().name),
    )
    assert await workers.call(lambda: list(prepared)) == ["predict-w"]
    workers.close()
