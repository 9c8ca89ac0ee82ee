"""What rows share: the model, the run that counts, and the row of a peer that could not be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from benchmarks.load import Load
from benchmarks.report import Row


def iris_model(folder: Path) -> Path:
    """A logistic regression on iris, saved as a user would."""
    data = load_iris()
    model = LogisticRegression(max_iter=1000).fit(data.data, data.target)
    path = folder / "iris" / "model.joblib"
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, path)
    return path


def best(runs: int, run: Callable[[], Load]) -> Load:
    """The run with the median rate of `runs`; RuntimeError when a request failed."""
    loads = sorted((run() for _ in range(runs)), key=lambda load: load.rate)
    for load in loads:
        if load.failed:
            raise RuntimeError(f"{load.failed} of {load.requests} requests failed")
    return loads[len(loads) // 2]


def not_measured(work: str, measured: str, peer: str, goal: str, why: Exception) -> Row:
    """A row whose peer did not run."""
    reason = " ".join(str(why).split())[:300]
    return Row(work, measured, f"{peer}: not measured: {reason}", goal, False, {})
