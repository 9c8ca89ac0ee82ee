"""LightGBM boosters answer what `Booster.predict` answers."""

from __future__ import annotations

import joblib
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

RNG = np.random.default_rng(4)
X = RNG.random((120, 4))
Y = (X[:, 0] * 3).astype(int)
QUIET = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}

KINDS = {
    "multiclass": ({"objective": "multiclass", "num_class": 3}, Y),
    "binary": ({"objective": "binary"}, (Y > 0).astype(int)),
    "regression": ({"objective": "regression"}, X[:, 0] * 2),
}


def train(kind, names="auto"):
    parameters, y = KINDS[kind]
    data = lgb.Dataset(X, y, feature_name=names, params=QUIET)
    return lgb.train({**parameters, **QUIET}, data, 5)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("named")
    train("multiclass", list("abcd")).save_model(path / "model.txt")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["predict", "margin", "contributions", "leaf"])
def test_answers_are_the_boosters(kind, method, tmp_path, load):
    booster = train(kind)
    booster.save_model(tmp_path / "model.bst")
    runtime = load("lightgbm", tmp_path, method=method)
    keywords = {
        "predict": {},
        "margin": {"raw_score": True},
        "contributions": {"pred_contrib": True},
        "leaf": {"pred_leaf": True},
    }[method]
    for x in (X, X[:1], X.astype(np.float32), np.ones((2, 4), np.int64)):
        want = booster.predict(x, **keywords)
        have = runtime.predict({"x": x}, {})[method]
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)
    datatype = "INT32" if method == "leaf" else "FP64"
    assert runtime.outputs == (TensorSpec(method, datatype, (-1, *want.shape[1:])),)


def test_columns_by_name_in_any_order(named, load):
    runtime = load("lightgbm", named)
    want = runtime.predict({"x": X}, {})["predict"]
    columns = {name: X[:, "abcd".index(name)] for name in "dbca"}
    np.testing.assert_array_equal(runtime.predict(columns, {})["predict"], want)
    assert runtime.inputs == (TensorSpec("input-0", "FP64", (-1, 4)),)


def test_missing_values(named, load):
    x = X[:3].copy()
    x[:, 1] = np.nan
    rows = x.astype(object)
    rows[:, 1] = None
    want = train("multiclass").predict(x)
    for given in (x, rows):
        have = load("lightgbm", named).predict({"": given}, {})["predict"]
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X[:, :3]}, "Expected 4 features, got 3."),
        ({"x": X[0]}, "shape [4]"),
        ({"x": X[:0]}, "no rows"),
        ({"x": np.array([["a"] * 4], dtype=object)}, "has text; the model expects numbers"),
        (dict.fromkeys("abce", X[:, 0]), "Missing columns: 'd'. Unknown columns: 'e'."),
    ],
)
def test_input_that_does_not_fit_is_refused(inputs, message, named, load):
    runtime = load("lightgbm", named)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(inputs, {})
    assert message in e.value.message
    assert runtime.predict({"x": X[:1]}, {})["predict"].shape == (1, 3)


@pytest.mark.parametrize("values", [["u", "v", "w"], [10, 20, 30]])
def test_categories_of_a_data_frame(values, tmp_path, load):
    frame = pd.DataFrame({"a": X[:, 0], "t": pd.Categorical(RNG.choice(values, 120))})
    y = (frame.t == values[0]).astype(int)
    data = lgb.Dataset(frame, y, params=QUIET)
    booster = lgb.train({"objective": "binary", **QUIET, "min_data_per_group": 5}, data, 5)
    booster.save_model(tmp_path / "model.txt")
    runtime = load("lightgbm", tmp_path)
    text = isinstance(values[0], str)
    t = np.array([v.encode() if text else v for v in frame.t], dtype=object if text else None)
    want = booster.predict(frame)
    assert len(set(want)) > 1
    have = runtime.predict({"t": t, "a": X[:, 0]}, {})["predict"]
    np.testing.assert_array_equal(have, want)
    have = runtime.predict({"t": t[3:4], "a": X[3:4, 0]}, {})["predict"]
    np.testing.assert_array_equal(have, want[3:4])
    assert runtime.inputs[1] == TensorSpec("t", "BYTES" if text else "INT64", (-1,), False)
    # A category that training did not have is a missing value, as LightGBM has it.
    new = pd.DataFrame({"a": X[:1, 0], "t": pd.Categorical(["zz" if text else 77])})
    have = runtime.predict({"t": np.array(new.t, dtype=object), "a": X[:1, 0]}, {})["predict"]
    np.testing.assert_array_equal(have, booster.predict(new))
    with pytest.raises(InvalidInput, match="Column 'a' has text"):
        runtime.predict({"t": t[:1], "a": np.array(["x"], dtype=object)}, {})


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_pickled_classifiers_answer_labels(method, tmp_path, load):
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = lgb.LGBMClassifier(n_estimators=4, **QUIET).fit(frame, Y)
    joblib.dump(model, tmp_path / "model.joblib")
    for framework in ("lightgbm", "sklearn"):
        have = load(framework, tmp_path, method=method).predict({"x": X}, {})[method]
        np.testing.assert_array_equal(have, getattr(model, method)(frame))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "model.txt is empty"),
        (lambda data: b"junk", "no LightGBM model"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"tree\nend of trees\n", "model.txt cannot be loaded as a LightGBM model"),
        (lambda data: b"tree\n\nend of trees\n", "model.txt cannot be loaded as a LightGBM model"),
    ],
)
def test_what_cannot_be_loaded_says_why(change, message, named, tmp_path, load):
    (tmp_path / "model.txt").write_bytes(change((named / "model.txt").read_bytes()))
    with pytest.raises(LoadError, match=message) as e:
        load("lightgbm", tmp_path)
    assert "\n" not in str(e.value)
