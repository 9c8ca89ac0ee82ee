"""TensorFlow SavedModels answer what their signature answers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes.base import TensorSpec

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def spec(shape, dtype, name):
    return tf.TensorSpec(shape, dtype, name=name)


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((4, 3), seed=(1, 2)))

    @tf.function(input_signature=[spec([None, 4], tf.float32, "x")])
    def scores(self, x):
        return {"scores": tf.nn.softmax(x @ self.w), "label": tf.argmax(x @ self.w, axis=1)}

    @tf.function(
        input_signature=[spec([None], tf.string, "text"), spec([None, 2], tf.int32, "pair")]
    )
    def mixed(self, text, pair):
        return {"upper": tf.strings.upper(text), "sum": tf.reduce_sum(pair, axis=1)}

    @tf.function(input_signature=[spec([2, 4], tf.float32, "x")])
    def fixed(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[spec(None, tf.float32, "x")])
    def any_rank(self, x):
        return {"y": x * 2.0}

    @tf.function(input_signature=[spec([None, None], tf.float32, "x")])
    def odd(self, x):
        return {"y": x @ self.w}

    @tf.function(input_signature=[spec([None], tf.string, "image")])
    def size(self, image):
        return {"size": tf.strings.length(image)}


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    others = {n: getattr(model, n) for n in ("mixed", "fixed", "any_rank", "odd", "size")}
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.scores, **others})
    return path


def test_answers_are_the_signatures(model, saved, load):
    runtime = load("tensorflow", saved)
    want = model.scores(tf.constant(X))
    for x in (X, X.astype(np.float64)):
        have = runtime.predict({"x": x}, {})
        assert sorted(have) == ["label", "scores"]
        for name, array in have.items():
            assert array.dtype == want[name].numpy().dtype
            np.testing.assert_array_equal(array, want[name].numpy())


def test_metadata_and_example(saved, load):
    runtime = load("tensorflow", saved / "saved_model.pb")
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert set(runtime.outputs) == {
        TensorSpec("scores", "FP32", (-1, 3)),
        TensorSpec("label", "INT64", (-1,)),
    }
    assert runtime.batchable
    assert runtime.reentrant
    runtime.predict(runtime.example(), {})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X[:, :3]}, "Input 'x' has shape [5, 3]; the model expects [-1, 4]."),
        ({"x": X[0]}, "Input 'x' has shape [4]"),
        ({"y": X}, "Missing inputs: 'x'. Unknown inputs: 'y'."),
        ({"x": np.array([["a"] * 4], dtype=object)}, "the model expects FP32"),
        ({}, "Missing inputs"),
    ],
)
def test_input_that_does_not_fit_is_refused(inputs, message, saved, load):
    runtime = load("tensorflow", saved)
    with pytest.raises(InvalidInput) as e:
        runtime.predict(inputs, {})
    assert message in e.value.message
    assert runtime.predict({"": X}, {})["label"].shape == (5,)


def test_another_signature_with_text(saved, load):
    runtime = load("tensorflow", saved, signature="mixed")
    text = np.array([b"a", "ö"], dtype=object)
    have = runtime.predict({"text": text, "pair": np.array([[1, 2], [3, 4]])}, {})
    assert have["upper"].tolist() == [b"A", "ö".encode()]
    assert have["sum"].tolist() == [3, 7]
    with pytest.raises(InvalidInput, match="INT32 cannot hold"):
        runtime.predict({"text": text, "pair": np.array([[1, 2**40], [0, 0]])}, {})
    with pytest.raises(InvalidInput, match="expects text"):
        runtime.predict({"text": np.ones(2), "pair": np.ones((2, 2), int)}, {})


def test_binary_strings_need_not_be_text(saved, load):
    runtime = load("tensorflow", saved, signature="size")
    assert runtime.predict({"": np.array([b"\xff\xd8\x00"], dtype=object)}, {})["size"] == [3]


def test_a_signature_of_fixed_size_is_not_batched(saved, load):
    runtime = load("tensorflow", saved, signature="fixed")
    assert not runtime.batchable
    assert runtime.predict({"x": X[:2]}, {})["y"].tolist() == (X[:2] * 2).tolist()
    with pytest.raises(InvalidInput, match=r"expects \[2, 4\]"):
        runtime.predict({"x": X}, {})


def test_tensors_of_any_rank(saved, load):
    runtime = load("tensorflow", saved, signature="any_rank")
    assert runtime.example() is None
    for x in (X, X[0], X.reshape(1, 5, 4)):
        assert runtime.predict({"x": x}, {})["y"].tolist() == (x * 2).tolist()
    with pytest.raises(InvalidInput, match="Unknown inputs: 'z'"):
        runtime.predict({"z": X}, {})


def test_sizes_that_only_the_graph_can_judge(saved, load):
    runtime = load("tensorflow", saved, signature="odd")
    with pytest.raises(InvalidInput, match="Matrix size-incompatible") as e:
        runtime.predict({"x": X[:, :3]}, {})
    assert "\n" not in e.value.message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_keras_export(tmp_path, load):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.export(str(tmp_path / "m"), verbose=False)
    runtime = load("tensorflow", tmp_path / "m")
    (out,) = runtime.predict({"": X}, {}).values()
    np.testing.assert_allclose(out, model(X).numpy(), rtol=1e-6)
    model.save(tmp_path / "model.keras")
    (tmp_path / "k").mkdir()
    (tmp_path / "model.keras").rename(tmp_path / "k" / "model.keras")
    with pytest.raises(LoadError, match="A Keras file is no SavedModel"):
        load("tensorflow", tmp_path / "k")


def test_what_cannot_be_loaded_says_why_in_one_line(saved, tmp_path, load):
    with pytest.raises(LoadError, match="no signature 'other'; it has 'any_rank', 'fixed'"):
        load("tensorflow", saved, signature="other")
    with pytest.raises(LoadError, match=r"no saved_model.pb in .*The folder is empty"):
        load("tensorflow", tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(LoadError, match="folder cannot be loaded as a TensorFlow SavedModel") as e:
        load("tensorflow", tmp_path)
    assert "\n" not in str(e.value)
    assert str(tmp_path) not in str(e.value)
    data = (saved / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadError, match="cannot be loaded as a TensorFlow SavedModel"):
        load("tensorflow", tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(data)  # its variables are missing
    with pytest.raises(LoadError, match="cannot be loaded as a TensorFlow SavedModel"):
        load("tensorflow", tmp_path)


def test_a_model_without_signatures(model, tmp_path, load):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(LoadError, match="no signature 'serving_default'; it has none"):
        load("tensorflow", tmp_path)
