"""XGBoost boosters (`.bst`, `.ubj`, `.json`, `.model`), and pickles of its scikit-learn classes.

A booster answers what `Booster.predict` answers: for a classifier that was saved as a booster these are
probabilities, as KServe's server has it. A pickled `XGBClassifier` answers labels, as it does itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.runtimes import accelerators, frames
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

SUFFIXES: Final = (".bst", ".ubj", ".json", ".model", ".xgb")
METHODS: Final = ("predict", "margin", "contributions", "leaf")
_KEYWORDS: Final[Mapping[str, Mapping[str, bool]]] = {
    "predict": {},
    "margin": {"output_margin": True},
    "contributions": {"pred_contribs": True},
    "leaf": {"pred_leaf": True},
}


class XgboostRuntime(BoosterRuntime):
    """A booster. Columns may come as one matrix or by name; NaN and null are missing values."""

    platform = "xgboost_booster"
    datatype = "FP32"

    def __init__(self, booster: Any, method: str) -> None:
        import xgboost

        self._booster = self.native = booster
        self._method = method
        self._error = xgboost.core.XGBoostError
        self._dmatrix = xgboost.DMatrix
        self._kinds: tuple[str, ...] = tuple(booster.feature_types or ())
        categories = _categories(booster) if "c" in self._kinds else {}
        self.declare(int(booster.num_features()), tuple(booster.feature_names or ()), categories)
        self._call: Callable[[Any], Any] = self._through_matrix
        if method in ("predict", "margin") and self._trees():
            self._call = self._in_place
            self.reentrant = True
        self.declare_output(method)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        x = self._frame(inputs) if self._categories else self._matrix(inputs)
        try:
            return {self._method: self._call(x)}
        except (self._error, ValueError) as e:
            raise InvalidInput(f"The model refused the input: {_said(e)}") from e

    def _matrix(self, inputs: Arrays) -> Array:
        x = given.matrix(inputs, self._features, self._names)
        if x.dtype.kind == "f":
            # What XGBoost computes with, and where its own check would find values too large.
            with np.errstate(over="ignore"):
                x = x.astype(np.float32, copy=False)
            if np.isinf(x).any():
                raise InvalidInput("The input has infinity or values too large for FP32.")
        elif x.dtype.kind == "b":
            x = x.astype(np.float32)
        return x

    def _frame(self, inputs: Arrays) -> Any:
        import pandas as pd

        x = frames.frame(inputs, self._names)
        for name, kind in zip(self._names, self._kinds, strict=True):
            if kind != "c":
                if x[name].dtype.kind not in "fiub":
                    raise InvalidInput(f"Column {name!r} has text; the model expects numbers.")
                continue
            values = x[name]
            known = self._categories.get(name)
            if known is None:  # trained on codes
                codes = given.cast(name, values.to_numpy(), np.dtype(np.int64))
                x[name] = pd.Categorical.from_codes(codes, list(range(int(codes.max()) + 1)))
                continue
            unknown = [v for v in values.dropna().unique() if v not in known]
            if unknown:
                raise InvalidInput(
                    f"Column {name!r} has categories that were not in the training data: "
                    f"{given.listed(map(str, unknown))}."
                )
            x[name] = pd.Categorical(values, categories=known)
        return x

    def _in_place(self, x: Any) -> Any:
        return self._booster.inplace_predict(
            x,
            predict_type="margin" if self._method == "margin" else "value",
            validate_features=False,
        )

    def _through_matrix(self, x: Any) -> Any:
        keywords: dict[str, Any] = {"enable_categorical": "c" in self._kinds}
        if isinstance(x, np.ndarray):
            keywords["feature_names"] = list(self._names) or None
            keywords["feature_types"] = list(self._kinds) or None
        data = self._dmatrix(x, **keywords)
        return self._booster.predict(data, **_KEYWORDS[self._method])

    def _trees(self) -> bool:
        """Whether predicting without a DMatrix, which is faster, is possible and answers the same.

        gblinear has no in-place prediction, and that of dart differs in the last bit.
        """
        config = json.loads(self._booster.save_config())
        return bool(config["learner"]["gradient_booster"]["name"] == "gbtree")


def load(path: Path, options: LoadOptions) -> Runtime:
    """The booster, or the scikit-learn estimator, in the one model file at `path`."""
    known_options(options, ("file", "method"))
    file = model_file(path, (*SUFFIXES, *PICKLES), options)
    require(framework)
    import xgboost

    device = accelerators.xgboost_device(xgboost, options)
    if suffix_of(file) in PICKLES:
        from penstock.runtimes.sklearn import load_pickle, runtime_of

        model = load_pickle(file)
        if isinstance(model, xgboost.XGBModel):
            model.set_params(device=device)
        elif options.devices and not isinstance(model, xgboost.Booster):
            raise accelerators.unusable(options, f"the {type(model).__name__} in {file.name}")
        if not isinstance(model, xgboost.Booster):
            return runtime_of(model, file, options, "xgboost_pickle")
    else:
        model = xgboost.Booster()
        with opening(file, "an XGBoost model"):
            try:
                model.load_model(file)
            except xgboost.core.XGBoostError as e:
                raise LoadError(
                    f"{file.name} cannot be loaded as an XGBoost model: {_said(e)}"
                ) from e
    method = choice(options, "method", METHODS, "predict")
    model.set_param({"nthread": max(1, options.threads), "device": device})
    with opening(file, "an XGBoost model"):
        return XgboostRuntime(model, method)


def _categories(booster: Any) -> dict[str, list[Any]]:
    """Values of each categorical column, as far as the file has them (XGBoost 3.1 and later)."""
    if not hasattr(booster, "get_categories"):
        return {}
    found = booster.get_categories(export_to_arrow=True)
    return {name: column.to_pylist() for name, column in found.to_arrow() if column is not None}


def _said(e: Exception) -> str:
    """XGBoost's sentence, without the time, the source file and the stack it puts around it."""
    line = first_line(e)
    _, found, after = line.rpartition("cc:") if "cc:" in line else line.rpartition(".h:")
    text = after.partition(": ")[2] if found else line
    return text or line


def warm() -> None:
    """Share what is built on first use (4 MB), and what pickles and data frames will import."""
    import_if_installed("joblib", "pandas")
    import xgboost

    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    settings = {"nthread": 1, "max_depth": 1, "verbosity": 0}
    trained = xgboost.train(settings, xgboost.DMatrix(x, x[:, 0]), 1)
    booster = xgboost.Booster()
    booster.load_model(trained.save_raw("ubj"))
    booster.save_config()
    booster.inplace_predict(x)


framework = Framework(
    name="xgboost",
    extra="xgboost",
    preload=("xgboost",),
    load=load,
    formats=("xgboost",),
    uses_devices=True,
    warm=warm,
    rehearse=warm,
    env=ARROW_ENV,
)
