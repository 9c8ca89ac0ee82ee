"""Several signatures of one SavedModel, chosen by the request; examples are what TensorFlow makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from penstock.errors import InvalidInput
from penstock.protocols import tfserving
from penstock.runtimes.base import TensorSpec

FEATURES = {
    "age": tf.io.FixedLenFeature([2], tf.float32),
    "sex": tf.io.FixedLenFeature([], tf.string),
    "children": tf.io.FixedLenFeature([], tf.int64, default_value=0),
}


def spec(shape: Any, dtype: Any, name: str) -> Any:
    return tf.TensorSpec(shape, dtype, name=name)


class Model(tf.Module):
    @tf.function(input_signature=[spec([None, 2], tf.float32, "x")])
    def twice(self, x: Any) -> Any:
        return {"y": x * 2.0}

    @tf.function(input_signature=[spec([None], tf.string, "inputs")])
    def classify(self, inputs: Any) -> Any:
        parsed = tf.io.parse_example(inputs, FEATURES)
        old = tf.reduce_sum(parsed["age"], axis=1)
        scores = tf.stack([old, 1.0 - old], axis=1)
        rows = tf.shape(old)[0]
        return {"classes": tf.tile([["old", "young"]], [rows, 1]), "scores": scores}

    @tf.function(input_signature=[spec([None], tf.string, "inputs")])
    def regress(self, inputs: Any) -> Any:
        parsed = tf.io.parse_example(inputs, FEATURES)
        return {"outputs": tf.cast(parsed["children"], tf.float32)}

    @tf.function(input_signature=[spec([3], tf.float32, "x")])
    def fixed(self, x: Any) -> Any:
        return {"y": x}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signatures")
    model = Model()
    tf.saved_model.save(
        model,
        str(path),
        signatures={
            "serving_default": model.twice,
            "classification": model.classify,
            "regression": model.regress,
            "fixed": model.fixed,
        },
    )
    return path


def test_signatures_are_known_with_what_they_are_for(saved: Path, load: Any) -> None:
    runtime = load("tensorflow", saved)
    examples = (TensorSpec("inputs", "BYTES", (-1,)),)
    assert list(runtime.signatures) == ["serving_default", "classification", "regression"]
    found = runtime.signatures["classification"]
    assert (found.inputs, found.method) == (examples, "classify")
    assert set(found.outputs) == {
        TensorSpec("classes", "BYTES", (-1, 2)),
        TensorSpec("scores", "FP32", (-1, 2)),
    }
    assert runtime.signatures["regression"].method == "regress"
    assert runtime.signatures["serving_default"].method == "predict"
    # One without a batch axis is served where the default has none either.
    alone = load("tensorflow", saved, signature="fixed")
    assert list(alone.signatures) == ["fixed", "classification", "regression", "serving_default"]


def test_a_request_chooses_its_signature(saved: Path, load: Any) -> None:
    runtime = load("tensorflow", saved)
    body = json.dumps(
        {
            "context": {"sex": "f"},
            "examples": [
                {"age": [0.25, 0.5], "children": 3},
                {"age": [0, 0.125], "sex": {"b64": "bQ=="}, "children": [2**40]},
            ],
        }
    )
    serialized = tfserving.decode_examples(body.encode()).serialized
    theirs = tf.train.Example.FromString(serialized[1])
    assert list(theirs.features.feature["age"].float_list.value) == [0, 0.125]
    assert list(theirs.features.feature["sex"].bytes_list.value) == [b"m"]
    assert list(theirs.features.feature["children"].int64_list.value) == [2**40]

    have = runtime.predict({"inputs": serialized}, {"signature_name": "classification"})
    assert have["classes"].tolist() == [[b"old", b"young"]] * 2
    np.testing.assert_array_equal(have["scores"], [[0.75, 0.25], [0.125, 0.875]])
    have = runtime.predict({"inputs": serialized}, {"signature_name": "regression"})
    assert have["outputs"].tolist() == [3.0, float(np.float32(2**40))]
    have = runtime.predict({"x": np.ones((1, 2), np.float32)}, {"signature_name": ""})
    assert have["y"].tolist() == [[2.0, 2.0]]
    for wrong in ("nope", 7):
        with pytest.raises(InvalidInput, match="no such signature"):
            runtime.predict({"x": np.ones((1, 2), np.float32)}, {"signature_name": wrong})


def test_negative_integers_are_tensorflows_own(saved: Path) -> None:
    body = json.dumps({"examples": [{"n": [-1, 0, 127, 128, -(2**63)]}]})
    (one,) = tfserving.decode_examples(body.encode()).serialized
    theirs = tf.train.Example.FromString(one)
    assert list(theirs.features.feature["n"].int64_list.value) == [-1, 0, 127, 128, -(2**63)]


def test_examples_without_a_needed_feature_are_the_callers_fault(saved: Path, load: Any) -> None:
    runtime = load("tensorflow", saved)
    serialized = tfserving.decode_examples(b'{"examples": [{"age": [1.0, 2.0]}]}').serialized
    with pytest.raises(InvalidInput, match="sex"):
        runtime.predict({"inputs": serialized}, {"signature_name": "classification"})
