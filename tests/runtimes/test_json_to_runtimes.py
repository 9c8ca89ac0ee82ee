"""JSON bodies through to a model and back: what V1's decoding needs to know of what a model declares."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from penstock.errors import InvalidInput
from penstock.protocols import v1, v2

FRAME = pd.DataFrame(
    {"town": ["Ulm", "Bonn", "Ulm"], "plan": [1, 2, 3], "size": [1.5, 2.5, np.nan]}
)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory, load):
    columns = ColumnTransformer(
        [("t", OneHotEncoder(handle_unknown="ignore"), ["town", "plan"])], remainder="drop"
    )
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, [0, 1, 0])
    path = tmp_path_factory.mktemp("m")
    joblib.dump(model, path / "model.joblib")
    return load("sklearn", path)


def ask(runtime, **payload):
    decoded = v1.decode_arrays(json.dumps(payload).encode(), runtime.inputs)
    return runtime.predict(decoded.named(runtime.inputs), {})["predict"].tolist()


ROWS = [{"town": "Ulm", "plan": 1, "size": 1}, {"size": None, "town": "Bonn", "plan": 2}]


def test_rows_that_are_objects(runtime):
    assert ask(runtime, instances=ROWS) == [0, 1]


def test_rows_that_are_lists_have_the_declared_order(runtime):
    assert ask(runtime, instances=[["Ulm", 1, 1.5], ["Bonn", 2, None]]) == [0, 1]


def test_columns(runtime):
    inputs = {"plan": [1, 2], "town": ["Ulm", "Bonn"], "size": [0, 0]}
    assert ask(runtime, inputs=inputs) == [0, 1]


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([["Ulm", 1]], "a row has 2 values, the model takes 3: 'town', 'plan', 'size'"),
        ([["Ulm", 1, 2, 3]], "a row has 4 values"),
        ([[["Ulm", 1, 2]]], "the model has 3 inputs"),
        (["Ulm"], "the model has 3 inputs"),
        ([{"town": "Ulm", "plan": 1}], "Missing columns: 'size'."),
    ],
)
def test_rows_that_do_not_fit_are_refused(instances, message, runtime):
    with pytest.raises(InvalidInput, match=message):
        ask(runtime, instances=instances)


def test_v2_columns(runtime):
    body = {
        "inputs": [
            {"name": "town", "datatype": "BYTES", "shape": [2, 1], "data": ["Ulm", "Bonn"]},
            {"name": "plan", "datatype": "INT64", "shape": [2], "data": [1, 2]},
            {"name": "size", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]},
        ]
    }
    request = v2.decode_infer(json.dumps(body).encode(), None, "m", "1", runtime.inputs)
    assert runtime.predict(request.inputs, {})["predict"].tolist() == [0, 1]
