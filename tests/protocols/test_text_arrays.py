"""Arrays of text take no memory by the product of what a body holds."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from penstock.errors import TooLarge
from penstock.protocols import tftensor
from penstock.protocols.seldon_message import from_tensors, message_of
from penstock.protocols.text_arrays import MOST_BYTES

LONG = "x" * 20_000
#: So many are a byte too much, beside a long one.
MANY = MOST_BYTES // 4 // len(LONG)


@pytest.mark.parametrize(
    "rows",
    [
        [LONG, *[""] * MANY],
        [[LONG], *[["a"]] * MANY],
        [[[0, LONG]], *[[[0, 1]]] * MANY],
        [[float(i) for i in range(MANY)], ["a"] * (MANY - 1) + [LONG]],
    ],
    ids=["texts", "rows of texts", "numbers and texts", "a row of numbers first"],
)
def test_one_long_text_among_many_short_ones_is_refused(rows: Any) -> None:
    with pytest.raises(TooLarge, match="longest of 20000 characters"):
        message_of({"data": {"ndarray": rows}})


def test_a_binary_tensor_s_too() -> None:
    texts = np.array([LONG.encode(), *[b""] * MANY], dtype=object)
    with pytest.raises(TooLarge):
        from_tensors({"x": texts}, {})


def test_a_text_that_stands_for_many_is_one_of_them() -> None:
    def tensor(size: int) -> dict[str, Any]:
        texts = [base64.b64encode(LONG.encode()).decode()]
        return {"dtype": "DT_STRING", "tensorShape": {"dim": [{"size": size}]}, "stringVal": texts}

    assert tftensor.decode(tensor(3)).tolist() == [LONG] * 3
    with pytest.raises(TooLarge):
        tftensor.decode(tensor(MANY + 1))


@pytest.mark.parametrize(
    "rows",
    [
        [LONG] * 3,
        [["a"] * 100] * 100,
        [[1, 2.5], [True, 10**19]],
        [[[[0, 255, 3]] * 4] * 4] * 2,
        [None, 1.5],
        [1.5, 10**400],
        [[]],
        [],
        [{"a": LONG}] * MANY,
    ],
    ids=lambda rows: str(rows)[:20],
)
def test_other_rows_are_what_they_were(rows: Any) -> None:
    expected = np.asarray(rows)
    found = message_of({"data": {"ndarray": rows}}).value
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()
