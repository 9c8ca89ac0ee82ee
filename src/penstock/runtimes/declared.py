"""A runtime that shows what its repository's configuration declares, and holds requests to it.

Stands between the server and a framework's runtime where a `config.pbtxt` or a `model-settings.json` names
tensors: metadata tells the declared names and shapes, a request is checked against them before the framework
sees it, and Triton's `reshape` is carried out in both directions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.domain.declared import Declared, DeclaredTensor
from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.protocols.codecs import ContentTypes
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Arrays, Runtime, TensorSpec, rows_of


class DeclaredRuntime(Runtime):
    """`runtime` behind its declaration."""

    def __init__(self, runtime: Runtime, declared: Declared) -> None:
        self._runtime = runtime
        self._held = declared.held
        self._predict = runtime.predict
        self.platform = runtime.platform
        self.batchable = runtime.batchable
        self.reentrant = runtime.reentrant
        if declared.held:
            self._check_names("input", declared.inputs, runtime.inputs)
            self._check_names("output", declared.outputs, runtime.outputs)
        self.inputs = tuple(map(_spec, declared.inputs)) or runtime.inputs
        self.outputs = tuple(map(_spec, declared.outputs)) or runtime.outputs
        self._max_rows = declared.max_rows
        self._optional = frozenset(t.name for t in declared.inputs if t.optional)
        self._reshape_in = _reshapes(declared.inputs)
        self._reshape_out = _reshapes(declared.outputs, back=True)
        #: Outputs that are answered; Triton's models may have more than they declare.
        self._answered = tuple(t.name for t in declared.outputs) if declared.held else ()
        self._checked = bool(declared.inputs) and declared.held
        self.content_types = _content_types(declared, runtime.inputs)

    @staticmethod
    def _check_names(
        what: str, declared: Sequence[DeclaredTensor], has: Sequence[TensorSpec]
    ) -> None:
        known = [t.name for t in has]
        unknown = [t.name for t in declared if known and t.name not in known]
        if unknown:
            raise LoadError(
                f"The configuration declares the {what} {given.listed(unknown)}; "
                f"the model has {given.listed(known)}."
            )

    def on_demand(self) -> frozenset[str]:
        return frozenset() if self._held else self._runtime.on_demand()

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        if self._max_rows and rows_of(inputs) > self._max_rows:
            raise InvalidInput(
                f"The request has {rows_of(inputs)} rows; at most {self._max_rows} are allowed "
                "(max_batch_size)."
            )
        if self._checked:
            inputs = self._conform(inputs)
        outputs = self._predict(inputs, parameters)
        return self._finish(outputs)

    def _conform(self, inputs: Arrays) -> Arrays:
        specs = self.inputs
        if self._optional:
            specs = tuple(s for s in specs if s.name in inputs or s.name not in self._optional)
        arrays = given.by_name(inputs, specs, binary=True)
        named = dict(zip((s.name for s in specs), arrays, strict=True))
        for name, shape in self._reshape_in.items():
            if name in named:
                named[name] = _reshaped(named[name], shape, name, InvalidInput)
        return named

    def _finish(self, outputs: Arrays) -> Arrays:
        if not self._answered:
            return outputs
        missing = [n for n in self._answered if n not in outputs]
        if missing:
            raise ModelError(
                f"The model did not answer {given.listed(missing)}, which its configuration declares."
            )
        return {
            n: _reshaped(outputs[n], self._reshape_out[n], n, ModelError)
            if n in self._reshape_out
            else outputs[n]
            for n in self._answered
        }

    def example(self) -> Arrays | None:
        example = self._runtime.example()
        if example is None or not self._checked:
            return example
        # The declared shapes may be smaller or shaped otherwise than the file's.
        return given.zeros(self.inputs) if not self._optional else None

    def close(self) -> None:
        self._runtime.close()


class AwaitedDeclaredRuntime(DeclaredRuntime):
    """The same for a runtime whose predict is awaited."""

    async def predict(  # type: ignore[override]
        self, inputs: Arrays, parameters: Mapping[str, Any]
    ) -> Arrays:
        if self._max_rows and rows_of(inputs) > self._max_rows:
            raise InvalidInput(f"The request has more rows than max_batch_size, {self._max_rows}.")
        answer: Any = self._predict(self._conform(inputs) if self._checked else inputs, parameters)
        return self._finish(await answer)


def declared_runtime(runtime: Runtime, declared: Declared) -> Runtime:
    """`runtime` behind `declared`. LoadError when the model has no tensors of those names."""
    if inspect.iscoroutinefunction(runtime.predict):
        return AwaitedDeclaredRuntime(runtime, declared)
    return DeclaredRuntime(runtime, declared)


def _content_types(declared: Declared, takes: tuple[TensorSpec, ...]) -> ContentTypes | None:
    """What the configuration says of contents; LoadError when it names a type that is not known."""
    inputs = {t.name: t.content_type for t in declared.inputs if t.content_type}
    outputs = {t.name: t.content_type for t in declared.outputs if t.content_type}
    if not (declared.content_type or inputs or outputs):
        return None
    try:
        return ContentTypes(declared.content_type, inputs, outputs, takes)
    except InvalidInput as fault:
        raise LoadError(f"In the configuration {fault.message}", hint=fault.hint) from None


def _spec(tensor: DeclaredTensor) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tensor.shape)


def _reshapes(
    tensors: Sequence[DeclaredTensor], *, back: bool = False
) -> dict[str, tuple[int, ...]]:
    return {
        t.name: t.shape if back else t.model_shape for t in tensors if t.model_shape is not None
    }


def _reshaped(
    array: Any, shape: tuple[int, ...], name: str, fault: type[InvalidInput] | type[ModelError]
) -> Any:
    """`array` in `shape`, whose first -1 is the batch axis where the array has one, or what is left."""
    wanted = list(shape)
    if wanted and wanted[0] == -1 and wanted.count(-1) > 1:
        wanted[0] = array.shape[0]
    if wanted.count(-1) > 1:
        raise fault(f"{name!r} cannot be given the shape {list(shape)}.")
    try:
        return np.reshape(array, wanted)
    except ValueError:
        raise fault(
            f"{name!r} has shape {list(array.shape)}, which does not fit {list(shape)}."
        ) from None
