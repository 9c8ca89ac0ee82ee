"""TensorFlow Serving over REST, where it has more than V1: signatures, columnar answers, examples.

A SavedModel has several signatures, and a request may name one (`signature_name`). `:predict` answers
`predictions` to rows and `outputs` to columns; `:classify` and `:regress` take examples, objects of features
that become serialized `tf.Example`s here, and answer `results`. Outputs whose names end in `_bytes` go as
`{"b64": ...}` whatever they hold.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.protocols import v1
from penstock.protocols.grpc.wire import varint

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, Arrays, Signature, TensorSpec

#: The signature of a request that names none.
DEFAULT: Final = "serving_default"
#: What `:classify` and `:regress` hand a signature, and what they need of its outputs.
EXAMPLES_INPUT: Final = "inputs"
CLASSES: Final = "classes"
SCORES: Final = "scores"
VALUES: Final = "outputs"
_BINARY: Final = "_bytes"
_INT64: Final = (-(1 << 63), (1 << 63) - 1)

_encode = msgspec.json.Encoder().encode

#: V2's datatypes by TensorFlow's names.
_DTYPES: Final = {
    "BOOL": "DT_BOOL", "BYTES": "DT_STRING", "FP16": "DT_HALF", "BF16": "DT_BFLOAT16",
    "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "INT8": "DT_INT8", "INT16": "DT_INT16",
    "INT32": "DT_INT32", "INT64": "DT_INT64", "UINT8": "DT_UINT8", "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32", "UINT64": "DT_UINT64",
}  # fmt: skip


def version_status(version: str) -> bytes:
    """GET /v1/models/M/versions/V of a version that serves."""
    status = {"error_code": "OK", "error_message": ""}
    entry = {"version": version, "state": "AVAILABLE", "status": status}
    return _encode({"model_version_status": [entry]})


def metadata(
    name: str,
    version: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    signatures: Mapping[str, Signature],
) -> bytes:
    """GET /v1/models/M/metadata: the signatures; of a model without, its tensors as the default one."""
    described = {
        s.name: _signature(s.inputs, s.outputs, s.method) for s in signatures.values()
    } or {DEFAULT: _signature(inputs, outputs, "predict")}
    return _encode(
        {
            "model_spec": {"name": name, "signature_name": "", "version": version},
            "metadata": {"signature_def": {"signature_def": described}},
        }
    )


def _signature(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], method: str
) -> dict[str, Any]:
    return {
        "inputs": {t.name: _tensor(t) for t in inputs},
        "outputs": {t.name: _tensor(t) for t in outputs},
        "method_name": f"tensorflow/serving/{method}",
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [{"size": str(n), "name": ""} for n in spec.shape]
    return {
        "dtype": _DTYPES.get(spec.datatype, "DT_INVALID"),
        "tensor_shape": {"dim": shape, "unknown_rank": False},
        "name": spec.name,
    }


# ----------------------------------------------------------------------------------------- signatures


def signature_of(
    payload: Mapping[str, Any], signatures: Mapping[str, Signature], default: str
) -> Signature:
    """The signature that a request means. Raises InvalidInput."""
    name = payload.get("signature_name") or default
    found = signatures.get(name) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(signatures)
        raise InvalidInput("the model has no such signature.", hint=f"Its signatures are {known}.")
    return found


def encode_answer(outputs: Arrays, *, columnar: bool) -> bytes:
    """`{"predictions": rows}`, or for a columnar request `{"outputs": tensors}`. Raises ModelError."""
    plain = {n: _in_base64(a) if n.endswith(_BINARY) else a for n, a in outputs.items()}
    if not columnar:
        return v1.encode_predictions(plain)
    columns = {n: v1.rows_of_json(a) for n, a in plain.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else columns
    return v1.encode_result({"outputs": only})


def _in_base64(values: Array) -> Array:
    if values.dtype.kind not in "OSU":
        return values
    out = np.empty(values.size, dtype=object)
    for i, v in enumerate(values.ravel().tolist()):
        raw = v.encode() if isinstance(v, str) else v
        out[i] = {"b64": base64.b64encode(raw).decode()} if isinstance(raw, bytes) else raw
    return out.reshape(values.shape)


# ------------------------------------------------------------------------------------------- examples


class Examples(NamedTuple):
    """A request to classify or to regress."""

    payload: dict[str, Any]
    #: Serialized `tf.Example`s, one a row.
    serialized: Array


def decode_examples(body: Buffer) -> Examples:
    """The examples in `body`, each with the features of `context`. Raises InvalidInput."""
    payload = v1.decode_object(body, "a JSON object with 'examples' is expected")
    context = payload.get("context", {})
    if type(context) is not dict:
        raise InvalidInput("'context' is no object of features")
    examples = payload.get("examples")
    if type(examples) is not list or not examples:
        raise InvalidInput("'examples' is no list of objects, one at least is expected")
    unknown = sorted(set(payload) - {"signature_name", "context", "examples"})
    if unknown:
        raise InvalidInput(
            f"the request has {', '.join(repr(k) for k in unknown)}, which is unknown.",
            hint="It may have signature_name, context and examples.",
        )
    out = np.empty(len(examples), dtype=object)
    for i, example in enumerate(examples):
        if type(example) is not dict:
            raise InvalidInput(f"example {i} is no object of features")
        out[i] = _example({**context, **example}, i)
    return Examples(payload, out)


def _example(features: Mapping[str, Any], at: int) -> bytes:
    """One `tf.Example`: a map of features, each a list of bytes, floats or integers."""
    entries = b""
    for name, value in features.items():
        values = value if type(value) is list else [value]
        feature = _feature(values, f"example {at}: feature '{name}'")
        entry = _field(1, name.encode("utf-8", "replace")) + _field(2, feature)
        entries += _field(1, entry)
    return _field(1, entries)


def _feature(values: list[Any], what: str) -> bytes:
    kinds = set(map(type, values))
    if dict in kinds:
        values = [v1.from_b64(v, what) for v in values]
        kinds = set(map(type, values))
    if kinds <= {str, bytes}:
        try:
            texts = [v.encode() if isinstance(v, str) else v for v in values]
        except UnicodeEncodeError:
            raise InvalidInput(f"{what} has a string that is no valid Unicode") from None
        return _field(1, b"".join(_field(1, t) for t in texts))
    if kinds == {int}:
        low, high = _INT64
        if any(not low <= v <= high for v in values):
            raise InvalidInput(f"{what} has a number that is too large for 64 bits")
        return _field(3, _field(1, b"".join(varint(v & (1 << 64) - 1) for v in values)))
    if kinds <= {int, float}:
        try:
            packed = struct.pack(f"<{len(values)}f", *values)
        except (OverflowError, struct.error):
            raise InvalidInput(f"{what} has a number that is too large for 32 bits") from None
        return _field(2, _field(1, packed))
    raise InvalidInput(
        f"{what} has values that are no text, numbers or base64, or of several kinds"
    )


def _field(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(data)) + data


def encode_classes(outputs: Mapping[str, Array], rows: int) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`. Raises ModelError."""
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for found in (classes, scores):
        if found is not None and (found.ndim != 2 or found.shape[0] != rows):
            raise ModelError("the signature answered no [rows, classes] to classify")
    if classes is None and scores is None:
        raise ModelError("the signature answered neither classes nor scores")
    width = max(a.shape[1] for a in (classes, scores) if a is not None)
    labels = [[""] * width] * rows if classes is None else v1.rows_of_json(classes)
    numbers = [[0.0] * width] * rows if scores is None else v1.rows_of_json(scores)
    try:
        pairs = [list(zip(a, b, strict=True)) for a, b in zip(labels, numbers, strict=True)]
    except ValueError:
        raise ModelError("the signature answered more classes than scores, or fewer") from None
    return v1.encode_result({"results": pairs})


def encode_values(outputs: Mapping[str, Array], rows: int) -> bytes:
    """`{"results": [value, ...]}`. Raises ModelError."""
    values = outputs.get(VALUES)
    if values is None or values.size != rows:
        raise ModelError("the signature answered no value for each example to regress")
    return v1.encode_result({"results": values.reshape(-1).tolist()})
