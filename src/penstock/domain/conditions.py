"""Conditions of graphs: paths in GJSON's syntax, parsed when a manifest is applied, looked up per request.

KServe's router evaluates `condition` with the Go package gjson (its SYNTAX.md is the reference): a condition
holds when the path exists in the JSON. What is understood here:

* keys joined by `.`: `a.b`, with `*` and `?` as wildcards in a key and `\\` before a special one;
* positions `a.0`; `a.#` is the length of a list; `a.#.b` is the `b` of each element that has one;
* queries: `a.#(b==1)` is the first element for which it holds, `a.#(b==1)#` all of them (a list, which exists
  even when it is empty). Operators `==` `!=` `<` `<=` `>` `>=`, `%` and `!%` (like, unlike a pattern);
  without one, that the key exists; without a key, the element itself; queries may be nested;
* `&&` between the comparisons of a query: `a.#(b>1 && c==x)`. gjson has none and takes the rest for a text to
  compare with, but KServe's documentation writes it;
* `|` in place of `.`: what follows is looked up in the whole result, not in each element (`a.#.b|0`);
* `@this`, and lists of paths `[a,b.c]`.

Strings in a query may be left unquoted (`#(kind==cat)`). A number is compared with the number that the
query's text is; where the text is no number the query does not hold (gjson takes it for 0). Other modifiers
(`@reverse`, ...), objects of paths (`{...}`), literals (`!`), `~` and `||` are refused when parsed. So is
what gjson takes for a key that no document has: a comparison outside of a query (`a==1`), and a position in
brackets (`a[0]`); a backslash makes a key of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate as glob
from functools import lru_cache
from typing import Any, Final, TypeAlias

#: Longest path, and deepest nesting of queries: a manifest's author is not trusted with our stack.
MAX_CHARACTERS: Final = 1024
MAX_DEPTH: Final = 16

_OPERATORS: Final = ("==", "!=", "<=", ">=", "!%", "<", ">", "%", "=")


#: What is a key in gjson and meant as something else by whoever writes it.
_COMPARISON: Final = re.compile(r" *(==|!=|<=|>=|<|>) *")
_POSITION: Final = re.compile(r"\[(\d+)\]")


class BadCondition(ValueError):
    """The path cannot be parsed; the message says why."""


class Missing:
    """What a path that does not exist finds."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class _Each:
    """`#`: the length at the end of a path, otherwise the rest for each element."""


@dataclass(frozen=True, slots=True)
class _Query:
    path: _Segments
    operator: str
    value: str
    all: bool
    pattern: re.Pattern[str] | None = None
    #: What has to hold, too: `a==1 && b==2`.
    also: _Query | None = None


@dataclass(frozen=True, slots=True)
class _This:
    pass


@dataclass(frozen=True, slots=True)
class _Paths:
    """`[a,b]`: a list of what the paths find."""

    paths: tuple[_Segments, ...]


_Part: TypeAlias = _Key | _Each | _Query | _This | _Paths
#: Parts joined by dots, between bars.
_Segments: TypeAlias = tuple[tuple[_Part, ...], ...]


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path."""

    text: str
    segments: _Segments

    def find(self, document: Any) -> Any:
        """What is there (decoded JSON), or MISSING."""
        return _look(self.segments, document)

    def exists(self, document: Any) -> bool:
        """gjson's Exists: null is there too."""
        return _look(self.segments, document) is not MISSING


@lru_cache(maxsize=1024)
def parse(text: str) -> Path:
    """The path in `text`; BadCondition."""
    if not text:
        raise BadCondition("is empty")
    if len(text) > MAX_CHARACTERS:
        raise BadCondition(f"has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    parser = _Parser(text)
    segments = parser.path("", 0)
    if parser.at < len(text):
        raise BadCondition(f"{text[parser.at]!r} at {parser.at} closes nothing")
    return Path(text, segments)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fault(self, why: str) -> BadCondition:
        return BadCondition(f"{why} (at character {self.at + 1} of {self.text!r})")

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def path(self, ends: str, depth: int) -> _Segments:
        """Parts up to one of `ends` or the end of the text."""
        if depth > MAX_DEPTH:
            raise self.fault(f"more than {MAX_DEPTH} queries inside of each other")
        segments = [[self.part(ends, depth)]]
        while (joint := self.peek()) and joint in ".|":
            self.at += 1
            part = self.part(ends, depth)
            if joint == ".":
                segments[-1].append(part)
            else:
                segments.append([part])
        return tuple(tuple(s) for s in segments)

    def part(self, ends: str, depth: int) -> _Part:
        c = self.peek()
        if c == "#":
            self.at += 1
            if self.peek() == "(":
                self.at += 1
                return self.query(depth)
            if self.peek() == "[":
                raise self.fault("the old form #[...] is not understood; write #(...)")
            if self.peek() and self.peek() not in ".|" + ends:
                raise self.fault("'.' or '(' is expected after '#'")
            return _Each()
        if c == "@":
            word = re.match(r"@[\w]*", self.text[self.at :])
            assert word is not None  # noqa: S101 - it begins with '@'
            if word.group() != "@this":
                raise self.fault(f"the modifier {word.group()} is not understood; @this is")
            self.at += len("@this")
            return _This()
        if c == "[":
            self.at += 1
            paths = [self.path(",]", depth + 1)]
            while self.peek() == ",":
                self.at += 1
                paths.append(self.path(",]", depth + 1))
            if self.peek() != "]":
                raise self.fault("']' is missing")
            self.at += 1
            return _Paths(tuple(paths))
        if c == "{":
            raise self.fault(
                "objects of paths {...} are not understood; a condition is a path such as "
                'predictions.#(label=="dog")'
            )
        if c == "!":
            raise self.fault("literals (!) are not understood")
        return self.key(ends)

    def key(self, ends: str) -> _Key:
        name: list[str] = []
        pattern: list[str] = []
        wild = False
        in_query = ")" in ends
        while (c := self.peek()) and c not in ".|" and c not in ends:
            if in_query and self.joins():
                break
            if c == "\\":
                self.at += 1
                c = self.peek()
                if not c:
                    raise self.fault("a backslash is followed by the character it protects")
                name.append(c)
                pattern.append("[" + c + "]" if c in "*?[" else c)
            else:
                if comparison := _COMPARISON.match(self.text, self.at):
                    operator, before = comparison[1], self.text[: self.at].strip() or "key"
                    raise self.fault(
                        f"{operator} compares in a query only, such as "
                        f"[@this].#({before}{operator}value)"
                    )
                if position := _POSITION.match(self.text, self.at):
                    raise self.fault(
                        f"a position is written .{position[1]}, not {position.group()}"
                    )
                if c in "*?":
                    wild = True
                name.append(c)
                pattern.append("[[]" if c == "[" else c)
            self.at += 1
        if not name:
            raise self.fault("a key is expected")
        text = "".join(name)
        return _Key(text, re.compile(glob("".join(pattern))) if wild else None)

    def query(self, depth: int) -> _Query:
        """The comparisons of a query, to its closing bracket."""
        compared = [self.comparison(depth)]
        while self.text.startswith("&&", self.at):
            self.at += 2
            compared.append(self.comparison(depth))
        if self.text.startswith("||", self.at):
            raise self.fault("'||' in a query is not understood; give each case a step of its own")
        if self.peek() != ")":
            raise self.fault("')' is missing" if not self.peek() else "')' is expected")
        self.at += 1
        every = self.peek() == "#"
        if every:
            self.at += 1
        if self.peek() and self.peek() not in ".|,])=!<>% " and not self.joins():
            raise self.fault("'.' is expected after a query")
        found: _Query | None = None
        for one in reversed(compared):
            found = replace(one, all=every, also=found)
        assert found is not None  # noqa: S101 - there is one at least
        return found

    def comparison(self, depth: int) -> _Query:
        """A path, an operator and a value, or only a path."""
        path: _Segments = ()
        self.space()
        if self.peek() not in "=!<>%":
            path = self.path(" =!<>%)~", depth + 1)
        if self.peek() == "~":
            raise self.fault("'~' in a query is not understood")
        self.space()
        operator = next((o for o in _OPERATORS if self.text.startswith(o, self.at)), "")
        value = ""
        if operator:
            self.at += len(operator)
            self.space()
            value = self.value()
            self.space()
        elif not path:
            if not self.peek():
                raise self.fault("')' is missing")
            raise self.fault("a query is a key, an operator and a value")
        like = re.compile(glob(value.replace("[", "[[]"))) if operator in ("%", "!%") else None
        return _Query(path, "==" if operator == "=" else operator, value, False, like)

    def value(self) -> str:
        if self.peek() == "~":
            raise self.fault("'~' in a query is not understood")
        if self.peek() == '"':
            found = re.compile(r'"(?:[^"\\]|\\.)*"').match(self.text, self.at)
            if found is None:
                raise self.fault("the string is not closed")
            try:
                text = json.loads(found.group())
            except ValueError:
                raise self.fault("the string is no JSON string") from None
            self.at = found.end()
            return str(text)
        start = self.at
        open_ = 0
        while (c := self.peek()) and (c != ")" or open_) and not self.joins():
            open_ += (c == "(") - (c == ")")
            self.at += 1
        text = self.text[start : self.at].rstrip()
        if not text:
            raise self.fault("a value is expected")
        return text

    def joins(self) -> bool:
        """Whether here two comparisons are joined."""
        return self.text.startswith(("&&", "||"), self.at)

    def space(self) -> None:
        while self.peek() == " ":
            self.at += 1


def _look(segments: _Segments, value: Any) -> Any:
    for parts in segments:
        value = _find(parts, 0, value)
        if value is MISSING:
            return MISSING
    return value


def _find(parts: Sequence[_Part], at: int, value: Any) -> Any:
    while at < len(parts):
        part = parts[at]
        at += 1
        if isinstance(part, _Key):
            value = _member(part, value)
            if value is MISSING:
                return MISSING
        elif isinstance(part, _Each):
            if not isinstance(value, list):
                return MISSING
            if at == len(parts):
                return len(value)
            found = (_find(parts, at, v) for v in value)
            return [f for f in found if f is not MISSING]
        elif isinstance(part, _Query):
            if not isinstance(value, list):
                return MISSING
            if part.all:
                matching = [v for v in value if _holds(part, v)]
                if at == len(parts):
                    return matching
                found = (_find(parts, at, v) for v in matching)
                return [f for f in found if f is not MISSING]
            value = next((v for v in value if _holds(part, v)), MISSING)
            if value is MISSING:
                return MISSING
        elif isinstance(part, _Paths):
            each = (_look(p, value) for p in part.paths)
            value = [v for v in each if v is not MISSING]
    return value


def _member(key: _Key, value: Any) -> Any:
    if isinstance(value, Mapping):
        if key.pattern is None:
            return value.get(key.name, MISSING)
        for name, member in value.items():
            if key.pattern.match(name):
                return member
        return MISSING
    if isinstance(value, list) and key.name.isdigit() and len(key.name) < 10:
        index = int(key.name)
        return value[index] if index < len(value) else MISSING
    return MISSING


def _holds(query: _Query, element: Any) -> bool:
    return _compares(query, element) and (query.also is None or _holds(query.also, element))


def _compares(query: _Query, element: Any) -> bool:
    value = _look(query.path, element)
    if value is MISSING:
        return False
    if not query.operator:
        return True
    if isinstance(value, bool):
        other = {"true": True, "false": False}.get(query.value)
        return other is not None and _compare(query, value, other)
    if isinstance(value, int | float):
        try:
            number = float(query.value)
        except ValueError:
            return False
        return _compare(query, value, number)
    return isinstance(value, str) and _compare(query, value, query.value)


def _compare(query: _Query, left: Any, right: Any) -> bool:
    match query.operator:
        case "==":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
        case ">=":
            return bool(left >= right)
        case _:
            if query.pattern is None or not isinstance(left, str):
                return False
            return bool(query.pattern.match(left)) == (query.operator == "%")
