"""An inference request and its response, free of any wire format.

V2 over JSON, with binary tensors, and later over gRPC all decode to an `InferRequest` and encode from an
`InferResponse`; a user's own model sees the same two classes. What comes next is the batcher, which takes
`inputs` as they are.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from penstock.protocols.shared_memory import SharedMemory
    from penstock.runtimes.base import Array


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output the caller asked for. `binary` is None where the request's own default decides."""

    name: str
    binary: bool | None = None
    parameters: dict[str, Any] = {}
    #: So many of its largest values, as text (`protocols.classification`); 0: the output itself.
    classes: int = 0


class InferInput(msgspec.Struct, frozen=True):
    """One input with everything that was said about it."""

    name: str
    datatype: str
    array: Array
    parameters: dict[str, Any] = {}

    @property
    def shape(self) -> list[int]:
        return list(self.array.shape)

    @property
    def data(self) -> list[Any]:
        """The elements in row-major order as Python values."""
        flat: list[Any] = self.array.ravel().tolist()
        return flat

    def as_numpy(self) -> Array:
        return self.array

    def as_string(self) -> list[str]:
        """Elements of a BYTES input as text; InvalidInput where one is no UTF-8."""
        return [text(v, self.name) for v in self.array.ravel().tolist()]


class InferRequest(msgspec.Struct, frozen=True):
    """What a caller asks of a model.

    `inputs` are arrays by name in the order of the wire; they may be read-only views of the received
    body. BYTES are object arrays of `bytes`, BF16 are float32. `datatypes` has V2's name of each.
    """

    inputs: dict[str, Array]
    datatypes: dict[str, str] = {}
    #: None: all outputs, in the model's order.
    outputs: tuple[RequestedOutput, ...] | None = None
    id: str | None = None
    model_name: str = ""
    model_version: str = ""
    parameters: dict[str, Any] = {}
    input_parameters: dict[str, dict[str, Any]] = {}
    #: Outputs that do not say otherwise go as binary tensors.
    binary_output: bool = False
    #: Where outputs go that are asked for in shared memory.
    memory: SharedMemory | None = None

    def as_numpy(self, name: str | None = None) -> Array:
        """The input `name`, or the only one. InvalidInput when there is no such input."""
        if name is None:
            if len(self.inputs) != 1:
                raise InvalidInput(f"one input is expected, the request has {len(self.inputs)}")
            return next(iter(self.inputs.values()))
        try:
            return self.inputs[name]
        except KeyError:
            raise InvalidInput(
                f"input '{name}' is missing; the request has {_names(self)}"
            ) from None

    def get_input_by_name(self, name: str) -> InferInput | None:
        """The input `name` with datatype and parameters, None when absent."""
        array = self.inputs.get(name)
        if array is None:
            return None
        return InferInput(
            name, self.datatypes.get(name, ""), array, self.input_parameters.get(name, {})
        )

    @property
    def tensors(self) -> list[InferInput]:
        """All inputs in the order of the wire."""
        return [t for name in self.inputs if (t := self.get_input_by_name(name)) is not None]

    def as_dataframe(self) -> pd.DataFrame:
        """One column per input of shape [n] or [n, 1]; one input of shape [n, m] gives m columns.

        BYTES become text. InvalidInput when row counts differ or an input has another rank.
        """
        import pandas as pd

        columns: dict[Any, Any] = {}
        for name, array in self.inputs.items():
            values = as_text(array, name) if array.dtype == object else array
            if values.ndim == 2 and values.shape[1] != 1 and len(self.inputs) == 1:
                return pd.DataFrame(values)
            if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
                raise InvalidInput(
                    f"input '{name}' has shape {list(values.shape)}; a column is [n] or [n, 1]"
                )
            column = values.ravel()
            dated = column.dtype == object and any(isinstance(v, datetime) for v in column)
            # An object array would stay one.
            columns[name] = pd.Series(column.tolist()) if dated else column
        if len({len(c) for c in columns.values()}) > 1:
            rows = ", ".join(f"'{n}' {len(c)}" for n, c in columns.items())
            raise InvalidInput(f"inputs have different numbers of rows: {rows}")
        return pd.DataFrame(columns)


class InferResponse(msgspec.Struct, frozen=True):
    """What a model answers: arrays by name, in the order of the wire.

    `datatypes` need only name what an array's dtype does not tell (BF16); the rest is inferred.
    """

    outputs: dict[str, Array]
    datatypes: dict[str, str] = {}
    model_name: str = ""
    model_version: str = ""
    id: str | None = None
    parameters: dict[str, Any] = {}
    #: What is said of each output beside its data, such as its content type.
    output_parameters: dict[str, dict[str, Any]] = {}


def text(value: Any, name: str) -> Any:
    """An element of a BYTES tensor as `str`; InvalidInput when it is no UTF-8. Others stay as they are."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}' holds an element that is no UTF-8 text") from None


def as_text(array: Array, name: str) -> Array:
    """An object array with every `bytes` as `str`, same shape."""
    out = np.empty(array.size, dtype=object)
    out[:] = [text(v, name) for v in array.ravel().tolist()]
    return out.reshape(array.shape)


def as_bytes(array: Array) -> Array:
    """An object array with every `str` as `bytes`, same shape."""
    out = np.empty(array.size, dtype=object)
    out[:] = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
    return out.reshape(array.shape)


def explanations(documents: Sequence[bytes]) -> InferResponse:
    """JSON documents as V2 and Seldon's explainers answer them: `explanation`, BYTES, `[documents, 1]`."""
    column = np.empty((len(documents), 1), dtype=object)
    column[:, 0] = documents
    return InferResponse(
        {"explanation": column}, output_parameters={"explanation": {"content_type": "str"}}
    )


def _names(request: InferRequest) -> str:
    return ", ".join(f"'{n}'" for n in request.inputs) or "none"
