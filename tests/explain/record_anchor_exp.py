"""Writes anchor_exp.json: what the package anchor-exp (BSD-2) answers for the same model and rows.

It cannot be installed beside the platform's packages without a large tail, so its answers are kept:
    pip install --no-deps --target ORACLE anchor-exp lime && PYTHONPATH=ORACLE python record_anchor_exp.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

ROWS = (0, 10, 20, 52, 56, 64, 71, 80, 85, 101, 106, 120, 130, 145, 149)


def main() -> None:
    from anchor.anchor_tabular import AnchorTabularExplainer

    iris = load_iris()
    model = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
    explainer = AnchorTabularExplainer(
        list(iris.target_names), list(iris.feature_names), iris.data, {}
    )
    answers = []
    for row in ROWS:
        np.random.seed(0)
        e = explainer.explain_instance(
            iris.data[row], model.predict, threshold=0.95, delta=0.1, tau=0.15, beam_size=4
        )
        answers.append(
            {
                "row": row,
                "anchor": e.names(),
                "precision": round(float(e.precision()), 4),
                "coverage": round(float(e.coverage()), 4),
            }
        )
    out = Path(__file__).with_name("anchor_exp.json")
    out.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
