"""The table of documented graph scenarios, docs/reference/graph-scenarios.md: one file per system.

Each `*_scenarios.py` in this folder has a `SYSTEM`: its rows, which its tests run, and what is refused when
applied, which its tests apply. Run as a program, this file writes the page; a test holds the page to it.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "graph-scenarios.md"


@dataclass(frozen=True)
class Row:
    """A scenario: the status of its answer, and how the system itself differs (empty: it does not)."""

    name: str
    status: int
    note: str = ""


@dataclass(frozen=True)
class Refused:
    """A manifest that is not taken: the field's path, and what is said of it."""

    what: str
    field: str
    said: str


@dataclass(frozen=True)
class System:
    """One system's scenarios. `compared` names what the last column compares with; empty: nothing."""

    title: str
    compared: str
    rows: tuple[Row, ...]
    refused: tuple[Refused, ...] = ()
    #: Where they are run.
    tests: str = ""
    #: The page's order.
    place: int = 100


def systems() -> list[System]:
    """What the files of this folder have."""
    files = (p.stem for p in HERE.glob("*_scenarios.py"))
    names = sorted(n for n in files if n != Path(__file__).stem and not n.startswith("test_"))
    found = [importlib.import_module(name).SYSTEM for name in names]
    return sorted(found, key=lambda s: (s.place, s.title))


def page() -> str:
    """docs/reference/graph-scenarios.md."""
    lines = [
        "# Graph scenarios",
        "",
        "Made by the tests that run every row (`tests/graphs/graph_scenarios.py`). How graphs are written,",
        "run and watched is told in [graphs](../how-to/graphs.md).",
    ]
    for system in systems():
        lines += ["", f"## {system.title}", ""]
        if system.tests:
            lines += [f"Run by {system.tests}.", ""]
        if system.compared:
            lines += [f"| scenario | status | same as {system.compared} |", "|---|---|---|"]
            lines += [f"| {r.name} | {r.status} | {r.note or 'yes'} |" for r in system.rows]
        else:
            lines += ["| scenario | status |", "|---|---|"]
            lines += [f"| {r.name} | {r.status} |" for r in system.rows]
        if system.refused:
            lines += [
                "",
                "Refused when applied, each with the field's path:",
                "",
                "| what is wrong | field | what is said |",
                "|---|---|---|",
            ]
            lines += [
                f"| {r.what} | `{r.field}` | {r.said.replace('|', chr(92) + '|')} |"
                for r in system.refused
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    PAGE.write_text(page())
