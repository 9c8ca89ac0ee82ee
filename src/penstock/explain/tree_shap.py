"""Exact Shapley values of tree ensembles in polynomial time: TreeSHAP, by the `shap` package.

S. Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature
Machine Intelligence 2020, algorithm 2. It walks the trees themselves, so the explainer's process loads the
model; without a background set the expectation is over the training rows that each leaf has seen.

Each explanation is held against what the model itself says of the row (`tree_models`): values that do not add
up to it are refused, not answered.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.explain import tree_models
from penstock.explain.base import Array, Ask, Explainer, Explanation, Floats, numbers

log = logging.getLogger(__name__)

_INSTEAD: Final = "KernelShap explains any model, by asking it."
#: How far a sum of values may be from the model's answer, for rounding: relative, of 1 at least.
_TOLERANCE: Final = 1e-3
#: Rows that are tried when there is no data.
_TRIED: Final = 8


class TreeShap(Explainer):
    """Shapley values of an estimator of scikit-learn, XGBoost, LightGBM or CatBoost made of trees."""

    kind = "TreeShap"

    def __init__(
        self,
        model: Any,
        *,
        names: Sequence[str] = (),
        background: Floats | None = None,
        model_output: str = "raw",
    ) -> None:
        shap = _shap()
        self._features, known = tree_models.columns(model)
        self.names = tuple(names) or known
        if self._features and self.names and len(self.names) != self._features:
            raise LoadError(
                f"the model has {self._features} features, but there are {len(self.names)} feature names"
            )
        self.model_output = model_output
        self.background = background
        self._made, model = tree_models.behind(model)
        if background is not None and self._made is not None:
            background = self._made(background)
        _refuse_unreadable(model, background)
        try:
            parts = tree_models.parts(model) if model_output == "raw" else [model]
            self._explainers = [
                shap.TreeExplainer(part, data=background, model_output=model_output)
                for part in parts
            ]
            self._own = tree_models.own(model, model_output)
            self._try()
        except LoadError:
            raise
        except Exception as e:
            # shap raises its own kinds, and whatever a model's internals give it reason to.
            log.exception("TreeShap of %s", type(model).__name__)
            raise LoadError(
                f"TreeShap cannot explain a {type(model).__name__}: {_line(e)}", hint=_INSTEAD
            ) from e

    @property
    def params(self) -> Mapping[str, Any]:
        rows = 0 if self.background is None else len(self.background)
        return {"model_output": self.model_output, "background_rows": rows}

    def check(self, instance: Array, ask: Ask) -> None:
        self._taken(instance)

    def _taken(self, instance: Array) -> tuple[Floats, Floats | None]:
        """An instance that the model takes, and what it says of it."""
        row = self._row(instance)
        try:
            return row, self._answer(row)
        except ValueError as e:  # a forest that has not seen NaN in training does not take it
            raise InvalidInput(f"the model does not take the instance: {_line(e)}") from None

    def called(self, names: Sequence[str]) -> Self:
        if self._features and len(names) != self._features:
            raise InvalidInput(
                f"{len(names)} names of features, of which there are {self._features}"
            )
        return super().called(names)

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        row, own = self._taken(instance)
        values, base = self._values(row)
        if (said := _disagreement(own, values, base)) is not None:
            raise ModelError(said, hint=_INSTEAD)
        return Explanation(
            self.kind,
            {
                "shap_values": values.tolist(),
                "expected_value": base.tolist(),
                "raw_prediction": (values.sum(1) + base).tolist(),
                "feature_names": list(self.names),
                "exact": True,
                "instance": row.tolist(),
            },
            self.params,
        )

    def _row(self, instance: Array) -> Floats:
        row = numbers(instance)
        if row.ndim != 1 or (self._features and row.shape != (self._features,)):
            expected = f"{self._features} numbers" if self._features else "a row of numbers"
            raise InvalidInput(
                f"an instance has {expected}; this one has the shape {list(row.shape)}"
            )
        if bool(np.any(np.isinf(row))):  # NaN is a missing value, for which trees have a branch
            raise InvalidInput("an instance may not hold infinity")
        return row

    def _values(self, row: Floats) -> tuple[Floats, Floats]:
        """Shapley values `[outputs, features]` and the base values `[outputs]` that they start from."""
        if self._made is not None:
            row = self._made(row[None])[0]
        found = [_values_of(explainer, row) for explainer in self._explainers]
        if len(found) == 1:
            return found[0]
        return np.concatenate([v for v, _ in found]), np.concatenate([b for _, b in found])

    def _answer(self, row: Floats) -> Floats | None:
        """What the model itself says of a row, `[outputs]`; None where it has no call for that."""
        if self._own is None:
            return None
        rows = row[None] if self._made is None else self._made(row[None])
        own: Floats = self._own(rows)[0]
        return own

    def _try(self) -> None:
        """Explain a few rows, so that a model that is read wrongly is found before it is asked about."""
        if not self._features:
            return
        rows = np.random.default_rng(0).normal(size=(_TRIED, self._features))
        rows[0] = 0
        if self.background is not None:
            rows = self.background[:_TRIED]
        for row in rows:
            if (said := _disagreement(self._answer(row), *self._values(row))) is not None:
                raise LoadError(said, hint=_INSTEAD)


def _values_of(explainer: Any, row: Floats) -> tuple[Floats, Floats]:
    # All the trees, as the predictor has them: shap would stop at XGBoost's best iteration.
    values = np.asarray(
        explainer.shap_values(row[None], tree_limit=-1, check_additivity=False, from_call=True)
    )
    # [1, features] or [1, features, outputs]
    per_output = values[0].T if values.ndim == 3 else values
    base = np.atleast_1d(np.asarray(explainer.expected_value, dtype=np.float64))
    return per_output, base[-len(per_output) :]


def _shap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about packages' own affairs
            import shap
    except ModuleNotFoundError as e:
        raise LoadError(
            f"TreeShap needs the package {e.name!r}, which is not installed.",
            hint="Install it with: pip install 'penstock[explain]'",
        ) from e
    return shap


def _disagreement(own: Floats | None, values: Floats, base: Floats) -> str | None:
    """What is wrong with the values of a row, when they do not add up to the model's `own` answer."""
    if own is None:
        return None
    # Of the probabilities of two classes, one row of values is of the second.
    if len(values) == 1 and len(own) == 2:
        own = own[1:]
    total = values.sum(1) + base
    if own.shape != total.shape or np.allclose(total, own, rtol=_TOLERANCE, atol=_TOLERANCE):
        return None
    worst = int(np.argmax(np.abs(total - own)))
    return f"TreeShap's values add up to {total[worst]:.6g} where the model says {own[worst]:.6g}"


def _refuse_unreadable(model: Any, background: Floats | None) -> None:
    """LoadError for what shap reads wrongly without noticing, or dies of."""
    if what := tree_models.unreadable(model):
        raise LoadError(f"TreeShap cannot read a {type(model).__name__}'s {what}.", hint=_INSTEAD)
    if background is None or tree_models.family(model) != "catboost":
        return
    # shap reads CatBoost's leaves as one number each; with several the process dies.
    if np.size(model.predict(background[:1], prediction_type="RawFormulaVal")) > 1:
        raise LoadError(
            "TreeShap explains CatBoost's models of many outputs with model_output: raw only.",
            hint=_INSTEAD,
        )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
