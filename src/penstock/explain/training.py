"""The rows that an explainer knows the data by: their columns' names, categories, and classes' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.errors import InvalidInput
from penstock.explain.base import Array, Floats
from penstock.explain.labels import plain


@dataclass(frozen=True, slots=True)
class Training:
    """Rows `[n, features]` as float64, and what their numbers mean."""

    rows: Floats
    names: Sequence[str]
    #: Names of the values 0, 1, ... of a feature that is a category.
    categories: Mapping[int, Sequence[str]] = field(default_factory=dict)
    classes: Sequence[str] = ()

    @property
    def features(self) -> int:
        return int(self.rows.shape[1])

    def category(self, feature: int, value: float) -> str:
        names = self.categories[feature]
        index = int(value)
        return str(names[index]) if 0 <= index < len(names) else f"{value:g}"

    def class_name(self, label: Any) -> str:
        """The name of a class by its number; a label that is a text is its own."""
        label = plain(label)
        if isinstance(label, bool) or not isinstance(label, int | float) or label != int(label):
            return str(label)
        return str(self.classes[int(label)]) if 0 <= label < len(self.classes) else f"{label:g}"

    def check(self, instance: Array) -> Floats:
        """`instance` as a row of so many finite numbers; InvalidInput otherwise."""
        try:
            row = np.asarray(instance, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidInput(
                "an instance is a row of numbers; this one holds something else"
            ) from None
        if row.shape != (self.features,):
            raise InvalidInput(
                f"an instance has {self.features} numbers ({', '.join(self.names[:6])}"
                f"{', ...' if self.features > 6 else ''}); this one has the shape {list(row.shape)}"
            )
        if not bool(np.all(np.isfinite(row))):
            raise InvalidInput("an instance may hold neither NaN nor infinity")
        return row
