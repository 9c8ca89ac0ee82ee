"""Dialects are found by apiVersion and kind, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock import dialects
from penstock.errors import InvalidManifest


def test_every_dialect_is_found_by_what_it_says_of_itself() -> None:
    for dialect in dialects.all_dialects():
        assert dialects.find(dialect.api_version, dialect.kind) is dialect
        assert dialect.plural == dialect.plural.lower()
    assert dialects.find("v1", "Secret").group == ""
    assert (
        dialects.find("serving.kserve.io/v1alpha1", "ServingRuntime").group == "serving.kserve.io"
    )


def test_plurals_are_unique_within_a_group_and_version() -> None:
    names = [(d.api_version, d.plural) for d in dialects.all_dialects()]
    assert len(names) == len(set(names))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(InvalidManifest):
        dialects.find("x/v1", "Nothing")
    with pytest.raises(InvalidManifest):
        dialects.of({})


def test_importing_the_package_builds_no_models() -> None:
    # The Dialect type names a pydantic class; the models themselves wait for the first look-up.
    code = "import sys, penstock.dialects; print('penstock.dialects.kserve.fields' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
