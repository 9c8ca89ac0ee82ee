"""Quantities mean what they mean to Kubernetes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.quantity import (
    MAX,
    format_bytes,
    format_quantity,
    parse_bytes,
    parse_cpu,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("1", Fraction(1)),
        ("+1", Fraction(1)),
        ("-1", Fraction(-1)),
        ("1.", Fraction(1)),
        (".5", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        ("100m", Fraction(1, 10)),
        ("1500m", Fraction(3, 2)),
        ("100u", Fraction(1, 10_000)),
        ("100n", Fraction(1, 10_000_000)),
        ("1k", Fraction(1000)),
        ("1M", Fraction(10**6)),
        ("1G", Fraction(10**9)),
        ("1T", Fraction(10**12)),
        ("1P", Fraction(10**15)),
        ("1E", Fraction(10**18)),
        ("1Ki", Fraction(1024)),
        ("1Mi", Fraction(1024**2)),
        ("1Gi", Fraction(1024**3)),
        ("1.5Gi", Fraction(3 * 1024**3, 2)),
        ("1Ti", Fraction(1024**4)),
        ("1Pi", Fraction(1024**5)),
        ("1Ei", Fraction(1024**6)),
        ("1e3", Fraction(1000)),
        ("1E3", Fraction(1000)),
        ("1e+3", Fraction(1000)),
        ("1e-3", Fraction(1, 1000)),
        ("12.5e6", Fraction(12_500_000)),
        # What is finer than a nano is rounded up, as Kubernetes does.
        ("0.1n", Fraction(1, 10**9)),
        ("1e-20", Fraction(1, 10**9)),
        # What is larger than an int64 is the largest one.
        ("100E", Fraction(MAX)),
        ("1e9999", Fraction(MAX)),
        (2, Fraction(2)),
        (0.25, Fraction(1, 4)),
        (1e9, Fraction(10**9)),
        (1e16, Fraction(10**16)),
    ],
)
def test_values(text: Any, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 Gi", "1gi", "1GI", "1K", "1KB", "1B", "Gi", ".", "-", "1e", "1e3Gi", "1.2.3", "0x10",
        "1,5", "one", "inf", "nan", "1_000", "١", "1" * 100, None, True, [], {}, float("inf"), float("nan"),
    ],
)  # fmt: skip
def test_what_is_no_quantity(text: Any) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("100m", 0.1), ("1", 1.0), (2, 2.0), (0.5, 0.5), ("1500m", 1.5), ("100u", 0.001), ("0", 0.0)],
)
def test_cpu(text: Any, cores: float) -> None:
    assert parse_cpu(text) == cores


@pytest.mark.parametrize(
    ("text", "size"),
    [("1Gi", 2**30), ("1G", 10**9), ("1e3", 1000), ("0.5Mi", 2**19), ("1500m", 2), (128, 128)],
)
def test_bytes(text: Any, size: int) -> None:
    assert parse_bytes(text) == size


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_cpu("-1")
    with pytest.raises(ValueError, match="negative"):
        parse_bytes("-1Gi")


@given(st.integers(0, 2**62))
def test_formatted_bytes_are_read_back(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@given(st.text(max_size=80))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert abs(value) <= MAX


@given(st.decimals(min_value=0, max_value=10**6, places=3), st.sampled_from(["", "k", "Mi", "m"]))
def test_values_are_exact(number: Any, suffix: str) -> None:
    scale = {"": Fraction(1), "k": Fraction(1000), "Mi": Fraction(2**20), "m": Fraction(1, 1000)}
    assert parse_quantity(f"{number}{suffix}") == Fraction(number) * scale[suffix]


@pytest.mark.parametrize(
    ("value", "text"),
    [(Fraction(2), "2"), (Fraction(1, 2), "500m"), (Fraction(5, 2), "2500m"), (Fraction(1, 3000), "1m"),
     (Fraction(8 * 2**30), "8Gi"), (Fraction(0), "0"), (Fraction(1000), "1000"), (Fraction(3 * 2**20), "3Mi"),
     (Fraction(29999, 10000), "3")],
)  # fmt: skip
def test_sums_are_shown_as_kubernetes_does(value: Fraction, text: str) -> None:
    assert format_quantity(value) == text
