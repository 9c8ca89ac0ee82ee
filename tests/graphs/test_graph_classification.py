"""Top classes of a graph's output: the graph's own, not its steps'."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from graph_services import GraphFrontUnderTest, add
from graph_stand_in import graph, step
from msgspec import structs

from penstock.domain.graph import Batch, Flow, Graph, Inputs, Source
from penstock.protocols.classification import Classes

BODY: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 5, 3]}],
    "outputs": [{"name": "x", "parameters": {"classification": 2}}],
}


@pytest.mark.parametrize("steps", ["a", "ab"])
async def test_a_graphs_output_is_had_as_its_top_classes(
    front: GraphFrontUnderTest, steps: str
) -> None:
    await front.serve(a=add(1), b=add(10))
    front.graph(graph(*(step(n, before) for before, n in zip(("", *steps), steps, strict=False))))
    answer = await front.client.post("/v2/models/g/infer", json=BODY)
    assert answer.status_code == 200, answer.text
    more = 1 if steps == "a" else 11
    (output,) = answer.json()["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["shape"] == [1, 2]
    assert output["data"] == [f"{5 + more}.000000:1", f"{3 + more}.000000:2"]
    for name in steps:
        (exchange,) = front.services[name].seen
        assert b"classification" not in bytes(exchange.body)


@pytest.mark.parametrize("steps", ["a", "ab"])
async def test_names_of_classes_are_those_of_the_model_that_answers(
    front: GraphFrontUnderTest, steps: str
) -> None:
    """And go to nobody else: neither to the next step nor to who asks for no classes."""
    await front.serve(a=add(1), b=add(10))
    for name in steps:
        front.services[name].classes = {"x": Classes((b"no", f"{name}:yes".encode()))}
    front.graph(graph(*(step(n, before) for before, n in zip(("", *steps), steps, strict=False))))
    answer = await front.client.post("/v2/models/g/infer", json=BODY)
    assert answer.status_code == 200, answer.text
    more = 1 if steps == "a" else 11
    (output,) = answer.json()["outputs"]
    assert output["data"] == [f"{5 + more}.000000:1:{steps[-1]}:yes", f"{3 + more}.000000:2"]
    assert "parameters" not in output
    for name in steps:
        (exchange,) = front.services[name].seen
        assert b"yes" not in bytes(exchange.body)
    plain = await front.client.post(
        "/v2/models/g/infer", json={"inputs": BODY["inputs"], "outputs": [{"name": "x"}]}
    )
    assert "yes" not in plain.text
    for name in steps:
        assert front.services[name].seen[1].head.get(b"x-penstock-labels") is None


async def test_names_go_along_where_a_tensor_gets_another_name_and_through_batches(
    front: GraphFrontUnderTest,
) -> None:
    """A request that wants names is in no batch with those that want none."""
    await front.serve(a=add(1), b=lambda arrays: {"other": np.ones((1, 2), np.float32)})
    front.services["a"].classes = {"x": Classes((b"zero", b"one", b"two"))}
    output = Inputs((Source("a", tensor="x", rename="y"), Source("b")))
    first = structs.replace(step("a"), batch=Batch(2, 0.02))
    flow = Flow("main", (first, step("b")), output)
    front.graph(Graph("default", "g", (flow,)))
    wanted = [{"name": "y", "parameters": {"classification": 1}}, {"name": "other"}]
    # The plain one first: it would not have the batch asked for names.
    plain, named = await asyncio.gather(
        front.client.post("/v2/models/g/infer", json={"inputs": BODY["inputs"]}),
        front.client.post("/v2/models/g/infer", json={**BODY, "outputs": wanted}),
    )
    assert (plain.status_code, named.status_code) == (200, 200), named.text
    assert named.json()["outputs"][0]["data"] == ["6.000000:1:one"]
    assert "two" not in plain.text
    assert plain.json()["outputs"][0]["data"] == [2.0, 6.0, 4.0]


async def test_what_is_no_count_is_refused_by_the_graph(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(graph(step("a")))
    wrong = json.loads(json.dumps(BODY).replace("2}", '"two"}'))
    answer = await front.client.post("/v2/models/g/infer", json=wrong)
    assert answer.status_code == 400
    assert "number of classes" in answer.text
