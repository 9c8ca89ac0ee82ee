"""What is understood and not done: one table per dialect, so that nothing is ignored in silence.

A dialect's pydantic models know every field its users know. This table says which of those are refused and
which are accepted without effect, by path. To support a field later is to take its row out (and to read the
field in the dialect); the documentation and the tests are made from the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Any

from penstock.dialects.schema import path
from penstock.errors import FieldProblem


class Effect(StrEnum):
    """What becomes of a manifest that has the field."""

    REFUSED = "refused"
    #: Accepted; a warning in the status and the events says that it does nothing here.
    NO_EFFECT = "no effect"


@dataclass(frozen=True, slots=True)
class Row:
    """One or more fields and what becomes of them.

    `fields` has dots between names, `{a,b}` for either and `*` for any key or list item. `only_processes`
    rows count only where replicas are processes of this machine; a backend that runs containers honours the
    field. `harmless` values are as good as absent.
    """

    fields: str
    effect: Effect
    message: str
    only_processes: bool = False
    harmless: tuple[Any, ...] = ()

    def paths(self) -> list[str]:
        """The field paths with each `{a,b}` written out."""
        parts = re.split(r"\{([^{}]*)\}", self.fields)
        choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
        return ["".join(c) for c in product(*choices)]


def refused(
    fields: str, message: str, *, harmless: tuple[Any, ...] = (), only_processes: bool = False
) -> Row:
    return Row(fields, Effect.REFUSED, message, only_processes, harmless)


def no_effect(
    fields: str, message: str, *, harmless: tuple[Any, ...] = (), only_processes: bool = True
) -> Row:
    return Row(fields, Effect.NO_EFFECT, message, only_processes, harmless)


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    row: Row | None = None


class Table:
    """The rows of a dialect, ready to be matched. Matching costs only what the manifest contains."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._root = _Node()
        for row in self.rows:
            for fields in row.paths():
                node = self._root
                for part in fields.split("."):
                    node = node.children.setdefault(part, _Node())
                node.row = row

    def check(
        self, manifest: Mapping[str, Any], *, runs_containers: bool
    ) -> tuple[list[FieldProblem], list[FieldProblem]]:
        """(refused fields, fields without effect) of a manifest."""
        problems: list[FieldProblem] = []
        warnings: list[FieldProblem] = []

        def found(row: Row, at: tuple[int | str, ...]) -> None:
            if row.only_processes and runs_containers:
                return
            kept = problems if row.effect is Effect.REFUSED else warnings
            kept.append(FieldProblem(path(at), row.message))

        _walk(self._root, manifest, (), found)
        return problems, warnings


def _walk(
    node: _Node,
    value: Any,
    at: tuple[int | str, ...],
    found: Callable[[Row, tuple[int | str, ...]], None],
) -> None:
    items: Iterable[tuple[int | str, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        child = node.children.get(key) if isinstance(key, str) else None
        child = child or node.children.get("*")
        if child is None or item is None:
            continue
        here = (*at, key)
        if child.row is not None:
            # 1 == True in Python: a harmless `false` must not excuse a 0.
            if not any(item == h and type(item) is type(h) for h in child.row.harmless):
                found(child.row, here)
            continue
        _walk(child, item, here, found)
