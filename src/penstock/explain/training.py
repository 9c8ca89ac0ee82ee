"""The rows that an explainer knows the data by, their columns' names, categories, and classes' names.

Whoever explains by them checks instances against them, in one way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.base import Array, Explainer, Floats, numbers
from penstock.explain.labels import class_name

#: Squares and sums of numbers up to this are numbers yet.
LARGEST: Final = 1e150


@dataclass(frozen=True, slots=True)
class Training:
    """Rows `[n, features]` as float64, and what their numbers mean."""

    rows: Floats
    names: Sequence[str]
    #: Names of the values 0, 1, ... of a feature that is a category.
    categories: Mapping[int, Sequence[str]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    #: Whether somebody gave the names; or they are numbers of columns.
    named: bool = True

    @property
    def features(self) -> int:
        return int(self.rows.shape[1])

    def category(self, feature: int, value: float) -> str:
        names = self.categories[feature]
        known = value.is_integer() and 0 <= value < len(names)
        return str(names[int(value)]) if known else f"{value:.15g}"

    def class_name(self, label: Any) -> str:
        """The name of a class by its number; a label that is a text is its own."""
        return class_name(label, self.classes)

    def check(self, instance: Array) -> Floats:
        """`instance` as a row of so many finite numbers; InvalidInput otherwise."""
        row = numbers(instance)
        if row.shape != (self.features,):
            raise InvalidInput(
                f"an instance has {self.features} numbers ({', '.join(self.names[:6])}"
                f"{', ...' if self.features > 6 else ''}); this one has the shape {list(row.shape)}"
            )
        if not bool(np.all(np.isfinite(row))):
            raise InvalidInput("an instance may hold neither NaN nor infinity")
        if bool(np.any(np.abs(row) > LARGEST)):
            raise InvalidInput(f"an instance may hold no number beyond {LARGEST:g}")
        for feature, names in self.categories.items():
            value = float(row[feature])
            known = value.is_integer() and 0 <= value < len(names)
            if not known and value not in self.rows[:, feature]:
                raise InvalidInput(
                    f"{self.names[feature]} is {value:.15g}, which is none of its {len(names)} categories"
                )
        return row


class TableExplainer(Explainer):
    """An explainer of rows, over a training set."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.names = training.names if training.named else ()

    def called(self, names: Sequence[str]) -> Self:
        if len(names) != self.training.features:
            raise InvalidInput(
                f"{len(names)} names of features, of which there are {self.training.features}"
            )
        found = super().called(names)
        found.training = replace(self.training, names=found.names, named=True)
        return found
