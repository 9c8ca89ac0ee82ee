"""Answers that are no tensors: JSON-able values, one to a row.

A runtime hands them on as a 1-D object array of dicts, lists, text, numbers, booleans or None. V1 writes
them as they are, V2 writes each as one BYTES element that holds its JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.runtimes.base import Array


def row_objects(rows: Sequence[Any]) -> Array:
    """One element per row, however nested the rows are."""
    out = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        out[i] = plain(row)
    return out


def plain(value: Any) -> Any:
    """`value` with numpy's and pandas' types replaced by Python's; unknown types become text."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
