"""Which of many path patterns a path is, by one regular expression made of them all.

A pattern of its own for each would be tried one after the other, and in a forked process each of those lies
on a page that is copied for being looked at: 0.2 MB for a request to one of the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Paths(Generic[T]):
    """Patterns with what each stands for; of several that match, the first counts."""

    __slots__ = ("_pattern", "_places", "patterns")

    def __init__(self, rows: Iterable[tuple[str, T]]) -> None:
        rows = tuple(rows)
        self.patterns = tuple(pattern for pattern, _ in rows)
        #: By the number of the group around a pattern: what it stands for, and how many groups it has.
        self._places: dict[int, tuple[T, int]] = {}
        number = 1
        for pattern, stands_for in rows:
            inner = re.compile(pattern).groups
            self._places[number] = (stands_for, inner)
            number += 1 + inner
        self._pattern = re.compile("|".join(f"({pattern})" for pattern in self.patterns))

    def find(self, path: str) -> tuple[T, tuple[str | None, ...]] | None:
        """What the whole of `path` stands for, and the pattern's groups; None if nothing."""
        match = self._pattern.fullmatch(path)
        if match is None or match.lastindex is None:
            return None
        # The group around a pattern is the last to be closed.
        number = match.lastindex
        stands_for, inner = self._places[number]
        return stands_for, match.groups()[number : number + inner]
