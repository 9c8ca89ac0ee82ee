"""skops files: scikit-learn's models, with a zygote of their own.

Importing skops takes in all of scikit-learn, two seconds and 200 MB that no replica of a joblib file needs
and every replica of a skops file would pay for itself.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.runtimes import sklearn

framework = replace(
    sklearn.framework,
    name="skops",
    preload=(*sklearn.framework.preload, "skops.io"),
    # A manifest says `sklearn`; the control plane sees by the files which zygote they want.
    formats=(),
)
