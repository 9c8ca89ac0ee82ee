"""Anchors for rows of numbers: "petal width (cm) > 1.7 and petal length (cm) > 4.9".

Conditions are on features: a number is above or below one of the quantiles of the training data, a category
is the one it is. A row from D(z | A) is a row of the training data in which each feature that breaks a
condition of A is replaced by that of another training row which keeps it, so values stay real ones (section
"Anchors for tabular data" of the paper, and its supplement).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any, Final

import numpy as np

from penstock.explain.anchors import Anchor, Conditions, Settings, search
from penstock.explain.base import Array, Ask, Bools, Explanation
from penstock.explain.labels import Labelled, plain
from penstock.explain.training import TableExplainer, Training

#: Conditions times rows that coverage is measured over.
_HELD_CELLS: Final = 64_000_000
_QUANTILES: Final[Mapping[str, tuple[float, ...]]] = {
    "quartile": (25, 50, 75),
    "decile": (10, 20, 30, 40, 50, 60, 70, 80, 90),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`low < feature <= high`; a category is the interval from just below it to itself."""

    feature: int
    low: float
    high: float
    text: str

    def holds(self, values: Array) -> Bools:
        return np.asarray((values > self.low) & (values <= self.high), dtype=np.bool_)


@dataclass(slots=True)
class TabularSpace:
    """The conditions of one row, over a training set."""

    rows: Array
    #: The row that is explained: every condition holds for it.
    row: Array
    conditions: Sequence[Condition]
    random: np.random.Generator
    held: Bools
    #: Training values of a feature between two bounds, sorted once.
    _allowed: dict[tuple[int, float, float], Array] = field(default_factory=dict)

    def draw(self, anchors: Sequence[Conditions], counts: Sequence[int]) -> Array:
        out = self.rows[self.random.integers(0, len(self.rows), int(np.sum(counts)))]
        start = 0
        for anchor, count in zip(anchors, counts, strict=True):
            part = out[start : start + count]
            for feature, (low, high) in self._bounds(anchor).items():
                values = part[:, feature]
                broken = ~((values > low) & (values <= high))
                allowed = self._values(feature, low, high)
                values[broken] = self.random.choice(allowed, int(np.count_nonzero(broken)))
            start += count
        return out

    def implied(self, anchor: Conditions, condition: int) -> bool:
        new = self.conditions[condition]
        low, high = self._bounds(anchor).get(new.feature, (-np.inf, np.inf))
        return low >= new.low and high <= new.high

    def _bounds(self, anchor: Conditions) -> dict[int, tuple[float, float]]:
        bounds: dict[int, tuple[float, float]] = {}
        for i in anchor:
            c = self.conditions[i]
            low, high = bounds.get(c.feature, (-np.inf, np.inf))
            bounds[c.feature] = (max(low, c.low), min(high, c.high))
        return bounds

    def _values(self, feature: int, low: float, high: float) -> Array:
        key = (feature, low, high)
        found = self._allowed.get(key)
        if found is None:
            column = self.rows[:, feature]
            found = column[(column > low) & (column <= high)]
            if not len(found):  # between two quantiles that no training row is between
                found = self.row[[feature]]
            self._allowed[key] = found
        return found


class AnchorTabular(TableExplainer):
    """Anchors over a training set `[rows, features]`."""

    kind = "AnchorTabular"

    def __init__(
        self,
        training: Training,
        settings: Settings | None = None,
        *,
        discretizer: str = "quartile",
        output: str = "auto",
    ) -> None:
        super().__init__(training)
        self.settings = settings or Settings()
        self.output = output
        self.discretizer = discretizer
        percentiles = _QUANTILES[discretizer]
        self._edges = [
            np.empty(0)
            if f in training.categories
            else np.unique(np.percentile(training.rows[:, f], percentiles))
            for f in range(training.features)
        ]
        self._decimals = [_decimals(edges) for edges in self._edges]

    @property
    def params(self) -> Mapping[str, Any]:
        return {**self.settings.reported, "discretizer": self.discretizer, "output": self.output}

    def conditions(self, row: Array) -> list[Condition]:
        """Every condition that holds for `row`, those that no training row breaks or keeps left out."""
        found: list[Condition] = []
        rows = self.training.rows
        for f, edges in enumerate(self._edges):
            name = self.training.names[f]
            value = float(row[f])
            if f in self.training.categories:
                text = f"{name} = {self.training.category(f, value)}"
                found.append(Condition(f, np.nextafter(value, -np.inf), value, text))
            else:
                found += [
                    Condition(f, -np.inf, float(e), f"{name} <= {e:.{self._decimals[f]}f}")
                    if value <= e
                    else Condition(f, float(e), np.inf, f"{name} > {e:.{self._decimals[f]}f}")
                    for e in edges
                ]
        return [c for c in found if 0 < np.count_nonzero(c.holds(rows[:, c.feature])) < len(rows)]

    def check(self, instance: Array, ask: Ask) -> None:
        Labelled(ask, self.output).labels(self.training.check(instance)[None])

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        row = self.training.check(instance)
        model = Labelled(ask, self.output)
        label = model.labels(row[None])[0]
        conditions = self.conditions(row)
        random = np.random.default_rng(self.settings.seed)
        rows = self.training.rows
        sample = rows
        count = min(self.settings.coverage_samples, _HELD_CELLS // max(1, len(conditions)))
        if len(rows) > count:
            sample = rows[random.choice(len(rows), count, replace=False)]
        held = np.zeros((len(conditions), len(sample)), dtype=np.bool_)
        for i, c in enumerate(conditions):
            held[i] = c.holds(sample[:, c.feature])
        space = TabularSpace(rows, row, conditions, random, held)
        size = int(row.nbytes)
        settings = self.settings.within(size)
        anchor = search(space, lambda drawn: model.same(drawn, label), settings, row_bytes=size)
        kept = _tightest(conditions, anchor.conditions)
        return Explanation(
            self.kind,
            {
                "anchor": [conditions[i].text for i in kept],
                "features": [conditions[i].feature for i in kept],
                **report(anchor, model),
                "prediction": plain(label),
                "prediction_name": self.training.class_name(label),
                "instance": row.tolist(),
            },
            self.params,
        )


def _decimals(edges: Array) -> int:
    """Decimals that tell the bounds of a feature apart: two, or down to a tenth of their distance."""
    apart = (
        float(np.min(np.diff(edges))) if len(edges) > 1 else float(np.max(np.abs(edges), initial=0))
    )
    return 2 if apart >= 1 or apart == 0 else min(17, max(2, 1 - floor(log10(apart))))


def _tightest(conditions: Sequence[Condition], chosen: Conditions) -> list[int]:
    """Of `chosen`, those that others of it do not imply: "> 4.9" says "> 1.6" too."""
    return [
        i
        for i in chosen
        if not any(
            j != i
            and conditions[j].feature == conditions[i].feature
            and conditions[j].low >= conditions[i].low
            and conditions[j].high <= conditions[i].high
            for j in chosen
        )
    ]


def report(anchor: Anchor, model: Labelled) -> dict[str, Any]:
    """The figures of every kind of anchor."""
    return {
        "precision": round(anchor.precision, 6),
        "precision_lower_bound": round(anchor.precision_low, 6),
        "coverage": round(anchor.coverage, 6),
        "threshold_met": anchor.met,
        "samples": model.rows,
        "predictor_calls": model.calls,
    }
