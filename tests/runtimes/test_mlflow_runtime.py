"""MLflow models of any flavour answer what `mlflow.pyfunc` answers."""

from __future__ import annotations

import datetime
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.errors import InvalidInput, LoadError
from penstock.protocols import v1
from penstock.runtimes.base import TensorSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints
    import mlflow
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")

X, Y = load_iris(return_X_y=True, as_frame=True)
X.columns = ["sepal length", "sepal width", "petal length", "petal width"]
MODEL = LogisticRegression(max_iter=500).fit(X, Y)


def save(save_model, path, model=None, **keywords):
    if path.exists():
        shutil.rmtree(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(path=str(path), pip_requirements=[], **keywords)
    return path


def python_model(path, predict, **keywords):
    class Model(mlflow.pyfunc.PythonModel):
        pass

    Model.predict = predict
    return save(mlflow.pyfunc.save_model, path, python_model=Model(), **keywords)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return save(
        mlflow.sklearn.save_model,
        tmp_path_factory.mktemp("mlflow") / "frame",
        sk_model=MODEL,
        signature=infer_signature(X, MODEL.predict(X)),
    )


COLUMNS = {name: X[name].to_numpy() for name in reversed(X.columns)}


def test_named_columns(frame, load):
    runtime = load("mlflow", frame)
    assert runtime.inputs[0] == TensorSpec("sepal length", "FP64", (-1,))
    assert runtime.outputs == (TensorSpec("predict", "INT64", (-1,)),)
    have = runtime.predict(COLUMNS, {})["predict"]
    assert have.tolist() == MODEL.predict(X).tolist()
    single = {n: c.astype(np.float32).reshape(-1, 1) for n, c in COLUMNS.items()}
    assert runtime.predict(single, {})["predict"].shape == (150,)
    whole = {n: np.ones(2, np.int64) for n in COLUMNS}
    assert runtime.predict(whole, {})["predict"].shape == (2,)
    assert runtime.predict({"": X.to_numpy()}, {})["predict"].tolist() == have.tolist()


def test_columns_that_the_model_does_not_name_are_dropped(frame, load):
    have = load("mlflow", frame).predict({**COLUMNS, "colour": np.array(["b"] * 150)}, {})
    assert have["predict"].shape == (150,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("petal width"), "Missing columns: 'petal width'."),
        (lambda c: c.update(x=c.pop("petal width")), "Unknown columns: 'x'."),
        (lambda c: c.update({"petal width": np.ones(3)}), "differ in their number of rows"),
        (lambda c: c.update({"petal width": np.ones((150, 2))}), "has shape [150, 2]"),
        (
            lambda c: c.update({"petal width": np.array(["secret"] * 150, dtype=object)}),
            "has text; the model expects numbers",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(change, message, frame, load):
    runtime = load("mlflow", frame)
    columns = dict(COLUMNS)
    change(columns)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(columns, {})
    assert message in e.value.message
    assert "secret" not in e.value.message
    assert runtime.predict(COLUMNS, {})["predict"].shape == (150,)


def test_a_refusal_by_the_flavour_repeats_no_data(frame, load):
    runtime = load("mlflow", frame)
    with pytest.raises(
        InvalidInput, match="The model refused the input: ValueError: Input X contains"
    ):
        runtime.predict({n: np.full(1, np.nan) for n in COLUMNS}, {})


def test_tensor_signatures(tmp_path, load):
    x = X.to_numpy()
    model = LogisticRegression(max_iter=500).fit(x, Y)
    signature = infer_signature(x, model.predict(x))
    path = save(mlflow.sklearn.save_model, tmp_path / "m", sk_model=model, signature=signature)
    runtime = load("mlflow", path)
    assert runtime.inputs == (TensorSpec("input-0", "FP64", (-1, 4)),)
    assert runtime.example()["input-0"].shape == (1, 4)
    assert runtime.predict({"x": x}, {})["predict"].tolist() == model.predict(x).tolist()
    with pytest.raises(InvalidInput, match=r"shape \[150, 3\]; the model expects \[-1, 4\]"):
        runtime.predict({"x": x[:, :3]}, {})


def test_named_tensors(tmp_path, load):
    def predict(self, context, model_input, params=None):
        return {"sum": model_input["a"] + model_input["b"], "first": model_input["a"]}

    tensors = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32)}
    path = python_model(tmp_path / "m", predict, signature=infer_signature(tensors))
    runtime = load("mlflow", path)
    have = runtime.predict({n: a.astype(np.float64) for n, a in tensors.items()}, {})
    assert have["sum"].tolist() == (tensors["a"] * 2).tolist()
    with pytest.raises(InvalidInput, match="Missing inputs: 'b'"):
        runtime.predict({"a": tensors["a"]}, {})


def test_a_model_without_a_signature(tmp_path, load):
    x = X.to_numpy()
    model = LogisticRegression(max_iter=500).fit(x, Y)
    path = save(mlflow.sklearn.save_model, tmp_path / "m", sk_model=model)
    runtime = load("mlflow", path)
    assert runtime.inputs == ()
    assert runtime.example() is None
    assert runtime.predict({"input-0": x}, {})["predict"].tolist() == model.predict(x).tolist()


def test_the_saved_example_is_what_is_probed(tmp_path, load):
    path = save(
        mlflow.sklearn.save_model, tmp_path / "m", sk_model=MODEL, input_example=X.iloc[50:53]
    )
    runtime = load("mlflow", path)
    assert [a.tolist() for a in runtime.example().values()] == [[v] for v in X.iloc[50]]
    assert runtime.predict(runtime.example(), {})["predict"].tolist() == [1]


def test_data_frames_as_answers_and_parameters(tmp_path, load):
    def predict(self, context, model_input, params=None):
        times = (params or {"times": 1})["times"]
        return pd.DataFrame({"text": model_input["q"] * times, "size": model_input["q"].str.len()})

    signature = infer_signature(
        pd.DataFrame({"q": ["a"]}), pd.DataFrame({"text": ["a"], "size": [1]}), {"times": 1}
    )
    runtime = load("mlflow", python_model(tmp_path / "m", predict, signature=signature))
    q = np.array([b"ab", "ö"], dtype=object)
    have = runtime.predict({"q": q}, {"times": 2, "unknown": 1})
    assert have["text"].tolist() == ["abab", "öö"]
    assert have["size"].tolist() == [2, 1]
    assert [s.datatype for s in runtime.outputs] == ["BYTES", "INT64"]
    nested = runtime.predict({"q": q}, {"params": {"times": 3}})
    assert nested["text"].tolist() == ["ababab", "ööö"]
    with pytest.raises(InvalidInput, match="Invalid parameters"):
        runtime.predict({"q": q}, {"times": "many"})


def test_a_refusal_by_mlflow_itself_repeats_no_data(tmp_path, load):
    def predict(self, context, model_input, params=None):
        raise mlflow.exceptions.MlflowException(
            "Failed to enforce schema of data '   q\n0  secret' with schema 'q'. Error: No column\n 'p'.",
            error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE,
        )

    signature = ModelSignature(inputs=Schema([ColSpec("string", "q")]))
    runtime = load("mlflow", python_model(tmp_path / "m", predict, signature=signature))
    with pytest.raises(InvalidInput) as e:
        runtime.predict({"q": np.array(["a"], dtype=object)}, {})
    assert e.value.message == "The model refused the input: No column 'p'."


def test_objects_as_answers(tmp_path, load):
    def predict(self, context, model_input, params=None):
        return [{"label": v, "scores": [0.5, 1]} for v in model_input["q"]]

    signature = ModelSignature(inputs=Schema([ColSpec("string", "q")]))
    runtime = load("mlflow", python_model(tmp_path / "m", predict, signature=signature))
    have = runtime.predict({"q": np.array(["a", "b"], dtype=object)}, {})["predict"]
    assert have.tolist() == [
        {"label": "a", "scores": [0.5, 1]},
        {"label": "b", "scores": [0.5, 1]},
    ]
    answer = json.loads(v1.encode_predictions({"predict": have}))
    assert answer["predictions"][0] == {"label": "a", "scores": [0.5, 1]}


def test_type_hints(tmp_path, load):
    # MLflow resolves the hint at definition, so the class is written out.
    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[str]) -> list[str]:
            return [v.upper() for v in model_input]

    Model.predict.__annotations__ = {"model_input": list[str], "return": list[str]}
    path = save(mlflow.pyfunc.save_model, tmp_path / "m", python_model=Model())
    runtime = load("mlflow", path)
    have = runtime.predict({"": np.array(["a", "ö"], dtype=object)}, {})["predict"]
    assert have.tolist() == ["A", "Ö"]


def test_dates_optional_columns_and_nested_values(tmp_path, load):
    def predict(self, context, model_input, params=None):
        days = model_input["day"].dt.day if "day" in model_input else pd.Series([0])
        return (days + model_input["values"].map(sum)).tolist()

    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec("datetime", "day", required=False),
                ColSpec(Array(DataType.double), "values"),
            ]
        )
    )
    runtime = load("mlflow", python_model(tmp_path / "m", predict, signature=signature))
    day = np.array([datetime.date(2026, 11, 21).isoformat()], dtype=object)
    nested = np.array(["[1.0, 2.0]"], dtype=object)
    assert runtime.predict({"day": day, "values": nested}, {})["predict"].tolist() == [24.0]
    assert runtime.predict({"values": np.array([[1.0, 2.0]])}, {})["predict"].tolist() == [3.0]
    with pytest.raises(InvalidInput, match="Column 'day' has values that are no dates"):
        runtime.predict({"day": np.array(["yesterday"], dtype=object), "values": nested}, {})
    with pytest.raises(InvalidInput, match="Column 'values' has text that is no JSON"):
        runtime.predict({"values": np.array(["[1"], dtype=object)}, {})


def test_a_fault_of_the_users_code_is_no_invalid_input(tmp_path, load):
    def predict(self, context, model_input, params=None):
        raise ValueError("a bug of the user's")

    signature = infer_signature(pd.DataFrame({"q": ["a"]}))
    runtime = load("mlflow", python_model(tmp_path / "m", predict, signature=signature))
    assert runtime.example() is None  # made up, so that its failing proves nothing
    with pytest.raises(ValueError, match="a bug of the user's"):
        runtime.predict({"q": np.array(["a"], dtype=object)}, {})


def test_what_cannot_be_loaded_says_why_in_one_line(frame, tmp_path, load):
    with pytest.raises(LoadError, match="There is no file MLmodel in"):
        load("mlflow", tmp_path)
    with pytest.raises(LoadError, match="There is no MLflow model at"):
        load("mlflow", tmp_path / "none")
    (tmp_path / "MLmodel").write_text("junk: [")
    with pytest.raises(LoadError, match="MLmodel cannot be loaded as an MLflow model") as e:
        load("mlflow", tmp_path)
    assert "\n" not in str(e.value)
    shutil.copytree(frame, tmp_path / "m")
    (tmp_path / "m" / "model.skops").write_bytes(b"junk")
    with pytest.raises(LoadError, match="MLmodel cannot be loaded as an MLflow model"):
        load("mlflow", tmp_path / "m")
    text = (frame / "MLmodel").read_text().replace("mlflow.sklearn", "no_such_flavour")
    (tmp_path / "m" / "MLmodel").write_text(text)
    with pytest.raises(LoadError, match="needs the Python package 'no_such_flavour'"):
        load("mlflow", tmp_path / "m")
