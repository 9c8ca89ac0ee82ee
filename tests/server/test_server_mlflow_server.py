"""MLflow's own scoring server and a model process answer the same requests alike."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from server_client import serving
from starlette.testclient import TestClient

from penstock import runtimes
from penstock.runtimes.base import LoadOptions

# Before MLflow is imported, which would report its use otherwise.
runtimes.prepare_environment(runtimes.find("mlflow"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import scoring_server
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def table(self, context, model_input, params=None):
    """A frame: what each column was, and a number."""
    n = model_input["n"] * (params or {}).get("factor", 1)
    texts = model_input["t"].str.upper()
    return pd.DataFrame({"n": n, "x": model_input["x"], "t": texts, "b": ~model_input["b"]})


def day(self, context, model_input, params=None):
    return [f"{d:%A}" for d in model_input["d"]]


def matrix(self, context, model_input, params=None):
    return np.asarray(model_input).sum(axis=1)


def loose(self, context, model_input, params=None):
    return {"rows": len(model_input), "kind": [type(model_input).__name__]}


def made(predict: Any) -> Any:
    class Model(mlflow.pyfunc.PythonModel):
        pass

    Model.predict = (
        predict  # set here, since MLflow warns of classes whose predict has no type hints
    )
    return Model()


SIGNATURES = {
    "table": ModelSignature(
        Schema(
            [
                ColSpec("long", "n"),
                ColSpec("double", "x"),
                ColSpec("string", "t", required=False),
                ColSpec("boolean", "b"),
            ]
        ),
        None,
        ParamSchema([ParamSpec("factor", "long", 1)]),
    ),
    "day": ModelSignature(Schema([ColSpec("datetime", "d")])),
    "matrix": ModelSignature(Schema([TensorSpec(np.dtype(np.float64), (-1, 3))])),
    "loose": None,
}
MODELS = {"table": table, "day": day, "matrix": matrix, "loose": loose}

SPLIT = {"columns": ["n", "x", "t", "b"], "data": [[1, 0.5, "a", True], [2, 1.5, "b", False]]}
RECORDS = [{"n": 1, "x": 0.5, "t": "a", "b": True}, {"n": 2, "x": 1.5, "t": "b", "b": False}]
COLUMNS = {"n": [1, 2], "x": [0.5, 1.5], "t": ["a", "b"], "b": [True, False]}
CSV = "n,x,t,b\n1,0.5,a,true\n2,1.5,b,false\n"

#: Model, body (text is CSV).
ALIKE: dict[str, tuple[str, Any]] = {
    "split": ("table", {"dataframe_split": SPLIT}),
    "split, with an index": ("table", {"dataframe_split": {**SPLIT, "index": [7, 8]}}),
    "split, another order": (
        "table",
        {"dataframe_split": {"columns": ["b", "n", "t", "x"], "data": [[True, 1, "a", 0.5]]}},
    ),
    "records": ("table", {"dataframe_records": RECORDS}),
    "instances of objects": ("table", {"instances": RECORDS}),
    "inputs by column": ("table", {"inputs": COLUMNS}),
    "params": ("table", {"dataframe_records": RECORDS, "params": {"factor": 3}}),
    "CSV": ("table", CSV),
    "an int for a double": ("table", {"dataframe_records": [{**RECORDS[0], "x": 2}]}),
    "a column too many": ("table", {"dataframe_records": [{**RECORDS[0], "more": 1}]}),
    "a column missing": ("table", {"dataframe_records": [{"x": 1.0, "t": "a", "b": True}]}),
    "an unknown parameter": ("table", {"dataframe_records": RECORDS, "params": {"else": 3}}),
    "a parameter of another type": (
        "table",
        {"dataframe_records": RECORDS, "params": {"factor": "x"}},
    ),
    "params that are no object": ("table", {"dataframe_split": SPLIT, "params": [1]}),
    "dates": ("day", {"dataframe_split": {"columns": ["d"], "data": [["2024-02-29"]]}}),
    "dates with a time": ("day", {"dataframe_records": [{"d": "2024-02-29T10:00:00"}]}),
    "a date that is none": ("day", {"dataframe_records": [{"d": "yesterday"}]}),
    "tensor rows": ("matrix", {"instances": [[1, 2, 3], [4, 5, 6]]}),
    "tensor columns": ("matrix", {"inputs": [[1.0, 2.0, 3.0]]}),
    "a tensor too wide": ("matrix", {"inputs": [[1.0, 2.0, 3.0, 4.0]]}),
    "no signature, a table": ("loose", {"dataframe_split": SPLIT}),
    "no signature, rows": ("loose", {"instances": [[1, 2], [3, 4]]}),
    "no signature, records": ("loose", {"dataframe_records": RECORDS}),
    "no signature, CSV": ("loose", CSV),
    "a missing text": ("table", {"dataframe_records": [{"n": 1, "x": 1.0, "t": None, "b": True}]}),
    "a missing long": ("table", {"dataframe_records": [{**RECORDS[0], "n": None}]}),
    "a ragged tensor": ("matrix", {"inputs": [[1.0, 2.0, 3.0], [1.0]]}),
}

#: MLflow's status, ours, and why.
DIFFERENT: dict[str, tuple[str, Any, int, int]] = {
    # A fraction is never cut off, and text is no number.
    "a double for a long": ("table", {"dataframe_records": [{**RECORDS[0], "n": 1.5}]}, 200, 400),
    "text for a long": ("table", {"dataframe_records": [{**RECORDS[0], "n": "1"}]}, 200, 400),
    # MLflow answers a NaN that is no JSON; here it is null.
    "a missing double": ("table", {"dataframe_records": [{**RECORDS[0], "x": None}]}, 200, 200),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mlflow")
    for name, predict in MODELS.items():
        mlflow.pyfunc.save_model(
            root / name,
            python_model=made(predict),
            signature=SIGNATURES[name],
            pip_requirements=[],
        )
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    clients = {}
    for name, folder in folders.items():
        app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
        clients[name] = TestClient(app, raise_server_exceptions=False)
    return clients


def body_of(body: Any) -> tuple[bytes, dict[str, str]]:
    if isinstance(body, str):
        return body.encode(), {"content-type": "text/csv"}
    return json.dumps(body).encode(), {"content-type": "application/json"}


async def ours(tmp_path: Path, folder: Path, body: Any) -> httpx.Response:
    content, headers = body_of(body)

    def load() -> Any:
        return runtimes.find("mlflow").load(folder, LoadOptions(name="m"))

    async with serving(tmp_path, {"m": load}) as s:
        return await s.client.post("/invocations", content=content, headers=headers)


def ask(client: Any, body: Any) -> Any:
    content, headers = body_of(body)
    return client.post("/invocations", content=content, headers=headers)


@pytest.mark.parametrize("case", ALIKE)
async def test_a_model_process_answers_as_mlflows_server(
    tmp_path: Path, folders: dict[str, Path], theirs: dict[str, Any], case: str
) -> None:
    name, body = ALIKE[case]
    want = ask(theirs[name], body)
    have = await ours(tmp_path, folders[name], body)
    assert have.status_code == want.status_code, have.text
    if want.status_code == 200:
        assert have.json() == want.json()
    else:
        assert have.json()["error_code"] == "BAD_REQUEST"


@pytest.mark.parametrize("case", DIFFERENT)
async def test_what_is_told_apart_on_purpose(
    tmp_path: Path, folders: dict[str, Path], theirs: dict[str, Any], case: str
) -> None:
    name, body, their_status, our_status = DIFFERENT[case]
    assert ask(theirs[name], body).status_code == their_status
    have = await ours(tmp_path, folders[name], body)
    assert have.status_code == our_status
    if our_status == 200:
        assert have.json()["predictions"][0]["x"] is None


async def test_health_and_version_are_mlflows(
    tmp_path: Path, folders: dict[str, Path], theirs: dict[str, Any]
) -> None:
    async with serving(
        tmp_path,
        {"m": lambda: runtimes.find("mlflow").load(folders["loose"], LoadOptions(name="m"))},
    ) as s:
        for path in ("/ping", "/health"):
            assert (await s.client.get(path)).status_code == 200
            assert theirs["loose"].get(path).status_code == 200
        answer = await s.client.get("/version")
        assert answer.text == theirs["loose"].get("/version").text == mlflow.__version__


def test_who_may_share_a_call(folders: dict[str, Path]) -> None:
    """A class of the user's own is asked for one request at a time, unless an option says otherwise."""
    load = runtimes.find("mlflow").load
    assert load(folders["table"], LoadOptions(name="m")).batchable is False
    shared = load(folders["table"], LoadOptions(name="m", options={"batchable": True}))
    assert shared.batchable is True
