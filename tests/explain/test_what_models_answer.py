"""What a model answers, read as labels: only where that leaves no doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.errors import InvalidInput, ModelError
from penstock.explain.labels import Labelled, class_name


def answers(*batches: Any, output: str = "auto") -> Labelled:
    """A model that answers each of `batches` in turn."""
    turns = iter(batches)
    return Labelled(lambda rows: np.asarray(next(turns)), output)


def rows(n: int) -> Any:
    return np.zeros((n, 2))


def test_a_probability_of_exactly_one_is_no_label() -> None:
    """A sigmoid that saturates answers 1.0 for the instance itself, and 0.98 for a row like it."""
    model = answers(np.float32([1.0]), np.float32([0.98, 1.0]))
    model.labels(rows(1))
    with pytest.raises(InvalidInput, match="output: positive"):
        model.labels(rows(2))


def test_what_was_said_is_not_guessed() -> None:
    model = answers(np.float32([1.0]), np.float32([0.98, 0.2]), output="positive")
    assert model.labels(rows(1)).tolist() == [1]
    assert model.labels(rows(2)).tolist() == [1, 0]


@pytest.mark.parametrize("answer", [[np.nan], [[0.1, np.nan]]])
def test_nan_is_no_class(answer: Any) -> None:
    with pytest.raises(ModelError, match="NaN"):
        answers(answer).labels(rows(1))


def test_several_labels_per_row_are_no_scores() -> None:
    """Of a classifier of many outputs, the largest label is no class; unless it is said to be one."""
    with pytest.raises(InvalidInput, match="output: scores"):
        answers([[0, 1]]).labels(rows(1))
    assert answers([[0, 1]], output="scores").labels(rows(1)).tolist() == [1]


def test_a_model_of_one_class_has_one_score() -> None:
    assert answers([[1.0], [1.0]], output="scores").labels(rows(2)).tolist() == [0, 0]


def test_labels_that_become_scores_are_the_models_fault() -> None:
    model = answers([1], [[0.1, 0.9]])
    model.labels(rows(1))
    with pytest.raises(ModelError, match="one label was expected"):
        model.labels(rows(1))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (np.int64(1), "good"),
        (np.float32(1), "good"),
        (np.bool_(True), "good"),
        (b"good", "good"),
        ("other", "other"),
        (2, "2"),
        (-1, "-1"),
        (1.5, "1.5"),
        (np.inf, "inf"),
        (12345678, "12345678"),
    ],
)
def test_names_of_classes(label: Any, name: str) -> None:
    assert class_name(label, ["bad", "good"]) == name
    assert class_name(True, []) == "True"
