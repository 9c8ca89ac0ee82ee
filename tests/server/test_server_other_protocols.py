"""Seldon V1, MLflow and TensorFlow Serving on a model process: what their clients send and get back."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from server_client import error_of, serving
from server_models import Doubler, Function

from penstock.runtimes.base import TensorSpec

SELDON = "/api/v1.0/predictions"


class Columns(Function):
    """Takes a table of two named columns, answers their difference."""

    inputs = (TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "FP64", (-1,)))

    def __init__(self) -> None:
        super().__init__(lambda i, _: {"d": i["a"] - i["b"]})


class Loose(Function):
    """Declares nothing; answers its input."""

    def __init__(self) -> None:
        super().__init__(lambda i, _: {"y": next(iter(i.values()))})


# -- Seldon V1


@pytest.mark.parametrize("path", [SELDON, "/api/v0.1/predictions"])
async def test_seldon_ndarray_goes_in_and_out(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        message = {
            "data": {"names": ["p", "q"], "ndarray": [[1, 2], [3, 4]]},
            "meta": {"puid": "seven", "tags": {"who": "me"}},
        }
        answer = await s.client.post(path, json=message)
        assert answer.status_code == 200
        assert answer.headers["seldon-puid"] == "seven"
        assert answer.json() == {
            "data": {"names": ["t:0", "t:1"], "ndarray": [[2, 4], [6, 8]]},
            "meta": {"puid": "seven", "tags": {"who": "me"}, "requestPath": {"m": "penstock"}},
        }


async def test_seldons_request_path_has_the_name_of_the_node(tmp_path: Path) -> None:
    """Which of several predictors answered is told by it."""
    env = {"PREDICTIVE_UNIT_ID": "iris-canary"}
    async with serving(tmp_path, {"m": Doubler}, env=env) as s:
        answer = await s.client.post(SELDON, json={"data": {"ndarray": [[1, 2]]}})
        assert answer.json()["meta"]["requestPath"] == {"iris-canary": "penstock"}


@pytest.mark.parametrize("kind", ["data", "files"])
async def test_seldon_forms_reach_models_of_arrays(tmp_path: Path, kind: str) -> None:
    """Either kind of form, as classes for Seldon's wrapper take them."""
    message = json.dumps({"data": {"ndarray": [[1, 2]]}})
    form: Any = {"data": {"json": message}, "files": {"json": (None, message)}}[kind]
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.post(SELDON, **{kind: form})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["ndarray"] == [[2, 4]]


async def test_seldon_tensor_is_answered_by_a_tensor(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        tensor = {"shape": [2, 2], "values": [1, 2, 3, 4]}
        answer = await s.client.post(SELDON, json={"data": {"tensor": tensor}})
        assert answer.json()["data"]["tensor"] == {"shape": [2, 2], "values": [2, 4, 6, 8]}
        assert len(answer.json()["meta"]["puid"]) == 26


async def test_a_puid_in_the_header_counts(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer = await s.client.post(
            SELDON, json={"data": {"ndarray": [[1, 2]]}}, headers={"seldon-puid": "h"}
        )
        assert answer.json()["meta"]["puid"] == "h"


async def test_seldon_names_order_the_columns_of_a_table(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Columns}) as s:
        message = {"data": {"names": ["b", "a"], "ndarray": [[1, 5], [1, 7]]}}
        answer = await s.client.post(SELDON, json=message)
        assert answer.json()["data"] == {"names": [], "ndarray": [4, 6]}


@pytest.mark.parametrize(
    ("message", "rows"),
    [
        ({"strData": "hello"}, ["hello"]),
        ({"binData": base64.b64encode(b"bytes").decode()}, ["bytes"]),
        ({"jsonData": ["a", "b"]}, ["a", "b"]),
        ({"jsonData": {"instances": ["c"]}}, ["c"]),
    ],
)
async def test_seldons_other_payloads(tmp_path: Path, message: Any, rows: list[str]) -> None:
    async with serving(tmp_path, {"m": Loose}) as s:
        answer = await s.client.post(SELDON, json=message)
        assert answer.json()["data"]["ndarray"] == rows


async def test_several_outputs_are_json_data(tmp_path: Path) -> None:
    both = Function(lambda i, _: {"a": np.array([1.5]), "b": np.array([2])})
    async with serving(tmp_path, {"m": lambda: both}) as s:
        answer = await s.client.post(SELDON, json={"data": {"ndarray": [[1]]}})
        assert answer.json()["jsonData"] == {"a": [1.5], "b": [2]}


#: What is sent, and a word of the message.
BAD_SELDON: list[tuple[bytes, str]] = [
    (b"", "no body"),
    (b"{", "JSON"),
    (b"[]", "no SeldonMessage"),
    (b"{}", "must have one of"),
    (b'{"strData":"a","jsonData":1}', "not strData and jsonData"),
    (b'{"data":[]}', "'data' is no object"),
    (b'{"data":{}}', "must have one of ndarray, tensor"),
    (b'{"data":{"ndarray":[[1,2]],"tensor":{}}}', "must have one of ndarray, tensor"),
    (b'{"data":{"ndarray":1}}', "is no list"),
    (b'{"data":{"ndarray":[]}}', "empty"),
    (b'{"data":{"ndarray":[[1,2],[3]]}}', "ragged"),
    (b'{"data":{"ndarray":[[1,2]],"names":[1]}}', "no list of strings"),
    (b'{"data":{"tftensor":{"dtype":1}}}', "no dimension"),
    (b'{"data":{"tensor":[1,2]}}', "must be an object"),
    (b'{"data":{"tensor":{"shape":[1,3],"values":[1,2]}}}', "has 2 values"),
    (b'{"data":{"tensor":{"shape":[-1,2],"values":[1,2]}}}', "no list of sizes"),
    (b'{"data":{"tensor":{"shape":[1,0],"values":[]}}}', "empty"),
    (b'{"data":{"tensor":{"shape":[1,2],"values":["a","b"]}}}', "no list of numbers"),
    (b'{"binData":"%%"}', "no base64"),
    (b'{"strData":7}', "no string"),
    (b'{"customData":{}}', "not supported"),
    (b'{"data":{"ndarray":[[1,2]]},"meta":7}', "'meta' is no object"),
    (b'{"data":{"ndarray":[[1,2]]},"meta":{"tags":[1]}}', "'meta.tags'"),
    (b'{"data":{"ndarray":[[1,2]]},"meta":{"puid":"a\\r\\nb"}}', "'meta.puid'"),
    (b'{"data":{"ndarray":[[1,2,3]]}}', ""),
]


@pytest.mark.parametrize(("body", "word"), BAD_SELDON)
async def test_what_is_wrong_with_a_seldon_message_is_a_400(
    tmp_path: Path, body: bytes, word: str
) -> None:
    def strict(inputs: Any, parameters: Any) -> Any:
        from penstock.errors import InvalidInput

        (x,) = inputs.values()
        if x.shape[1:] != (2,):
            raise InvalidInput("two columns are expected")
        return {"y": x}

    async with serving(tmp_path, {"m": lambda: Function(strict)}) as s:
        answer = await s.client.post(SELDON, content=body)
        assert answer.status_code == 400, answer.text
        status = answer.json()["status"]
        assert (status["status"], status["code"]) == ("FAILURE", 400)
        assert status["reason"] == "MICROSERVICE_BAD_DATA"
        assert word in status["info"]


async def test_a_models_fault_is_seldons_failure_without_its_traceback(tmp_path: Path) -> None:
    def fails(inputs: Any, parameters: Any) -> Any:
        raise ValueError("secret")

    async with serving(tmp_path, {"m": lambda: Function(fails)}) as s:
        answer = await s.client.post(SELDON, json={"data": {"ndarray": [[1]]}})
        assert answer.status_code == 500
        assert answer.json()["status"]["status"] == "FAILURE"
        assert "Traceback" not in answer.text


async def test_feedback_is_counted_with_its_reward(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        for reward in (1, -0.5):
            body = {"request": {}, "response": {}, "reward": reward}
            answer = await s.client.post("/api/v1.0/feedback", json=body)
            assert (answer.status_code, answer.json()) == (200, {"meta": {}})
        for bad in (b"", b"[]", b'{"reward":"much"}', b'{"truth":1}'):
            assert (await s.client.post("/api/v1.0/feedback", content=bad)).status_code == 400
        text = (await s.client.get("/metrics")).text
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("penstock_feed")]
    assert [value for name, _, value in lines if name.startswith("penstock_feedback_total")] == [
        "2.0"
    ]
    assert [value for name, _, value in lines if name.startswith("penstock_feedback_reward")] == [
        "0.5"
    ]


async def test_a_path_without_a_model_needs_a_process_with_one(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler, "n": Doubler}) as s:
        answer = await s.client.post(SELDON, json={"data": {"ndarray": [[1, 2]]}})
        assert answer.status_code == 400
        assert "has 2 models" in answer.json()["status"]["info"]
        assert (await s.client.get(SELDON)).status_code == 405


# -- MLflow


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["b", "a"], "index": [0, 1], "data": [[1, 5], [1, 7]]}},
        {"dataframe_records": [{"b": 1, "a": 5}, {"b": 1, "a": 7}]},
        {"instances": [{"b": 1, "a": 5}, {"b": 1, "a": 7}]},
        {"inputs": {"b": [1, 1], "a": [5, 7]}},
        {"inputs": {"b": [1, 1], "a": [5, 7]}, "params": {"x": 1}},
    ],
)
async def test_mlflows_json_formats(tmp_path: Path, body: Any) -> None:
    async with serving(tmp_path, {"m": Columns}) as s:
        answer = await s.client.post("/invocations", json=body)
        assert (answer.status_code, answer.json()) == (200, {"predictions": [4, 6]})


async def test_mlflow_takes_csv(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Columns}) as s:
        answer = await s.client.post(
            "/invocations",
            content=b"a,b\n5,1\n7.5,1\n",
            headers={"content-type": "text/csv; charset=utf-8"},
        )
        assert answer.json() == {"predictions": [4, 6.5]}


async def test_a_table_is_a_matrix_where_the_model_takes_one(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        table = {"columns": ["p", "q"], "data": [[1, 2], [3, 4]]}
        answer = await s.client.post("/invocations", json={"dataframe_split": table})
        assert answer.json() == {"predictions": [[2, 4], [6, 8]]}


async def test_parameters_of_an_invocation_reach_the_model(tmp_path: Path) -> None:
    seen: list[Any] = []

    def remember(inputs: Any, parameters: Any) -> Any:
        seen.append(dict(parameters))
        return {"y": next(iter(inputs.values()))}

    async with serving(tmp_path, {"m": lambda: Function(remember)}) as s:
        await s.client.post("/invocations", json={"inputs": [1.0], "params": {"t": 0.5}})
    assert seen[-1] == {"t": 0.5}


#: What is sent as which type, the status, and a word of the message.
BAD_MLFLOW: list[tuple[bytes, str, int, str]] = [
    (b"", "application/json", 400, "no body"),
    (b"{", "application/json", 400, "JSON"),
    (b"[1]", "application/json", 400, "no JSON object"),
    (b"{}", "application/json", 400, "exactly one of"),
    (b'{"instances":[1],"inputs":[1]}', "application/json", 400, "instances, inputs"),
    (b'{"data":[1]}', "application/json", 400, "it has data"),
    (b'{"instances":[1],"params":1}', "application/json", 400, "'params'"),
    (b'{"dataframe_split":[1]}', "application/json", 400, "columns, index and data"),
    (b'{"dataframe_split":{"columns":["a"]}}', "application/json", 400, "list of rows"),
    (b'{"dataframe_split":{"columns":["a"],"data":[[1,2]]}}', "application/json", 400, "row 0"),
    (b'{"dataframe_split":{"columns":["a","a"],"data":[[1,2]]}}', "application/json", 400, "once"),
    (b'{"dataframe_records":{}}', "application/json", 400, "list of objects"),
    (b'{"dataframe_records":[{}]}', "application/json", 400, "no columns"),
    (b"a,b\n", "text/csv", 400, "one row"),
    (b"a,b\n1\n", "text/csv", 400, "line 2"),
    (b"a,a\n1,2\n", "text/csv", 400, "once"),
    (b"\xff\n1\n", "text/csv", 400, "UTF-8"),
    (b'a\n"1\n', "text/csv", 400, "no CSV"),
    (b"x", "application/x-parquet", 415, "application/x-parquet"),
]


@pytest.mark.parametrize(("body", "kind", "status", "word"), BAD_MLFLOW)
async def test_what_is_wrong_with_an_invocation(
    tmp_path: Path, body: bytes, kind: str, status: int, word: str
) -> None:
    async with serving(tmp_path, {"m": Loose}) as s:
        answer = await s.client.post("/invocations", content=body, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
        assert answer.json()["error_code"] == "BAD_REQUEST"
        assert word in answer.json()["message"]


async def test_mlflows_health(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        assert (await s.client.get("/ping")).status_code == 200
        assert (await s.client.get("/health")).status_code == 200
        s.app.draining = True
        assert (await s.client.get("/ping")).status_code == 503
        assert (await s.client.get("/api/v1.0/health/status")).status_code == 503


# -- TensorFlow Serving


async def test_tensorflow_servings_paths_of_versions(tmp_path: Path) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        post, get = s.client.post, s.client.get
        rows = {"instances": [[1, 2]]}
        answer = await post("/v1/models/m/versions/1:predict", json=rows)
        assert answer.json() == {"predictions": [[2, 4]]}
        assert (await post("/v1/models/m/versions/9:predict", json=rows)).status_code == 404
        status = (await get("/v1/models/m/versions/1")).json()["model_version_status"]
        assert status[0]["state"] == "AVAILABLE"
        metadata = (await get("/v1/models/m/metadata")).json()
        assert metadata["model_spec"]["name"] == "m"
        signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert (await get("/v1/models/m/versions/1/metadata")).json() == metadata


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/models/m:classify", 400, "no signature for classify"),
        ("/v1/models/m/versions/1:regress", 400, "no signature for regress"),
        ("/v1/models/m/labels/stable:predict", 404, "label stable"),
        ("/v1/models/x:classify", 404, "does not exist"),
    ],
)
async def test_what_tensorflow_serving_has_and_this_model_has_not(
    tmp_path: Path, path: str, status: int, says: str
) -> None:
    async with serving(tmp_path, {"m": Doubler}) as s:
        answer: httpx.Response = await s.client.post(path, content=json.dumps({"examples": []}))
        assert answer.status_code == status
        assert says in error_of(answer)
