"""numpy's arrays of what JSON's lists hold, and what those of text would take.

In an array of text, which Seldon's classes expect, each element is as wide as the longest. A body of a few
kilobytes, one long text among thousands of short ones, would be gigabytes as one; so what an array takes is
counted before it is made. What the counting tells (all are numbers, all are texts, how long) numpy need not
find out again: large arrays are made in less time than it takes alone.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from struct import error as StructError
from struct import pack_into
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import TooLarge

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

#: Bytes of an array of text.
MOST_BYTES: Final = 256 * 1024 * 1024
#: numpy's characters.
_WIDTH: Final = 4
#: Characters of a number among texts, which becomes one.
_NUMBER: Final = 32
#: Up to so many values, and rows of them, numpy needs no help.
_FEW: Final = 64
_FEW_ROWS: Final = 8


def check_texts(values: Collection[Any], count: int = 0) -> None:
    """TooLarge when an array of these would be; `count` is how many elements it has, where it has more."""
    longest = max((len(v) for v in values if type(v) is str), default=0)
    _check(longest, max(count, len(values)))


def array_of(rows: list[Any]) -> Array:
    """The array that numpy makes of JSON's rows, however nested they are.

    Whole numbers among others are floats, however large. TooLarge for what is too much text. ValueError and
    OverflowError as numpy has them.
    """
    if 0 < len(rows) <= _FEW_ROWS and type(rows[0]) is list and len(rows[0]) <= _FEW:
        try:  # a row of numbers or a few, most often
            for row in rows:
                sum(row)
            return np.asarray(rows)
        except (TypeError, OverflowError):
            pass
    leaves = rows
    shape: tuple[int, ...] = (len(rows),)
    try:
        while type(leaves[0]) is list:
            width = len(leaves[0])
            if set(map(type, leaves)) != _LISTS or set(map(len, leaves)) != {width}:
                break
            leaves = list(chain.from_iterable(leaves))
            shape = (*shape, width)
        # Both are quicker than looking at each one's type: a TypeError says that they are mixed.
        if type(leaves[0]) is str:
            "".join(leaves)
            longest = max(map(len, leaves))
            _check(longest, len(leaves))
            if len(leaves) <= _FEW:
                return np.asarray(rows)
            return np.array(leaves, dtype=f"U{longest or 1}").reshape(shape)
        return _packed(leaves).reshape(shape)
    except (TypeError, IndexError, OverflowError, StructError):
        _check_mixed(rows)
    return np.asarray(rows)


def array_of_numbers(values: list[Any]) -> Array:
    """The same of a flat list of numbers."""
    if len(values) > _FEW:
        try:
            return _packed(values)
        except (OverflowError, StructError):
            pass
    return np.asarray(values)


_LISTS: Final = {list}


def _packed(values: list[Any]) -> Array:
    """TypeError where there is one that is no number; StructError and OverflowError: no 64 bits hold it."""
    whole = type(sum(values)) is int
    if len(values) <= _FEW or type(values[0]) is bool:
        return np.asarray(values)
    array = np.empty(len(values), dtype=np.int64 if whole else np.float64)
    pack_into(f"{len(values)}{'q' if whole else 'd'}", array.data, 0, *values)
    return array


def _check_mixed(rows: list[Any]) -> None:
    longest = count = 0
    others = False
    level: list[Any] = rows
    while level:
        lists = [v for v in level if type(v) is list]
        texts = [len(v) for v in level if type(v) is str]
        longest = max(longest, max(texts, default=0))
        others = others or len(lists) + len(texts) < len(level)
        count += len(level) - len(lists)
        level = [v for row in lists for v in row]
    if longest and others:
        longest = max(longest, _NUMBER)
    _check(longest, count)


def _check(longest: int, count: int) -> None:
    if longest * count * _WIDTH > MOST_BYTES:
        raise TooLarge(
            f"{count} texts, the longest of {longest} characters, are over {MOST_BYTES} bytes as an array.",
            hint="Each element of such an array is as wide as the longest.",
        )
