"""What rows share: the model, the run that counts, and the row of a peer that could not be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    return middle(in_turns(runs, {"the load": run})["the load"])


def in_turns(rounds: int, runs: Mapping[str, Callable[[], Load]]) -> dict[str, list[Load]]:
    """Each of `runs` once a round: a machine that gets slower does so for all. RuntimeError as `best`."""
    loads: dict[str, list[Load]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            load = run()
            if load.failed:
                raise RuntimeError(f"{name}: {load.failed} of {load.requests} requests failed")
            loads[name].append(load)
    return loads


def middle(loads: Sequence[Load]) -> Load:
    """The one with the median rate."""
    return sorted(loads, key=lambda load: load.rate)[len(loads) // 2]


def quickest(runs: int, run: Callable[[], Load]) -> Load:
    """The one with the least median: what else the machine does makes an answer later, never sooner."""
    loads = in_turns(runs, {"the load": run})["the load"]
    return min(loads, key=lambda load: load.p50_s)


def not_measured(work: str, measured: str, peer: str, goal: str, why: Exception) -> Row:
    """A row whose peer did not run."""
    reason = " ".join(str(why).split())[:300]
    return Row(work, measured, f"{peer}: not measured: {reason}", goal, False, {})
