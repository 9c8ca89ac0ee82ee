"""Integrated gradients: exact where that can be known, complete, and the same as captum's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock import runtimes
from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.explain.gradients import (
    IntegratedGradients,
    differentiate,
    of_tensorflow,
    of_torch,
)

runtimes.prepare_environment(runtimes.find("tensorflow"))

torch = pytest.importorskip("torch")


def no_model(rows: Any) -> Any:
    raise AssertionError("the model is not asked")


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    ).eval()


X = np.array([0.5, -1.0, 2.0, 0.1, -0.7])


def test_a_linear_model_is_exact() -> None:
    layer = torch.nn.Linear(5, 1)
    found = IntegratedGradients(of_torch(layer), steps=2).explain(X, no_model).data
    np.testing.assert_allclose(
        found["attributions"], layer.weight.detach().numpy()[0] * X, atol=1e-6
    )


def test_a_polynomial_is_exact() -> None:
    """x0^2 x1 from zero: along the line t the gradients are 2 t^2 x0 x1 and t^2 x0^2."""
    model = _Function(lambda x: x[:, 0] ** 2 * x[:, 1])
    found = (
        IntegratedGradients(of_torch(model), steps=4).explain(np.array([2.0, 3.0]), no_model).data
    )
    np.testing.assert_allclose(found["attributions"], [8.0, 4.0], atol=1e-5)


def test_attributions_add_up(network: Any) -> None:
    found = IntegratedGradients(of_torch(network)).explain(X, no_model).data
    assert abs(found["delta"]) < 1e-4
    t = found["target"]
    assert t == int(np.argmax(found["predictions"]))
    whole = found["predictions"][t] - found["baseline_predictions"][t]
    assert sum(found["attributions"]) == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("target", [0, 2])
def test_same_as_captum(network: Any, target: int) -> None:
    from captum.attr import IntegratedGradients as Theirs

    ours = IntegratedGradients(
        of_torch(network), target=target, baseline=np.ones(5), batch=7
    ).explain(X, no_model)
    expected = Theirs(network).attribute(
        torch.tensor(X[None], dtype=torch.float32),
        baselines=torch.ones(1, 5), target=target, n_steps=50,
    )  # fmt: skip
    np.testing.assert_allclose(ours.data["attributions"], expected.numpy()[0], atol=1e-5)


def test_tensorflow_gives_what_torch_gives(network: Any) -> None:
    tf = pytest.importorskip("tensorflow")
    weights = [p.detach().numpy() for p in network.parameters()]

    def call(x: Any) -> Any:
        return tf.tanh(x @ weights[0].T + weights[1]) @ weights[2].T + weights[3]

    a = IntegratedGradients(of_tensorflow(call), target=1).explain(X, no_model).data
    b = IntegratedGradients(of_torch(network), target=1).explain(X, no_model).data
    np.testing.assert_allclose(a["attributions"], b["attributions"], atol=1e-5)


def test_an_image_keeps_its_shape() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 16, 4)
    )
    found = IntegratedGradients(of_torch(net)).explain(np.ones((1, 6, 6)), no_model).data
    assert np.shape(found["attributions"]) == (1, 6, 6)


@pytest.mark.parametrize(
    ("instance", "options", "said"),
    [
        (np.zeros(4), {}, "does not take"),
        (X, {"target": 3}, "3 outputs"),
        (X, {"baseline": np.zeros(4)}, "baseline"),
        (np.array([np.nan] * 5), {}, "NaN"),
        (np.array(["a"] * 5), {}, "numbers"),
    ],
)
def test_what_does_not_fit_is_the_callers_fault(
    network: Any, instance: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        IntegratedGradients(of_torch(network), **options).explain(instance, no_model)


def test_a_model_without_gradients_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="gradient"):
        IntegratedGradients(of_torch(_Function(lambda x: x.detach().argmax(1).float()))).explain(
            X, no_model
        )


class _Function(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


# -- one of several outputs


def test_a_named_output_of_a_module_is_explained() -> None:
    model = _Function(lambda x: {"a": x[:, :1] * 2, "b": x[:, 1:2] * 3})
    found = IntegratedGradients(of_torch(model, "b"), steps=2).explain(np.ones(2), no_model).data
    np.testing.assert_allclose(found["attributions"], [0, 3], atol=1e-6)
    with pytest.raises(InvalidInput, match="answers a, b"):
        IntegratedGradients(of_torch(model, "c")).explain(np.ones(2), no_model)
    with pytest.raises(InvalidInput, match="no names"):
        IntegratedGradients(of_torch(torch.nn.Linear(2, 1), "a")).explain(np.ones(2), no_model)


def test_a_named_output_of_a_signature_is_explained() -> None:
    tf = pytest.importorskip("tensorflow")

    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"a": x[:, :1] * 2, "b": x[:, 1:2] * 3}

    signature = Two().serve.get_concrete_function()
    wrapped = _Signature(signature)
    found = IntegratedGradients(differentiate(wrapped, "b"), steps=2).explain(np.ones(2), no_model)
    np.testing.assert_allclose(found.data["attributions"], [0, 3], atol=1e-6)
    with pytest.raises(LoadError, match="answers a, b"):
        differentiate(wrapped, "c")


# -- bounds


def test_points_of_a_large_instance_are_not_all_held_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from penstock.explain import gradients

    monkeypatch.setattr(gradients, "_CHUNK_BYTES", 3000 * 8)
    rows: list[int] = []

    def model(points: Any, target: int) -> Any:
        rows.append(len(points))
        return points.sum(1, keepdims=True), np.ones_like(points)

    found = IntegratedGradients(model, steps=10).explain(np.ones(1000), no_model).data
    assert found["delta"] == pytest.approx(0)
    assert max(rows) <= 3
    monkeypatch.setattr(gradients, "MAX_NUMBERS", 999)
    with pytest.raises(InvalidInput, match="999"):
        IntegratedGradients(model).explain(np.ones(1000), no_model)


class _Signature:
    """A function of TensorFlow's as a SavedModel has it: called by names."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.structured_outputs = function.structured_outputs
        _, keywords = function.structured_input_signature
        (spec,) = keywords.values() if keywords else function.structured_input_signature[0]
        self.structured_input_signature = ((), {"x": spec})

    def __call__(self, x: Any) -> Any:
        return self._function(x)


_Signature.__module__ = "tensorflow"
