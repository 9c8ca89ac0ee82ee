"""LightGBM boosters in their text format, and pickles of its scikit-learn classes.

A booster answers what `Booster.predict` answers: probabilities for classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes import frames
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Framework, LoadOptions, Runtime
from penstock.runtimes.boosters import BoosterRuntime
from penstock.runtimes.loading import (
    ARROW_ENV,
    PICKLES,
    choice,
    first_line,
    import_if_installed,
    known_options,
    model_file,
    opening,
    require,
    suffix_of,
)

SUFFIXES: Final = (".txt", ".bst", ".lgb", ".model")
METHODS: Final = ("predict", "margin", "contributions", "leaf")
_KEYWORDS: Final[Mapping[str, Mapping[str, bool]]] = {
    "predict": {},
    "margin": {"raw_score": True},
    "contributions": {"pred_contrib": True},
    "leaf": {"pred_leaf": True},
}


class LightgbmRuntime(BoosterRuntime):
    """A booster. Columns may come as one matrix or by name; NaN and null are missing values."""

    platform = "lightgbm_booster"
    datatype = "FP64"

    def __init__(self, booster: Any, method: str, threads: int) -> None:
        import lightgbm

        self._booster = self.native = booster
        self._method = method
        self._error = lightgbm.basic.LightGBMError
        self._keywords = {**_KEYWORDS[method], "num_threads": max(1, threads)}
        self.declare(
            int(booster.num_feature()), tuple(booster.feature_name()), _categories(booster)
        )
        self.declare_output(method)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        x = self._frame(inputs) if self._categories else self._matrix(inputs)
        try:
            return {self._method: self._booster.predict(x, **self._keywords)}
        except (self._error, ValueError, TypeError) as e:
            raise InvalidInput(f"The model refused the input: {first_line(e)}") from e

    def _matrix(self, inputs: Arrays) -> Array:
        x = given.matrix(inputs, self._features, self._names)
        return x if x.dtype.kind == "f" and x.dtype.itemsize >= 4 else x.astype(np.float64)

    def _frame(self, inputs: Arrays) -> Any:
        import pandas as pd

        x = frames.frame(inputs, self._names)
        for name in self._names:
            if name in self._categories:
                # LightGBM finds its own code for each; a category that it does not know is missing.
                x[name] = pd.Categorical(x[name])
            elif x[name].dtype.kind not in "fiub":
                raise InvalidInput(f"Column {name!r} has text; the model expects numbers.")
        return x


def load(path: Path, options: LoadOptions) -> Runtime:
    """The booster, or the scikit-learn estimator, in the one model file at `path`."""
    known_options(options, ("file", "method"))
    file = model_file(path, (*SUFFIXES, *PICKLES), options)
    require(framework)
    import lightgbm

    if suffix_of(file) in PICKLES:
        from penstock.runtimes.sklearn import load_pickle, runtime_of

        model = load_pickle(file)
        if not isinstance(model, lightgbm.Booster):
            return runtime_of(model, file, options, "lightgbm_pickle")
    else:
        # A file that is cut short ends the process, in LightGBM's parser: look before it does.
        _check_whole(file)
        with opening(file, "a LightGBM model"):
            model = lightgbm.Booster(model_file=file)
    method = choice(options, "method", METHODS, "predict")
    with opening(file, "a LightGBM model"):
        return LightgbmRuntime(model, method, options.threads)


def _check_whole(file: Path) -> None:
    data = file.read_bytes()
    if not data.startswith(b"tree\n"):
        raise LoadError(
            f"{file.name} is no LightGBM model: it does not begin with the line 'tree'."
        )
    if b"\nend of trees" not in data:
        raise LoadError(f"{file.name} is cut short: the line 'end of trees' is missing.")


def _categories(booster: Any) -> dict[str, list[Any]]:
    """Values of each categorical column of a booster that was trained on a data frame."""
    values = booster.pandas_categorical or []
    if not values:
        return {}
    infos: list[str] = []
    for line in booster.model_to_string(num_iteration=1).splitlines():
        if line.startswith("feature_infos="):
            infos = line.partition("=")[2].split(" ")
            break
    # `[low:high]` is a number, `0:1:2` a category; `none` never varied and may have been either.
    names = [
        name
        for name, info in zip(booster.feature_name(), infos, strict=True)
        if info != "none" and not info.startswith("[")
    ]
    if len(names) != len(values):
        raise LoadError("The model has categorical columns that cannot be told from its file.")
    return dict(zip(names, values, strict=True))


def warm() -> None:
    """Share what is built on first use (3 MB), and what pickles and data frames will import."""
    import_if_installed("joblib", "pandas")
    import lightgbm

    x = np.arange(8, dtype=np.float64).reshape(4, 2)
    settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 1, "min_data_in_bin": 1}
    trained = lightgbm.train(settings, lightgbm.Dataset(x, x[:, 0], params=settings), 1)
    lightgbm.Booster(model_str=trained.model_to_string()).predict(x, num_threads=1)


framework = Framework(
    name="lightgbm",
    extra="lightgbm",
    preload=("lightgbm",),
    load=load,
    formats=("lightgbm",),
    warm=warm,
    rehearse=warm,
    env=ARROW_ENV,
)
