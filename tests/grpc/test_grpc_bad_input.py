"""Malformed calls: a status and a message for each, the next good call is answered, and nothing grows."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import bad_calls
import numpy as np
import pytest
from bad_calls import CALLS, MOST, Bad, framed, message, send
from grpc_peers import gateway, model_process
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from triton_peers import WAYS
from tritonclient.grpc import service_pb2

from penstock.errors import InvalidInput
from penstock.runtimes.base import Arrays, Runtime, TensorSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "grpc-bad-input.md"
#: Statuses that say that the server is at fault.
FAULTS = {"RST_STREAM 2", 2, 13, 14, 15}


class Iris(Runtime):
    """Takes four numbers in a row and answers the first."""

    platform = "test_iris"
    inputs = (TensorSpec("input-0", "FP64", (-1, 4)),)
    outputs = (TensorSpec("predict", "FP64", (-1,)),)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        x = inputs.get("input-0")
        if x is None or x.ndim != 2 or x.shape[1] != 4 or x.dtype != np.float64:
            raise InvalidInput("input 'input-0', FP64 of shape [n, 4], is expected")
        return {"predict": x[:, 0]}

    def example(self) -> Arrays | None:
        return {"input-0": np.ones((1, 4))}


@pytest.fixture(params=WAYS)
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    async with (
        model_process(tmp_path, {"iris": Iris}, max_body_bytes=MOST) as (_, path, own),
        gateway(max_body=MOST) as front,
    ):
        front.route("iris", path)
        yield own if request.param == "process" else front.port


@pytest.mark.parametrize("bad", CALLS, ids=lambda bad: bad.name)
async def test_a_malformed_call_is_answered_and_so_is_the_next_good_one(
    bad: Bad, port: int
) -> None:
    status, said = await send(port, bad.body, bad.headers, bad.method)
    assert status == bad.status, said
    assert re.search(bad.says, said), said
    assert "Traceback" not in said
    assert (await send(port, framed(message())))[0] == 0


def test_the_page_is_the_table() -> None:
    if PAGE.read_text() != bad_calls.page():
        pytest.fail(
            "stale: .venv/bin/python tests/grpc/bad_calls.py > docs/reference/grpc-bad-input.md"
        )


def test_the_caller_is_told_of_the_callers_mistakes() -> None:
    """Where Triton's core says INTERNAL to them, which alarms the wrong people."""
    assert not {bad.status for bad in CALLS} & FAULTS


# -- anything at all: what comes from outside never becomes a fault, and leaves nothing behind


def _changed() -> st.SearchStrategy[bytes]:
    """A good message with some bytes replaced, removed or put in."""
    good = message()

    def change(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(good)
        for at, length, new in edits:
            start = at % (len(data) + 1)
            data[start : start + length] = new
        return bytes(data)

    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 8), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=6).map(change)


def _built() -> st.SearchStrategy[bytes]:
    """Messages that are well-formed protobuf, with odd values in their fields."""

    def build(parts: tuple[Any, ...]) -> bytes:
        name, kind, shape, raw, typed, outputs, flags = parts
        request = service_pb2.ModelInferRequest(model_name="iris")
        tensor = request.inputs.add(name=name, datatype=kind, shape=shape)
        if raw is not None:
            request.raw_input_contents.append(raw)
        tensor.contents.fp64_contents.extend(typed)
        for output in outputs:
            request.outputs.add(name=output)
        for key, value in flags.items():
            request.parameters[key].int64_param = value
            tensor.parameters[key].int64_param = value
        data: bytes = request.SerializeToString()
        return data

    kinds = st.sampled_from(["FP64", "FP32", "BYTES", "BOOL", "BF16", "INT8", "UINT64", "", "x"])
    sizes = st.one_of(st.integers(-2, 6), st.sampled_from([2**31, 2**62, -(2**63)]))
    names = st.one_of(st.sampled_from(["input-0", "predict", ""]), st.text(max_size=5))
    return st.tuples(
        names,
        kinds,
        st.lists(sizes, max_size=5),
        st.one_of(st.none(), st.binary(max_size=64)),
        st.lists(st.floats(), max_size=5),
        st.lists(names, max_size=2),
        st.dictionaries(
            st.sampled_from(
                ["shared_memory_region", "binary_data_size", "classification", "sequence_id", "p"]
            ),
            st.integers(-(2**63), 2**63 - 1),
            max_size=2,
        ),
    ).map(build)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # shrinking would start a thousand servers
)
@given(
    st.lists(
        st.one_of(
            _changed().map(framed),
            _built().map(framed),
            st.binary(max_size=60).map(framed),
            st.binary(max_size=60),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_bytes_are_the_servers_fault(tmp_path_factory: Any, bodies: list[bytes]) -> None:
    async def run() -> None:
        folder = tmp_path_factory.mktemp("f")
        async with (
            model_process(folder, {"iris": Iris}, max_body_bytes=MOST) as (app, path, own),
            gateway(max_body=MOST) as front,
        ):
            front.route("iris", path)
            for port in (own, front.port):
                for body in bodies:
                    status, said = await send(port, body)
                    assert status not in FAULTS, (body, said)
                    assert isinstance(status, int), (body, status)
                assert (await send(port, framed(message())))[0] == 0
            assert not front.gateway.active
            loaded = app.repository.get("iris")
            assert not loaded.calls

    asyncio.run(run())


async def test_malformed_calls_leave_no_memory_behind(port: int) -> None:
    """What is remembered per name, head or shape is bounded: garbage in any of them does not pile up."""

    async def flood(start: int, count: int) -> None:
        for i in range(start, start + count):
            data = message(lambda r, i=i: setattr(r, "model_name", f"nope-{i}"))
            assert (await send(port, framed(data), (("x-odd", str(i)),)))[0] == 5

    await flood(0, 150)
    gc.collect()
    before = len(gc.get_objects())
    await flood(1000, 150)
    gc.collect()
    # Caches of heads and plans fill up to their limits; a call that were kept would leave ten times that.
    assert len(gc.get_objects()) - before < 150 * 60
