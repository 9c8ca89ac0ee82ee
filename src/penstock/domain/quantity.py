"""Quantities as Kubernetes writes them: `100m`, `1.5`, `1Gi`, `12e6`.

The grammar is apimachinery's `resource.Quantity`: a signed decimal number and a suffix, either a decimal SI
letter (n u m k M G T P E), a binary one (Ki Mi Gi Ti Pi Ei) or a decimal exponent (e3, E3). Values are exact
(`Fraction`), as small as a nano and at most 2**63-1; what is finer is rounded up, as Kubernetes does.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

_PATTERN = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,4})?"
)
_SUFFIX = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_NANO = 10**9
MAX = 2**63 - 1
#: More characters than any sensible quantity has; keeps a hostile one from costing anything.
_MAX_LENGTH = 64

_HINT = "a quantity is a number with a suffix, such as 500m, 2, 1.5Gi or 1e9"


def parse_quantity(value: Any) -> Fraction:
    """The exact value of a string, int or float as YAML gives it; ValueError says what is wrong."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_kind(value)} is no quantity; {_HINT}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no quantity; {_HINT}")
        text = repr(value)
    else:
        text = str(value)
    match = _PATTERN.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        shown = text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "..."
        raise ValueError(f"{shown!r} is no quantity; {_HINT}")
    suffix = match["suffix"] or ""
    if suffix in _SUFFIX:
        scale = _SUFFIX[suffix]
    else:
        exponent = int(suffix[1:])
        # Out of any range either way; bounded so that 1e9999 builds no enormous integer.
        scale = Fraction(10) ** max(-100, min(100, exponent))
    amount = Fraction(match["number"]) * scale
    amount = min(Fraction(math.ceil(amount * _NANO), _NANO), Fraction(MAX))
    return -amount if match["sign"] == "-" else amount


def parse_cpu(value: Any) -> float:
    """Cores; not negative. Finer than a thousandth is rounded up to one, as Kubernetes has it."""
    amount = parse_quantity(value)
    if amount < 0:
        raise ValueError(f"{value} is negative")
    return math.ceil(amount * 1000) / 1000


def parse_bytes(value: Any) -> int:
    """Bytes, rounded up; not negative."""
    amount = parse_quantity(value)
    if amount < 0:
        raise ValueError(f"{value} is negative")
    return math.ceil(amount)


def format_bytes(size_bytes: int) -> str:
    """The shortest exact binary spelling: 1073741824 -> `1Gi`, 1000 -> `1000`."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        scale = int(_SUFFIX[suffix])
        if size_bytes and size_bytes % scale == 0:
            return f"{size_bytes // scale}{suffix}"
    return str(size_bytes)


def format_quantity(value: Fraction) -> str:
    """As Kubernetes shows a sum: `2`, `500m`, `8Gi`; what is finer than a thousandth is rounded up."""
    if value.denominator == 1:
        size = int(value)
        return format_bytes(size) if size % _SUFFIX["Mi"] == 0 else str(size)
    milli = math.ceil(value * 1000)
    return f"{milli}m" if milli % 1000 else str(milli // 1000)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        "a list" if isinstance(value, list) else "a map" if isinstance(value, dict) else repr(value)
    )
