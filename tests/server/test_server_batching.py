"""Batching: each caller gets exactly its rows or exactly one error, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_models import Doubler, Function, Gated, not_hung, rows

from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    PenstockError,
    Unavailable,
)
from penstock.runtimes.base import Arrays, Runtime
from penstock.server.batching import Batcher
from penstock.server.execution import Call, Executor


class Answers:
    """Callers of a batcher, and what each was told."""

    def __init__(self) -> None:
        self.told: dict[int, list[Arrays | PenstockError]] = {}
        self.waiters: dict[int, asyncio.Event] = {}

    def done(self, caller: int) -> Any:
        self.told[caller] = []
        self.waiters[caller] = asyncio.Event()

        def tell(outputs: Arrays | None, error: PenstockError | None) -> None:
            assert (outputs is None) != (error is None)
            self.told[caller].append(outputs if outputs is not None else error)  # type: ignore[arg-type]
            self.waiters[caller].set()

        return tell

    async def of(self, caller: int) -> Any:
        await asyncio.wait_for(self.waiters[caller].wait(), 10)
        (only,) = self.told[caller]
        return only


def inline(runtime: Runtime, **fields: Any) -> Batcher:
    """A batcher whose model runs in the loop."""
    executor = Executor(runtime, name="m", timeout_s=30, hung=not_hung, inline_below_s=float("inf"))
    executor.estimate.in_loop(0, 0.0)
    return Batcher(executor, batches=runtime.batchable, **fields)


def threaded(runtime: Runtime, **fields: Any) -> Batcher:
    """A batcher whose model runs in a worker thread."""
    executor = Executor(runtime, name="m", timeout_s=30, hung=not_hung, inline_below_s=0)
    return Batcher(executor, batches=runtime.batchable, **fields)


async def entered(model: Gated) -> None:
    assert await asyncio.to_thread(model.entered.acquire, timeout=10)


async def test_requests_of_one_iteration_share_a_call() -> None:
    model = Doubler()
    batcher, answers = inline(model), Answers()
    for i in range(5):
        batcher.submit(rows(i), {}, answers.done(i))
    for i in range(5):
        np.testing.assert_array_equal((await answers.of(i))["y"], [[2 * i, 2 * i]])
    assert model.calls == [5]


async def test_a_lone_request_runs_in_the_same_iteration_of_the_loop() -> None:
    batcher, answers = inline(Doubler()), Answers()
    batcher.submit(rows(1), {}, answers.done(0))
    assert answers.told[0] == []  # never before submit returns
    await asyncio.sleep(0)
    assert len(answers.told[0]) == 1


async def test_arrivals_while_it_runs_are_the_next_batch_up_to_the_maximum() -> None:
    model = Gated()
    batcher, answers = threaded(model, max_rows=4), Answers()
    batcher.submit(rows(0), {}, answers.done(0))
    await entered(model)
    for i in range(1, 7):
        batcher.submit(rows(i), {}, answers.done(i))
    for _ in range(3):
        model.gate.release()
    for i in range(7):
        np.testing.assert_array_equal((await answers.of(i))["y"], [[2 * i, 2 * i]])
    assert model.calls == [1, 4, 2]


async def test_a_request_larger_than_the_maximum_runs_whole_and_alone() -> None:
    model = Doubler()
    batcher, answers = inline(model, max_rows=3), Answers()
    batcher.submit(rows(1), {}, answers.done(0))
    batcher.submit(rows(*range(8)), {}, answers.done(1))
    batcher.submit(rows(2), {}, answers.done(2))
    assert len((await answers.of(1))["y"]) == 8
    await answers.of(2)
    assert model.calls == [1, 8, 1]


async def test_bytes_bound_a_batch_too() -> None:
    model = Doubler()
    batcher, answers = inline(model, max_bytes=20), Answers()
    for i in range(3):
        batcher.submit(rows(i), {}, answers.done(i))  # 8 bytes each
    await answers.of(2)
    assert model.calls == [2, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": np.zeros((1, 2), np.float32)}, {"z": np.zeros((1, 2), np.float32)}),
        ({"x": np.zeros((1, 2), np.float32)}, {"x": np.zeros((1, 2), np.float64)}),
        ({"x": np.zeros((1, 2), np.float32)}, {"x": np.zeros((1, 3), np.float32)}),
        (
            {"x": np.zeros((1, 2)), "z": np.zeros((1, 2))},
            {"x": np.zeros((1, 2))},
        ),
    ],
    ids=["names", "dtypes", "trailing shape", "number of inputs"],
)
async def test_what_differs_does_not_share_a_call(one: Arrays, other: Arrays) -> None:
    seen: list[set[str]] = []

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        seen.append(set(inputs))
        return {"n": np.full(len(next(iter(inputs.values()))), len(seen))}

    batcher, answers = inline(Function(predict)), Answers()
    for i, arrays in enumerate([one, other, one, other]):
        batcher.submit(arrays, {}, answers.done(i))
    assert [(await answers.of(i))["n"][0] for i in range(4)] == [1, 2, 1, 2]


async def test_parameters_are_part_of_what_must_agree() -> None:
    seen: list[Any] = []

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        seen.append((dict(parameters), len(inputs["x"])))
        return inputs

    batcher, answers = inline(Function(predict)), Answers()
    given_ = [{"t": 1}, {"t": 2}, {"t": 1}, {"t": [1]}, {"t": [1]}]
    for i, parameters in enumerate(given_):
        batcher.submit(rows(i), parameters, answers.done(i))
    for i in range(5):
        assert (await answers.of(i))["x"][0][0] == i
    assert seen == [({"t": 1}, 2), ({"t": 2}, 1), ({"t": [1]}, 1), ({"t": [1]}, 1)]


async def test_the_order_of_inputs_does_not_matter() -> None:
    calls: list[int] = []

    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        calls.append(len(inputs["a"]))
        return {"d": inputs["a"] - inputs["b"]}

    batcher, answers = inline(Function(predict)), Answers()
    batcher.submit({"a": np.array([5.0]), "b": np.array([3.0])}, {}, answers.done(0))
    batcher.submit({"b": np.array([1.0]), "a": np.array([9.0])}, {}, answers.done(1))
    assert (await answers.of(0))["d"].tolist() == [2.0]
    assert (await answers.of(1))["d"].tolist() == [8.0]
    assert calls == [2]


async def test_differing_row_counts_in_one_request_are_refused() -> None:
    batcher, answers = inline(Doubler()), Answers()
    with pytest.raises(InvalidInput, match="'a' has 2, 'b' has 3"):
        batcher.submit({"a": np.zeros(2), "b": np.zeros(3)}, {}, answers.done(0))
    assert answers.told[0] == []
    assert batcher.idle


async def test_a_model_that_does_not_batch_gets_each_request_alone() -> None:
    model = Function(lambda x, _: {"n": np.array(len(x["x"]))}, batchable=False)
    batcher, answers = inline(model), Answers()
    batcher.submit(rows(1), {}, answers.done(0))
    batcher.submit(rows(1, 2), {}, answers.done(1))
    assert (await answers.of(0))["n"] == 1
    assert (await answers.of(1))["n"] == 2


async def test_a_cancelled_request_leaves_its_batch_whole() -> None:
    model = Gated()
    batcher, answers = threaded(model), Answers()
    batcher.submit(rows(0), {}, answers.done(0))
    await entered(model)
    pending = [batcher.submit(rows(i), {}, answers.done(i)) for i in range(1, 4)]
    model.gate.release()
    await entered(model)
    pending[1].cancel()  # caller 2, whose call runs
    model.gate.release()
    for i in (1, 3):
        np.testing.assert_array_equal((await answers.of(i))["y"], [[2 * i, 2 * i]])
    assert answers.told[2] == []
    assert model.calls == [1, 3]


async def test_a_cancelled_request_that_waits_is_not_computed() -> None:
    model = Gated()
    batcher, answers = threaded(model), Answers()
    batcher.submit(rows(0), {}, answers.done(0))
    await entered(model)
    pending = [batcher.submit(rows(i), {}, answers.done(i)) for i in range(1, 4)]
    pending[0].cancel()
    pending[0].cancel()  # twice is once
    assert batcher.waiting == 2
    model.gate.release(2)
    await answers.of(2)
    await answers.of(3)
    assert model.calls == [1, 2]
    assert answers.told[1] == []
    assert batcher.idle


async def test_only_the_guilty_request_of_a_failed_batch_fails() -> None:
    def predict(inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        if (inputs["x"] < 0).any():
            raise InvalidInput("negative")
        if (inputs["x"] > 100).any():
            raise ZeroDivisionError("secret of the user's")
        return {"y": inputs["x"] * 2}

    batcher, answers = inline(Function(predict)), Answers()
    for i, value in enumerate([1, -1, 2, 101, 3]):
        batcher.submit(rows(value), {}, answers.done(i))
    assert [(await answers.of(i))["y"][0, 0] for i in (0, 2, 4)] == [2, 4, 6]
    assert isinstance(await answers.of(1), InvalidInput)
    failed = await answers.of(3)
    assert isinstance(failed, ModelError)
    assert "ZeroDivisionError" in str(failed)
    assert "secret" not in str(failed)
    assert batcher.idle


async def test_a_wrong_number_of_rows_fails_that_batch_and_says_so() -> None:
    model = Function(lambda x, _: {"y": x["x"][:3]})
    batcher, answers = inline(model), Answers()
    for i in range(5):
        batcher.submit(rows(i), {}, answers.done(i))
    for i in range(5):
        failed = await answers.of(i)
        assert isinstance(failed, ModelError)
        assert "3 rows in output 'y' for 5 rows" in str(failed)
    batcher.submit(rows(7), {}, answers.done(7))
    assert (await answers.of(7))["y"][0, 0] == 7


async def test_a_full_queue_is_refused_before_memory_grows() -> None:
    model = Gated()
    batcher, answers = threaded(model, max_queue=3), Answers()
    batcher.submit(rows(0), {}, answers.done(0))
    await entered(model)
    for i in (1, 2):
        batcher.submit(rows(i), {}, answers.done(i))
    with pytest.raises(Unavailable) as refused:
        batcher.submit(rows(3), {}, answers.done(3))
    assert refused.value.retry_after_s is not None
    model.gate.release(2)
    await answers.of(2)
    batcher.submit(rows(4), {}, answers.done(4))
    model.gate.release()
    await answers.of(4)


async def test_the_deadline_answers_callers_that_wait_and_callers_that_run() -> None:
    model = Gated()
    batcher, answers = threaded(model), Answers()
    batcher.submit(rows(0), {}, answers.done(0), timeout_s=0.5)
    await entered(model)
    batcher.submit(rows(1), {}, answers.done(1), timeout_s=0.02)
    batcher.submit(rows(2), {}, answers.done(2))
    for i in (0, 1):
        assert isinstance(await answers.of(i), DeadlineExceeded)
    assert answers.told[2] == []
    model.gate.release(2)
    assert (await answers.of(2))["y"][0, 0] == 4
    assert model.calls == [1, 1]
    assert batcher.idle


async def test_an_idle_model_waits_for_company_only_when_told_to() -> None:
    model = Doubler()
    batcher, answers = inline(model, max_latency_s=0.5, max_rows=3), Answers()
    loop = asyncio.get_running_loop()
    began = loop.time()
    batcher.submit(rows(0), {}, answers.done(0))
    await asyncio.sleep(0)
    batcher.submit(rows(1), {}, answers.done(1))
    await answers.of(0)
    assert loop.time() - began >= 0.49
    assert model.calls == [2]


async def test_a_full_batch_waits_for_no_company() -> None:
    model = Doubler()
    batcher, answers = inline(model, max_latency_s=3600, max_rows=3), Answers()
    for i in range(3):
        batcher.submit(rows(i), {}, answers.done(i))
    await answers.of(2)
    assert model.calls == [3]


async def test_a_caller_that_raises_does_not_cost_others_their_answer(caplog: Any) -> None:
    batcher, answers = inline(Doubler()), Answers()

    def broken(outputs: Arrays | None, error: PenstockError | None) -> None:
        raise RuntimeError("connection is gone")

    batcher.submit(rows(0), {}, broken)
    batcher.submit(rows(1), {}, answers.done(1))
    assert (await answers.of(1))["y"][0, 0] == 2
    assert "could not be handed over" in caplog.text


async def test_drain_returns_when_everything_taken_is_answered() -> None:
    model = Gated()
    batcher, answers = threaded(model), Answers()
    for i in range(3):
        batcher.submit(rows(i), {}, answers.done(i))
    await entered(model)
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        batcher.submit(rows(9), {}, answers.done(9))
    assert not draining.done()
    model.gate.release(3)
    await asyncio.wait_for(draining, 10)
    assert all(len(answers.told[i]) == 1 for i in range(3))


async def test_abandoning_answers_everybody_once() -> None:
    model = Gated()
    batcher, answers = threaded(model), Answers()
    batcher.submit(rows(0), {}, answers.done(0))
    await entered(model)
    batcher.submit(rows(1), {}, answers.done(1))
    batcher.abandon(Unavailable("gone"))
    for i in (0, 1):
        assert isinstance(await answers.of(i), Unavailable)
    model.gate.release(2)
    with pytest.raises(Unavailable):
        batcher.submit(rows(2), {}, answers.done(2))


class Scripted:
    """An executor that ends calls when the test says so, well or badly."""

    name = "m"

    def __init__(self, slots: int, inline: bool) -> None:
        self.slots = slots
        self.inline = inline
        self.open: list[Call] = []
        self.most = 0

    def run(self, call: Call) -> None:
        self.open.append(call)
        self.most = max(self.most, len(self.open))
        if self.inline:
            self.end(0, 0)

    def end(self, which: int, how: int) -> None:
        call = self.open.pop(which % len(self.open))
        x = np.concatenate([p["x"] for p in call.parts])
        assert len(x) == call.rows
        if how == 1 or (x[:, 0] % 7 == 6).any():
            call.error = ModelError("raised")
        elif how == 2:
            call.error = InvalidInput("wrong")
        else:
            call.outputs = {"y": x * 2, "z": x[:, :1]}
        call.done(call)


ACTION = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(
    actions=st.lists(ACTION, max_size=60),
    max_rows=st.integers(1, 6),
    slots=st.integers(1, 3),
    inline_=st.booleans(),
    parameters=st.booleans(),
)
def test_each_caller_gets_its_rows_or_one_error_in_any_order_of_events(
    actions: list[tuple[str, int, int]],
    max_rows: int,
    slots: int,
    inline_: bool,
    parameters: bool,
) -> None:
    """Callers arrive, hang up, calls end well or badly, in any order; nobody is mixed up or forgotten."""

    async def scenario() -> None:
        executor = Scripted(slots, inline_)
        batcher = Batcher(executor, max_rows=max_rows)
        answers = Answers()
        asked: dict[int, np.ndarray] = {}
        pendings: list[Any] = []
        cancelled: set[int] = set()
        for what, a, b in actions:
            if what == "submit":
                caller = len(pendings)
                x = np.full((a, 2), float(caller), np.float32 if b else np.float64)
                asked[caller] = x
                pendings.append(
                    batcher.submit({"x": x}, {"p": b} if parameters else {}, answers.done(caller))
                )
            elif what == "cancel" and a < len(pendings):
                if not answers.told[a]:
                    cancelled.add(a)
                pendings[a].cancel()
            elif what == "end" and executor.open:
                executor.end(a, b)
            await asyncio.sleep(0)
        for _ in range(10 * len(pendings) + 10):
            while executor.open:
                executor.end(0, 0)
            await asyncio.sleep(0)
        assert batcher.idle
        assert batcher.waiting == 0
        assert executor.most <= slots
        for caller, x in asked.items():
            told = answers.told[caller]
            if caller in cancelled:
                assert told == []
                continue
            (only,) = told
            if isinstance(only, PenstockError):
                continue
            np.testing.assert_array_equal(only["y"], x * 2)
            np.testing.assert_array_equal(only["z"], x[:, :1])
            assert only["y"].dtype == x.dtype

    asyncio.run(scenario())
