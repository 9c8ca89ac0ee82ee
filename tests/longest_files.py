"""Writes tests/longest_files.txt from the report of a run.

    python -m pytest -n 2 --dist loadfile --junitxml=report.xml
    python tests/longest_files.py report.xml

The root's conftest begins with these files when tests run side by side. A file that is missing in the list
costs no more than a longer end of the run.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
#: What takes less fits in anywhere.
LEAST_S = 4.0


def seconds(report: Path) -> Counter[str]:
    """Seconds by file, of which the report knows the modules."""
    found: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        parts = case.get("classname", "").split(".")
        while parts and not (path := ROOT.joinpath(*parts).with_suffix(".py")).exists():
            parts.pop()  # a class
        if parts:
            found[path.relative_to(ROOT).as_posix()] += float(case.get("time") or 0)
    return found


if __name__ == "__main__":
    lines = [f"{s:.0f} {f}" for f, s in seconds(Path(sys.argv[1])).most_common() if s >= LEAST_S]
    (ROOT / "tests" / "longest_files.txt").write_text("\n".join(lines) + "\n")
