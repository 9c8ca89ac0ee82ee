"""Arrays of text take no memory by the product of what a body holds."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import TooLarge
from penstock.protocols import tftensor
from penstock.protocols.seldon_message import from_tensors, message_of
from penstock.protocols.text_arrays import MOST_BYTES, array_of, array_of_numbers

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


def test_numbers_among_texts_are_as_wide_as_numbers_may_be() -> None:
    """`[["a"], [1], [1], ...]`: numpy's numbers as text have room for 32 characters each."""
    rows = [["a"], *[[1.5]] * (MOST_BYTES // 4 // 32)]
    with pytest.raises(TooLarge, match="longest of 32 characters"):
        array_of(rows)


NUMBERS = st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.booleans()
LEAF = NUMBERS | st.text(max_size=3) | st.none()
ALIKE = st.sampled_from([st.integers(), st.floats(allow_nan=False), st.text(), st.booleans()])
NESTED = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def same(make: Any, rows: Any) -> None:
    """What `make` makes of rows is what numpy makes of them, or both refuse."""
    try:
        expected = np.asarray(rows)
    except (ValueError, OverflowError) as e:
        with pytest.raises(type(e)):
            make(rows)
        return
    found = make(rows)
    if (
        expected.dtype == object and found.dtype == np.float64
    ):  # an integer beyond 64 bits among floats
        expected = expected.astype(np.float64)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tolist() == expected.tolist()
    assert found.flags.writeable


@given(st.lists(NESTED, max_size=6), st.sampled_from([1, 30, 90]))
def test_an_array_is_what_numpy_makes_of_it(rows: list[Any], times: int) -> None:
    """Few and many, of one kind or mixed, ragged or not."""
    same(array_of, rows * times)


@given(ALIKE.flatmap(lambda kind: st.lists(kind, min_size=1, max_size=6)), st.data())
def test_an_array_of_one_kind_is_what_numpy_makes_of_it(values: list[Any], data: Any) -> None:
    depth = data.draw(st.integers(0, 3))
    rows = values
    for _ in range(depth):
        rows = [rows] * data.draw(st.sampled_from([1, 2, 20]))
    same(array_of, rows)


@given(st.lists(NUMBERS, max_size=8), st.sampled_from([1, 20]))
def test_a_list_of_numbers_is_what_numpy_makes_of_it(values: list[Any], times: int) -> None:
    same(array_of_numbers, values * times)


@pytest.mark.parametrize("odd", [[], [1.0, "b"], "ab", {"a": 1, "b": 2}, None, 1.5, [[1.0, 2.0]]])
@pytest.mark.parametrize("row", [[1.0, 2.0], ["a", "b"], [True, False]])
def test_one_row_unlike_the_others_is_nothing_else_than_numpy_s(row: Any, odd: Any) -> None:
    """A text of as many characters as rows have values, most of all."""
    for rows in ([*[row] * 50, odd], [odd, *[row] * 50], [row, odd]):
        same(array_of, rows)
