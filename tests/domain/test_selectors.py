"""Selectors select what kubectl's would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.selectors import FieldSelector, LabelSelector
from penstock.errors import InvalidInput

LABELS = {"app": "iris", "tier": "", "penstock.dev/team": "a.b"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("  ", True),
        ("app=iris", True),
        ("app==iris", True),
        (" app = iris ", True),
        ("app=digits", False),
        ("app!=iris", False),
        ("app!=digits", True),
        ("none!=x", True),
        ("tier=", True),
        ("app=", False),
        ("penstock.dev/team=a.b", True),
        ("app in (iris)", True),
        ("app in (digits, iris)", True),
        ("app in (digits)", False),
        ("app notin (digits)", True),
        ("app notin (iris, digits)", False),
        ("none notin (x)", True),
        ("none in (x)", False),
        ("tier in (,x)", True),
        ("app", True),
        ("!app", False),
        ("! none", True),
        ("app=iris,tier,!none,app in (iris),x notin (y)", True),
        ("app=iris,none", False),
    ],
)
def test_label_selectors(text: str, matches: bool) -> None:
    assert LabelSelector.parse(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    "text",
    ["=a", "a=b=c", "a in", "a in b", "a in (b", "a b", ",", "a,", ",a", "a,,b", "!", "a=b c", "-a=b",
     "a=-b", "a in (b) c", "a>1"],
)  # fmt: skip
def test_unreadable_label_selectors(text: str) -> None:
    with pytest.raises(InvalidInput, match="labelSelector"):
        LabelSelector.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_selector_or_invalid_input(text: str) -> None:
    try:
        LabelSelector.parse(text).matches(LABELS)
        FieldSelector.parse(text).matches("a", "b")
    except InvalidInput:
        pass


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=iris", True),
        ("metadata.name==iris,metadata.namespace=default", True),
        ("metadata.name!=iris", False),
        ("metadata.namespace=other", False),
    ],
)
def test_field_selectors(text: str, matches: bool) -> None:
    assert FieldSelector.parse(text).matches("default", "iris") is matches


@pytest.mark.parametrize("text", ["spec.x=1", "metadata.name", "status.phase=Running"])
def test_fields_that_cannot_be_selected_by(text: str) -> None:
    with pytest.raises(InvalidInput, match="fieldSelector"):
        FieldSelector.parse(text)
