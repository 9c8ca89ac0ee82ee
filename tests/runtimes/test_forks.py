"""A framework that is imported, warmed and frozen answers in its forks, again and again.

This is what replicas stand on: a zygote with one thread, children that set their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import runtimes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "framework",
    [
        name
        for name in runtimes.names()
        # Users' own classes, and models made of others: no framework's answer is there to compare with.
        # skops is scikit-learn from another file.
        if name not in ("custom", "transformer", "explainer", "triton_ensemble", "skops")
        and not name.endswith("_python")
    ],
)
def test_forks_answer_as_the_framework_does(framework):
    command = [sys.executable, "-m", "benchmarks.fork_cost", framework, "--json"]
    command += ["--forks", "2", "--threads", "2"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.splitlines()[-1])
    assert result["threads"] == 1, "a thread in the zygote would be missing in its forks"
    assert [report.get("same") for report in result["forks"]] == [True, True], done.stderr
