"""Counterfactuals: of another class, near, sparse, within the data and its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import iris

from penstock.errors import InvalidInput
from penstock.explain.counterfactuals import Counterfactuals
from penstock.explain.training import Training


def plane(rows: Any) -> Any:
    return (rows[:, 0] + rows[:, 1] > 1).astype(int)


def cloud(features: int = 4) -> Training:
    rows = np.random.default_rng(1).normal(size=(500, features))
    return Training(rows, [f"f{i}" for i in range(features)], classes=["low", "high"])


@pytest.mark.parametrize("row", [0, 10, 52, 71, 101, 140])
def test_another_class_is_answered_for_it(row: int) -> None:
    training, model = iris()
    found = Counterfactuals(training).explain(training.rows[row], model.predict).data
    assert found["found"]
    other = np.array(found["cf"]["X"])
    assert model.predict(other[None])[0] == found["cf"]["class"] != found["prediction"]
    assert found["class_name"] in training.classes
    changed = {c["feature"] for c in found["changes"]}
    assert changed == {
        n for n, a, b in zip(training.names, other, training.rows[row], strict=True) if a != b
    }


def test_it_is_nearly_as_near_as_can_be() -> None:
    """A linear boundary, whose nearest point is known: within a third of its distance, before sparsity
    trades some of it for fewer features."""
    training = cloud(2)
    row = np.array([-0.5, -0.5])
    found = Counterfactuals(training).explain(row, plane).data
    scale = training.rows.std(0)
    # min |d / scale| with d0 + d1 = 2 is at d ~ scale^2
    best = 2 / np.linalg.norm(scale)
    assert best <= found["distance"] <= best * np.sqrt(2) * 1.34


def test_features_that_do_not_matter_are_left_alone() -> None:
    training = cloud(8)
    found = Counterfactuals(training).explain(np.full(8, -1.0), plane).data
    assert {c["feature"] for c in found["changes"]} <= {"f0", "f1"}


def test_fixed_features_and_categories_keep_their_value() -> None:
    random = np.random.default_rng(0)
    rows = np.column_stack([random.normal(size=(400, 3)), random.integers(0, 3, 400)])
    training = Training(rows, ["a", "b", "c", "kind"], {3: ["x", "y", "z"]})

    def model(r: Any) -> Any:
        return (r[:, 0] + r[:, 1] + 2 * r[:, 3] > 3).astype(int)

    row = np.array([0.0, 0.0, 0.0, 1.0])
    found = Counterfactuals(training, immutable=["a"]).explain(row, model).data
    assert {c["feature"] for c in found["changes"]} == {"b"}


def test_a_class_may_be_asked_for() -> None:
    training, model = iris()
    for target, label in (("virginica", 2), (2, 2)):
        found = Counterfactuals(training, target_class=target).explain(
            training.rows[0], model.predict
        )
        assert found.data["cf"]["class"] == label


def test_the_instances_own_class_is_no_counterfactual() -> None:
    training, model = iris()
    with pytest.raises(InvalidInput, match="already"):
        Counterfactuals(training, target_class="setosa").explain(training.rows[0], model.predict)


def test_rows_stay_within_the_data() -> None:
    training = cloud()
    seen: list[Any] = []

    def spy(rows: Any) -> Any:
        seen.append(rows)
        return plane(rows)

    Counterfactuals(training).explain(np.zeros(4) - 1, spy)
    rows = np.concatenate(seen)
    assert (rows >= training.rows.min(0) - 1e-9).all()
    assert (rows <= training.rows.max(0) + 1e-9).all()


def test_none_is_an_answer_too() -> None:
    found = Counterfactuals(cloud()).explain(np.zeros(4), lambda r: np.zeros(len(r), int)).data
    assert found["found"] is False
    assert "cf" not in found
    assert found["predictor_calls"] < 70


def test_nothing_to_change_is_refused() -> None:
    training = cloud(2)
    with pytest.raises(InvalidInput, match="nothing can be changed"):
        Counterfactuals(training, immutable=["f0", "f1"])
    with pytest.raises(InvalidInput, match="no feature"):
        Counterfactuals(training, immutable=["f7"])


# -- the class asked for


@pytest.mark.parametrize("form", ["str", "bytes"])
@pytest.mark.parametrize("target", [1, "1"])
def test_a_number_may_ask_for_a_label_that_is_a_text(form: str, target: Any) -> None:
    """Manifests read "1" as a number; the model's labels are texts."""
    training = Training(cloud().rows, ["f0", "f1", "f2", "f3"])
    labels = np.array([b"0", b"1"] if form == "bytes" else ["0", "1"], dtype=object)
    found = Counterfactuals(training, target_class=target).explain(
        np.full(4, -1.0), lambda rows: labels[plane(rows)]
    )
    assert found.data["cf"]["class"] == "1"


def test_a_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match="none of low, high"):
        Counterfactuals(cloud(), target_class="hihg")
    nameless = Training(cloud().rows, ["f0", "f1", "f2", "f3"])
    with pytest.raises(InvalidInput, match="the model answers numbers"):
        Counterfactuals(nameless, target_class="high").explain(np.full(4, -1.0), plane)


# -- where it may be


def test_rows_stay_within_the_range_that_is_given() -> None:
    training = cloud()
    ranges = {"f0": [-1.5, 0.5], "f1": [-2.0, 0.8]}
    seen: list[Any] = []

    def spy(rows: Any) -> Any:
        seen.append(rows)
        return plane(rows)

    found = Counterfactuals(training, ranges=ranges).explain(np.full(4, -1.0), spy).data
    rows = np.concatenate(seen)
    assert rows[:, 0].max() <= 0.5
    assert rows[:, 1].max() <= 0.8
    assert found["found"]
    impossible = Counterfactuals(training, ranges={"f0": [-1.5, 0.1], "f1": [-2.0, 0.8]})
    assert not impossible.explain(np.full(4, -1.0), plane).data["found"]
    with pytest.raises(InvalidInput, match="no feature"):
        Counterfactuals(training, ranges={"f9": [0, 1]})


def test_whole_numbers_stay_whole() -> None:
    """Nobody has 2.4 children; and the nearest whole number is found."""
    random = np.random.default_rng(0)
    rows = np.column_stack([random.integers(0, 8, 500), random.normal(size=500)])
    training = Training(rows, ["children", "x"])
    seen: list[Any] = []

    def model(r: Any) -> Any:
        seen.append(r)
        return (r[:, 0] >= 3).astype(int)

    found = Counterfactuals(training).explain(np.array([1.0, 0.0]), model).data
    assert found["cf"]["X"] == [3.0, 0.0]
    asked = np.concatenate(seen)[:, 0]
    assert (asked == np.rint(asked)).all()
    with pytest.raises(InvalidInput, match="whole number"):
        Counterfactuals(training, ranges={"children": [1.2, 1.8]})


def test_a_row_of_another_class_is_found_wherever_it_stands_in_the_data() -> None:
    """5,000 rows, sorted by class, and a model that only a training row's values can turn."""
    random = np.random.default_rng(0)
    rows = np.sort(random.normal(size=(5000, 1)), axis=0) + random.normal(size=(5000, 30)) * 0.01
    training = Training(rows, [f"f{i}" for i in range(30)])

    def model(r: Any) -> Any:
        return (r.min(1) > 1.0).astype(int)

    found = Counterfactuals(training, samples=10).explain(rows[0], model).data
    assert found["found"]


# -- what it costs


def test_setting_features_back_takes_few_calls() -> None:
    """200 features of which two matter: not a question for each."""
    training = cloud(200)
    found = Counterfactuals(training, samples=200).explain(np.full(200, -1.0), plane).data
    assert {c["feature"] for c in found["changes"]} <= {"f0", "f1"}
    assert found["predictor_calls"] < 45


def test_many_samples_of_many_features_do_not_fill_the_memory() -> None:
    wide = Training(np.random.default_rng(0).normal(size=(3, 5000)), [f"f{i}" for i in range(5000)])
    assert Counterfactuals(wide, samples=100_000).params["samples"] == 4000
