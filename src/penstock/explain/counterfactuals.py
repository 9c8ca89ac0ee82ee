"""What would have to be different for another answer: the nearest such row, with few features changed.

T. Laugel et al., "Comparison-based Inverse Classification for Interpretability in Machine Learning", IPMU
2018, algorithms 1 to 3 (Growing Spheres): draw rows in a ball around the instance and shrink it while it
holds one of another class; then grow layers until one does; take the nearest found, and set back its
features, least changed first, while the class stays the other one (feature selection: it makes it sparse).
Nothing but labels is asked of the model.

Here distance is in units of each feature's spread over the training data, the nearest training row of
another class bounds the search from the start, features that are fixed or categories keep their value, and
rows stay within the training data's range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.base import Array, Ask, Bools, Explainer, Explanation, Floats
from penstock.explain.labels import Labelled, plain
from penstock.explain.training import Training


class Counterfactuals(Explainer):
    """Growing spheres around a row, over a training set that tells the features' spread."""

    kind = "Counterfactuals"

    def __init__(
        self,
        training: Training,
        *,
        target_class: Any = None,
        immutable: Sequence[str] = (),
        samples: int = 1000,
        rounds: int = 30,
        output: str = "auto",
        seed: int = 0,
    ) -> None:
        unknown = [n for n in immutable if n not in training.names]
        if unknown:
            raise InvalidInput(f"immutable names {unknown[0]!r}, which is no feature")
        self.training = training
        self.target_class = target_class
        self.immutable = tuple(immutable)
        self.samples = samples
        self.rounds = rounds
        self.output = output
        self.seed = seed
        self._free = np.array(
            [
                i
                for i, name in enumerate(training.names)
                if name not in immutable and i not in training.categories
            ],
            dtype=np.int64,
        )
        if not len(self._free):
            raise InvalidInput("every feature is immutable or a category: nothing can be changed")
        rows = training.rows
        spread = rows.std(0)
        self._scale = np.where(spread > 0, spread, 1.0)
        self._low, self._high = rows.min(0), rows.max(0)

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "target_class": self.target_class, "immutable": list(self.immutable),
            "samples": self.samples, "output": self.output, "seed": self.seed,
        }  # fmt: skip

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        row = self.training.check(instance)
        model = Labelled(ask, self.output)
        label = model.labels(row[None])[0]

        def other(rows: Array) -> Bools:
            labels = model.labels(rows)
            if self.target_class is None:
                return np.asarray(labels != label, dtype=np.bool_)
            wanted = self._wanted(labels)
            return np.asarray(labels == wanted, dtype=np.bool_)

        if self.target_class is not None and bool(other(row[None])[0]):
            raise InvalidInput(f"the instance is of the class {self.target_class!r} already")
        found = self._nearest(row, other)
        data: dict[str, Any] = {
            "found": found is not None,
            "instance": row.tolist(),
            "prediction": plain(label),
            "prediction_name": self.training.class_name(label),
        }
        if found is not None:
            new = model.labels(found[None])[0]
            changed = np.flatnonzero(found != row)
            data |= {
                "cf": {"X": found.tolist(), "class": plain(new)},
                "class_name": self.training.class_name(new),
                "changes": [
                    {
                        "feature": self.training.names[int(i)],
                        "from": float(row[i]),
                        "to": float(found[i]),
                    }
                    for i in changed
                ],
                "distance": round(float(self._distance(found[None], row)[0]), 6),
            }
        data |= {"samples": model.rows, "predictor_calls": model.calls}
        return Explanation(self.kind, data, self.params)

    def _wanted(self, labels: Array) -> Any:
        """The class asked for, in the form that the model's labels have."""
        target = self.target_class
        if (
            isinstance(target, str)
            and target in self.training.classes
            and labels.dtype.kind in "iuf"
        ):
            return list(self.training.classes).index(target)
        if labels.dtype == object and len(labels) and isinstance(labels[0], bytes):
            return str(target).encode()
        return target

    def _distance(self, rows: Floats, row: Floats) -> Floats:
        """L2 in units of spread; `[n]`."""
        return np.asarray(np.linalg.norm((rows - row) / self._scale, axis=1), dtype=np.float64)

    def _nearest(self, row: Floats, other: Any) -> Floats | None:
        random = np.random.default_rng(self.seed)
        best: Floats | None = None
        # The nearest training row of another class, in its changeable features only.
        known = np.tile(row, (min(len(self.training.rows), 2000), 1))
        known[:, self._free] = self.training.rows[: len(known)][:, self._free]
        enemies = known[other(known)]
        if len(enemies):
            best = enemies[np.argmin(self._distance(enemies, row))]
            radius = float(self._distance(best[None], row)[0])
        else:
            radius = 1.0
        # Algorithm 2, first loop: shrink while the ball holds an enemy.
        for _ in range(self.rounds):
            rows = self._ball(row, 0.0, radius, random)
            enemies = rows[other(rows)]
            if not len(enemies):
                break
            nearest = enemies[np.argmin(self._distance(enemies, row))]
            if (
                best is None
                or self._distance(nearest[None], row)[0] < self._distance(best[None], row)[0]
            ):
                best = nearest
            radius /= 2
        # Second loop: grow layers from the empty ball on.
        low, step = radius, radius
        for _ in range(self.rounds):
            if best is not None and low >= float(self._distance(best[None], row)[0]):
                break
            rows = self._ball(row, low, low + step, random)
            enemies = rows[other(rows)]
            if len(enemies):
                nearest = enemies[np.argmin(self._distance(enemies, row))]
                if (
                    best is None
                    or self._distance(nearest[None], row)[0] < self._distance(best[None], row)[0]
                ):
                    best = nearest
                break
            low += step
            step *= 1.2
        return None if best is None else self._sparse(best, row, other)

    def _ball(self, row: Floats, low: float, high: float, random: np.random.Generator) -> Floats:
        """Rows at a distance between `low` and `high` from `row`, evenly over the layer's volume."""
        free = self._free
        direction = random.normal(size=(self.samples, len(free)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        d = len(free)
        u = random.random(self.samples)
        # r^d evenly between low^d and high^d, in units of `high`: no overflow with many features.
        inner = (low / high) ** d if high > 0 else 0.0
        radius = high * (inner + u * (1 - inner)) ** (1 / d)
        rows = np.tile(row, (self.samples, 1))
        rows[:, free] += direction * radius[:, None] * self._scale[free]
        inside = np.clip(rows[:, free], self._low[free], self._high[free])
        # An instance outside of the training data's range is not moved by that alone.
        rows[:, free] = np.where(rows[:, free] == row[free], row[free], inside)
        return rows

    def _sparse(self, found: Floats, row: Floats, other: Any) -> Floats:
        """Algorithm 3: features go back to the instance's, least changed first, while the class is other."""
        best = found.copy()
        order = np.argsort(np.abs(found - row) / self._scale, kind="stable")
        for i in order:
            if best[i] == row[i]:
                continue
            trial = best.copy()
            trial[i] = row[i]
            if not np.array_equal(trial, row) and bool(other(trial[None])[0]):
                best = trial
        return best
