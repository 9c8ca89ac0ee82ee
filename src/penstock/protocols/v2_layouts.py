"""V2 answers in binary whose JSON was seen before: where their tensors lie is known, so nothing is parsed.

A model's answers of one shape have the same JSON, byte for byte, unless they carry an id or parameters of
their own. `v2_client` asks here first, and has an answer remembered that is nothing but views of its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.protocols.datatypes import DATATYPES
from penstock.protocols.infer import InferResponse

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

#: Layouts remembered, and how long their JSON may be, bytes.
MOST: Final = 256
LONGEST: Final = 512
#: Datatypes of which any bytes are elements as they are.
_VIEWS: Final = frozenset(n for n, k in DATATYPES.items() if k.size and n not in ("BOOL", "BF16"))


class Layout:
    """What all answers with one JSON have in common."""

    __slots__ = ("_datatypes", "_model", "_tensors", "_version", "end")

    def __init__(self, answer: InferResponse, at: int) -> None:
        self._model = answer.model_name
        self._version = answer.model_version
        self._datatypes = answer.datatypes
        #: Name, dtype, elements, first byte and shape of each.
        self._tensors: list[tuple[str, Any, int, int, tuple[int, ...]]] = []
        for name, values in answer.outputs.items():
            self._tensors.append((name, values.dtype, values.size, at, values.shape))
            at += values.nbytes
        #: How long the whole body is.
        self.end = at

    def read(self, body: bytes) -> InferResponse:
        """The answer in a body of the length `end`; its outputs are views of it where they lie well."""
        outputs: dict[str, Array] = {}
        for name, dtype, count, at, shape in self._tensors:
            values = np.frombuffer(body, dtype, count, at)
            if not values.flags.aligned:
                values = values.copy()
            outputs[name] = values.reshape(shape)
        return InferResponse(outputs, dict(self._datatypes), self._model, self._version)


_layouts: dict[bytes, Layout] = {}


def known(body: object, header_length: int) -> InferResponse | None:
    """The answer, if one with the same JSON was remembered and the length fits."""
    if type(body) is not bytes or header_length > LONGEST:
        return None
    layout = _layouts.get(body[:header_length])
    return layout.read(body) if layout is not None and layout.end == len(body) else None


def remember(text: bytes, answer: InferResponse, end: int) -> None:
    """Keep the layout of a decoded answer of `end` bytes, if the next one's can be the same."""
    if (
        len(text) > LONGEST
        or answer.id is not None
        or answer.parameters
        or answer.output_parameters
        or not all(d in _VIEWS for d in answer.datatypes.values())
        or not all(values.size for values in answer.outputs.values())
    ):
        return
    layout = Layout(answer, len(text))
    if layout.end != end:  # some of it is in the JSON
        return
    if len(_layouts) >= MOST:
        _layouts.clear()
    _layouts[text] = layout
