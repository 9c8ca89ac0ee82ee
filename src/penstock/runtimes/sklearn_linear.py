"""Linear models answered by the three numpy calls that scikit-learn makes in the end.

For one row of iris `LogisticRegression.predict` takes 88 us, of which the arithmetic is 3; the rest is
validation, that the runtime has done already. Whether the shortcut gives the very bits that the model
gives is not taken on trust: `shortcut` compares both on made-up rows when the model is loaded, scores as
well as answers, for each dtype, and does not serve a dtype in which they differ anywhere. So an unusual
subclass or a new release costs the speed and nothing else. The comparison runs scikit-learn's own code, which
costs a forked process 1.1 MB; so zygotes make it (`learn`) for the common kinds of model, and a model that is
of such a kind in everything that chooses its way through that code is served by what was found there.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable
from typing import Any, Final, TypeAlias

import numpy as np

from penstock.runtimes.base import Array

#: Takes a matrix of the right width; None when the matrix is for the model itself to judge.
Shortcut: TypeAlias = Callable[[Array], Array | None]

_DTYPES: Final = tuple(np.dtype(t) for t in ("float64", "float32", "int64"))

_REGRESSORS: Final = frozenset(
    (
        "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV",
        "Lars", "LassoLars", "HuberRegressor", "SGDRegressor", "LinearSVR", "QuantileRegressor",
        "TheilSenRegressor", "BayesianRidge", "ARDRegression",
    )
)  # fmt: skip


def shortcut(model: Any, method: str) -> Shortcut | None:
    """A function that answers as `getattr(model, method)` does, or None when there is none.

    `model` is a fitted scikit-learn estimator, or a Pipeline of a StandardScaler and such a one.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = None
    last = model
    if type(model) is Pipeline:
        steps = [step for _, step in model.steps if step is not None and step != "passthrough"]
        if len(steps) == 2 and type(steps[0]) is StandardScaler:
            scaler, last = steps
        elif len(steps) == 1:
            last = steps[0]
        else:
            return None
    coef = getattr(last, "coef_", None)
    intercept = getattr(last, "intercept_", None)
    if type(coef) is not np.ndarray or coef.dtype.kind != "f" or coef.ndim not in (1, 2):
        return None
    if not isinstance(intercept, (float, np.ndarray, np.floating)):
        return None
    finish = _finish(last, method)
    if finish is None:
        return None
    scores = _scores(_scale(scaler), coef.T if coef.ndim == 2 else coef, intercept)
    kind = _kind(last, scaler, method)
    dtypes = _learnt.get(kind) if kind is not None else None
    if dtypes is None:
        dtypes = frozenset(
            dtype
            for dtype in _DTYPES
            if _agree(dtype, coef.shape[-1], scores, finish, model, method)
        )
        if kind is not None and _learning is not None:
            _learning[kind] = _learning.get(kind, dtypes) & dtypes
    return _compose(dtypes, scores, finish) if dtypes else None


#: What was found in this process, or in the one that it was forked from, by kind.
_learnt: dict[Hashable, frozenset[np.dtype[Any]]] = {}
#: The same while it is being found.
_learning: dict[Hashable, frozenset[np.dtype[Any]]] | None = None


def learn() -> None:
    """Compare for the common kinds of model, once for this process and those forked from it."""
    global _learning
    from sklearn import linear_model
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if _learnt:
        return
    _learning = {}
    try:
        for features in (3, 20):
            x = np.sin(np.arange(1.0, 24 * features + 1)).reshape(24, features)
            classes = np.arange(24) % 3
            models: list[Any] = [
                linear_model.LogisticRegression().fit(x, classes),
                linear_model.LogisticRegression().fit(x, classes > 0),
                linear_model.LogisticRegression().fit(x, np.array(["a", "b", "c"])[classes]),
                linear_model.LogisticRegression().fit(x, (classes > 0).astype(np.int64)),
                make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(x, classes),
            ]
            for model in models:
                for method in ("predict", "predict_proba"):
                    shortcut(model, method)
            for regressor in (linear_model.LinearRegression(), linear_model.Ridge()):
                shortcut(regressor.fit(x, x[:, 0]), "predict")
        _learnt.update(_learning)
    finally:
        _learning = None


def _kind(last: Any, scaler: Any, method: str) -> Hashable | None:
    """Everything but numbers that may send `last` (behind `scaler`) another way; None: not comparable."""
    if not type(last).__module__.startswith("sklearn."):
        return None
    parts: list[Any] = [type(last), method]
    if scaler is not None:
        parts += [scaler.with_mean, scaler.with_std]
    for owner in (last,) if scaler is None else (last, scaler):
        for name, value in sorted(vars(owner).items()):
            if callable(value):
                return None
            # How many rows of coefficients there are decides on one score or several; not how many there are.
            if isinstance(value, np.ndarray):
                few = len(value) == 1 if value.ndim == 2 else None
                parts.append((name, value.dtype.str[:2], value.ndim, few, value.flags.fnc))
                if value.dtype.kind in "fiub":
                    parts.append(value.dtype)
            elif isinstance(value, (str, bool, type(None))):
                parts.append((name, value))
            else:
                parts.append((name, type(value)))
    return tuple(parts)


def _finish(model: Any, method: str) -> Callable[[Array], Array] | None:
    """What turns raw scores into the method's answer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.linear_model._base import LinearClassifierMixin

    kind = type(model)
    if isinstance(model, LinearClassifierMixin):
        if kind.decision_function is not LinearClassifierMixin.decision_function:
            return None
        if method == "decision_function":
            return _flat
        if method == "predict" and kind.predict is LinearClassifierMixin.predict:
            return _labels(model.classes_)
        if method == "predict_proba" and kind is LogisticRegression:
            return _softmax if len(model.classes_) > 2 else _sigmoid
        return None
    module = kind.__module__.split(".")[:2]
    if method == "predict" and kind.__name__ in _REGRESSORS and module[0] == "sklearn":
        return _flat if kind.__name__ in ("SGDRegressor", "LinearSVR") else _same
    return None


def _same(scores: Array) -> Array:
    return scores


def _flat(scores: Array) -> Array:
    return scores.reshape(-1) if scores.ndim > 1 and scores.shape[1] == 1 else scores


def _labels(classes: Array) -> Callable[[Array], Array]:
    labels = classes.astype(object) if classes.dtype.kind == "U" else classes

    def finish(scores: Array) -> Array:
        if scores.ndim == 1 or scores.shape[1] == 1:
            index: Array = (scores.reshape(-1) > 0).astype(np.intp)
        else:
            index = scores.argmax(1)
        taken: Array = labels.take(index)
        return taken

    return finish


def _softmax(scores: Array) -> Array:
    scores -= scores.max(1).reshape(-1, 1)
    np.exp(scores, out=scores)
    scores /= scores.sum(1).reshape(-1, 1)
    return scores


def _sigmoid(scores: Array) -> Array:
    from scipy.special import expit

    p = expit(scores.reshape(-1))
    return np.stack([1 - p, p], axis=1)


def _scale(scaler: Any) -> Callable[[Array], Array] | None:
    if scaler is None:
        return None
    mean = scaler.mean_ if scaler.with_mean else None
    scale = scaler.scale_ if scaler.with_std else None

    def apply(x: Array) -> Array:
        # The scaler computes in the input's own precision.
        x = x.astype(np.float64) if x.dtype.kind != "f" else x.copy()
        if mean is not None:
            x -= mean.astype(x.dtype, copy=False)
        if scale is not None:
            x /= scale.astype(x.dtype, copy=False)
        return x

    return apply


def _scores(scale: Callable[[Array], Array] | None, coef: Array, intercept: Any) -> Shortcut:
    isfinite = np.isfinite

    def scores(x: Array) -> Array | None:
        if scale is not None:
            x = scale(x)
        # The model refuses NaN and infinity, with a message of its own.
        if not isfinite(x).all():
            return None
        product: Array = x @ coef + intercept
        return product

    return scores


def _compose(
    dtypes: Container[np.dtype[Any]], scores: Shortcut, finish: Callable[[Array], Array]
) -> Shortcut:
    def fast(x: Array) -> Array | None:
        if x.dtype not in dtypes:
            return None
        raw = scores(x)
        return None if raw is None else finish(raw)

    return fast


def _agree(
    dtype: np.dtype[Any],
    features: int,
    scores: Shortcut,
    finish: Callable[[Array], Array],
    model: Any,
    method: str,
) -> bool:
    """Same values, dtype and shape, to the bit, for scores and answers."""
    slow = getattr(model, method)
    decide = getattr(model, "decision_function", None) if method != "decision_function" else None
    for rows, spread in ((1, 3.0), (7, 41.0)):
        # Irregular numbers without the cost of a generator: this runs in each replica's start.
        x = (np.sin(np.arange(1.0, rows * features + 1)) * spread).reshape(rows, features)
        x = x.astype(dtype)
        raw = scores(x)
        if raw is None:
            return False
        # Labels alone would hide scores that differ in their last bits.
        if decide is not None and not _same_bits(_flat(raw), decide(x)):
            return False
        if not _same_bits(finish(raw), slow(x)):
            return False
    return True


def _same_bits(have: Array, want: Any) -> bool:
    if type(want) is not np.ndarray:
        return False
    if want.dtype.kind == "U":
        want = want.astype(object)
    return have.dtype == want.dtype and np.array_equal(have, want)
