"""Patterns of a manifest: the common ones are taken, those that could take for ever are not."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.patterns import MOST_PATTERN, MOST_VALUE, pattern_problem


@pytest.mark.parametrize(
    "text",
    ["eu-.*", "(eu|us)-[a-z]+-[0-9]{1,2}",
      "^v[0-9]+$", ".*beta.*", r"curl/\d+\.\d+", "(?i)mobile", "a?b", ""],
)  # fmt: skip
def test_ordinary_patterns_are_taken(text: str) -> None:
    assert pattern_problem(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(a+)+", "repeats more than a single character"),
        ("(a|b)*", "repeats more than a single character"),
        ("(?=a)b", "looks around"),
        (r"(a)\1", "looks around or back"),
        (".*.*.*a", "so many repeats"),
        ("a?" * 40 + "a" * 40, "so many repeats"),
        ("(a|a)" * 30, "so many repeats"),
        ("[a-", "is no regular expression"),
        ("a" * (MOST_PATTERN + 1), "is longer than"),
        ("(" * 99 + "a" + ")" * 98, "is no regular expression"),
    ],
)
def test_patterns_that_may_take_very_long_are_refused(text: str, why: str) -> None:
    assert why in (pattern_problem(text) or "")


@given(
    st.text("ab.*+?|()[]{}1,2^$", max_size=40),
    st.text("ab", max_size=MOST_VALUE),
)
def test_what_is_taken_ends_soon(text: str, value: str) -> None:
    if pattern_problem(text) is None:
        began = time.process_time()
        re.compile(text).fullmatch(value)
        assert time.process_time() - began < 1.0
