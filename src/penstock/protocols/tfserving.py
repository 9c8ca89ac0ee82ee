"""TensorFlow Serving's documents about a model: a version's status, and its signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from penstock.runtimes.base import TensorSpec

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
    name: str, version: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> bytes:
    """GET /v1/models/M/metadata: the declared tensors as the default signature."""
    signature = {
        "inputs": {t.name: _tensor(t) for t in inputs},
        "outputs": {t.name: _tensor(t) for t in outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return _encode(
        {
            "model_spec": {"name": name, "signature_name": "", "version": version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [{"size": str(n), "name": ""} for n in spec.shape]
    return {
        "dtype": _DTYPES.get(spec.datatype, "DT_INVALID"),
        "tensor_shape": {"dim": shape, "unknown_rank": False},
        "name": spec.name,
    }
