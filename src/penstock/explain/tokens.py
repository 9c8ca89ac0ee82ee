"""Where the words of a text are, in most scripts, without a dictionary.

A word is a run of letters, digits and the marks upon them: Hindi's vowel signs are marks, and a word cut at
each of them is none. Chinese and Japanese set no spaces: each Han character counts as a word, and so does a
run of one kana. A symbol such as an emoji is a word too, as a classifier may well look at it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

_HAN: Final = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_HIRAGANA: Final = r"\u3041-\u309f"
_KATAKANA: Final = r"\u30a1-\u30ff\u31f0-\u31ff"
_SYMBOL: Final = r"\u2600-\u27bf\U0001f300-\U0001faff"
#: Marks beyond are of scripts of the past, and make the pattern slow to build.
_LAST: Final = 0x10000


def spans_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, in order."""
    return [match.span() for match in _pattern().finditer(text)]


@cache
def _pattern() -> re.Pattern[str]:
    letter = rf"(?![{_HAN}{_HIRAGANA}{_KATAKANA}])[\w{_marks()}]"
    word = rf"(?:{letter})+(?:['’](?:{letter})+)*"
    return re.compile(rf"[{_HAN}]|[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_SYMBOL}][\ufe0f]?|{word}")


def _marks() -> str:
    """The combining marks, as what stands in the brackets of a pattern."""
    ranges: list[list[int]] = []
    for code in range(_LAST):
        if unicodedata.category(chr(code))[0] != "M" or 0xFE00 <= code <= 0xFE0F:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(rf"\u{a:04x}-\u{b:04x}" for a, b in ranges)
