"""CatBoost models answer what the classifier or regressor answers."""

from __future__ import annotations

import pickle
import shutil

import catboost
import joblib
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

RNG = np.random.default_rng(5)
X = RNG.random((60, 3)).astype(np.float32)
TOWNS = np.array(["Ulm", "Bonn", "Köln"])
ROWS = [
    [str(t), float(x), i % 3]
    for i, (t, x) in enumerate(zip(RNG.choice(TOWNS, 60), X[:, 0], strict=True))
]
SETTINGS = {"iterations": 5, "verbose": False, "allow_writing_files": False, "thread_count": 1}
LABELS = np.array(["low" if plan == 1 else "high" for _, _, plan in ROWS])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A classifier with a categorical, a float and an integer categorical column."""
    path = tmp_path_factory.mktemp("mixed")
    model = catboost.CatBoostClassifier(**SETTINGS)
    pool = catboost.Pool(ROWS, LABELS, cat_features=[0, 2], feature_names=["town", "size", "plan"])
    model.fit(pool).save_model(str(path / "model.cbm"))
    return path, model


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "raw"])
def test_classifiers(method, mixed, load):
    path, model = mixed
    runtime = load("catboost", path, method=method)
    if method == "raw":
        want = model.predict(ROWS, prediction_type="RawFormulaVal")
    else:
        want = np.asarray(getattr(model, method)(ROWS))
    rows = np.array([[t.encode(), x, i] for t, x, i in ROWS], dtype=object)
    columns = {
        "plan": rows[:, 2].astype(float),  # JSON may make floats of them
        "town": rows[:, 0],
        "size": rows[:, 1].astype(float),
    }
    for inputs in ({"": rows}, columns):
        assert runtime.predict(inputs, {})[method].tolist() == want.tolist()
    assert runtime.inputs == (
        TensorSpec("town", "BYTES", (-1,), strict=False),
        TensorSpec("size", "FP32", (-1,)),
        TensorSpec("plan", "BYTES", (-1,), strict=False),
    )
    if method == "predict":
        assert runtime.outputs == (TensorSpec("predict", "BYTES", (-1,)),)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"town": 1, "size": 1}, "Missing columns: 'plan'."),
        ({"town": 0.5, "size": 1, "plan": 1}, "Column 'town' is categorical: text or whole"),
        ({"town": None, "size": 1, "plan": 1}, "Column 'town' is categorical"),
        ({"town": "Ulm", "size": "big", "plan": 1}, "Input 'size' has text"),
    ],
)
def test_columns_that_do_not_fit_are_refused(inputs, message, mixed, load):
    runtime = load("catboost", mixed[0])
    with pytest.raises(InvalidInput) as e:
        runtime.predict({k: np.array([v], dtype=object) for k, v in inputs.items()}, {})
    assert message in e.value.message
    good = {"town": "Rom", "size": None, "plan": 1}  # a new town and a missing size are fine
    runtime.predict({k: np.array([v], dtype=object) for k, v in good.items()}, {})


def test_a_matrix_of_another_width_is_refused(mixed, load):
    with pytest.raises(InvalidInput, match="Expected 3 features, got 2"):
        load("catboost", mixed[0]).predict({"x": np.array([["a", 1]], dtype=object)}, {})


@pytest.mark.parametrize("loss", ["RMSE", "MultiClass", "Logloss", "Quantile:alpha=0.3"])
@pytest.mark.parametrize("form", ["cbm", "json"])
def test_models_of_numbers_alone(loss, form, tmp_path, load):
    kind = catboost.CatBoostRegressor if loss[0] in "RQ" else catboost.CatBoostClassifier
    y = {"R": X[:, 0], "Q": X[:, 0], "M": (X[:, 0] * 3).astype(int), "L": X[:, 0] > 0.5}[loss[0]]
    model = kind(loss_function=loss, **SETTINGS).fit(X, y)
    model.save_model(str(tmp_path / f"model.{form}"), format=form)
    model = kind().load_model(str(tmp_path / f"model.{form}"), format=form)  # JSON rounds
    runtime = load("catboost", tmp_path)
    want = np.asarray(model.predict(X))
    for x in (X, X.astype(np.float64)):
        assert runtime.predict({"x": x}, {})["predict"].tolist() == want.tolist()
    assert runtime.outputs[0].shape == (-1, *want.shape[1:])
    with pytest.raises(InvalidInput, match="Expected 3 features, got 2"):
        runtime.predict({"x": X[:, :2]}, {})
    with pytest.raises(InvalidInput, match="has text"):
        runtime.predict({"x": np.array([["a", "b", "c"]], dtype=object)}, {})


@pytest.mark.parametrize("suffix", ["pkl", "joblib"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "raw"])
def test_a_pickled_classifier_answers_as_it_did(suffix, method, mixed, tmp_path, load):
    _, model = mixed
    dump = pickle.dump if suffix == "pkl" else joblib.dump
    with (tmp_path / f"model.{suffix}").open("wb") as f:
        dump(model, f)
    runtime = load("catboost", tmp_path, method=method)
    if method == "raw":
        want = model.predict(ROWS, prediction_type="RawFormulaVal")
    else:
        want = getattr(model, method)(ROWS)
    rows = np.array([[t.encode(), x, i] for t, x, i in ROWS], dtype=object)
    assert runtime.predict({"": rows}, {})[method].tolist() == np.asarray(want).tolist()


def test_a_pipeline_that_ends_in_a_model_is_served_as_scikit_learn_serves_it(tmp_path, load):
    pipeline = make_pipeline(StandardScaler(), catboost.CatBoostRegressor(**SETTINGS))
    joblib.dump(pipeline.fit(X, X[:, 0]), tmp_path / "model.joblib")
    runtime = load("catboost", tmp_path)
    assert runtime.predict({"": X}, {})["predict"].tolist() == pipeline.predict(X).tolist()


def test_a_file_of_another_framework_is_recognised(tmp_path, load):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(LoadError, match="no model file") as e:
        load("catboost", tmp_path)
    assert e.value.hint == "These files look like onnx's: that framework may be what is meant."


@pytest.mark.parametrize("inner", ["towns", "a/b/towns"])
def test_a_model_further_down_is_pointed_at(inner, mixed, tmp_path, load):
    """As in an archive that was made of the folder's name, or of its path."""
    (tmp_path / inner).mkdir(parents=True)
    shutil.copy(mixed[0] / "model.cbm", tmp_path / inner)
    with pytest.raises(LoadError, match="no model file") as e:
        load("catboost", tmp_path)
    assert f"There is one in {inner}/" in e.value.hint
    assert f"'{inner}/model.cbm'" in e.value.hint
    assert load("catboost", tmp_path, file=f"{inner}/model.cbm").platform == "catboost_cbm"


def test_a_pickle_of_something_else_or_of_nothing_learned_says_so(tmp_path, load):
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(LoadError, match=r"model\.pkl holds a dict"):
        load("catboost", tmp_path)
    file.write_bytes(pickle.dumps(catboost.CatBoostClassifier()))
    with pytest.raises(LoadError, match=r"CatBoostClassifier in model\.pkl is not fitted"):
        load("catboost", tmp_path)


def test_a_regressor_has_no_probabilities(tmp_path, load):
    catboost.CatBoostRegressor(**SETTINGS).fit(X, X[:, 0]).save_model(str(tmp_path / "model.cbm"))
    with pytest.raises(LoadError, match="no classifier: it has no predict_proba"):
        load("catboost", tmp_path, method="predict_proba")


@pytest.mark.parametrize("data", [b"", b"junk", b"CBM1", None])
def test_what_cannot_be_loaded_says_why(data, mixed, tmp_path, load):
    if data is None:
        whole = (mixed[0] / "model.cbm").read_bytes()
        data = whole[: len(whole) // 2]
    (tmp_path / "model.cbm").write_bytes(data)
    with pytest.raises(
        LoadError, match=r"model\.cbm (cannot be loaded as a CatBoost|is empty)"
    ) as e:
        load("catboost", tmp_path)
    assert "\n" not in str(e.value)
