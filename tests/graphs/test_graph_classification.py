"""Top classes of a graph's output: the graph's own, not its steps'."""

from __future__ import annotations

import json
from typing import Any

import pytest
from graph_services import GraphFrontUnderTest, add
from graph_stand_in import graph, step

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


async def test_what_is_no_count_is_refused_by_the_graph(front: GraphFrontUnderTest) -> None:
    await front.serve(a=add(1))
    front.graph(graph(step("a")))
    wrong = json.loads(json.dumps(BODY).replace("2}", '"two"}'))
    answer = await front.client.post("/v2/models/g/infer", json=wrong)
    assert answer.status_code == 400
    assert "number of classes" in answer.text
