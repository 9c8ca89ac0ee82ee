"""What would have to be different for another answer: the nearest such row, with few features changed.

T. Laugel et al., "Comparison-based Inverse Classification for Interpretability in Machine Learning", IPMU
2018, algorithms 1 to 3 (Growing Spheres): draw rows in a ball around the instance and shrink it while it
holds one of another class; then grow layers until one does; take the nearest found, and set back its
features, least changed first, while the class stays the other one (feature selection: it makes it sparse).
Nothing but labels is asked of the model.

Here distance is in units of each feature's spread over the training data, the nearest training row of
another class bounds the search from the start, features that are fixed or categories keep their value, rows
stay within the training data's range or one that is given, and what was always a whole number stays one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.base import Array, Ask, Bools, Explanation, Floats
from penstock.explain.labels import Labelled, class_name, plain
from penstock.explain.training import TableExplainer, Training

#: Training rows among which the nearest of another class is looked for, at most.
_KNOWN: Final = 2000
#: Features that are set back in one question.
_TRIALS: Final = 64
#: Rows drawn at a time, times features.
_MOST_CELLS: Final = 20_000_000


class Counterfactuals(TableExplainer):
    """Growing spheres around a row, over a training set that tells the features' spread."""

    kind = "Counterfactuals"

    def __init__(
        self,
        training: Training,
        *,
        target_class: Any = None,
        immutable: Sequence[str] = (),
        ranges: Mapping[str, Sequence[float]] | None = None,
        samples: int = 1000,
        rounds: int = 30,
        output: str = "auto",
        seed: int = 0,
    ) -> None:
        unknown = [n for n in immutable if n not in training.names]
        if unknown:
            raise InvalidInput(f"immutable names {unknown[0]!r}, which is no feature")
        unknown = [n for n in ranges or () if n not in training.names]
        if unknown:
            raise InvalidInput(f"feature_range names {unknown[0]!r}, which is no feature")
        classes = training.classes
        if isinstance(target_class, str) and classes and target_class not in classes:
            raise InvalidInput(
                f"target_class is {target_class!r}, which is none of {', '.join(classes)}"
            )
        super().__init__(training)
        self.target_class = target_class
        self.immutable = tuple(immutable)
        self.ranges = {name: list(pair) for name, pair in (ranges or {}).items()}
        self.samples = min(samples, max(10, _MOST_CELLS // training.features))
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
        # Half a child is nobody's answer: a column of whole numbers stays one.
        self._whole = self._free[
            np.all(rows[:, self._free] == np.rint(rows[:, self._free]), axis=0)
        ]
        for name, (low, high) in self.ranges.items():
            i = training.names.index(name)
            self._low[i], self._high[i] = low, high
            if i in self._whole and np.ceil(low) > np.floor(high):
                raise InvalidInput(
                    f"feature_range of {name} has no whole number, which it always is"
                )
        self._low[self._whole] = np.ceil(self._low[self._whole])
        self._high[self._whole] = np.floor(self._high[self._whole])

    @property
    def params(self) -> Mapping[str, Any]:
        return {
            "target_class": self.target_class, "immutable": list(self.immutable),
            "feature_range": self.ranges,
            "samples": self.samples, "output": self.output, "seed": self.seed,
        }  # fmt: skip

    def check(self, instance: Array, ask: Ask) -> None:
        self._label(self.training.check(instance), Labelled(ask, self.output))

    def _label(self, row: Floats, model: Labelled) -> Any:
        """The row's. InvalidInput when it is what it should become."""
        labels = model.labels(row[None])
        if self.target_class is not None and labels[0] == self._wanted(labels):
            raise InvalidInput(f"the instance is of the class {self.target_class!r} already")
        return labels[0]

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        row = self.training.check(instance)
        model = Labelled(ask, self.output)
        label = self._label(row, model)

        def other(rows: Array) -> Bools:
            labels = model.labels(rows)
            if self.target_class is None:
                return np.asarray(labels != label, dtype=np.bool_)
            wanted = self._wanted(labels)
            return np.asarray(labels == wanted, dtype=np.bool_)

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
        if labels.dtype.kind in "OSU":
            text = class_name(target, ())
            of_bytes = labels.dtype.kind == "S" or (len(labels) and isinstance(labels[0], bytes))
            return text.encode() if of_bytes else text
        if not isinstance(target, str):
            return target
        if target not in self.training.classes:
            raise InvalidInput(
                f"target_class is {target!r}, but the model answers numbers.",
                hint="Give the class's number, or class_names.",
            )
        return list(self.training.classes).index(target)

    def _distance(self, rows: Floats, row: Floats) -> Floats:
        """L2 in units of spread; `[n]`."""
        return np.asarray(np.linalg.norm((rows - row) / self._scale, axis=1), dtype=np.float64)

    def _nearest(self, row: Floats, other: Any) -> Floats | None:
        random = np.random.default_rng(self.seed)
        best: Floats | None = None
        # The nearest training row of another class, in its changeable features only.
        rows = self.training.rows
        if len(rows) > _KNOWN:  # of all of them: data is often sorted by class
            rows = rows[random.choice(len(rows), _KNOWN, replace=False)]
        known = np.tile(row, (len(rows), 1))
        known[:, self._free] = self._inside(rows[:, self._free])
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
        # Whole numbers by chance: by rounding alone, steps below a half would never be taken.
        drift = random.random((self.samples, len(self._whole))) - 0.5
        rows[:, self._whole] = np.rint(rows[:, self._whole] + drift)
        rows[:, free] = self._inside(rows[:, free])
        return rows

    def _inside(self, values: Floats) -> Floats:
        """Values of the free features, `[n, free]`, where they may be."""
        return np.clip(values, self._low[self._free], self._high[self._free])

    def _sparse(self, found: Floats, row: Floats, other: Any) -> Floats:
        """Algorithm 3: features go back to the instance's, least changed first, while the class is other.

        Many are asked for at once, each with those before it set back: up to the first that has to stay, the
        answers are those of asking one by one.
        """
        best = found.copy()
        order = np.argsort(np.abs(found - row) / self._scale, kind="stable")
        left = order[found[order] != row[order]]
        while len(left):
            part = left[:_TRIALS]
            back = np.tri(len(part), dtype=np.bool_)
            trials = np.tile(best, (len(part), 1))
            trials[:, part] = np.where(back, row[part], trials[:, part])
            still = other(trials) & np.any(trials != row, axis=1)
            count = len(part) if bool(np.all(still)) else int(np.argmin(still))
            best[part[:count]] = row[part[:count]]
            left = left[count + 1 :] if count < len(part) else left[count:]
        return best
