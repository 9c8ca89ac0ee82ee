"""Data frames for models that were trained on one: columns by name, in the model's order.

scikit-learn, MLflow, LightGBM and XGBoost models look columns up by name; requests bring them as named
tensors (V2), as objects (V1), or as one matrix in the right order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, TensorSpec


def frame(inputs: Arrays, columns: Sequence[str]) -> Any:
    """A `pandas.DataFrame` with exactly `columns`, in that order.

    `inputs` is one array per column, or a single matrix as wide as there are columns. Text is `str`;
    columns of an object array get the dtype that their values have (null becomes NaN).
    """
    import pandas as pd

    if len(inputs) == 1:
        name, array = next(iter(inputs.items()))
        if name not in columns or (array.ndim == 2 and array.shape[1] > 1):
            if name and array.ndim < 2:
                given.columns(inputs, columns)  # one column, and not one of the model's
            array = given.decoded(name, given.width(name, array, len(columns)))
            if array.dtype.kind != "O":
                return pd.DataFrame(array, columns=list(columns))
            return pd.DataFrame({c: series(array[:, i]) for i, c in enumerate(columns)})
    parts = given.columns(inputs, columns)
    return pd.DataFrame({c: series(given.decoded(c, a)) for c, a in parts.items()})


def series(column: Array) -> Any:
    """One column; an object array's values decide on its dtype."""
    if column.dtype.kind != "O":
        return column
    import pandas as pd

    return pd.Series(column.tolist())


def column(name: str, sample: Any) -> TensorSpec:
    """The declaration of a column that takes values like `sample`; None: not known.

    A frame's file does not tell dtypes, so text and numbers are left to the model, which converts or
    refuses them.
    """
    if isinstance(sample, str):
        return TensorSpec(name, "BYTES", (-1,), strict=False)
    if isinstance(sample, int) and not isinstance(sample, bool):
        return TensorSpec(name, "INT64", (-1,), strict=False)
    return TensorSpec(name, "FP64", (-1,), strict=False)


def made_up(names: Sequence[str], categories: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
    """One row by column, shape (1,): a known value of each categorical column, 0 for the others."""
    out: dict[str, Array] = {}
    for name in names:
        known = categories.get(name)
        value = known[0] if known else 0
        out[name] = np.array([value], dtype=object if isinstance(value, str) else None)
    return out


def samples(model: Any) -> Mapping[int, Any]:
    """A value that each input column of a fitted estimator would accept, where that can be read off it.

    Encoders know their categories and imputers their fill values; other columns are left out.
    """
    first = model
    while isinstance(getattr(first, "steps", None), list) and first.steps:
        first = first.steps[0][1]
    out: dict[int, Any] = {}
    indices = getattr(first, "_transformer_to_input_indices", None)
    if isinstance(indices, dict):
        for name, transformer, _ in first.transformers_:
            _sample(transformer, list(indices.get(name, ())), out)
    else:
        _sample(first, None, out)
    return out


def _sample(transformer: Any, indices: list[int] | None, out: dict[int, Any]) -> None:
    steps = getattr(transformer, "steps", None)
    parts = [s for _, s in steps] if isinstance(steps, list) else [transformer]
    for step in parts:
        values: list[Any] | None = None
        if isinstance(getattr(step, "categories_", None), list):
            values = [c[0] for c in step.categories_ if len(c)]
        elif callable(getattr(step, "build_analyzer", None)):
            values = ["text"]
        elif isinstance(getattr(step, "statistics_", None), np.ndarray):
            values = list(step.statistics_)
        if values is None:
            continue
        where = indices if indices is not None else list(range(len(values)))
        if len(values) == len(where):
            for i, value in zip(where, values, strict=True):
                out.setdefault(i, value.item() if isinstance(value, np.generic) else value)
