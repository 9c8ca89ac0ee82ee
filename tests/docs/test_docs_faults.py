"""The page of faults has a row for each fault that tests inject, and each that is to be survived."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault,")
]


def noted() -> list[str]:
    """What tests write into the book, but for names that are put together."""
    return [
        str(node.args[0].value)
        for file in sorted((ROOT / "tests" / "faults").glob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "note"
        and isinstance(node.args[0], ast.Constant)
    ]


def test_every_fault_that_a_test_injects_has_a_row() -> None:
    assert len(noted()) > 10
    assert set(noted()) <= {row[0] for row in ROWS}


@pytest.mark.parametrize(
    "fault",
    [
        "replicas? killed",
        "supervisor killed",
        "gateways? killed",
        "control plane killed",
        "new revision that never becomes ready",
        "new revision that crashes on its third request",
        "new revision that answers in",
        "new revision that leaks memory",
        "disk of the data folder full",
        "clock stepped back",
        "store's file damaged",
    ],
)
def test_what_is_to_be_survived_is_in_the_table_with_what_it_costs_and_why(fault: str) -> None:
    rows = [row for row in ROWS if re.search(fault, row[0])]
    assert rows
    for row in rows:
        assert len(row) == 4
        assert all(row), row
