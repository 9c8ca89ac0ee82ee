"""Old manifests as newer ones, with every problem told at the place where the user wrote it.

A dialect that is another spelling of a newer one rewrites its manifest into that and has it translated
there, so that defaults, checks and messages are the same. `places` leads each path of the rewritten manifest
back to the one it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from penstock.dialects.base import Manifest, Translation, refuse, unsaid
from penstock.dialects.schema import fields
from penstock.dialects.support import Row, Table
from penstock.errors import FieldProblem, InvalidManifest


@dataclass(frozen=True, slots=True)
class Converted:
    """A manifest in a newer dialect's shape."""

    manifest: dict[str, Any]
    #: Path there -> path in the original; the longest that fits counts.
    places: Mapping[str, str] = field(default_factory=dict)


def translate_converted(
    original: Manifest,
    converted: Converted,
    translator: Callable[..., Translation],
    *,
    problems: Iterable[FieldProblem] = (),
    warnings: Iterable[FieldProblem] = (),
    runs_containers: bool = False,
) -> Translation:
    """What `translator` makes of the rewritten manifest. InvalidManifest about the original.

    `problems` and `warnings` are what the conversion itself found; all are told together.
    """
    told = list(problems)
    said = list(warnings)
    translation: Translation | None = None
    try:
        translation = translator(converted.manifest, runs_containers=runs_containers)
    except InvalidManifest as exc:
        told += unsaid((moved_back(p, converted.places) for p in exc.problems), told)
    if told or translation is None:
        refuse(original, list(dict.fromkeys(told)))
    said += [moved_back(w, converted.places) for w in translation.warnings]
    return Translation(translation.object, tuple(dict.fromkeys(said)))


def moved_back(problem: FieldProblem, places: Mapping[str, str]) -> FieldProblem:
    """The problem at its path in the original."""
    best = ""
    for place in places:
        if len(place) >= len(best) and _within(problem.path, place):
            best = place
    if not best:
        return problem
    return FieldProblem(places[best] + problem.path[len(best) :], problem.message)


def _within(path: str, place: str) -> bool:
    return path.startswith(place) and path[len(place) : len(place) + 1] in ("", ".", "[")


def moved_rows(table: Table, prefixes: Mapping[str, str], model: type[BaseModel]) -> list[Row]:
    """Rows of a newer dialect's table at their places in `model`; those it has no field for are left out."""
    known = {name.replace("[]", ".*") for name, _ in fields(model)}
    rows = []
    for row in table.rows:
        for path in row.paths():
            for new, old in prefixes.items():
                if not path.startswith(new + "."):
                    continue
                here = old + path[len(new) :]
                # The last part may be a key of a map that the model does not spell out.
                if here in known or (
                    here.rpartition(".")[0] in known and here.count(".resources.")
                ):
                    rows.append(
                        Row(here, row.effect, row.message, row.only_processes, row.harmless)
                    )
    return rows
