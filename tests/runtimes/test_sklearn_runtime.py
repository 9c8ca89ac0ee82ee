"""scikit-learn models answer what the estimator itself answers, and refuse what does not fit them."""

from __future__ import annotations

import logging
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import __version__ as sklearn_version
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC, LinearSVR

from penstock import runtimes
from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

X, Y = load_iris(return_X_y=True)
NAMES = load_iris().target_names
XD, YD = load_diabetes(return_X_y=True)


def save(model, folder, name="model.joblib"):
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / name)
    return folder


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    return save(LogisticRegression(max_iter=500).fit(X, Y), tmp_path_factory.mktemp("iris"))


CLASSIFIERS = [
    LogisticRegression(max_iter=500),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    LinearSVC(),
    SGDClassifier(random_state=1),
    Perceptron(),
    RidgeClassifier(),
    SVC(),
    RandomForestClassifier(5, random_state=0),
    HistGradientBoostingClassifier(max_iter=5),
    KMeans(3, n_init=1, random_state=0),
    IsolationForest(n_estimators=5, random_state=0),
]


@pytest.mark.parametrize("labels", ["integers", "strings", "two"])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda m: type(m).__name__)
def test_labels_are_those_of_the_model(model, labels, tmp_path, load):
    """predict answers the very array of the estimator, with text labels as text."""
    y = {"integers": Y, "strings": NAMES[Y], "two": (Y > 1).astype(np.int32)}[labels]
    model.fit(X, y)
    runtime = load("sklearn", save(model, tmp_path))
    for x in (X, X[:1], X[:3].astype(np.float32), np.ones((2, 4), np.int64), np.ones((2, 4), bool)):
        # KMeans trained on doubles cannot take single floats itself; here it can.
        own = x.astype(float) if isinstance(model, KMeans) and x.dtype == np.float32 else x
        have, want = runtime.predict({"x": x}, {})["predict"], model.predict(own)
        assert have.tolist() == want.tolist()
        assert have.dtype == (object if want.dtype.kind == "U" else want.dtype)
    (out,) = runtime.outputs
    assert out.name == "predict"
    assert out.shape == (-1,)


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        Ridge(),
        Lasso(),
        ElasticNet(),
        SGDRegressor(random_state=0, max_iter=5000),
        LinearSVR(random_state=0, dual=True, max_iter=20000, tol=0.1),
        make_pipeline(StandardScaler(), Ridge()),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("targets", [1, 2])
def test_regressors_answer_the_same_bits(model, targets, tmp_path, load):
    if isinstance(model, (SGDRegressor, LinearSVR)):
        targets = 1  # they take no more
    y = YD if targets == 1 else np.stack([YD, -YD], axis=1)
    runtime = load("sklearn", save(model.fit(XD, y), tmp_path))
    assert runtime._fast is not None
    for x in (XD, XD[:1], XD[:5].astype(np.float32), np.zeros((1, 10), np.int32)):
        have, want = runtime.predict({"x": x}, {})["predict"], model.predict(x)
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", ["predict_proba", "decision_function", "predict_log_proba"])
def test_other_methods(method, classes, tmp_path, load):
    """The option `method` chooses what answers, and its name is the output's name."""
    model = LogisticRegression(max_iter=500).fit(X, np.minimum(Y, classes - 1))
    runtime = load("sklearn", save(model, tmp_path), method=method)
    for x in (X, X[:1].astype(np.float32)):
        want = getattr(model, method)(x)
        have = runtime.predict({"x": x}, {})[method]
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)
    (out,) = runtime.outputs
    assert (out.name, out.datatype) == (method, "FP64")
    assert out.shape == ((-1,) if classes == 2 and method == "decision_function" else (-1, classes))


def test_the_shortcut_is_taken_for_iris_and_not_for_what_it_does_not_know(iris, tmp_path, load):
    assert load("sklearn", iris)._fast is not None

    class Odd(LogisticRegression):
        def decision_function(self, X):
            return -super().decision_function(X)

    globals()["Odd"] = Odd
    Odd.__qualname__ = "Odd"
    model = Odd(max_iter=500).fit(X, Y)
    runtime = load("sklearn", save(model, tmp_path))
    assert runtime._fast is None
    np.testing.assert_array_equal(runtime.predict({"x": X}, {})["predict"], model.predict(X))


def test_the_shortcut_serves_only_the_dtypes_in_which_it_agrees(tmp_path, load, monkeypatch):
    from penstock.runtimes import sklearn_linear

    def double(scaler):
        return lambda x: (x - scaler.mean_) / scaler.scale_

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, Y)
    monkeypatch.setattr(sklearn_linear, "_scale", double)
    fast = sklearn_linear.shortcut(model, "predict")
    assert fast(X[:1]) is not None
    assert fast(X[:1].astype(np.float32)) is None


def test_the_shortcut_is_dropped_when_the_answers_differ(iris, load, monkeypatch):
    """A release of scikit-learn that computed differently would only cost the speed."""
    from penstock.runtimes import sklearn_linear

    model = joblib.load(iris / "model.joblib")
    assert sklearn_linear.shortcut(model, "predict_proba") is not None
    monkeypatch.setattr(
        sklearn_linear, "_softmax", lambda s: np.exp(s) / np.exp(s).sum(1, keepdims=True)
    )
    assert sklearn_linear.shortcut(model, "predict_proba") is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3)), "Expected 4 features, got 3."),
        (np.zeros((1, 5)), "Expected 4 features, got 5."),
        (np.zeros(4), "shape [4]; the model expects rows of 4: [-1, 4]"),
        (np.zeros((1, 2, 4)), "shape [1, 2, 4]"),
        (np.array(1.0), "shape []"),
        (np.zeros((0, 4)), "no rows"),
        (np.array([[1, 2, np.nan, 4]]), "NaN"),
        (np.array([[1, 2, np.inf, 4]]), "infinity"),
        (np.array([["a", 1, 2, 3]], dtype=object), "could not convert string to float"),
        (np.array([[b"\xff", 1, 2, 3]], dtype=object), "no UTF-8"),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_input_that_does_not_fit_is_refused(array, message, scaled, iris, tmp_path, load):
    """A clear sentence, and the next good request is answered."""
    path = iris
    if scaled:
        pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, Y)
        path = save(pipe, tmp_path)
    runtime = load("sklearn", path)
    with pytest.raises(InvalidInput) as e:
        runtime.predict({"x": array}, {})
    assert message in e.value.message
    assert "\n" not in e.value.message
    assert runtime.predict({"x": X[:1]}, {})["predict"].tolist() == [0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no input"),
        ({"a": X, "b": X}, "takes one input, the request has 2: 'a', 'b'"),
    ],
)
def test_other_than_one_input_is_refused(inputs, message, iris, load):
    with pytest.raises(InvalidInput, match=message):
        load("sklearn", iris).predict(inputs, {})


def test_big_endian_and_read_only_matrices(iris, load):
    runtime = load("sklearn", iris)
    x = np.frombuffer(X.astype(">f8").tobytes(), ">f8").reshape(-1, 4)
    assert runtime.predict({"x": x}, {})["predict"].shape == (150,)


def test_numbers_in_an_object_array(iris, load):
    x = np.array([[5.1, 3.5, 1, 0.2]], dtype=object)
    assert load("sklearn", iris).predict({"": x}, {})["predict"].tolist() == [0]


def test_a_null_reaches_a_model_that_can_take_it_and_is_refused_by_another(iris, tmp_path, load):
    x = np.array([[5.1, 3.5, None, 0.2]], dtype=object)
    model = HistGradientBoostingClassifier(max_iter=5).fit(X, Y)
    runtime = load("sklearn", save(model, tmp_path))
    nan = np.array([[5.1, 3.5, np.nan, 0.2]])
    assert runtime.predict({"": x}, {})["predict"].tolist() == model.predict(nan).tolist()
    with pytest.raises(InvalidInput, match="NaN"):
        load("sklearn", iris).predict({"": x}, {})


def test_metadata_and_example(iris, load):
    runtime = load("sklearn", iris)
    assert runtime.platform == "sklearn_joblib"
    assert runtime.inputs == (TensorSpec("input-0", "FP64", (-1, 4)),)
    assert runtime.outputs == (TensorSpec("predict", "INT64", (-1,)),)
    assert runtime.batchable
    assert runtime.example()["input-0"].shape == (1, 4)


FRAME = pd.DataFrame(
    {
        "age": [20.0, 30.0, np.nan, 55.0, 41.0, 33.0],
        "town": ["Ulm", "Bonn", "Ulm", "Köln", "Bonn", "Ulm"],
        "rooms": [1, 2, 3, 4, 2, 1],
    }
)
TARGET = np.array([0, 1, 0, 1, 1, 0])


def frame_model():
    columns = ColumnTransformer(
        [
            ("town", OneHotEncoder(), ["town"]),
            ("age", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        ],
        remainder="passthrough",
    )
    return Pipeline([("columns", columns), ("model", LogisticRegression())]).fit(FRAME, TARGET)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return save(frame_model(), tmp_path_factory.mktemp("frame"))


def as_columns(frame, shape=(-1,), encode=False):
    out = {}
    for name in ("rooms", "town", "age"):  # another order than in training
        values = frame[name].to_numpy()
        if name == "town":
            values = np.array([t.encode() if encode else t for t in values], dtype=object)
        out[name] = values.reshape(shape)
    return out


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("encode", [False, True])
def test_named_columns_become_a_frame(frame, shape, encode, load):
    """In the model's order, whatever the request's; bytes are text, a column may be [n] or [n, 1]."""
    runtime = load("sklearn", frame, method="predict_proba")
    have = runtime.predict(as_columns(FRAME, shape, encode), {})["predict_proba"]
    np.testing.assert_array_equal(have, frame_model().predict_proba(FRAME))


def test_one_matrix_gets_the_names(frame, load):
    """Rows of mixed values, as V1 sends them: each column gets the dtype its values have."""
    runtime = load("sklearn", frame)
    rows = np.array(FRAME.to_numpy(dtype=object))
    rows[2, 0] = None
    assert (
        runtime.predict({"": rows}, {})["predict"].tolist() == frame_model().predict(FRAME).tolist()
    )


def test_frame_metadata_and_example(frame, load):
    runtime = load("sklearn", frame)
    assert runtime.inputs == (
        TensorSpec("age", "FP64", (-1,), strict=False),
        TensorSpec("town", "BYTES", (-1,), strict=False),
        TensorSpec("rooms", "FP64", (-1,), strict=False),
    )
    assert runtime.outputs == (TensorSpec("predict", "INT64", (-1,)),)
    assert runtime.example()["town"].tolist() == ["Bonn"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("town"), "Missing columns: 'town'."),
        (lambda c: c.update(city=c.pop("town")), "Unknown columns: 'city'."),
        (lambda c: c.update(rooms=np.ones(2)), "Column 'rooms' has 2 rows, column 'age' has 6."),
        (lambda c: c.update(rooms=np.ones((6, 2))), "Column 'rooms' has shape [6, 2]"),
        (lambda c: c.update(town=np.array(["Rom"] * 6, dtype=object)), "unknown categories"),
        (lambda c: c.update(town=np.array([b"\xff"] * 6, dtype=object)), "no UTF-8"),
        (lambda c: c.update({k: v[:0] for k, v in c.items()}), "no rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(frame, change, message, load):
    runtime = load("sklearn", frame)
    columns = as_columns(FRAME)
    change(columns)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(columns, {})
    assert message in e.value.message
    assert runtime.predict(as_columns(FRAME), {})["predict"].shape == (6,)


def test_a_matrix_of_another_width_is_refused_by_a_frame_model(frame, load):
    with pytest.raises(InvalidInput, match="Expected 3 features, got 2"):
        load("sklearn", frame).predict({"x": np.ones((1, 2))}, {})


def test_a_plain_estimator_trained_on_a_frame(tmp_path, load):
    """Takes a matrix or columns, without scikit-learn's warning about missing names."""
    data = pd.DataFrame(X, columns=list("abcd"))
    for model in (LogisticRegression(max_iter=500), RandomForestClassifier(3, random_state=0)):
        runtime = load("sklearn", save(model.fit(data, Y), tmp_path / type(model).__name__))
        want = model.predict(data).tolist()
        assert runtime.predict({"x": X}, {})["predict"].tolist() == want
        columns = {name: X[:, i] for i, name in enumerate("abcd")}
        assert runtime.predict(columns, {})["predict"].tolist() == want


def test_one_column_frames(tmp_path, load):
    data = pd.DataFrame({"a": XD[:, 0]})
    runtime = load("sklearn", save(LinearRegression().fit(data, YD), tmp_path))
    want = LinearRegression().fit(data, YD).predict(data)
    for inputs in ({"a": XD[:, 0]}, {"a": XD[:, :1]}, {"x": XD[:, :1]}):
        np.testing.assert_array_equal(runtime.predict(inputs, {})["predict"], want)
    with pytest.raises(InvalidInput, match="Unknown columns: 'b'"):
        runtime.predict({"b": XD[:, 0]}, {})


TEXTS = ["good film", "bad film", "very good", "very bad"]


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(TEXTS, ["+", "-", "+", "-"])
    return save(model, tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_text_pipelines(sentiment, shape, load):
    runtime = load("sklearn", sentiment)
    assert runtime.inputs == (TensorSpec("input-0", "BYTES", (-1,)),)
    assert runtime.outputs == (TensorSpec("predict", "BYTES", (-1,)),)
    texts = np.array([t.encode() for t in TEXTS], dtype=object).reshape(shape)
    assert runtime.predict({"x": texts}, {})["predict"].tolist() == ["+", "-", "+", "-"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(2), "expects text"),
        (np.array([1, "a"], dtype=object), "no text"),
        (np.array([["a", "b"]], dtype=object), "one text a row"),
        (np.array([b"\xff"], dtype=object), "no UTF-8"),
        (np.array([], dtype=object), "no rows"),
    ],
)
def test_what_is_no_text_is_refused(sentiment, array, message, load):
    with pytest.raises(InvalidInput, match=message):
        load("sklearn", sentiment).predict({"x": array}, {})


def test_transformers_and_sparse_answers(tmp_path, load):
    encoder = OneHotEncoder().fit(np.array([["a"], ["b"]], dtype=object))
    runtime = load("sklearn", save(encoder, tmp_path), method="transform")
    have = runtime.predict({"x": np.array([[b"b"]], dtype=object)}, {})["transform"]
    assert have.tolist() == [[0.0, 1.0]]
    assert runtime.outputs == (TensorSpec("transform", "FP64", (-1, 2)),)


def test_multi_output_probabilities(tmp_path, load):
    y = np.stack([Y, Y > 0], axis=1).astype(int)
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, y)
    runtime = load("sklearn", save(model, tmp_path), method="predict_proba")
    have = runtime.predict({"x": X}, {})
    assert [(o.name, o.shape) for o in runtime.outputs] == [
        ("predict_proba_0", (-1, 3)),
        ("predict_proba_1", (-1, 2)),
    ]
    for part, want in zip(have.values(), model.predict_proba(X), strict=True):
        np.testing.assert_array_equal(part, want)


def broken_step(x):
    if len(x) > 1:
        raise ValueError("a bug in the user's own step")
    return x


def test_a_fault_of_the_users_own_step_is_no_invalid_input(tmp_path, load):
    model = make_pipeline(FunctionTransformer(broken_step), LogisticRegression(max_iter=500))
    model.steps[1][1].fit(X, Y)
    runtime = load("sklearn", save(model, tmp_path))
    with pytest.raises(ValueError, match="own step"):
        runtime.predict({"x": X}, {})


def test_jobs_are_held_to_the_replicas_share(tmp_path, load):
    forest = RandomForestClassifier(3, n_jobs=-1)
    model = VotingClassifier([("f", forest), ("l", LogisticRegression(max_iter=500))])
    pipe = make_pipeline(StandardScaler(), model).fit(X, Y)
    model.n_jobs = 2  # not while it is trained: that starts processes
    path = save(pipe, tmp_path)
    voting = load("sklearn", path)._model.steps[1][1]
    assert voting.n_jobs is None
    assert voting.estimators_[0].n_jobs is None
    assert load("sklearn", path, threads=3)._model.steps[1][1].n_jobs == 3


@pytest.mark.parametrize("name", ["model.pkl", "iris.pickle", "model.joblib"])
def test_plain_pickles_and_files(name, tmp_path, load):
    model = LogisticRegression(max_iter=500).fit(X, Y)
    (tmp_path / name).write_bytes(pickle.dumps(model))
    for path in (tmp_path, tmp_path / name):
        runtime = load("sklearn", path)
        assert runtime.predict({"x": X}, {})["predict"].tolist() == model.predict(X).tolist()


def test_skops_loads_what_is_known_to_be_safe(tmp_path, load):
    from skops import io

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, Y)
    io.dump(model, tmp_path / "model.skops")
    runtime = load("sklearn", tmp_path)
    assert runtime.platform == "sklearn_skops"
    assert runtime.predict({"x": X}, {})["predict"].tolist() == model.predict(X).tolist()


def test_skops_names_the_types_that_nobody_trusts(tmp_path, load):
    from skops import io

    model = make_pipeline(FunctionTransformer(broken_step), LogisticRegression(max_iter=500))
    model.steps[1][1].fit(X, Y)
    io.dump(model, tmp_path / "model.skops")
    with pytest.raises(LoadError, match="broken_step") as e:
        load("sklearn", tmp_path)
    assert "'trusted'" in e.value.hint
    trusted = [f"{broken_step.__module__}.broken_step"]
    runtime = load("sklearn", tmp_path, trusted=trusted)
    assert runtime.predict({"x": X[:1]}, {})["predict"].tolist() == [0]


def test_a_model_of_another_version_is_served_and_the_log_says_so(tmp_path, load, caplog):
    """InconsistentVersionWarning goes to the log; the model works."""
    model = LogisticRegression(max_iter=500).fit(X, Y)
    state = pickle.dumps(model).replace(
        sklearn_version.encode(), b"1.5" + sklearn_version[3:].encode()
    )
    (tmp_path / "model.pkl").write_bytes(state)
    with caplog.at_level(logging.WARNING):
        runtime = load("sklearn", tmp_path)
    assert "InconsistentVersionWarning" in caplog.text
    assert runtime.predict({"x": X[:1]}, {})["predict"].tolist() == [0]


def write(name, data):
    def fill(folder):
        (folder / name).write_bytes(data)

    return fill


def dump(name, value):
    return lambda folder: save(value, folder, name)


class Gone:
    def __reduce__(self):
        return (__import__, ("no_such_package_of_ours",))


class Notebooks:
    """A class as pickle's newest protocol names it."""


Notebooks.__module__ = "__main__"
Notebooks.__qualname__ = "Mine"


def of_a_notebook(folder):
    import __main__

    __main__.Mine = Notebooks
    try:
        save(Notebooks(), folder, "model.pkl")
    finally:
        del __main__.Mine


class Explodes:
    def __reduce__(self):
        return (int, ("a secret\nwith lines",))


@pytest.mark.parametrize(
    ("fill", "options", "message"),
    [
        (lambda f: None, {}, "no model file in .*The folder is empty"),
        (write("readme.md", b"x"), {}, "no model file in .*Found: 'readme.md'"),
        (write("model.pkl", b""), {}, "model.pkl is empty"),
        (write("model.pkl", b"not a pickle"), {}, "joblib or pickle file: it is no pickle, or is damaged"),
        (write("model.joblib", pickle.dumps(X)[:500]), {}, "model.joblib cannot be loaded"),
        (write("model.pkl", b"\x80\x04"), {}, "as a joblib or pickle file: it is cut short$"),
        (write("model.pkl", b"c__main__\nMine\n."), {}, "needs Mine, which was defined in the script"),
        (of_a_notebook, {}, "needs Mine, which was defined in the script"),
        (write("model.pkl", b"csklearn\nGone\n."), {}, "needs Gone of the module sklearn, which the version"),
        (write("model.pkl", b"csklearn.gone\nGone\n."), {}, "'sklearn.gone', which .* another version"),
        (write("model.pkl", pickle.dumps(Gone())), {}, "needs the Python package 'no_such_package"),
        (write("model.pkl", pickle.dumps(Explodes())), {}, "cannot be loaded as .*ValueError"),
        (write("model.skops", b"PK nothing"), {}, "model.skops cannot be loaded as a skops file"),
        (dump("model.pkl", {"a": 1}), {}, "holds a dict, which has no predict"),
        (dump("model.pkl", StandardScaler().fit(X)), {}, "The StandardScaler in model.pkl has no predict"),
        (dump("model.pkl", LinearSVC().fit(X, Y)), {"method": "predict_proba"}, "has no predict_proba"),
        (dump("model.pkl", SVC().fit(X, Y)), {"method": "fit"}, "'method' cannot be 'fit'"),
        (dump("model.pkl", SVC().fit(X, Y)), {"metod": "predict"}, "Unknown option 'metod'.*'method'"),
        (dump("model.pkl", SVC().fit(X, Y)), {"file": "other.pkl"}, "no file 'other.pkl'"),
        (dump("model.pkl", SVC().fit(X, Y)), {"file": "../x.pkl"}, "leads out"),
        (dump("model.pkl", SVC().fit(X, Y)), {"file": 1}, "'file' has to be text, not 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why_in_one_line(fill, options, message, tmp_path, load):
    folder = tmp_path / "m"
    folder.mkdir()
    fill(folder)
    with pytest.raises(LoadError, match=message) as e:
        load("sklearn", folder, **options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    ["model.joblib.gz", "model.pkl.bz2", "m.pickle.xz", "M.JOBLIB.Z", "model.pkl.lzma"],
)
def test_a_compressed_pickle_is_found_by_its_name(iris, tmp_path, load, name):
    """joblib writes them so, by the name's end, and reads them by their first bytes."""
    save(joblib.load(iris / "model.joblib"), tmp_path, name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / "notes.txt.gz").write_bytes(b"\x1f\x8b")
    assert runtimes.detect(str(tmp_path)) == "sklearn"
    for path in (tmp_path, tmp_path / name):
        model = load("sklearn", path)
        assert model.platform == (
            "sklearn_joblib" if "joblib" in name.lower() else "sklearn_pickle"
        )
        answer = next(iter(model.predict({"x": X[:3]}, {}).values()))
        np.testing.assert_array_equal(answer, Y[:3])
    save(joblib.load(iris / "model.joblib"), tmp_path, "other.joblib")
    if name.startswith("model."):
        assert load("sklearn", tmp_path)


def test_several_model_files_are_named(iris, tmp_path, load):
    model = joblib.load(iris / "model.joblib")
    save(model, tmp_path, "a.joblib")
    save(model, tmp_path, "b.pkl")
    with pytest.raises(LoadError, match=r"several model files in .*: 'a.joblib', 'b.pkl'"):
        load("sklearn", tmp_path)
    assert load("sklearn", tmp_path, file="b.pkl").platform == "sklearn_pickle"
    save(model, tmp_path, "model.pkl")
    assert load("sklearn", tmp_path)  # model.* is the one


@pytest.mark.parametrize("model", [LogisticRegression(), make_pipeline(StandardScaler(), SVC())])
def test_an_unfitted_model_is_refused(model, tmp_path, load):
    with pytest.raises(LoadError, match=r"model.joblib cannot be loaded .*not fitted"):
        load("sklearn", save(model, tmp_path))


def test_the_traceback_of_a_failed_load_is_in_the_log(tmp_path, load, caplog):
    (tmp_path / "model.pkl").write_bytes(b"not a pickle")
    with pytest.raises(LoadError):
        load("sklearn", tmp_path)
    assert "Traceback" in caplog.text
