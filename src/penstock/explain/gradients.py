"""How much each input adds to a network's output: integrated gradients, for PyTorch and TensorFlow.

M. Sundararajan, A. Taly and Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, eq. 1: the gradient
of the output along the straight line from a baseline to the instance, averaged, times the way. The integral
is by Gauss-Legendre quadrature, exact where the gradient is a polynomial of degree below 2 n along the
line. Completeness (their proposition 1) says that attributions add up to F(x) - F(baseline); how far they are
from it is reported as `delta`.

Gradients need the network itself, not only its answers, so the explainer's process loads the model too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.explain.base import Array, Ask, Explainer, Explanation, Floats

#: Rows `[n, ...]` and the index of an output to the outputs `[n, k]` and d output / d rows, `[n, ...]`.
Differentiate: TypeAlias = Callable[[Floats, int], tuple[Floats, Floats]]


class IntegratedGradients(Explainer):
    """Attributions of one output of a differentiable model."""

    kind = "IntegratedGradients"

    def __init__(
        self,
        differentiate: Differentiate,
        *,
        steps: int = 50,
        baseline: float | Array = 0.0,
        target: int | None = None,
        batch: int = 64,
    ) -> None:
        self._differentiate = differentiate
        self.steps = steps
        self.baseline = np.asarray(baseline, dtype=np.float64)
        self.target = target
        self.batch = batch
        points, weights = np.polynomial.legendre.leggauss(steps)
        self._points, self._weights = (points + 1) / 2, weights / 2

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "method": "gausslegendre", "n_steps": self.steps, "target": self.target,
            "baseline": self.baseline.tolist(),
        }  # fmt: skip

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        try:
            x = np.asarray(instance, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidInput(
                "an instance is an array of numbers; this one holds something else"
            ) from None
        if not bool(np.all(np.isfinite(x))):
            raise InvalidInput("an instance may hold neither NaN nor infinity")
        if self.baseline.ndim and self.baseline.shape != x.shape:
            raise InvalidInput(
                f"the baseline has the shape {list(self.baseline.shape)}, the instance {list(x.shape)}"
            )
        base = np.broadcast_to(self.baseline, x.shape)
        ends, _ = self._call(np.stack([x, base]), 0)
        outputs = ends.shape[1]
        target = self.target if self.target is not None else int(np.argmax(ends[0]))
        if not 0 <= target < outputs:
            raise InvalidInput(f"target is {target}; the model has {outputs} outputs")
        gradient = np.zeros_like(x)
        for start in range(0, self.steps, self.batch):
            part = self._points[start : start + self.batch]
            along = part.reshape(-1, *([1] * x.ndim))
            _, gradients = self._call(base + along * (x - base), target)
            gradient += np.tensordot(self._weights[start : start + self.batch], gradients, axes=1)
        attributions = (x - base) * gradient
        whole = float(ends[0, target] - ends[1, target])
        return Explanation(
            self.kind,
            {
                "attributions": attributions.tolist(),
                "target": target,
                "predictions": ends[0].tolist(),
                "baseline_predictions": ends[1].tolist(),
                "delta": whole - float(attributions.sum()),
                "instance": x.tolist(),
            },
            self.params,
        )

    def _call(self, rows: Floats, target: int) -> tuple[Floats, Floats]:
        outputs, gradients = self._differentiate(rows, target)
        if not bool(np.all(np.isfinite(gradients))):
            raise ModelError("the model's gradients are not finite")
        return outputs, gradients


def of_torch(module: Any) -> Differentiate:
    """Gradients of a module of PyTorch, or TorchScript: float32, one input, output `[n]` or `[n, k]`."""
    import torch

    module.eval()

    def differentiate(rows: Floats, target: int) -> tuple[Floats, Floats]:
        x = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
        try:
            out = module(x)
        except (RuntimeError, TypeError, ValueError) as e:
            raise InvalidInput(f"the model does not take the instance: {_line(e)}") from None
        if not isinstance(out, torch.Tensor) or len(out) != len(rows):
            raise ModelError("the model does not answer one tensor with a row per row")
        out = out.reshape(len(rows), -1)
        if not out.requires_grad:
            raise ModelError("the model's output does not depend on its input by a gradient")
        (gradient,) = torch.autograd.grad(out[:, min(target, out.shape[1] - 1)].sum(), x)
        return out.detach().numpy().astype(np.float64), gradient.numpy().astype(np.float64)

    return differentiate


def of_tensorflow(call: Callable[[Any], Any]) -> Differentiate:
    """Gradients of a function from one float32 tensor to one tensor, `[n]` or `[n, k]`."""
    import tensorflow as tf

    def differentiate(rows: Floats, target: int) -> tuple[Floats, Floats]:
        x = tf.constant(rows, dtype=tf.float32)
        try:
            with tf.GradientTape() as tape:
                tape.watch(x)
                out = tf.reshape(call(x), (len(rows), -1))
                chosen = out[:, min(target, int(out.shape[1]) - 1)]
            gradient = tape.gradient(chosen, x)
        except (tf.errors.InvalidArgumentError, TypeError, ValueError) as e:
            raise InvalidInput(f"the model does not take the instance: {_line(e)}") from None
        if gradient is None:
            raise ModelError("the model's output does not depend on its input by a gradient")
        return out.numpy().astype(np.float64), gradient.numpy().astype(np.float64)

    return differentiate


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def differentiate(model: Any) -> Differentiate:
    """Gradients of whatever network `model` is. LoadError when it is none."""
    top = type(model).__module__.partition(".")[0]
    bases = {c.__module__.partition(".")[0] for c in type(model).__mro__}
    if "torch" in bases:
        return of_torch(model)
    if top in ("tensorflow", "keras") or "tensorflow" in bases:
        return of_tensorflow(_one_tensor(model))
    raise LoadError(
        f"Integrated gradients need a network of PyTorch or TensorFlow, not {type(model).__name__}."
    )


def _one_tensor(signature: Any) -> Callable[[Any], Any]:
    """A signature of a SavedModel as a function of one tensor to its first output."""
    _, keywords = signature.structured_input_signature
    if len(keywords) != 1:
        raise LoadError(
            f"Integrated gradients need a model with one input; it has {len(keywords)}."
        )
    ((name, spec),) = keywords.items()

    def call(x: Any) -> Any:
        import tensorflow as tf

        outputs = signature(**{name: tf.cast(x, spec.dtype)})
        return outputs[min(outputs)]

    return call
