"""Manifests in files, with the line of every field, so that an error points at what somebody wrote."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from penstock.cli.exits import FAILED, USAGE, CliError

SUFFIXES = (".yaml", ".yml", ".json")
_PART = re.compile(r"\[(\d+)\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\['([^']*)'\]|\.?([^.\[\]]+)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document of a file."""

    document: dict[str, Any]
    file: str
    line: int
    #: Line of each field, by its path's parts.
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def where(self, path: str) -> str:
        """`FILE:LINE` of a field path such as `spec.predictor.sklern`, or of its nearest parent."""
        parts = split_path(path)
        while parts:
            line = self.lines.get(parts)
            if line is not None:
                return f"{self.file}:{line}"
            parts = parts[:-1]
        return f"{self.file}:{self.line}"


def split_path(path: str) -> tuple[str, ...]:
    """`spec.containers[0].env` as parts; quoted keys may hold dots."""
    return tuple(next(p for p in m.groups() if p is not None) for m in _PART.finditer(path))


def read(names: list[str]) -> list[Manifest]:
    """All documents of files, folders (their YAML and JSON files, sorted) and `-` (stdin).

    CliError names the file and the line.
    """
    found: list[Manifest] = []
    for name in names:
        if name == "-":
            found += parse(sys.stdin.read(), "stdin")
            continue
        if name.startswith(("http://", "https://")):
            raise CliError(
                f"{name} is a URL, and files are read from this machine only. Look at what it is, then: "
                f"curl -sSL {shlex.quote(name)} | penstock apply -f -",
                USAGE,
            )
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            if not files:
                raise CliError(f"There is no {', '.join(SUFFIXES)} file in {name}.", USAGE)
        else:
            files = [path]
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except OSError as exc:
                raise CliError(f"{file} cannot be read: {exc.strerror}.", USAGE) from exc
            except UnicodeDecodeError as exc:
                raise CliError(f"{file} is no UTF-8 text.", USAGE) from exc
            found += parse(text, str(file))
    if not found:
        raise CliError("There is no manifest in what was given.", USAGE)
    return found


def parse(text: str, file: str) -> list[Manifest]:
    """The documents of one text; empty ones are passed over, `List` kinds are opened."""
    found: list[Manifest] = []
    try:
        for node in _nodes(text):
            document = _constructed(node)
            if document is None:
                continue
            line = node.start_mark.line + 1
            if not isinstance(document, dict):
                raise CliError(f"{file}:{line}: a manifest is a map, not {_what(document)}.")
            lines: dict[tuple[str, ...], int] = {}
            _note(node, (), lines)
            if document.get("kind") == "List" and isinstance(document.get("items"), list):
                found += _items(document["items"], file, line, lines)
            else:
                found.append(Manifest(document, file, line, lines))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        at = f"{file}:{mark.line + 1}" if mark is not None else file
        raise CliError(f"{at}: {_said(exc)}.", FAILED) from exc
    except RecursionError:
        raise CliError(f"{file}: it refers to itself, or is nested too deep.") from None
    except yaml.YAMLError as exc:
        raise CliError(f"{file}: {str(exc).splitlines()[0]}.", FAILED) from exc
    return found


def _said(exc: yaml.MarkedYAMLError) -> str:
    """What the parser said; its two commonest sentences are about its grammar, not about the file."""
    said = str(exc.problem or exc.context)
    if "'\\t'" in said:
        return f"a tab; YAML is indented with spaces ({said})"
    if said.startswith(("expected <block end>", "mapping values are not allowed")):
        return f"the indentation does not fit the lines above, or a quote is missing ({said})"
    return said


def _items(
    items: list[Any], file: str, line: int, lines: dict[tuple[str, ...], int]
) -> Iterator[Manifest]:
    for i, item in enumerate(items):
        front = ("items", str(i))
        below = {p[2:]: n for p, n in lines.items() if p[:2] == front and len(p) > 2}
        at = lines.get(front, line)
        if not isinstance(item, dict):
            raise CliError(f"{file}:{at}: a manifest is a map, not {_what(item)}.")
        yield Manifest(item, file, at, below)


class _Loader(yaml.SafeLoader):
    """Dates stay text, as in JSON; a key given twice is an error, not a silent choice."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _nodes(text: str) -> list[yaml.Node]:
    """Read by the C library where there is one, ten times as fast; what it refuses, by the other, whose words
    about mistakes are the better ones."""
    if yaml.__with_libyaml__:

        class Quick(yaml.CSafeLoader):
            yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

        try:
            return list(_read_by(Quick(text)))
        except yaml.YAMLError:
            pass
    return list(_read_by(_Loader(text)))


def _read_by(loader: Any) -> Iterator[yaml.Node]:
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                _check_twice(node)
                yield node
    finally:
        loader.dispose()


def _constructed(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_twice(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
            _check_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_twice(value)


def _note(node: yaml.Node, at: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here = (*at, str(key.value))
                lines[here] = key.start_mark.line + 1
                _note(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            here = (*at, str(i))
            lines[here] = value.start_mark.line + 1
            _note(value, here, lines)


def _what(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "a text" if isinstance(value, str) else repr(value)
