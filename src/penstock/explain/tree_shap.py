"""Exact Shapley values of tree ensembles in polynomial time: TreeSHAP, by the `shap` package.

S. Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature
Machine Intelligence 2020, algorithm 2. It walks the trees themselves, so the explainer's process loads the
model; without a background set the expectation is over the training rows that each leaf has seen.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.errors import InvalidInput, LoadError
from penstock.explain.base import Array, Ask, Explainer, Explanation, Floats

log = logging.getLogger(__name__)


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
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about packages' own affairs
                import shap
        except ModuleNotFoundError as e:
            raise LoadError(
                f"TreeShap needs the package {e.name!r}, which is not installed.",
                hint="Install it with: pip install 'penstock[explain]'",
            ) from e
        self.names = tuple(names)
        self.model_output = model_output
        self.background = background
        try:
            self._explainer = shap.TreeExplainer(model, data=background, model_output=model_output)
        except Exception as e:
            # shap raises its own kinds, and whatever a model's internals give it reason to.
            log.exception("TreeShap of %s", type(model).__name__)
            raise LoadError(f"TreeShap cannot explain a {type(model).__name__}: {_line(e)}") from e
        self._features = int(getattr(model, "n_features_in_", 0) or 0)

    @property
    def params(self) -> Mapping[str, Any]:
        rows = 0 if self.background is None else len(self.background)
        return {"model_output": self.model_output, "background_rows": rows}

    def explain(self, instance: Array, ask: Ask) -> Explanation:
        try:
            row = np.asarray(instance, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidInput(
                "an instance is a row of numbers; this one holds something else"
            ) from None
        if row.ndim != 1 or (self._features and row.shape != (self._features,)):
            expected = f"{self._features} numbers" if self._features else "a row of numbers"
            raise InvalidInput(
                f"an instance has {expected}; this one has the shape {list(row.shape)}"
            )
        values = np.asarray(
            self._explainer.shap_values(row[None], check_additivity=False, from_call=True)
        )
        # [1, features] or [1, features, outputs]
        per_output = values[0].T if values.ndim == 3 else values
        expected_value = np.atleast_1d(np.asarray(self._explainer.expected_value, dtype=np.float64))
        if len(expected_value) != len(per_output):
            expected_value = expected_value[-len(per_output) :]
        return Explanation(
            self.kind,
            {
                "shap_values": per_output.tolist(),
                "expected_value": expected_value.tolist(),
                "raw_prediction": (per_output.sum(1) + expected_value).tolist(),
                "feature_names": list(self.names),
                "exact": True,
                "instance": row.tolist(),
            },
            self.params,
        )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
