"""Triton's classification extension: of an output its top classes, in place of its numbers.

A requested output with the parameter `classification: N` comes as BYTES, each element `VALUE:INDEX`, the
largest value first. The first axis is the batch: of `[rows, ...]` each row gives its N largest, and the index
counts through all other axes; a vector is one row by itself. Where there are fewer than N, all come.
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md)

Between the model's answer and its encoding, for REST and gRPC alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.infer import InferRequest, InferResponse

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

PARAMETER: Final = "classification"


def class_count(parameters: Mapping[str, Any], name: str) -> int:
    """How many classes of the output `name` are asked for; 0: the output itself. InvalidInput."""
    count = parameters.get(PARAMETER, 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(f"output '{name}': {PARAMETER} is a number of classes, 1 or more")
    if count and "shared_memory_region" in parameters:
        raise InvalidInput(f"output '{name}': a {PARAMETER} does not go into shared memory")
    return count


def classified(response: InferResponse, request: InferRequest) -> InferResponse:
    """`response` with those outputs as classes that are asked for so. InvalidInput."""
    wanted = {
        o.name: o.classes for o in request.outputs or () if o.classes and o.name in response.outputs
    }
    if not wanted:
        return response
    return msgspec.structs.replace(
        response,
        outputs={
            name: top_classes(values, wanted[name], name) if name in wanted else values
            for name, values in response.outputs.items()
        },
        datatypes={**(response.datatypes or {}), **dict.fromkeys(wanted, "BYTES")},
    )


def top_classes(values: Array, count: int, name: str) -> Array:
    """The `count` largest of each row as an object array of bytes. InvalidInput where there are no numbers.

    Of equal values the one of the lower index comes first, what is no number (NaN) last.
    """
    if values.dtype.kind not in "iuf":
        kind = "BOOL" if values.dtype.kind == "b" else "BYTES"
        raise InvalidInput(
            f"output '{name}' has datatype {kind}, of which there is no largest.",
            hint=f"{PARAMETER} is for scores: ask for the output itself.",
        )
    by_row = values.ndim > 1
    if not values.size:
        return np.empty((values.shape[0], 0) if by_row else (0,), dtype=object)
    rows = values.reshape(values.shape[0] if by_row else 1, -1)
    # Of an integer the complement is in the opposite order, and there is one of the smallest, too.
    order = np.argsort(~rows if rows.dtype.kind in "iu" else -rows, axis=-1, kind="stable")
    order = order[:, :count]
    best = np.take_along_axis(rows, order, axis=-1)
    form = "%d:%d" if rows.dtype.kind in "iu" else "%f:%d"
    found = np.empty(best.size, dtype=object)
    found[:] = [
        (form % pair).encode()
        for pair in zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return found.reshape(best.shape) if by_row else found
