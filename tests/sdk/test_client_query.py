"""Asking many models from Python: what is sent, and what is made of the answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from penstock.errors import InvalidInput, ModelError
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


@pytest.mark.parametrize(
    "given",
    [
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


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"results":[{}]}', b'{"results":1}'])
def test_an_answer_that_is_none_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(ModelError):
        query_results(body)
