"""Rows of figures: as a table to read, as JSON to keep, and as the table in the README."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.system import ROOT

BEGIN = "<!-- figures: made by `make bench` -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One claim: what was done, what came out, what it was held against."""

    work: str
    measured: str
    against: str
    goal: str
    reached: bool
    raw: dict[str, float] = field(default_factory=dict)


def table(rows: Sequence[Row]) -> str:
    """A markdown table."""
    lines = ["| work | measured | against | goal | |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.work} | {r.measured} | {r.against} | {r.goal} | {'yes' if r.reached else '**no**'} |"
        for r in rows
    ]
    return "\n".join(lines)


def machine() -> str:
    """The machine in a line."""
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release().split('-')[0]}, {time.strftime('%Y-%m-%d')}"
    )


def keep(rows: Sequence[Row], *, partial: bool) -> None:
    """Write the run's JSON; a whole run also becomes the page and the README's table."""
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    document = {"machine": machine(), "rows": [asdict(r) for r in rows]}
    name = "partial.json" if partial else "latest.json"
    (folder / name).write_text(json.dumps(document, indent=1) + "\n")
    if not partial:
        text = f"{table(rows)}\n\n{machine()}. Raw figures: `benchmarks/results/latest.json`."
        for page in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md"):
            if page.exists():
                _put(page, text)


def _put(page: Path, text: str) -> None:
    """Replace what stands between the markers; ValueError when the page has none."""
    old = page.read_text()
    start, end = old.index(BEGIN) + len(BEGIN), old.index(END)
    page.write_text(f"{old[:start]}\n{text}\n{old[end:]}")
