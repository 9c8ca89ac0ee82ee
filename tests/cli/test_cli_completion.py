"""What a shell offers on Tab, by the script that penstock prints for it, in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_harness import Penstock

IRIS = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: %s}
spec: {predictor: {sklearn: {storageUri: models/iris}}}
"""


def offered(server: str, line: str, tmp_path: Path) -> list[str]:
    """What bash offers after `line`."""
    program = "import sys; sys.argv[0] = 'penstock'; from penstock.cli import main; main()"
    (tmp_path / "penstock").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    (tmp_path / "penstock").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PENSTOCK_SERVER": server}
    script = """
eval "$(_PENSTOCK_COMPLETE=source_bash penstock)"
COMP_WORDS=($1); [ "${1: -1}" = " " ] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_penstock_completion penstock
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-c", script, "bash", line],
        env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_commands_options_kinds_and_names_are_completed(
    penstock: Penstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("iris", "irma", "wine"):
        (tmp_path / "m.yaml").write_text(IRIS % name)
        assert penstock("apply", "-f", "m.yaml").code == 0
    url = penstock.server.url
    assert offered(url, "penstock ap", tmp_path) == ["apply"]
    assert "--namespace" in offered(url, "penstock get --names", tmp_path)
    assert offered(url, "penstock get is", tmp_path) == ["isvc"]
    assert offered(url, "penstock get isvc ", tmp_path) == ["iris", "irma", "wine"]
    assert offered(url, "penstock predict ir", tmp_path) == ["iris", "irma"]
    assert offered(url, "penstock logs -n nowhere ir", tmp_path) == []
    assert offered(url, "penstock rollout status w", tmp_path) == ["wine"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_server_that_is_away_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert offered("http://127.0.0.1:1", "penstock predict ir", tmp_path) == []
    assert offered("nonsense", "penstock get isvc ", tmp_path) == []
