"""Train the models of the demo on scikit-learn's own data sets: iris and digits.

Beside them goes what an explainer of iris needs: rows of training data, and the names of the classes.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import joblib
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(folder: Path) -> dict[str, float]:
    """Write `folder`/iris and `folder`/digits; answer the accuracy of each on held-out rows."""
    accuracy = {}
    for name, data in (("iris", load_iris()), ("digits", load_digits())):
        x_train, x_test, y_train, y_test = train_test_split(
            data.data, data.target, test_size=0.25, random_state=0, stratify=data.target
        )
        model = LogisticRegression(max_iter=1000)
        if name == "digits":
            model = make_pipeline(StandardScaler(), model)
        model.fit(x_train, y_train)
        accuracy[name] = float(model.score(x_test, y_test))
        target = folder / name / "model.joblib"
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".tmp")
        joblib.dump(model, fresh)
        fresh.replace(target)
    write_explainer(folder / "iris-explainer")
    return accuracy


def write_explainer(folder: Path) -> None:
    """The files that explainers of the iris model read."""
    data = load_iris()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(data.feature_names)
        writer.writerows(data.data.tolist())
    names = [str(name) for name in data.target_names]
    (folder / "explainer.json").write_text(json.dumps({"class_names": names}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("models"), help="folder for the models")
    for name, score in train(parser.parse_args().to).items():
        print(f"trained {name}: {score:.1%} right on rows it has not seen")


if __name__ == "__main__":
    main()
