"""Triton's classification extension: of an output its top classes, in place of its numbers.

A requested output with the parameter `classification: N` comes as BYTES, each element `VALUE:INDEX`, the
largest value first; `VALUE:INDEX:LABEL` where the model's configuration names its classes. The first axis
is the batch: of `[rows, ...]` each row gives its N largest, and the index counts through all other axes; a
vector is one row by itself, and so is any output of a model that says it does not batch. Where there are
fewer than N, all come.
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md)

Between the model's answer and its encoding, for REST and gRPC alike. A graph's classes are made where its
answer is: its request has the steps' models say the names of classes beside their outputs (`LABELS_HEADER`,
`told`), and they go along with the tensor from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.infer import InferRequest, InferResponse

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

PARAMETER: Final = "classification"
#: An output's parameter with the names of its classes, and the header by which a step is asked for it.
LABELS: Final = "labels"
LABELS_HEADER: Final = b"x-penstock-labels"


class Classes(NamedTuple):
    """What is known of an output's classes."""

    #: UTF-8; the name of class N at N. Empty, or not there: the class has none.
    labels: tuple[bytes, ...] = ()
    #: The first axis is the batch.
    batched: bool = True


_UNKNOWN: Final = Classes()


def class_count(parameters: Mapping[str, Any], name: str) -> int:
    """How many classes of the output `name` are asked for; 0: the output itself. InvalidInput."""
    count = parameters.get(PARAMETER, 0)
    if type(count) is not int or count < 0:
        raise InvalidInput(f"output '{name}': {PARAMETER} is a number of classes, 1 or more")
    if count and "shared_memory_region" in parameters:
        raise InvalidInput(f"output '{name}': a {PARAMETER} does not go into shared memory")
    return count


def told(response: InferResponse, known: Mapping[str, Classes]) -> InferResponse:
    """`response`, saying of its outputs what their classes are called."""
    said = dict(response.output_parameters)
    for name, classes in known.items():
        if classes.labels and name in response.outputs:
            labels = [label.decode() for label in classes.labels]
            said[name] = {**said.get(name, {}), LABELS: labels}
    return msgspec.structs.replace(response, output_parameters=said)


def _told(response: InferResponse, name: str) -> Classes:
    """What an answer says itself of an output's classes."""
    labels = response.output_parameters.get(name, {}).get(LABELS)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return _UNKNOWN
    return Classes(tuple(label.encode() for label in labels))


def classified(
    response: InferResponse, request: InferRequest, known: Mapping[str, Classes] | None = None
) -> InferResponse:
    """`response` with those outputs as classes that are asked for so. InvalidInput.

    `known` is what the model's configuration says of them.
    """
    wanted = {
        o.name: o.classes for o in request.outputs or () if o.classes and o.name in response.outputs
    }
    if not wanted:
        return response
    outputs = dict(response.outputs)
    for name, count in wanted.items():
        classes = (known and known.get(name)) or _told(response, name)
        outputs[name] = top_classes(outputs[name], count, name, classes)
    return msgspec.structs.replace(
        response,
        outputs=outputs,
        output_parameters={
            name: rest
            for name, said in response.output_parameters.items()
            if (rest := {k: v for k, v in said.items() if k != LABELS}) or not said
        },
        datatypes={**(response.datatypes or {}), **dict.fromkeys(wanted, "BYTES")},
    )


def top_classes(values: Array, count: int, name: str, classes: Classes = _UNKNOWN) -> Array:
    """The `count` largest of each row as an object array of bytes. InvalidInput where there are no numbers.

    Of equal values the one of the lower index comes first, what is no number (NaN) last.
    """
    if values.dtype.kind not in "iuf":
        kind = "BOOL" if values.dtype.kind == "b" else "BYTES"
        raise InvalidInput(
            f"output '{name}' has datatype {kind}, of which there is no largest.",
            hint=f"{PARAMETER} is for scores: ask for the output itself.",
        )
    by_row = values.ndim > 1 and classes.batched
    if not values.size:
        return np.empty((values.shape[0], 0) if by_row else (0,), dtype=object)
    rows = values.reshape(values.shape[0] if by_row else 1, -1)
    # Of an integer the complement is in the opposite order, and there is one of the smallest, too.
    order = np.argsort(~rows if rows.dtype.kind in "iu" else -rows, axis=-1, kind="stable")
    order = order[:, :count]
    best = np.take_along_axis(rows, order, axis=-1)
    form = b"%d:%d" if rows.dtype.kind in "iu" else b"%f:%d"
    labels = classes.labels
    found = np.empty(best.size, dtype=object)
    found[:] = [
        b"%b:%b" % (form % (value, at), labels[at])
        if at < len(labels) and labels[at]
        else form % (value, at)
        for value, at in zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return found.reshape(best.shape) if by_row else found
