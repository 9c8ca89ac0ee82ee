"""Models and samplers of the tests' own, to hold the explainers against."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock.explain.training import Training


@cache
def iris() -> tuple[Training, Any]:
    """Iris as a training set, and a classifier of it."""
    data = load_iris()
    model = LogisticRegression(max_iter=500).fit(data.data, data.target)
    names = list(data.feature_names)
    return Training(data.data.astype(float), names, classes=list(data.target_names)), model


_PART = re.compile(r"^(?:([-\d.]+) < )?(.+?) (<=|>) ([-\d.]+)$")


def bounds(anchor: list[str], names: list[str]) -> dict[int, tuple[float, float]]:
    """Feature -> (above, at most), read from an anchor's own words: "0.30 < petal width (cm) <= 1.30"."""
    found: dict[int, tuple[float, float]] = {}
    for text in anchor:
        match = _PART.match(text)
        assert match is not None, text
        low, name, sign, number = match.groups()
        feature = names.index(name)
        a, b = found.get(feature, (-np.inf, np.inf))
        if low is not None:
            a = max(a, float(low))
        if sign == ">":
            a = max(a, float(number))
        else:
            b = min(b, float(number))
        found[feature] = (a, b)
    return found


def precision(
    anchor: list[str],
    training: Training,
    predict: Callable[[Any], Any],
    label: Any,
    rows: int = 20_000,
) -> float:
    """The precision of an anchor, sampled row by row as the paper says, without any of our code."""
    random = np.random.default_rng(99)
    data = training.rows
    limits = bounds(anchor, list(training.names))
    drawn = data[random.integers(0, len(data), rows)].copy()
    for feature, (low, high) in limits.items():
        fitting = [v for v in data[:, feature] if low < round(v, 4) <= high]
        for row in drawn:
            if not low < round(row[feature], 4) <= high:
                row[feature] = fitting[random.integers(0, len(fitting))]
    return float(np.mean(predict(drawn) == label))


def coverage(anchor: list[str], training: Training) -> float:
    held = np.ones(len(training.rows), dtype=bool)
    for feature, (low, high) in bounds(anchor, list(training.names)).items():
        values = np.round(training.rows[:, feature], 4)
        held &= (values > low) & (values <= high)
    return float(held.mean())


def shapley(predict: Callable[[Any], Any], row: Any, background: Any) -> Any:
    """Shapley values by their definition (a sum over all coalitions), `[features, outputs]`."""
    features = len(row)

    def value(coalition: tuple[int, ...]) -> Any:
        rows = background.copy()
        rows[:, list(coalition)] = row[list(coalition)]
        return np.asarray(predict(rows)).reshape(len(rows), -1).mean(0)

    out = []
    for i in range(features):
        total = 0.0
        others = [j for j in range(features) if j != i]
        for size in range(features):
            weight = factorial(size) * factorial(features - size - 1) / factorial(features)
            for s in combinations(others, size):
                total = total + weight * (value((*s, i)) - value(s))
        out.append(total)
    return np.array(out)
