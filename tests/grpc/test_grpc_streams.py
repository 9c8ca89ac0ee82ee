"""ModelStreamInfer with models that yield: any number of responses, in time, until the client has enough."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_peers import Doubling, floats, gateway, model_process, request
from triton_peers import WAYS
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
import penstock
from penstock.protocols.grpc import stream_infer
from penstock.protocols.grpc.stream_infer import AT_ONCE
from penstock.protocols.infer import InferResponse
from penstock.runtimes.class_calls import ClassPayloadRuntime
from penstock.runtimes.user_model import UserModel


class Counting(penstock.Model):
    """Answers 0, 1, 2, ... as often as its input says; a negative number: for ever."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made = 0
        self.closed = asyncio.Event()
        self.go = asyncio.Event()
        self.ready = True

    async def predict(self, payload: Any) -> AsyncIterator[Any]:
        (values,) = payload.inputs.values()
        count = int(values[0][0])
        try:
            while self.made != count:
                yield {"n": np.array([self.made], np.float32)}
                self.made += 1
                if count < 0 or values[0][1]:
                    await self.go.wait()
                    self.go.clear()
        finally:
            self.closed.set()


class Breaking(penstock.Model):
    """One response, then an exception; or nothing but one."""

    ready = True

    def predict(self, payload: Any) -> Iterator[Any]:
        (values,) = payload.inputs.values()
        if values[0][0]:
            yield np.array([1], np.float32)
        raise ValueError("secret of the model")


class Words(penstock.Model):
    """What a generator may yield besides named arrays."""

    ready = True

    def predict(self, payload: Any) -> Iterator[Any]:
        yield "text é"
        yield b"bytes"
        yield {"predictions": [1.5, 2.5]}
        yield InferResponse({"a": np.array([1]), "b": np.array([2])}, parameters={"k": 7})


class Flooding(penstock.Model):
    """A megabyte at a time, and no end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made = 0
        self.ready = True

    async def predict(self, payload: Any) -> AsyncIterator[Any]:
        while True:
            self.made += 1
            yield np.zeros(1 << 18, np.float32)


class Silent(penstock.Model):
    """Yields nothing at all."""

    ready = True

    def predict(self, payload: Any) -> Iterator[Any]:
        yield from ()


class Gate(penstock.Model):
    """Answers its input when its number is let through."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[int] = []
        self.arrived = asyncio.Condition()
        self.let: dict[int, asyncio.Event] = {}
        self.ready = True

    async def predict(self, payload: Any) -> Any:
        (values,) = payload.inputs.values()
        number = int(values[0][0])
        async with self.arrived:
            self.seen.append(number)
            self.arrived.notify_all()
        await self.let.setdefault(number, asyncio.Event()).wait()
        if number < 0:
            raise ValueError("negative")
        return {"n": values}

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self.let.setdefault(number, asyncio.Event()).set()

    async def has_seen(self, *numbers: int) -> None:
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: set(numbers) <= set(self.seen))


def _runtime(instance: Any) -> Callable[[], Any]:
    return lambda: ClassPayloadRuntime(UserModel(instance, "m", Path(), {}))


@asynccontextmanager
async def stub(
    way: str, tmp_path: Path, models: dict[str, Any], **spec: Any
) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    made = {n: m if isinstance(m, type) else _runtime(m) for n, m in models.items()}
    async with model_process(tmp_path, made, **spec) as (_, path, own_port), gateway() as front:
        first, *others = made
        front.route(first, path, models=others)
        port = own_port if way == "process" else front.port
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def final(answer: Any) -> bool | None:
    """Its `triton_final_response`."""
    parameters = answer.infer_response.parameters
    if "triton_final_response" not in parameters:
        return None
    return bool(parameters["triton_final_response"].bool_param)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_responses_come_as_the_model_makes_them(way: str, tmp_path: Path) -> None:
    model = Counting()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        asked = request(data=((3, 1),), id="r1")
        asked.parameters["triton_enable_empty_final_response"].bool_param = True
        await stream.write(asked)
        for i in range(3):
            answer = await stream.read()
            assert floats(answer.infer_response) == [i]
            assert answer.infer_response.id == "r1"
            assert (answer.infer_response.model_name, final(answer)) == ("m", False)
            assert model.made <= i + 1, "nothing is made ahead of its being asked for"
            model.go.set()
        last = await stream.read()
        assert final(last) is True
        assert (last.infer_response.id, last.infer_response.model_name) == ("r1", "m")
        assert not last.infer_response.outputs
        # Another request on the same stream, this time without the empty response.
        model.made = 0
        await stream.write(request(data=((2, 0),)))
        assert [floats((await stream.read()).infer_response) for _ in range(2)] == [[0], [1]]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_model_with_one_response_says_that_it_is_final(way: str, tmp_path: Path) -> None:
    async with stub(way, tmp_path, {"m": Doubling}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        await stream.write(request())
        answer = await stream.read()
        assert (floats(answer.infer_response), final(answer)) == ([2, 4], True)
        await stream.done_writing()


@pytest.mark.parametrize("how", ["cancelled", "closed", "out of time"])
async def test_a_client_that_goes_stops_the_generator(way: str, tmp_path: Path, how: str) -> None:
    model = Counting()
    async with stub(way, tmp_path, {"m": model}) as calls:
        # A client's own clock would end it first: the server's is tested by a deadline it cannot see.
        metadata = (("grpc-timeout", "500m"),) if how == "out of time" else ()
        stream = calls.ModelStreamInfer(metadata=metadata)
        await stream.write(request(data=((-1, 0),)))
        assert floats((await stream.read()).infer_response) == [0]
        assert not model.closed.is_set()
        if how == "cancelled":
            stream.cancel()
        elif how == "closed":
            del stream, calls
        else:
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if how != "closed":
            async with asyncio.timeout(20):
                await model.closed.wait()
            assert model.made <= 1
    if how == "closed":
        async with asyncio.timeout(20):
            await model.closed.wait()


async def test_a_generator_that_raises_ends_its_request_only(way: str, tmp_path: Path) -> None:
    """What came before is kept; the message says what happened, without the model's data."""
    async with stub(way, tmp_path, {"m": Breaking()}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for first in (1, 0, 1):
            await stream.write(request(data=((first, 0),)))
            if first:
                assert floats((await stream.read()).infer_response) == [1]
            answer = await stream.read()
            assert "failed in predict: ValueError" in answer.error_message
            assert "secret" not in answer.error_message
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


async def test_what_is_yielded_becomes_tensors(way: str, tmp_path: Path) -> None:
    async with stub(way, tmp_path, {"m": Words()}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        await stream.write(request())
        answers = [(await stream.read()).infer_response for _ in range(4)]
        await stream.done_writing()
    found = [triton.InferResult(a).as_numpy(a.outputs[0].name).tolist() for a in answers]
    assert found == [["text é".encode()], [b"bytes"], [1.5, 2.5], [1]]
    assert [o.name for o in answers[3].outputs] == ["a", "b"]
    assert answers[3].parameters["k"].int64_param == 7


async def test_a_request_without_any_response(way: str, tmp_path: Path) -> None:
    async with stub(way, tmp_path, {"m": Silent()}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        asked = request()
        asked.parameters["triton_enable_empty_final_response"].bool_param = True
        await stream.write(asked)
        assert final(await stream.read()) is True
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_client_that_does_not_read_holds_the_model_back(way: str, tmp_path: Path) -> None:
    """Some windows and buffers are filled, and then the model waits."""
    model = Flooding()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer()
        await stream.write(request())
        await stream.read()
        made = -1
        while made != model.made:  # until it stands still
            made = model.made
            await asyncio.sleep(0.2)
        assert made < 40
        for _ in range(made):
            await stream.read()
        async with asyncio.timeout(30):
            while model.made <= made:
                await asyncio.sleep(0.001)
        stream.cancel()


async def test_other_calls_of_such_a_model_say_what_to_ask(way: str, tmp_path: Path) -> None:
    async with stub(way, tmp_path, {"m": Words()}) as calls:
        config = await calls.ModelConfig(service_pb2.ModelConfigRequest(name="m"))
        assert config.config.model_transaction_policy.decoupled
        with pytest.raises(grpc.aio.AioRpcError, match="ModelStreamInfer") as refused:
            await calls.ModelInfer(request())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _triton(port: int) -> list[tuple[Any, Any]]:
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(lambda result, error: found.put((result, error)))
        tensor = triton.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([[3, 0]], np.float32))
        client.async_stream_infer("m", [tensor], enable_empty_final_response=True)
        got = [found.get(timeout=20) for _ in range(4)]
        client.stop_stream()
    return got


async def test_tritons_client_reads_a_decoupled_model(tmp_path: Path) -> None:
    models = {"m": _runtime(Counting())}
    async with model_process(tmp_path, models) as (_, path, _), gateway() as front:
        front.route("m", path)
        got = await asyncio.to_thread(_triton, front.port)
    assert [e for _, e in got] == [None] * 4
    assert [r.as_numpy("n").tolist() for r, _ in got[:3]] == [[0], [1], [2]]
    assert got[3][0].get_response().parameters["triton_final_response"].bool_param


async def test_each_response_has_the_models_time(way: str, tmp_path: Path) -> None:
    """A model that stops yielding is told apart from one that is done."""
    model = Counting()
    async with stub(way, tmp_path, {"m": model}, timeout_s=0.3) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        await stream.write(request(data=((-1, 0),)))
        assert floats((await stream.read()).infer_response) == [0]
        assert "did not answer within 0.3 s" in (await stream.read()).error_message
        await stream.done_writing()
    assert model.closed.is_set()


async def test_requests_of_a_stream_run_beside_each_other_and_answer_in_order(
    way: str, tmp_path: Path
) -> None:
    """As Triton has it for models with one response: what is done early waits for its turn."""
    model = Gate()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for number in (1, 2, 3):
            await stream.write(request(data=((number, 0),), id=f"r{number}"))
        await model.has_seen(1, 2, 3)
        model.release(3)
        model.release(2)
        model.release(1)
        answers = [(await stream.read()).infer_response for _ in range(3)]
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
    assert [(a.id, floats(a)[0]) for a in answers] == [("r1", 1), ("r2", 2), ("r3", 3)]


async def test_a_request_that_fails_keeps_its_turn_and_says_which_it_was(
    way: str, tmp_path: Path
) -> None:
    model = Gate()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for number in (1, -2, 3):
            await stream.write(request(data=((number, 0),), id=f"r{number}"))
        model.release(-2, 3)
        await model.has_seen(1, -2, 3)
        model.release(1)
        answers = [await stream.read() for _ in range(3)]
        await stream.done_writing()
    assert [a.infer_response.id for a in answers] == ["r1", "r-2", "r3"]
    assert "ValueError" in answers[1].error_message
    assert not answers[2].error_message


async def test_requests_of_one_sequence_follow_each_other(way: str, tmp_path: Path) -> None:
    model = Gate()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for number, sequence in ((1, 7), (2, 8), (3, 7)):
            asked = request(data=((number, 0),))
            asked.parameters["sequence_id"].int64_param = sequence
            await stream.write(asked)
        await model.has_seen(1, 2)
        assert model.seen == [1, 2]
        model.release(1)
        await model.has_seen(3)
        model.release(2, 3)
        assert [floats((await stream.read()).infer_response)[0] for _ in range(3)] == [1, 2, 3]
        await stream.done_writing()


async def test_what_a_stream_has_under_way_is_bounded(way: str, tmp_path: Path) -> None:
    model = Gate()
    count = AT_ONCE + 8
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for number in range(1, count + 1):
            await stream.write(request(data=((number, 0),)))
        await model.has_seen(*range(1, AT_ONCE + 1))
        # A second stream comes through the same server after all that the first one was let to send.
        other = calls.ModelStreamInfer(timeout=30)
        await other.write(request(data=((1000, 0),)))
        await model.has_seen(1000)
        assert len(model.seen) == AT_ONCE + 1
        model.release(1000, *range(1, count + 1))
        answers = [floats((await stream.read()).infer_response)[0] for _ in range(count)]
        assert answers == list(range(1, count + 1))
        await stream.done_writing()
        await other.done_writing()


async def test_bytes_bound_what_a_stream_has_under_way(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request counts as much as the largest message of the stream until now."""
    monkeypatch.setattr(stream_infer, "AT_ONCE_BYTES", 2 * len(request().SerializeToString()))
    model = Gate()
    async with stub(way, tmp_path, {"m": model}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        for number in (1, 2, 3):
            await stream.write(request(data=((number, 0),)))
        await model.has_seen(1, 2)
        other = calls.ModelStreamInfer(timeout=30)
        await other.write(request(data=((1000, 0),)))
        await model.has_seen(1000)
        assert model.seen == [1, 2, 1000]
        model.release(1, 2, 3, 1000)
        for number in (1, 2, 3):
            assert floats((await stream.read()).infer_response)[0] == number
        await stream.done_writing()
        await other.done_writing()


async def test_a_model_that_yields_holds_up_nobody(way: str, tmp_path: Path) -> None:
    """Its responses go out as they come, between those of the stream's other requests."""
    counting, gate = Counting(), Gate()
    async with stub(way, tmp_path, {"m": counting, "g": gate}) as calls:
        stream = calls.ModelStreamInfer(timeout=30)
        await stream.write(request(data=((-1, 1),), id="endless"))
        assert floats((await stream.read()).infer_response) == [0]
        await stream.write(request("g", data=((5, 0),), id="single"))
        gate.release(5)
        answer = (await stream.read()).infer_response
        assert (answer.id, floats(answer)[0]) == ("single", 5)
        counting.go.set()
        assert (await stream.read()).infer_response.id == "endless"
        stream.cancel()


def _many(port: int) -> list[tuple[str, float]]:
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(lambda result, error: found.put((result, error)))
        for number in range(100):
            tensor = triton.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.array([[number, 0]], np.float32))
            client.async_stream_infer("m", [tensor], request_id=str(number))
        got = [found.get(timeout=20) for _ in range(100)]
        client.stop_stream()
    assert [e for _, e in got] == [None] * 100
    return [(r.get_response().id, floats(r.get_response())[0]) for r, _ in got]


async def test_tritons_client_has_many_requests_of_a_stream_answered_in_order(
    tmp_path: Path,
) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        got = await asyncio.to_thread(_many, front.port)
    assert got == [(str(n), 2.0 * n) for n in range(100)]
