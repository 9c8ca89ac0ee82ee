"""A PyTorch module that answers requests: arrays by argument, tensors of its dtype and device, and back.

Where a file declares nothing the module itself is the judge: integers are tried again as floats when it says
so, and what its operators say of an input that does not fit becomes the caller's error, not the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Runtime, TensorSpec
from penstock.runtimes.objects import row_objects

#: What PyTorch's operators say when it is the input that does not fit.
_MISFITS: Final = (
    "shapes cannot be multiplied",
    "size mismatch",
    "must match the size",
    "sizes of tensors must match",
    "expected input",
    "is invalid for input of size",
    "out of range",
    "but got",
    "expected scalar type",
    "guard failed",
    "must have the same dtype",
    "same dtype",
    "kernel size can't be greater",
    "dimension",
)
_DTYPE_MISFITS: Final = ("dtype", "scalar type", "Long", "not implemented for")


class TorchRuntime(Runtime):
    """A module in inference mode.

    Outputs are named by the dict that the module answers, else `output-0`, `output-1`, ... Where neither the
    file nor the option `inputs` declares shapes, one array is passed on under any name, and floating point
    arrays take the dtype of the module's parameters.
    """

    def __init__(
        self,
        module: Callable[..., Any],
        *,
        platform: str,
        device: str,
        floats: Any,
        names: Sequence[str] = (),
        keywords: Sequence[str] = (),
        optional: Sequence[str] = (),
        specs: Sequence[TensorSpec] = (),
        output_names: Sequence[str] = (),
        batchable: bool = True,
    ) -> None:
        import torch

        self._torch = torch
        self._module = self.native = module
        self.platform = platform
        self._device = device
        self._floats = floats
        self._float_dtype = _numpy_dtype(torch, floats)
        self._names = tuple(s.name for s in specs) or tuple(names)
        self._keywords = frozenset(keywords)
        self._optional = frozenset(optional)
        #: Inputs declared as BF16, which arrive as float32.
        self._halved = frozenset(s.name for s in specs if s.datatype == "BF16")
        self._output_names = tuple(output_names)
        #: Inputs that came as integers and had to be floats, as the module itself said.
        self._as_floats: set[str] = set()
        #: BF16 outputs by name: numpy has no dtype for them.
        self.datatypes = self._bfloats = dict[str, str]()
        self.inputs = tuple(specs)
        self.batchable = batchable
        self._example = given.zeros(self.inputs) if self.inputs else None

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        named = self._matched(inputs)
        try:
            answer = self._call(named)
        except (RuntimeError, IndexError, AssertionError, ValueError) as e:
            if not self._retry_as_floats(named, e):
                raise self._blamed(e) from e
            try:
                answer = self._call(named)
            except (RuntimeError, IndexError, AssertionError, ValueError) as again:
                raise self._blamed(again) from again
        return self._named_outputs(answer)

    def example(self) -> Arrays | None:
        return self._example

    def learn_outputs(self) -> None:
        """Declare outputs as the example's answer shows them, where an example can be made up."""
        if self._example is None:
            return
        try:
            answer = self.predict(self._example, {})
        except InvalidInput:
            self._example = None
            return
        self.outputs = tuple(
            TensorSpec(
                n,
                self._bfloats.get(n) or given.datatype_of(a.dtype),
                (-1 if self.batchable else a.shape[0], *a.shape[1:]),
            )
            for n, a in answer.items()
            if a.ndim
        )

    def _matched(self, inputs: Arrays) -> dict[str, Array]:
        """The request's arrays by the module's argument names, checked as far as it declares them."""
        if self.inputs:
            arrays = given.by_name(inputs, self.inputs)
            return dict(zip(self._names, arrays, strict=True))
        required = [n for n in self._names if n not in self._optional]
        if len(inputs) == 1 and len(required) <= 1 and self._names:
            # A single array stands for the only argument, whatever it is called.
            name, array = next(iter(inputs.items()))
            target = name if name in self._names else (required or self._names)[0]
            return {target: self._floating(target, array)}
        triton = [f"INPUT__{i}" for i in range(len(inputs))]
        if sorted(inputs) == sorted(triton) and len(inputs) <= len(self._names):
            inputs = {n: inputs[t] for n, t in zip(self._names, triton, strict=False)}
        unknown = [n for n in inputs if n not in self._names]
        missing = [n for n in required if n not in inputs]
        if unknown or missing:
            raise InvalidInput(given.names_differ("inputs", self._names, unknown, missing))
        return {n: self._floating(n, inputs[n]) for n in self._names if n in inputs}

    def _floating(self, name: str, array: Array) -> Array:
        array = given.numeric(name, array)
        if array.dtype.kind == "f" or name in self._as_floats:
            return given.cast(name, array, self._float_dtype)
        return array

    def _call(self, named: Mapping[str, Array]) -> Any:
        torch = self._torch
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        skipped = False
        for name in self._names:
            array = named.get(name)
            if array is None:
                skipped = True
                continue
            tensor = self._tensor(name, array)
            if skipped or name in self._keywords:
                kwargs[name] = tensor
            else:
                args.append(tensor)
        with torch.inference_mode():
            return self._module(*args, **kwargs)

    def _tensor(self, name: str, array: Array) -> Any:
        torch = self._torch
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            # The module may write into its input, and the buffer belongs to the request.
            array = array.copy()
        tensor = torch.from_numpy(array)
        halved = name in self._halved if self.inputs else self._floats is torch.bfloat16
        if halved and tensor.dtype is torch.float32:
            tensor = tensor.to(torch.bfloat16)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def _retry_as_floats(self, named: dict[str, Array], e: Exception) -> bool:
        """JSON writes 1.0 as 1: whether the module failed for integers that it wants as floats."""
        if self.inputs or not any(word in str(e) for word in _DTYPE_MISFITS):
            return False
        integers = [n for n, a in named.items() if a.dtype.kind in "iub"]
        for name in integers:
            named[name] = given.cast(name, named[name], self._float_dtype)
            self._as_floats.add(name)
        return bool(integers)

    def _blamed(self, e: Exception) -> Exception:
        # TorchScript puts its own traceback before what the operator said.
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        said = lines[-1] if lines else type(e).__name__
        if any(words in said.lower() for words in _MISFITS):
            return InvalidInput(
                f"The model refused the input: {said.removeprefix('RuntimeError: ')}"
            )
        return e

    def _named_outputs(self, answer: Any) -> dict[str, Array]:
        if isinstance(answer, Mapping):
            return {str(k): self._array(str(k), v) for k, v in answer.items() if v is not None}
        values = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        names = self._output_names
        if names and len(names) != len(values):
            raise ValueError(f"the model answered {len(values)} outputs, {len(names)} are declared")
        found = {}
        for i, v in enumerate(values):
            name = names[i] if names else f"output-{i}"
            found[name] = self._array(name, v)
        return found

    def _array(self, name: str, value: Any) -> Array:
        torch = self._torch
        if isinstance(value, torch.Tensor):
            if value.dtype is torch.bfloat16:
                value = value.float()
                self._bfloats[name] = "BF16"
            elif self._bfloats:
                self._bfloats.pop(name, None)
            array: Array = value.detach().cpu().numpy()
            return array
        return row_objects(value if isinstance(value, list) else [value])


def _numpy_dtype(torch: Any, dtype: Any) -> np.dtype[Any]:
    known = {torch.float16: np.float16, torch.float64: np.float64}
    return np.dtype(known.get(dtype, np.float32))
