"""Text in numpy's arrays, where each element is as wide as the longest.

Seldon's classes expect such arrays. A body of a few kilobytes, one long text among thousands of short ones,
would be gigabytes as one; so what an array takes is counted before it is made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from penstock.errors import TooLarge

#: Bytes of an array of text.
MOST_BYTES: Final = 256 * 1024 * 1024
#: numpy's characters.
_WIDTH: Final = 4
#: More than numpy's arrays have.
_MOST_DIMENSIONS: Final = 65


def check_texts(values: Collection[Any], count: int = 0) -> None:
    """TooLarge when an array of these would be; `count` is how many elements it has, where it has more."""
    longest = max((len(v) for v in values if type(v) is str), default=0)
    _check(longest, max(count, len(values)))


def check_rows(rows: list[Any]) -> None:
    """The same of rows of JSON, however nested they are."""
    try:
        _add(rows, _MOST_DIMENSIONS)
    except (TypeError, IndexError, OverflowError):
        _look(rows)


def _add(rows: list[Any], depth: int) -> None:
    """TypeError where there is text: adding tells it from numbers in less time than looking at types."""
    if depth and type(rows[0]) is list:
        for row in rows:
            _add(row, depth - 1)
    else:
        sum(rows)


def _look(rows: list[Any]) -> None:
    longest = count = 0
    level: list[Any] = rows
    while level:
        lists = [v for v in level if type(v) is list]
        longest = max(longest, max((len(v) for v in level if type(v) is str), default=0))
        count += len(level) - len(lists)
        level = [v for row in lists for v in row]
    _check(longest, count)


def _check(longest: int, count: int) -> None:
    if longest * count * _WIDTH > MOST_BYTES:
        raise TooLarge(
            f"{count} texts, the longest of {longest} characters, are over {MOST_BYTES} bytes as an array.",
            hint="Each element of such an array is as wide as the longest.",
        )
