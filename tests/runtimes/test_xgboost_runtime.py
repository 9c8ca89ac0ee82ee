"""XGBoost boosters answer what `Booster.predict` answers."""

from __future__ import annotations

import joblib
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

RNG = np.random.default_rng(3)
X = RNG.random((80, 4)).astype(np.float32)
Y = (X[:, 0] * 3).astype(int)

KINDS = {
    "softprob": ({"objective": "multi:softprob", "num_class": 3}, Y),
    "softmax": ({"objective": "multi:softmax", "num_class": 3}, Y),
    "logistic": ({"objective": "binary:logistic"}, Y > 0),
    "regression": ({"objective": "reg:squarederror"}, X[:, 0] * 2),
    "two targets": ({"objective": "reg:squarederror"}, X[:, :2]),
    "linear": ({"booster": "gblinear", "objective": "reg:squarederror"}, X[:, 0]),
    "dart": ({"booster": "dart", "rate_drop": 0.5, "objective": "reg:squarederror"}, X[:, 0]),
}


def train(kind, names=None):
    parameters, y = KINDS[kind]
    return xgb.train({**parameters, "nthread": 1}, xgb.DMatrix(X, y, feature_names=names), 5)


@pytest.mark.filterwarnings("ignore:.*Saving model in the UBJSON format")
@pytest.mark.parametrize("suffix", [".bst", ".ubj", ".json", ".model"])
@pytest.mark.parametrize("kind", ["softprob", "logistic"])
def test_every_suffix(suffix, kind, tmp_path, load):
    booster = train(kind)
    booster.save_model(tmp_path / f"model{suffix}")
    have = load("xgboost", tmp_path).predict({"x": X}, {})["predict"]
    np.testing.assert_array_equal(have, booster.predict(xgb.DMatrix(X)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["predict", "margin", "contributions", "leaf"])
def test_answers_are_the_boosters(kind, method, tmp_path, load):
    booster = train(kind)
    booster.save_model(tmp_path / "model.ubj")
    if kind == "linear" and method == "leaf":
        with pytest.raises(LoadError, match=r"model.ubj cannot be used .*prediction of leaf"):
            load("xgboost", tmp_path, method=method)
        return
    runtime = load("xgboost", tmp_path, method=method)
    keywords = {
        "predict": {},
        "margin": {"output_margin": True},
        "contributions": {"pred_contribs": True},
        "leaf": {"pred_leaf": True},
    }[method]
    for x in (X, X[:1], X.astype(np.float64), np.ones((2, 4), np.int64), np.ones((1, 4), bool)):
        want = booster.predict(xgb.DMatrix(x), **keywords)
        have = runtime.predict({"x": x}, {})[method]
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)
    assert runtime.outputs == (TensorSpec(method, "FP32", (-1, *want.shape[1:])),)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("named")
    train("softprob", list("abcd")).save_model(path / "model.json")
    return path


def test_columns_by_name_in_any_order(named, load):
    runtime = load("xgboost", named)
    want = runtime.predict({"x": X}, {})["predict"]
    columns = {name: X[:, "abcd".index(name)] for name in "dbca"}
    np.testing.assert_array_equal(runtime.predict(columns, {})["predict"], want)
    assert runtime.inputs == (TensorSpec("input-0", "FP32", (-1, 4)),)
    assert runtime.reentrant


def test_missing_values(named, load):
    runtime = load("xgboost", named)
    booster = train("softprob", list("abcd"))
    x = X[:3].copy()
    x[:, 1] = np.nan
    want = booster.predict(xgb.DMatrix(x, feature_names=list("abcd")))
    np.testing.assert_array_equal(runtime.predict({"x": x}, {})["predict"], want)
    rows = x.astype(object)
    rows[:, 1] = None
    np.testing.assert_array_equal(runtime.predict({"": rows}, {})["predict"], want)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X[:, :3]}, "Expected 4 features, got 3."),
        ({"x": X[0]}, "shape [4]"),
        ({"x": X[:0]}, "no rows"),
        ({"x": np.full((1, 4), np.inf, np.float32)}, "infinity"),
        ({"x": np.full((1, 4), 1e39)}, "too large for FP32"),
        ({"x": np.array([["a"] * 4], dtype=object)}, "has text; the model expects numbers"),
        ({"a": X[:, 0]}, "Missing columns: 'b', 'c', 'd'."),
        (dict.fromkeys("abce", X[:, 0]), "Missing columns: 'd'. Unknown columns: 'e'."),
        ({}, "Missing columns"),
    ],
)
def test_input_that_does_not_fit_is_refused(inputs, message, named, load):
    runtime = load("xgboost", named)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(inputs, {})
    assert message in e.value.message
    assert runtime.predict({"x": X[:1]}, {})["predict"].shape == (1, 3)


@pytest.mark.parametrize("values", [["u", "v", "w"], [10, 20, 30]])
def test_categories_of_a_data_frame(values, tmp_path, load):
    frame = pd.DataFrame({"a": X[:, 0], "t": pd.Categorical(RNG.choice(values, 80))})
    y = (frame.t == values[0]).astype(int)
    booster = xgb.train(
        {"objective": "binary:logistic"}, xgb.DMatrix(frame, y, enable_categorical=True), 5
    )
    booster.save_model(tmp_path / "model.ubj")
    runtime = load("xgboost", tmp_path)
    want = booster.predict(xgb.DMatrix(frame, enable_categorical=True))
    text = isinstance(values[0], str)
    t = np.array([v.encode() if text else v for v in frame.t], dtype=object if text else None)
    have = runtime.predict({"t": t, "a": X[:, 0]}, {})["predict"]
    np.testing.assert_array_equal(have, want)
    # One category alone is still the same category.
    have = runtime.predict({"t": t[3:4], "a": X[3:4, 0]}, {})["predict"]
    np.testing.assert_array_equal(have, want[3:4])
    assert runtime.inputs[1] == TensorSpec("t", "BYTES" if text else "INT64", (-1,), False)
    new = np.array(["zz" if text else 77], dtype=object)
    with pytest.raises(InvalidInput, match="Column 't' has categories that were not in the"):
        runtime.predict({"t": new, "a": X[:1, 0]}, {})
    with pytest.raises(InvalidInput, match="Column 'a' has text"):
        runtime.predict({"t": t[:1], "a": np.array(["x"], dtype=object)}, {})


def test_categories_that_were_trained_as_codes(tmp_path, load):
    x = np.c_[X[:, 0], RNG.integers(0, 3, 80)].astype(np.float32)
    keywords = {"feature_types": ["float", "c"], "enable_categorical": True}
    booster = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(x, Y > 0, **keywords), 5)
    booster.save_model(tmp_path / "model.ubj")
    for method in ("predict", "leaf"):
        want = booster.predict(xgb.DMatrix(x, **keywords), pred_leaf=method == "leaf")
        have = load("xgboost", tmp_path, method=method).predict({"x": x}, {})[method]
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_pickled_classifiers_answer_labels(method, tmp_path, load):
    model = xgb.XGBClassifier(n_estimators=4, n_jobs=1).fit(X, Y)
    joblib.dump(model, tmp_path / "model.joblib")
    for framework in ("xgboost", "sklearn"):
        have = load(framework, tmp_path, method=method).predict({"x": X}, {})[method]
        np.testing.assert_array_equal(have, getattr(model, method)(X))


def test_a_pickled_booster(tmp_path, load):
    joblib.dump(train("softprob"), tmp_path / "model.pkl")
    have = load("xgboost", tmp_path).predict({"x": X}, {})["predict"]
    np.testing.assert_array_equal(have, train("softprob").predict(xgb.DMatrix(X)))


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.bst"])
@pytest.mark.parametrize("data", [b"", b"junk", b"{}", b'{"learner":1}', None])
def test_what_cannot_be_loaded_says_why_in_one_line(name, data, tmp_path, load):
    if data is None:
        train("softprob").save_model(tmp_path / "model.ubj")
        whole = (tmp_path / "model.ubj").read_bytes()
        (tmp_path / "model.ubj").unlink()
        data = whole[: len(whole) // 2]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LoadError, match=f"{name} (cannot be loaded as an XGBoost|is empty)") as e:
        load("xgboost", tmp_path)
    assert "\n" not in str(e.value)
    assert "workspace" not in str(e.value)
