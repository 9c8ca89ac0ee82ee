"""TensorFlow Serving's REST API on a model that has signatures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import error_of, serving
from server_models import Doubler, Function

from penstock.runtimes.base import Arrays, Signature, TensorSpec

X = (TensorSpec("x", "FP32", (-1, 2)),)
EXAMPLES = (TensorSpec("inputs", "BYTES", (-1,)),)


class Signed(Function):
    """Doubles; under other signatures sums two columns, answers images, classifies and regresses."""

    inputs = X
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.seen: list[Any] = []
        self.signatures: Mapping[str, Signature] = {
            s.name: s
            for s in (
                Signature("serving_default", X, self.outputs),
                Signature(
                    "sum",
                    (TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "INT32", (-1,))),
                    (TensorSpec("s", "INT32", (-1,)), TensorSpec("d", "INT32", (-1,))),
                ),
                Signature("image", EXAMPLES, (TensorSpec("image_bytes", "BYTES", (-1,)),)),
                Signature("classes", EXAMPLES, (), "classify"),
                Signature("scores", EXAMPLES, (), "classify"),
                Signature("odd", EXAMPLES, (), "classify"),
                Signature("values", EXAMPLES, (), "regress"),
            )
        }

    def _answer(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        self.seen.append(dict(parameters))
        name = parameters.get("signature_name")
        if name == "sum":
            return {"s": inputs["a"] + inputs["b"], "d": inputs["a"] - inputs["b"]}
        if name in ("classes", "scores", "odd", "values", "image"):
            rows = len(inputs["inputs"])
            if name == "image":
                return {"image_bytes": inputs["inputs"]}
            if name == "values":
                return {"outputs": np.full((rows, 1), 0.5, np.float32)}
            scores = np.tile(np.array([[0.25, 0.75]], np.float32), (rows, 1))
            if name == "scores":
                return {"scores": scores}
            labels = np.empty((rows, 2 if name == "classes" else 3), object)
            labels[:] = b"a"
            return {"classes": labels, "scores": scores}
        return {"y": inputs["x"] * 2}


ROWS = {"instances": [[1, 2]]}


async def test_rows_are_answered_by_rows_and_columns_by_columns(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Signed}) as s:
        post = s.client.post
        answer = await post("/v1/models/m:predict", json=ROWS)
        assert answer.json() == {"predictions": [[2, 4]]}
        answer = await post("/v1/models/m:predict", json={"inputs": [[1, 2]]})
        assert answer.json() == {"outputs": [[2, 4]]}
        named = {"inputs": {"x": [[1, 2]]}, "signature_name": "serving_default"}
        answer = await post("/v1/models/m/versions/1:predict", json=named)
        assert answer.json() == {"outputs": [[2, 4]]}
        runtime: Any = s.repository.get("m").runtime
        assert all(not seen for seen in runtime.seen)  # one batch for all of them


async def test_a_request_names_its_signature(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Signed}) as s:
        body = {"signature_name": "sum", "instances": [{"a": 5, "b": 3}, {"a": 1, "b": 1}]}
        answer = await s.client.post("/v1/models/m:predict", json=body)
        assert answer.json() == {"predictions": [{"s": 8, "d": 2}, {"s": 2, "d": 0}]}
        columns = {"signature_name": "sum", "inputs": {"a": [5, 1], "b": [3, 1]}}
        answer = await s.client.post("/v1/models/m:predict", json=columns)
        assert answer.json() == {"outputs": {"s": [8, 2], "d": [2, 0]}}


async def test_outputs_whose_names_end_in_bytes_are_base64(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Signed}) as s:
        body = {"signature_name": "image", "instances": [{"b64": "aGk="}, "text"]}
        answer = await s.client.post("/v1/models/m:predict", json=body)
        assert answer.json() == {"predictions": [{"b64": "aGk="}, {"b64": "dGV4dA=="}]}


@pytest.mark.parametrize(
    ("verb", "signature", "results"),
    [
        ("classify", "classes", [[["a", 0.25], ["a", 0.75]]] * 2),
        ("classify", "scores", [[["", 0.25], ["", 0.75]]] * 2),
        ("regress", "values", [0.5, 0.5]),
    ],
)
async def test_examples_are_classified_and_regressed(
    tmp_path: Path, verb: str, signature: str, results: Any
) -> None:
    async with serving(tmp_path, {"m": Signed}) as s:
        body = {"signature_name": signature, "examples": [{"f": 1}, {"f": 2.5}]}
        for version in ("", "/versions/1"):
            answer = await s.client.post(f"/v1/models/m{version}:{verb}", json=body)
            assert answer.json() == {"results": results}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("m:predict", {"signature_name": "nope", "instances": [1]}, 400, "no such signature"),
        ("m:predict", {"signature_name": 3, "instances": [1]}, 400, "no such signature"),
        ("m:predict", [1], 400, "a JSON object with 'instances'"),
        ("m:classify", {"examples": [{"f": 1}]}, 400, "serving_default of model m is not for"),
        ("m:classify", {"signature_name": "values", "examples": [{}]}, 400, "classes, scores, odd"),
        ("m:classify", {"examples": []}, 400, "'examples' is no list of objects"),
        ("m:classify", {"instances": [1]}, 400, "'examples' is no list of objects"),
        ("m:classify", {"examples": [1]}, 400, "example 0 is no object"),
        ("m:classify", {"examples": [{"f": True}]}, 400, "example 0: feature 'f' has values"),
        ("m:classify", {"examples": [{"f": ["a", 1]}]}, 400, "of several kinds"),
        ("m:classify", {"examples": [{"f": [[1]]}]}, 400, "feature 'f' has values"),
        ("m:classify", {"examples": [{"f": 2**63}]}, 400, "too large for 64 bits"),
        ("m:classify", {"examples": [{"f": 1e39}]}, 400, "too large for 32 bits"),
        ("m:classify", {"examples": [{"f": {"b64": "?"}}]}, 400, "no base64"),
        ("m:classify", {"examples": [{"f": {"x": 1}}]}, 400, "has an object"),
        ("m:classify", {"examples": [{}], "context": 1}, 400, "'context' is no object"),
        ("m:classify", {"examples": [{}], "inputs": 1}, 400, "'inputs', which is unknown"),
        (
            "m:classify",
            {"signature_name": "odd", "examples": [{}]},
            500,
            "more classes than scores",
        ),
        ("m/versions/9:regress", {"examples": [{}]}, 404, "version"),
        ("d:regress", {"examples": [{}]}, 400, "no signature for regress"),
        ("x:regress", {"examples": [{}]}, 404, "does not exist"),
        ("m/labels/stable:predict", ROWS, 404, "label stable. It has no labels"),
    ],
)
async def test_what_is_wrong_is_said(
    tmp_path: Path, path: str, body: Any, status: int, says: str
) -> None:
    async with serving(tmp_path, {"m": Signed, "d": Doubler}) as s:
        answer = await s.client.post(f"/v1/models/{path}", json=body)
        assert answer.status_code == status, answer.text
        assert says in error_of(answer)


async def test_metadata_has_every_signature(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Signed}) as s:
        found = (await s.client.get("/v1/models/m/metadata")).json()
        signatures = found["metadata"]["signature_def"]["signature_def"]
        assert set(signatures) == set(Signed().signatures)
        assert signatures["classes"]["method_name"] == "tensorflow/serving/classify"
        assert signatures["sum"]["inputs"]["a"]["dtype"] == "DT_INT32"


async def test_columns_without_signatures_are_answered_as_kserve_does(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.post("/v1/models/m:predict", json={"inputs": [[1, 2]]})
        assert answer.json() == {"predictions": [[2, 4]]}
