"""What XGBoost's and LightGBM's boosters have in common: columns, some of them categories, and one answer.

A booster without categories takes one matrix, or a column per input; one that was trained on a data frame
with categories takes columns. What it answers is found out from a made-up row.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from penstock.runtimes import frames
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Runtime, TensorSpec


class BoosterRuntime(Runtime):
    """A booster. A subclass predicts, and calls `declare` and then `declare_output` when it is made."""

    #: What its numbers are read as.
    datatype: ClassVar[str]

    def declare(self, features: int, names: tuple[str, ...], categories: dict[str, Any]) -> None:
        """Its inputs: so many columns, called so where they have names, with these values of categories."""
        self._features = features
        self._names = names
        self._categories = categories
        if categories:
            self.inputs = tuple(
                frames.column(n, categories[n][0])
                if n in categories
                else TensorSpec(n, self.datatype, (-1,))
                for n in names
            )
            self._example: dict[str, Array] = frames.made_up(names, categories)
        else:
            self.inputs = (TensorSpec("input-0", self.datatype, (-1, features)),)
            dtype = np.float32 if self.datatype == "FP32" else np.float64
            self._example = {"input-0": np.zeros((1, features), dtype)}

    def declare_output(self, method: str) -> None:
        """Its output, which is called as its method is."""
        answer = self.predict(self._example, {})[method]
        self.outputs = (
            TensorSpec(method, given.datatype_of(answer.dtype), (-1, *answer.shape[1:])),
        )

    def example(self) -> Arrays | None:
        return self._example
