"""Content types on a model process: a table for a pipeline, dates, and answers that say what they are."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_client import error_of, serving
from server_models import Doubler, Function
from tritonclient.grpc import service_pb2

from penstock.domain.declared import Declared, DeclaredTensor
from penstock.runtimes.base import Arrays, TensorSpec


class Matrix(Function):
    """Takes rows of two numbers, answers their sums."""

    inputs = (TensorSpec("input-0", "FP64", (-1, 2)),)

    def __init__(self) -> None:
        super().__init__(lambda i, _: {"y": i["input-0"].sum(axis=1)})


class Dates(Function):
    """Answers the day of each date, and the date after it."""

    def __init__(self) -> None:
        super().__init__(self._days)

    @staticmethod
    def _days(inputs: Arrays, parameters: Any) -> Arrays:
        after = np.empty(len(inputs["d"]), dtype=object)
        after[:] = [d + datetime.timedelta(days=1) for d in inputs["d"].ravel()]
        return {"day": np.array([d.day for d in inputs["d"].ravel()]), "after": after}


def column(name: str, data: list[Any], datatype: str, kind: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}
    if kind:
        made["parameters"] = {"content_type": kind}
    return made


async def test_a_table_is_a_matrix_for_a_model_that_takes_one(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Matrix}) as s:
        body = {
            "parameters": {"content_type": "pd"},
            "inputs": [column("a", [1, 2], "INT32"), column("b", [3, 4.5], "FP64")],
        }
        answer = await s.client.post("/v2/models/m/infer", json=body)
        assert answer.json() == {
            "model_name": "m",
            "model_version": "1",
            "parameters": {"content_type": "pd"},
            "outputs": [{"name": "y", "shape": [2, 1], "datatype": "FP64", "data": [4.0, 6.5]}],
        }
        del body["parameters"]
        answer = await s.client.post("/v2/models/m/infer", json=body)
        assert (
            answer.status_code == 500
        )  # the model's own KeyError: nothing said that it is a table


async def test_dates_go_in_and_out(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Dates}) as s:
        dates = column("d", ["2024-02-28T10:00:00", "2024-02-29"], "BYTES", "datetime")
        answer = await s.client.post("/v2/models/m/infer", json={"inputs": [dates]})
        assert answer.json()["outputs"] == [
            {
                "name": "day",
                "shape": [2, 1],
                "datatype": "INT64",
                "parameters": {"content_type": "np"},
                "data": [28, 29],
            },
            {
                "name": "after",
                "shape": [2, 1],
                "datatype": "BYTES",
                "parameters": {"content_type": "datetime"},
                "data": ["2024-02-29T10:00:00", "2024-03-01T00:00:00"],
            },
        ]
        wrong = column("d", ["tomorrow"], "BYTES", "datetime")
        answer = await s.client.post("/v2/models/m/infer", json={"inputs": [wrong]})
        assert answer.status_code == 400
        assert error_of(answer).startswith("input 'd': element 0 is no ISO date")


async def test_an_output_that_cannot_be_had_as_asked_is_a_400(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        outputs = [{"name": "y", "parameters": {"content_type": "str"}}]
        answer = await s.v2([[1, 2]], outputs=outputs)
        assert answer.status_code == 400
        assert error_of(answer).startswith("output 'y' has datatype FP32, content type str is for")
        answer = await s.v2([[1, 2]], outputs=[{"name": "z"}], parameters={"content_type": "np"})
        assert answer.status_code == 400


async def test_a_folders_content_types_count_where_a_request_says_nothing(tmp_path: Path) -> None:
    declared = Declared(
        (
            DeclaredTensor("a", "FP64", (-1,)),
            DeclaredTensor("b", "FP64", (-1,), content_type="np"),
        ),
        held=False,
        content_type="pd",
    )
    async with serving(tmp_path, {"m": Matrix}, fields={"declared": declared}) as s:
        body = {"inputs": [column("a", [1.0], "FP64"), column("b", [2.0], "FP64")]}
        answer = await s.client.post("/v2/models/m/infer", json=body)
        assert answer.json()["outputs"][0]["data"] == [3.0]
        metadata = (await s.client.get("/v2/models/m")).json()
        assert metadata["parameters"] == {"content_type": "pd"}
        assert [t.get("parameters") for t in metadata["inputs"]] == [None, {"content_type": "np"}]


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
async def test_numbers_need_no_content_type(tmp_path: Path, datatype: str) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.v2([[1, 2]])
        assert "parameters" not in answer.json()["outputs"][0]


async def test_content_types_over_grpc(tmp_path: Path) -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="d", datatype="BYTES", shape=[1])
    tensor.parameters["content_type"].string_param = "datetime"
    tensor.contents.bytes_contents.append(b"2024-02-29")
    body = message.SerializeToString()
    async with serving(tmp_path, {"m": Dates}) as s:
        answer = await s.client.post(
            "/inference.GRPCInferenceService/ModelInfer",
            content=b"\0" + len(body).to_bytes(4, "big") + body,
            headers={"content-type": "application/grpc", "te": "trailers"},
        )
        assert answer.headers["grpc-status"] == "0", answer.headers
        found = service_pb2.ModelInferResponse.FromString(answer.content[5:])
        after = found.outputs[1]
        assert list(after.contents.bytes_contents) == [b"2024-03-01T00:00:00"]
        assert list(after.shape) == [1, 1]
        assert after.parameters["content_type"].string_param == "datetime"
        counted = s.app.metrics.requests("m", "grpc", 200)
        assert counted.value == 1
