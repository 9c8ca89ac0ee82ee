"""Which requests a Python model of Triton's gets together, and what becomes of calls that fail."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from penstock.errors import ModelError, Unsupported
from penstock.protocols.infer import InferRequest
from penstock.runtimes import triton_backend_utils as pb_utils
from penstock.runtimes import triton_execution
from penstock.runtimes.base import CallContext, ResponseStream
from penstock.runtimes.triton_execution import TritonPython

TENSOR = {"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}
BATCHES = {"max_batch_size": 4, "dynamic_batching": {}, "input": [TENSOR], "output": [TENSOR]}
DECOUPLED = {**BATCHES, "model_transaction_policy": {"decoupled": True}}


class Model:
    """Answers what it got, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def execute(self, requests: list[Any]) -> list[Any]:
        arrays = [pb_utils.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]
        self.calls.append([len(a) for a in arrays])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("X", a)]) for a in arrays]


class Gate:
    """Runs a model's calls when it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()

    async def run(self, work: Any) -> Any:
        self.entered.set()
        await self.open.wait()
        return work()


def request(rows: int, width: int = 2, value: float = 0.0) -> InferRequest:
    return InferRequest({"X": np.full((rows, width), value, np.float32)}, {"X": "FP32"})


async def ask(runtime: TritonPython, gate: Gate, *requests: InferRequest) -> list[Any]:
    """One request that is on its way, then all the others while the model is busy."""
    context = CallContext(protocol="v2", run=gate.run)
    tasks = [asyncio.create_task(runtime.call(requests[0], context))]
    await gate.entered.wait()
    tasks += [asyncio.create_task(runtime.call(r, context)) for r in requests[1:]]
    await asyncio.sleep(0)
    gate.open.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_arrives_while_the_model_runs_is_the_next_batch():
    model = Model()
    answers = await ask(
        TritonPython(model, "m", BATCHES), Gate(), *(request(1, value=i) for i in range(6))
    )
    assert model.calls == [[1], [1, 1, 1, 1], [1]]
    assert [a.outputs["X"][0, 0] for a in answers] == [0, 1, 2, 3, 4, 5]


async def test_a_batch_is_never_larger_than_allowed_and_its_requests_are_alike():
    model = Model()
    runtime = TritonPython(model, "m", BATCHES)
    await ask(runtime, Gate(), request(1), request(3), request(3), request(1), request(1, 3))
    assert model.calls == [[1], [3], [3, 1], [1]]
    await ask(runtime, Gate(), request(1), request(1), request(1, 3), request(1, 3))
    assert model.calls[4:] == [[1], [1], [1, 1]]


async def test_without_dynamic_batching_every_call_has_one_request():
    model = Model()
    config = {k: v for k, v in BATCHES.items() if k != "dynamic_batching"}
    await ask(TritonPython(model, "m", config), Gate(), request(1), request(1), request(1))
    assert model.calls == [[1], [1], [1]]


async def test_short_calls_share_a_hop_to_the_thread_and_long_ones_do_not(monkeypatch):
    hops = []

    class Counting(Gate):
        async def run(self, work):
            result = await super().run(work)
            hops.append(len(result))
            return result

    config = {k: v for k, v in BATCHES.items() if k != "dynamic_batching"}
    model = Model()
    with monkeypatch.context() as patched:  # on a busy machine nothing is short for sure
        patched.setattr(triton_execution, "_HOP_S", 60.0)
        await ask(TritonPython(model, "m", config), Counting(), *(request(1) for _ in range(6)))
    assert hops == [1, 5]

    class Slow(Model):
        def execute(self, requests):
            until = perf_counter() + 0.002
            while perf_counter() < until:
                pass
            return super().execute(requests)

    hops.clear()
    slow = Slow()
    inputs = [request(1, value=i) for i in range(4)]
    answers = await ask(TritonPython(slow, "m", config), Counting(), *inputs)
    # Those that did not get their turn are the first of the next hop.
    assert hops == [1, 1, 1, 1]
    assert [a.outputs["X"][0, 0] for a in answers] == [0, 1, 2, 3]
    assert slow.calls == [[1]] * 4


async def test_one_call_that_raises_fails_its_own_request_only():
    class Picky(Model):
        def execute(self, requests):
            if pb_utils.get_input_tensor_by_name(requests[0], "X").as_numpy()[0, 0] == 2:
                raise ValueError("secret")
            return super().execute(requests)

    config = {k: v for k, v in BATCHES.items() if k != "dynamic_batching"}
    inputs = [request(1, value=i) for i in range(4)]
    answers = await ask(TritonPython(Picky(), "m", config), Gate(), *inputs)
    assert [isinstance(a, ModelError) for a in answers] == [False, False, True, False]
    assert "secret" not in str(answers[2])


async def test_a_request_that_is_given_up_leaves_its_batch():
    model = Model()
    runtime = TritonPython(model, "m", BATCHES)
    gate = Gate()
    context = CallContext(protocol="v2", run=gate.run)
    first = asyncio.create_task(runtime.call(request(1), context))
    await gate.entered.wait()
    gone = asyncio.create_task(runtime.call(request(2), context))
    stays = asyncio.create_task(runtime.call(request(1), context))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, stays)
    assert model.calls == [[1], [1]]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda requests: [], "0 responses to 1 requests"),
        (lambda requests: None, "no list of responses"),
        (lambda requests: ["x"], "answered a str"),
        (
            lambda requests: [
                pb_utils.InferenceResponse([pb_utils.Tensor("Q", np.zeros(1, np.float32))])
            ],
            "answered the output 'Q'",
        ),
    ],
)
async def test_an_answer_that_is_none_is_the_models_fault(answer, says):
    class Odd:
        def execute(self, requests):
            return answer(requests)

    gate = Gate()
    gate.open.set()
    (result,) = await ask(TritonPython(Odd(), "m", BATCHES), gate, request(1))
    assert isinstance(result, ModelError)
    assert says in str(result)


async def test_a_decoupled_model_that_raises_ends_its_stream_with_the_error():
    class Raises:
        def execute(self, requests):
            requests[0].get_response_sender().send(
                pb_utils.InferenceResponse([pb_utils.Tensor("X", np.zeros((1, 2), np.float32))])
            )
            raise pb_utils.TritonModelException("after the first")

    gate = Gate()
    gate.open.set()
    context = CallContext(protocol="v2", run=gate.run, streams=True)
    reply = await TritonPython(Raises(), "m", DECOUPLED).call(request(1), context)
    assert isinstance(reply, ResponseStream)
    first = await anext(reply.responses)
    assert first.outputs["X"].shape == (1, 2)
    with pytest.raises(ModelError, match="after the first"):
        await anext(reply.responses)


async def test_a_sender_says_nothing_after_its_end():
    class Late:
        def execute(self, requests):
            self.sender = requests[0].get_response_sender()
            self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    model = Late()
    gate = Gate()
    gate.open.set()
    (result,) = await ask(TritonPython(model, "m", DECOUPLED), gate, request(1))
    assert isinstance(result, Unsupported)
    with pytest.raises(pb_utils.TritonModelException, match="has been closed"):
        model.sender.send(pb_utils.InferenceResponse([]))
