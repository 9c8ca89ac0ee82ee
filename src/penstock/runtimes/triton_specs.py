"""Tensors as a `config.pbtxt` declares them, as V2 does: types by their names, the batch axis first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import LoadError
from penstock.protocols.datatypes import DATATYPES
from penstock.runtimes.base import TensorSpec

#: V2's type names by Triton's.
_NAMES: Final = {("TYPE_STRING" if n == "BYTES" else f"TYPE_{n}"): n for n in DATATYPES}


def specs_of(tensors: Sequence[Mapping[str, Any]], most: int) -> list[TensorSpec]:
    """`most` is the configuration's `max_batch_size`. LoadError for an unknown type."""
    found = []
    for tensor in tensors:
        datatype = _NAMES.get(str(tensor.get("data_type")))
        if datatype is None:
            raise LoadError(f"Tensor {tensor.get('name')!r} has no known data_type.")
        dims = tuple(int(d) for d in tensor.get("dims") or ())
        found.append(TensorSpec(str(tensor["name"]), datatype, ((-1,) if most else ()) + dims))
    return found
