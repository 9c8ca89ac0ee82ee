"""GJSON paths: what exists where, by gjson's own rules, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.conditions import MISSING, BadCondition, parse

# The document of gjson's own description.
PEOPLE: dict[str, Any] = {
    "name": {"first": "Tom", "last": "Anderson"},
    "age": 37,
    "nothing": None,
    "children": ["Sara", "Alex", "Jack"],
    "fav.movie": "Deer Hunter",
    "friends": [
        {"first": "Dale", "last": "Murphy", "age": 44, "nets": ["ig", "fb", "tw"]},
        {"first": "Roger", "last": "Craig", "age": 68, "nets": ["fb", "tw"]},
        {"first": "Jane", "last": "Murphy", "age": 47, "nets": ["ig", "tw"]},
    ],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("name.last", "Anderson"),
        ("name.first", "Tom"),
        ("age", 37),
        ("nothing", None),
        ("children", ["Sara", "Alex", "Jack"]),
        ("children.0", "Sara"),
        ("children.1", "Alex"),
        ("children.#", 3),
        ("friends.1", PEOPLE["friends"][1]),
        ("friends.1.first", "Roger"),
        ("child*.2", "Jack"),
        ("c?ildren.0", "Sara"),
        (r"fav\.movie", "Deer Hunter"),
        ("friends.#.first", ["Dale", "Roger", "Jane"]),
        ("friends.#.age", [44, 68, 47]),
        ('friends.#(last=="Murphy").first', "Dale"),
        ('friends.#(last=="Murphy")#.first', ["Dale", "Jane"]),
        ("friends.#(age>45)#.last", ["Craig", "Murphy"]),
        ('friends.#(first%"D*").last', "Murphy"),
        ('friends.#(first!%"D*").last', "Craig"),
        ('friends.#(nets.#(=="fb"))#.first', ["Dale", "Roger"]),
        ('children.#(!%"*a*")', "Alex"),
        ('children.#(%"*a*")#', ["Sara", "Jack"]),
        ("friends.#(last=Murphy).first", "Dale"),
        ("friends.#(last==Murphy)#.first", ["Dale", "Jane"]),
        ("friends.#(nets)#|#", 3),
        ("friends.#.first|0", "Dale"),
        ("friends.#(last=Murphy)#|first", MISSING),
        ("@this.name.first", "Tom"),
        ("name|first", "Tom"),
        ("[age,name.first,gone]", [37, "Tom"]),
        ("friends.#(age==44.0).first", "Dale"),
        ('friends.#(age=="44").first', "Dale"),
        ("friends.#(age==x)", MISSING),
        ("friends.#(gone!=1)", MISSING),
        ("friends.#(age>1000)#", []),
        ("children.3", MISSING),
        ("children.-1", MISSING),
        ("name.#", MISSING),
        ("name.first.0", MISSING),
        ("gone", MISSING),
        ("nothing.more", MISSING),
    ],
)  # fmt: skip
def test_what_a_path_finds(path: str, found: object) -> None:
    got = parse(path).find(PEOPLE)
    assert got is found if found is MISSING else got == found
    assert parse(path).exists(PEOPLE) == (found is not MISSING)


#: Not in gjson, but in KServe's documentation.
BOTH = "instances.0.data>0.5 && instances.0.data<=0.9"


@pytest.mark.parametrize(
    ("path", "document", "exists"),
    [
        # The conditions in KServe's documentation and tests.
        ('predictions.#(label=="dog")', {"predictions": [{"label": "dog"}]}, True),
        ('predictions.#(label=="dog")', {"predictions": [{"label": "cat"}]}, False),
        ('instances.#(modelId=="1")', {"instances": [{"modelId": "1"}]}, True),
        ('instances.#(modelId=="1")', {"instances": [{"modelId": "2"}]}, False),
        ("[@this].#(decision_picker==ERROR)", {"decision_picker": "ERROR"}, True),
        ("[@this].#(decision_picker==ERROR)", {"decision_picker": "OK"}, False),
        ("predictions", {"predictions": []}, True),
        ("predictions", {"error": "no"}, False),
        ("#(x>1)", [{"x": 1}, {"x": 2}], True),
        ("0", [None], True),
        ("#(ok==true)", [{"ok": False}], False),
        ("#(ok!=true)", [{"ok": False}], True),
        ("#(ok==1)", [{"ok": True}], False),
        ('[@this].#(predictions.0=="dog")', {"predictions": ["dog"]}, True),
        ("[@this].#(instances.0.data>0.9)", {"instances": [{"data": 0.95}]}, True),
        (f"[@this].#({BOTH})", {"instances": [{"data": 0.7}]}, True),
        (f"[@this].#({BOTH})", {"instances": [{"data": 0.9}]}, True),
        (f"[@this].#({BOTH})", {"instances": [{"data": 0.95}]}, False),
        (f"[@this].#({BOTH})", {"instances": [{"data": 0.5}]}, False),
        ("#(a==1&&b==2&&c)", [{"a": 1, "b": 2, "c": 3}], True),
        ("#(a==1&&b==2&&c)", [{"a": 1, "b": 2}], False),
        ('#(a=="x && y" && b)', [{"a": "x && y", "b": 1}], True),
        ("#(a && b!=2)", [{"a": 1, "b": 2}, {"a": 1, "b": 3}], True),
        ("#(r&d==1)", [{"r&d": 1}], True),
        ("#(a.#(b==1&&c==2)&&d)", [{"a": [{"b": 1, "c": 2}], "d": 0}], True),
        (r"a\==1", {"a==1": 0}, True),
        (r"a\[0]", {"a[0]": 0}, True),
        ("a[b]", {"a[b]": 0}, True),
    ],
)  # fmt: skip
def test_conditions_of_kserve(path: str, document: object, exists: bool) -> None:
    assert parse(path).exists(document) is exists


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("a..b", "a key is expected"),
        ("a.", "a key is expected"),
        ("a.#(", "a query is a key, an operator and a value|'\\)' is missing"),
        ("a.#(b==1", "'\\)' is missing"),
        ('a.#(b=="1)', "not closed"),
        ("a.#(b==)", "a value is expected"),
        ("a.#()", "a key is expected|a query is"),
        ("a.#x", "is expected after '#'"),
        ("a.#[b==1]", "write #"),
        ("a.@reverse", "the modifier @reverse"),
        ("{a,b}", "objects of paths"),
        ("!true", "literals"),
        ("[a,b", "'\\]' is missing"),
        ("a.#(b==~true)", "'~'"),
        ("a.#(b==1 || c==2)", r"'\|\|' in a query"),
        ("a.#(b||c)", r"'\|\|' in a query|a key is expected"),
        ("a.#(b==1 &&)", "a key is expected|a query is"),
        ("a.#(b==1 && ", "a key is expected|'\\)' is missing"),
        ('target == "blue"', re.escape("== compares in a query only, such as [@this].#(target==value)")),
        ("a.b>0.5", "> compares in a query only"),
        ("predictions[0].label", re.escape("a position is written .0, not [0]")),
        ('{.target == "blue"}', "a condition is a path such as"),
        ("a.#(b==1)c", "'.' is expected"),
        ("a" * 2000, "at most 1024"),
        ("a.#(" * 40 + "b==1" + ")" * 40, "more than 16"),
        ("a\\", "backslash"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed_is_refused(path: str, why: str) -> None:
    with pytest.raises(BadCondition, match=why):
        parse(path)


@given(st.text(alphabet='ab.#()[]{}=<>!%&"\\@,|*?~ 01', max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """Nothing else is raised, and what parses can be looked up in anything."""
    try:
        path = parse(text)
    except BadCondition:
        return
    for document in (PEOPLE, [1, "a", [None]], None, 3):
        path.exists(document)
