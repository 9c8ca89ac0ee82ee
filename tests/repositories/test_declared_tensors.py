"""What a repository's configuration declares of tensors, in front of a framework's runtime."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from penstock.domain.declared import Declared, DeclaredTensor
from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.runtimes.base import Runtime, TensorSpec
from penstock.runtimes.declared import declared_runtime


class Sum(Runtime):
    """Adds its inputs up; `y` has the shape of the first."""

    platform = "sums"
    inputs = (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2)))
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1,)))

    def predict(self, inputs, parameters):
        self.seen = {n: a.shape for n, a in inputs.items()}
        return {"y": sum(inputs.values()), "z": np.zeros(1)}

    def example(self):
        return {"a": np.zeros((1, 2), np.float32)}


A = DeclaredTensor("a", "FP32", (-1, 2))
Y = DeclaredTensor("y", "FP32", (-1, 2))
X = np.ones((3, 2), np.float32)


def test_metadata_and_answers_are_the_declared_ones():
    runtime = declared_runtime(Sum(), Declared((A,), (Y,)))
    assert runtime.inputs == (TensorSpec("a", "FP32", (-1, 2)),)
    assert list(runtime.predict({"a": X}, {})) == ["y"]
    assert runtime.platform == "sums"
    assert runtime.example()["a"].shape == (1, 2)


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"b": X}, "a"),
        ({"a": X, "b": X}, "b"),
        ({"a": np.ones((3, 3), np.float32)}, "shape"),
        ({"a": np.array([["x", "y"]], dtype=object)}, "a"),
        ({"a": np.ones((5, 2), np.float32)}, "at most 4"),
    ],
)
def test_requests_are_held_to_what_is_declared(inputs, word):
    runtime = declared_runtime(Sum(), Declared((A,), (Y,), max_rows=4))
    with pytest.raises(InvalidInput, match=word):
        runtime.predict(inputs, {})


def test_an_optional_input_may_be_left_out():
    declared = Declared((A, DeclaredTensor("b", "FP32", (-1, 2), optional=True)), (Y,))
    runtime = declared_runtime(Sum(), declared)
    assert runtime.predict({"a": X}, {})["y"].tolist() == X.tolist()
    assert runtime.predict({"a": X, "b": X}, {})["y"].tolist() == (X * 2).tolist()
    assert runtime.example() is None


def test_shapes_are_changed_on_the_way_in_and_out():
    inner = Sum()
    a = DeclaredTensor("a", "FP32", (-1, 2, 1), model_shape=(-1, 2))
    y = DeclaredTensor("y", "FP32", (-1, 1, 2), model_shape=(-1, 2))
    runtime = declared_runtime(inner, Declared((a,), (y,)))
    assert runtime.predict({"a": np.ones((3, 2, 1), np.float32)}, {})["y"].shape == (3, 1, 2)
    assert inner.seen == {"a": (3, 2)}


def test_names_that_the_model_does_not_have():
    with pytest.raises(LoadError, match=r"declares the input 'q'; the model has 'a', 'b'"):
        declared_runtime(Sum(), Declared((DeclaredTensor("q", "FP32", (1,)),)))
    # MLServer's are for the metadata only.
    shown = declared_runtime(Sum(), Declared((DeclaredTensor("q", "FP32", (1,)),), held=False))
    assert shown.inputs[0].name == "q"
    assert set(shown.predict({"a": X}, {})) == {"y", "z"}


def test_a_model_that_leaves_out_what_is_declared():
    class Less(Sum):
        outputs = ()

        def predict(self, inputs, parameters):
            return {}

    with pytest.raises(ModelError, match="did not answer 'y'"):
        declared_runtime(Less(), Declared((A,), (Y,))).predict({"a": X}, {})


def test_a_model_that_is_awaited():
    class Awaited(Sum):
        async def predict(self, inputs, parameters):
            return {"y": inputs["a"], "z": np.zeros(1)}

    runtime = declared_runtime(Awaited(), Declared((A,), (Y,), max_rows=4))
    assert list(asyncio.run(runtime.predict({"a": X}, {}))) == ["y"]
    with pytest.raises(InvalidInput):
        asyncio.run(runtime.predict({"a": np.ones((5, 2), np.float32)}, {}))
