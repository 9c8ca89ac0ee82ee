"""Examples that a page shows are the files in examples/, to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```\S+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "folder", "entry"), [("how-to/bandits.md", "bandits", "offers.yaml")]
)
def test_the_page_shows_the_example(page: str, folder: str, entry: str) -> None:
    blocks = dict(_BLOCK.findall((ROOT / "docs" / page).read_text()))
    where = ROOT / "examples" / folder
    files = {str(p.relative_to(where)): p.read_text() for p in where.rglob("*.*")}
    assert blocks == files
    assert entry in files
