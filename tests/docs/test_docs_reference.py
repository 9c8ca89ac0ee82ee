"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_reference_is_what_the_code_makes() -> None:
    """`make reference` would change nothing."""
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        if (
            DOCS / "reference" / name
        ).read_text() != text:  # no assert: its diff would fill screens
            pytest.fail(f"docs/reference/{name} is stale: run `make reference`")


def test_commands_of_groups_are_told() -> None:
    said = (DOCS / "reference" / "commands.md").read_text()
    for name in ("rollout rollback", "graph show", "graph inspect", "bandit show"):
        assert f"## penstock {name}\n" in said
