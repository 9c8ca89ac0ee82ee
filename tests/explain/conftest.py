"""Oracles are imported once, with their own packages' warnings left aside."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import shap  # noqa: F401
