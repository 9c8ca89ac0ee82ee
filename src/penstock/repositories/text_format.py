"""Protobuf's text format, read against a schema: Triton's `config.pbtxt`.

A strict reader of its own instead of the protobuf package's: the messages that people get name the file, the
line and the field, and the schema is a table of what Triton documents instead of generated code. Values come
out as Python's: a message is a dict, a repeated field a list, a map a dict, an enum its name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from penstock.errors import InvalidInput

#: A message's fields by name.
Message: TypeAlias = Mapping[str, "Field"]
MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True)
class Field:
    """What a field holds: `string`, `int`, `float`, `bool`, an enum's names, or a message."""

    kind: str | tuple[str, ...] | Message
    repeated: bool = False
    #: `entries { key: "k" value: ... }`; `kind` is the value's.
    map: bool = False


class BadText(InvalidInput):
    """The text is no message of the schema; `message` says where and why."""


_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>[-{}<>\[\]:;,])""",
    re.VERBOSE,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_CLOSE: Final = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse(text: str, schema: Message) -> dict[str, Any]:
    """The message in `text`. BadText names the line."""
    reader = _Reader(text)
    return reader.message(schema, "", 0)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _fault(self, token: _Token, why: str) -> BadText:
        return BadText(f"line {token.line}: {why}")

    def message(self, schema: Message, close: str, depth: int) -> dict[str, Any]:
        if depth > MAX_DEPTH:
            raise self._fault(self._peek(), f"more than {MAX_DEPTH} messages inside of each other")
        found: dict[str, Any] = {}
        while True:
            token = self._take()
            if token.kind == "end" or (token.kind == "mark" and token.text == close):
                if (token.kind == "end") != (not close):
                    raise self._fault(token, f"{close!r} is missing")
                return found
            if token.kind != "name":
                raise self._fault(token, f"a field's name is expected, not {token.text!r}")
            field = schema.get(token.text)
            if field is None:
                near = difflib.get_close_matches(token.text, schema, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(schema)}"
                raise self._fault(token, f"unknown field {token.text!r}; {hint}")
            self._field(token, field, found, depth)
            if self._peek().kind == "mark" and self._peek().text in (",", ";"):
                self._take()

    def _field(self, name: _Token, field: Field, found: dict[str, Any], depth: int) -> None:
        block = isinstance(field.kind, Mapping) or field.map
        colon = self._peek().text == ":" and self._peek().kind == "mark"
        if colon:
            self._take()
        elif not block:
            raise self._fault(self._peek(), f"':' is expected after {name.text}")
        values: list[Any]
        if self._peek().text == "[" and self._peek().kind == "mark":
            if not (field.repeated or field.map):
                raise self._fault(self._peek(), f"{name.text} is not repeated")
            values = self._list(name, field, depth)
        else:
            values = [self._value(name, field, depth)]
        if field.map:
            target = found.setdefault(name.text, {})
            for entry in values:
                if "key" not in entry:
                    raise self._fault(name, f"an entry of {name.text} has no key")
                target[entry["key"]] = entry.get("value", {} if block else None)
        elif field.repeated:
            found.setdefault(name.text, []).extend(values)
        elif name.text in found:
            raise self._fault(name, f"{name.text} is given twice")
        else:
            found[name.text] = values[0]

    def _list(self, name: _Token, field: Field, depth: int) -> list[Any]:
        self._take()
        values: list[Any] = []
        while not self._closes("]"):
            values.append(self._value(name, field, depth))
            if self._peek().text == "," and self._peek().kind == "mark":
                self._take()
                if self._peek().text == "]":
                    raise self._fault(self._peek(), "a value is expected after ','")
            elif self._peek().text != "]":
                raise self._fault(self._peek(), "',' or ']' is expected")
        return values

    def _closes(self, mark: str) -> bool:
        token = self._peek()
        if token.kind == "end":
            raise self._fault(token, f"{mark!r} is missing")
        if token.kind == "mark" and token.text == mark:
            self._take()
            return True
        return False

    def _value(self, name: _Token, field: Field, depth: int) -> Any:
        if field.map:
            kind: Any = {"key": Field("string"), "value": Field(field.kind)}
        else:
            kind = field.kind
        if isinstance(kind, Mapping):
            token = self._take()
            if token.kind != "mark" or token.text not in _CLOSE:
                raise self._fault(token, f"{name.text} is a message: '{{' is expected")
            return self.message(kind, _CLOSE[token.text], depth + 1)
        token = self._take()
        if isinstance(kind, tuple):
            if token.kind != "name" or token.text not in kind:
                near = difflib.get_close_matches(token.text, kind, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(kind)}"
                raise self._fault(token, f"{name.text} cannot be {token.text!r}; {hint}")
            return token.text
        if kind == "string":
            if token.kind != "string":
                raise self._fault(token, f"{name.text} is text: quotes are expected")
            parts = [token.text]
            while self._peek().kind == "string":
                parts.append(self._take().text)
            return "".join(self._unquoted(token, p) for p in parts)
        if kind == "bool":
            values = {"true": True, "True": True, "t": True, "1": True}
            values |= {"false": False, "False": False, "f": False, "0": False}
            if token.text not in values or token.kind == "string":
                raise self._fault(token, f"{name.text} is true or false")
            return values[token.text]
        return self._number(name, token, str(kind))

    def _number(self, name: _Token, token: _Token, kind: str) -> int | float:
        text = token.text
        if token.kind == "mark" and text == "-":
            token = self._take()
            text = "-" + token.text
        if kind == "int":
            try:
                if token.kind == "number":
                    return int(text, 0 if "x" in text.lower() else 10)
            except ValueError:
                pass
            raise self._fault(token, f"{name.text} is a whole number, not {text!r}")
        words = {"inf": "inf", "infinity": "inf", "nan": "nan"}
        text = words.get(text.lower().lstrip("-+"), text.rstrip("fF"))
        try:
            return float(text)
        except ValueError:
            raise self._fault(token, f"{name.text} is a number, not {token.text!r}") from None

    def _unquoted(self, token: _Token, text: str) -> str:
        def replace(match: re.Match[bytes]) -> bytes:
            code = match[1]
            if code[:1] == b"x" and len(code) > 1:
                return bytes([int(code[1:], 16)])
            if code[:1].isdigit() and code[0] < ord("8"):
                return bytes([int(code, 8) & 0xFF])
            return _ESCAPES.get(code.decode("latin-1"), code.decode("latin-1")).encode("latin-1")

        try:
            return _ESCAPE.sub(replace, text[1:-1].encode()).decode()
        except UnicodeDecodeError:
            raise self._fault(token, "the text is not UTF-8") from None


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    line = 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadText(f"line {line}: {text[at]!r} has no meaning here")
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        at = match.end()
    found.append(_Token("end", "the end", line))
    return found
