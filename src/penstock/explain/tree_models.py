"""What models made of trees say of themselves: their columns, and what attributions of theirs must add up to.

`shap` reads models by their innards, and some of them wrongly: scikit-learn's splits of categories as if they
were of numbers, LightGBM's random forests without their mean. Local accuracy (Lundberg et al., property 1)
tells: attributions and their base add up to what the model itself says of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from penstock.errors import LoadError
from penstock.explain.base import Floats

#: Rows `[n, features]` to the numbers that attributions are of, `[n, outputs]`.
Own = Callable[[Floats], Floats]
#: Losses of regressors whose trees add up to the logarithm of what they answer.
_LOGARITHMIC: Final = frozenset({"poisson", "gamma"})
#: Transformers of scikit-learn that change each feature by itself, and leave none out.
_BY_FEATURE: Final = frozenset(
    {
        "MaxAbsScaler", "MinMaxScaler", "PowerTransformer", "QuantileTransformer", "RobustScaler",
        "StandardScaler",
    }
)  # fmt: skip


def family(model: Any) -> str:
    """The package that a model is of."""
    return type(model).__module__.partition(".")[0]


def _kind(model: Any) -> str:
    return f"{family(model)}.{type(model).__name__}"


def columns(model: Any) -> tuple[int, tuple[str, ...]]:
    """How many features a model has, 0 where it does not say, and their names where it knows them."""
    kind = _kind(model)
    if kind == "xgboost.Booster":
        return int(model.num_features()), tuple(model.feature_names or ())
    if kind == "lightgbm.Booster":
        return int(model.num_feature()), tuple(model.feature_name())
    if kind.startswith("catboost."):
        names = tuple(model.feature_names_ or ())
        return len(names), names
    own_names = getattr(model, "feature_names_in_", ())
    return int(getattr(model, "n_features_in_", 0) or 0), tuple(map(str, own_names))


def behind(model: Any) -> tuple[Own | None, Any]:
    """The trees of a pipeline, and how their rows are made; of any other model None, and itself. LoadError.

    Where each feature is changed by itself, Shapley values of the trees' features are the instance's own:
    setting one is setting the other. What makes features of several others has no such way back.
    """
    if _kind(model) != "sklearn.Pipeline":
        return None, model
    steps = [(n, s) for n, s in model.steps[:-1] if s is not None and s != "passthrough"]
    for name, step in steps:
        kind = type(step).__name__
        if family(step) != "sklearn" or kind not in _BY_FEATURE:
            raise LoadError(
                f"TreeShap cannot look through the step '{name}' of a pipeline, a {kind}, which may make"
                " features of several others.",
                hint="KernelShap explains any model, by asking it.",
            )

    def made(rows: Floats) -> Floats:
        found: Any = rows
        for _, step in steps:
            if hasattr(step, "feature_names_in_"):
                found = _frame(found, step.feature_names_in_)
            found = step.transform(found)
        return np.asarray(found, dtype=np.float64)

    return made, model.steps[-1][1]


def _frame(rows: Any, names: Any) -> Any:
    import pandas

    return pandas.DataFrame(rows, columns=names)


def parts(model: Any) -> list[Any]:
    """A model that `shap` can read, or several, one for each output of `model`.

    scikit-learn's boosting of several classes is a sum of trees per class, which `shap` refuses to read. What
    is no tree's must be a number, as it is unless `init` is a model: then sums do not add up, which is found.
    """
    if _kind(model) != "sklearn.GradientBoostingClassifier":
        return [model]
    trees: Any = model.estimators_
    if trees.shape[1] == 1:
        return [model]
    nothing = np.zeros((1, model.n_features_in_))
    whole = np.ravel(model.decision_function(nothing))
    return [_boosted(model, trees[:, [k]], float(whole[k]), nothing) for k in range(trees.shape[1])]


def _boosted(model: Any, trees: Any, whole: float, row: Floats) -> Any:
    """A regressor of one class's trees, and of what they leave of the `whole` that is said of `row`."""
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import GradientBoostingRegressor

    rest = whole - model.learning_rate * sum(float(tree.predict(row)[0]) for tree in trees[:, 0])
    part = GradientBoostingRegressor(learning_rate=model.learning_rate)
    part.init_ = DummyRegressor(strategy="constant", constant=rest).fit(row, [rest])
    part.estimators_ = trees
    part.n_features_in_ = model.n_features_in_
    return part


def unreadable(model: Any) -> str:
    """What of a model shap reads wrongly without noticing, or not at all; empty: nothing that is known."""
    package = family(model)
    categories = "splits of categories"
    if package == "sklearn":
        marked = getattr(model, "is_categorical_", None)
        return categories if marked is not None and bool(np.any(marked)) else ""
    if package == "catboost":
        return categories if model.get_cat_feature_indices() else ""
    if package == "lightgbm":
        booster = getattr(model, "booster_", model)
        head = booster.model_to_string(num_iteration=1).partition("\nTree=")[0]
        return "mean of trees" if "\naverage_output" in head else ""
    return ""


def own(model: Any, model_output: str) -> Own | None:
    """What the model itself says, raw or as probabilities; None where it has no call for that."""
    call = _call(model, raw=model_output == "raw")
    if call is None:
        return None

    def told(rows: Floats) -> Floats:
        answer = np.asarray(call(rows), dtype=np.float64)
        return answer.reshape(len(rows), -1)

    return told


def _call(model: Any, *, raw: bool) -> Callable[[Floats], Any] | None:
    package, kind = family(model), type(model).__name__
    if package == "xgboost" and kind == "Booster":
        return lambda rows: model.predict(_matrix(model, rows), output_margin=raw)
    if package == "lightgbm" and kind == "Booster":
        return lambda rows: model.predict(rows, raw_score=raw)
    if not raw:
        found: Callable[[Floats], Any] | None = getattr(model, "predict_proba", None)
        return found
    if package == "catboost":
        return lambda rows: model.predict(rows, prediction_type="RawFormulaVal")
    if package in ("xgboost", "lightgbm"):
        keyword = "output_margin" if package == "xgboost" else "raw_score"
        return lambda rows: model.predict(rows, **{keyword: True})
    if package != "sklearn" or getattr(model, "loss", None) in _LOGARITHMIC:
        return None
    classifies, decides = hasattr(model, "predict_proba"), hasattr(model, "decision_function")
    if decides and not classifies:  # an IsolationForest's is no sum of its trees
        return None
    if classifies and int(getattr(model, "n_outputs_", 1)) > 1:
        return None
    name = "decision_function" if decides else "predict_proba" if classifies else "predict"
    method: Callable[[Floats], Any] = getattr(model, name)
    return method


def _matrix(model: Any, rows: Floats) -> Any:
    import xgboost

    return xgboost.DMatrix(
        rows,
        feature_names=model.feature_names,
        feature_types=model.feature_types,
        enable_categorical=True,
    )
