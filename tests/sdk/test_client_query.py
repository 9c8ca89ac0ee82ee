"""Asking many models from Python: what is sent, and what is made of the answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.infer import InferRequest
from penstock.sdk.client import Client
from penstock.sdk.query import query_body, query_results


def sent(**given: Any) -> Any:
    plain = dict.fromkeys(("models", "selector", "inputs", "instances", "parameters", "timeout_s"))
    return json.loads(query_body(**{**plain, **given}))


def test_arrays_become_tensors_and_rows_stay_rows() -> None:
    assert sent(models=["a", "b"], inputs={"x": np.ones((1, 2))}, timeout_s=2.0) == {
        "models": ["a", "b"],
        "timeout": 2.0,
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 1.0]}],
    }
    assert sent(selector="team=red", instances=np.ones((1, 2)), parameters={"p": 1}) == {
        "selector": "team=red",
        "parameters": {"p": 1},
        "instances": [[1.0, 1.0]],
    }
    assert sent(models="a", instances=[1])["models"] == ["a"]


def test_what_a_request_has_besides_its_tensors_goes_along() -> None:
    """`binary_output` does not: all answers are one JSON document."""
    request = InferRequest(
        {"x": np.ones(1)}, id="mine", parameters={"a": 1, "b": 1}, binary_output=True
    )
    body = sent(models=["m"], inputs=request, parameters={"b": 2}, outputs=["y"])
    assert body["id"] == "mine"
    assert body["parameters"] == {"a": 1, "b": 2}
    assert body["outputs"] == [{"name": "y"}]
    assert sent(models=["m"], inputs=request, id="other")["id"] == "other"


@pytest.mark.parametrize(
    "given",
    [
        {"models": ["a"], "instances": [1], "outputs": ["y"]},
        {"models": ["a"], "instances": [1], "id": "i"},
        {"instances": [1]},
        {"models": ["a"]},
        {"models": ["a"], "selector": "b", "instances": [1]},
        {"models": ["a"], "inputs": {"x": [1]}, "instances": [1]},
        {"models": ["a"], "instances": [object()]},
    ],
)
def test_half_a_question_is_not_sent(given: Any) -> None:
    with pytest.raises(InvalidInput):
        sent(**given)


def test_each_result_has_what_its_model_said() -> None:
    tensor = {"name": "y", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    good, rows, bad = query_results(
        json.dumps(
            {
                "results": [
                    {"model": "a", "status": 200, "outputs": [tensor], "seconds": 0.5, "id": "i"},
                    {"model": "b", "status": 200, "predictions": [1], "arm": "b-00001"},
                    {"model": "c", "status": 404, "error": "no such model", "seconds": 0},
                ]
            }
        ).encode()
    )
    assert good.ok
    assert good.outputs["y"].tolist() == [1, 2]
    assert (good.seconds, good.id) == (0.5, "i")
    assert (rows.predictions, rows.arm, dict(rows.outputs)) == ([1], "b-00001", {})
    assert (bad.ok, bad.error) == (False, "no such model")


def test_one_models_answer_that_cannot_be_read_is_that_models_alone() -> None:
    tensor = {"name": "y", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    results = [
        {"model": "a", "status": 200, "outputs": [{**tensor, "shape": [3]}], "seconds": 0},
        {
            "model": "b",
            "status": 200,
            "outputs": [tensor],
            "revision": "b-00001",
            "route": ":b_1:",
            "trace": {"ms": 1},
        },
        {"model": "c", "status": 200, "answer": {"any": "thing"}},
        {"model": "d", "status": 422, "error": [{"msg": "no"}]},
    ]
    bad, good, other, refused = query_results(json.dumps({"results": results}).encode())
    assert not bad.ok
    assert "y" in bad.error
    assert (good.ok, good.revision, good.route) == (True, "b-00001", ":b_1:")
    assert good.trace == {"ms": 1}
    assert (other.ok, other.answer) == (True, {"any": "thing"})
    assert json.loads(refused.error) == [{"msg": "no"}]


def test_the_answer_is_waited_for_as_long_as_the_models_have() -> None:
    waited: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"results": []})

    with Client("http://x", timeout_s=10) as client:
        client._http = httpx.Client(transport=httpx.MockTransport(answer))
        for timeout_s in (None, 300.0, 1.0):
            client.query(["a"], instances=[1], timeout_s=timeout_s)
    assert waited == [65.0, 305.0, 10.0]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"results":[{}]}', b'{"results":1}'])
def test_an_answer_that_is_none_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(ModelError):
        query_results(body)
