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
from typing import Any, Final, TypeAlias

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.explain.base import Array, Ask, Explainer, Explanation, Floats, numbers

#: Numbers of an instance, and bytes of those along the line that exist at a time.
MAX_NUMBERS: Final = 12_000_000
_CHUNK_BYTES: Final = 64 * 1024 * 1024
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

    def check(self, instance: Array, ask: Ask) -> None:
        self._ends(instance)

    def _ends(self, instance: Array) -> tuple[Floats, Floats, Floats, int]:
        """The instance, its baseline, the model's outputs of both, and which output is explained."""
        x = numbers(instance, "an array of numbers")
        if not bool(np.all(np.isfinite(x))):
            raise InvalidInput("an instance may hold neither NaN nor infinity")
        if bool(np.any(np.abs(x) > np.finfo(np.float32).max)):  # what networks are asked in
            raise InvalidInput("an instance may hold no number that float32 cannot")
        if x.size > MAX_NUMBERS:
            raise InvalidInput(f"an instance has {x.size} numbers; {MAX_NUMBERS} can be explained")
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
        return x, base, ends, target

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        x, base, ends, target = self._ends(instance)
        gradient = np.zeros_like(x)
        batch = min(self.batch, max(1, _CHUNK_BYTES // max(1, x.nbytes)))
        for start in range(0, self.steps, batch):
            part = self._points[start : start + batch]
            along = part.reshape(-1, *([1] * x.ndim))
            _, gradients = self._call(base + along * (x - base), target)
            gradient += np.tensordot(self._weights[start : start + batch], gradients, axes=1)
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
        if not bool(np.all(np.isfinite(outputs))):
            raise ModelError("the model's answers are not finite")
        return outputs, gradients


def of_torch(module: Any, output: str | None = None) -> Differentiate:
    """Gradients of a module of PyTorch, or TorchScript: float32, one input, output `[n]` or `[n, k]`.

    `output` names one of several, where the module answers a dict.
    """
    import torch

    module.eval()

    def differentiate(rows: Floats, target: int) -> tuple[Floats, Floats]:
        x = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
        try:
            out = module(x)
        except (RuntimeError, TypeError, ValueError) as e:
            raise InvalidInput(f"the model does not take the instance: {_line(e)}") from None
        if output is not None:
            out = _named(out, output)
        if not isinstance(out, torch.Tensor) or out.ndim == 0 or len(out) != len(rows):
            raise ModelError("the model does not answer one tensor with a row per row")
        out = out.reshape(len(rows), -1)
        if not out.requires_grad:
            raise ModelError("the model's output does not depend on its input by a gradient")
        (gradient,) = torch.autograd.grad(out[:, min(target, out.shape[1] - 1)].sum(), x)
        return out.detach().numpy().astype(np.float64), gradient.numpy().astype(np.float64)

    return differentiate


def _named(outputs: Any, name: str) -> Any:
    if not isinstance(outputs, Mapping):
        raise InvalidInput(f"output_name is '{name}', but the model's outputs have no names")
    if name not in outputs:
        raise InvalidInput(f"output_name is '{name}'; the model answers {', '.join(outputs)}")
    return outputs[name]


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


def differentiate(model: Any, output: str | None = None) -> Differentiate:
    """Gradients of whatever network `model` is, of its first output or a named one. LoadError."""
    top = type(model).__module__.partition(".")[0]
    bases = {c.__module__.partition(".")[0] for c in type(model).__mro__}
    if "torch" in bases:
        return of_torch(model, output)
    if top in ("tensorflow", "keras") or "tensorflow" in bases:
        return of_tensorflow(_one_tensor(model, output))
    raise LoadError(
        f"Integrated gradients need a network of PyTorch or TensorFlow, not {type(model).__name__}."
    )


def _one_tensor(signature: Any, output: str | None) -> Callable[[Any], Any]:
    """A signature of a SavedModel as a function of one tensor to one of its outputs."""
    _, keywords = signature.structured_input_signature
    if len(keywords) != 1:
        raise LoadError(
            f"Integrated gradients need a model with one input; it has {len(keywords)}."
        )
    ((name, spec),) = keywords.items()
    known = sorted(signature.structured_outputs)
    if output is not None and output not in known:
        raise LoadError(f"output_name is '{output}'; the model answers {', '.join(known)}")
    chosen = output or known[0]

    def call(x: Any) -> Any:
        import tensorflow as tf

        return signature(**{name: tf.cast(x, spec.dtype)})[chosen]

    return call
