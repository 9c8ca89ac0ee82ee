"""Regular expressions that a manifest may say: those whose matching takes bounded time.

Python's `re` backtracks, so `(a+)+` on forty letters takes longer than anybody waits, and a header that a
client chose would decide it. Allowed are patterns in which only single characters and classes are repeated.
Each choice (how often, which alternative, there or not) multiplies the ways that a match may have to try;
their product, with a repeat without a bound counted as the longest value, may be `MOST_WAYS`.
"""

from __future__ import annotations

import re
import warnings
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

MOST_PATTERN = 200
#: A longer value matches no pattern.
MOST_VALUE = 256
#: A hundred thousand take a few milliseconds, once per distinct request head.
MOST_WAYS = 1 << 17

_SINGLE = frozenset(
    (_constants.LITERAL, _constants.NOT_LITERAL, _constants.IN, _constants.ANY, _constants.CATEGORY)
)
_REPEATS = frozenset((_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT))


class _Refused(Exception):
    pass


def pattern_problem(text: str) -> str | None:
    """Why a pattern cannot be taken, or None."""
    if len(text) > MOST_PATTERN:
        return f"is longer than {MOST_PATTERN} characters"
    try:
        with warnings.catch_warnings():
            # Python warns of what a later release will read otherwise.
            warnings.simplefilter("error")
            re.compile(text)
            ways = _ways(_parser.parse(text))
    except (re.error, RecursionError, OverflowError, Warning) as exc:
        return f"is no regular expression: {exc}"
    except _Refused as exc:
        return str(exc)
    if ways > MOST_WAYS:
        return "has so many repeats and alternatives that it may take very long"
    return None


def _ways(items: Any) -> int:
    """In how many ways these may be tried, at most."""
    ways = 1
    for op, value in items:
        if op in _REPEATS:
            least, most, body = value
            if (least, most) == (0, 1):
                ways *= 1 + _ways(body)
            elif len(body) != 1 or body[0][0] not in _SINGLE:
                raise _Refused(
                    "repeats more than a single character or class, which may take very long"
                )
            else:
                ways *= 1 + min(MOST_VALUE, most) - min(MOST_VALUE, least)
        elif op is _constants.SUBPATTERN:
            ways *= _ways(value[-1])
        elif op is _constants.BRANCH:
            ways *= sum(_ways(branch) for branch in value[1])
        elif op not in _SINGLE and op is not _constants.AT:
            raise _Refused("looks around or back, which is not supported")
    return ways
