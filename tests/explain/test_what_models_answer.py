"""What a model answers, read as labels: only where that leaves no doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelError
from penstock.explain.anchors import Settings
from penstock.explain.anchors_images import AnchorImages
from penstock.explain.anchors_tabular import AnchorTabular
from penstock.explain.anchors_text import AnchorText
from penstock.explain.base import Explainer
from penstock.explain.counterfactuals import Counterfactuals
from penstock.explain.kernel_shap import KernelShap
from penstock.explain.labels import Labelled, class_name, to_scores
from penstock.explain.training import Training
from penstock.protocols.v1 import encode_result
from penstock.runtimes.explainer import document


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
        (2.0, "2"),
        pytest.param(10**400, "1" + "0" * 400, id="beyond any float"),
    ],
)
def test_names_of_classes(label: Any, name: str) -> None:
    assert class_name(label, ["bad", "good"]) == name
    assert class_name(True, []) == "True"


@pytest.mark.parametrize("output", ["auto", "label", "scores", "positive"])
def test_no_number_at_all_is_the_models_fault(output: str) -> None:
    with pytest.raises(ModelError, match="no number"):
        answers(np.zeros((1, 0)), output=output).labels(rows(1))


@pytest.mark.parametrize("output", ["scores", "positive"])
@pytest.mark.parametrize("label", ["a", b"a", {"a": 1}])
def test_texts_where_numbers_are_said_to_be_are_the_models_fault(output: str, label: Any) -> None:
    answer = np.empty(1, dtype=object)
    answer[0] = label
    with pytest.raises(ModelError, match="texts where"):
        answers(answer, output=output).labels(rows(1))


def test_numbers_that_overflow_when_they_are_added_up_are_the_models_fault() -> None:
    with pytest.raises(ModelError, match="not finite"):
        to_scores(np.array([1e300, 1.0]))


# -- whatever it answers


def texts_of(*values: Any) -> Any:
    def answer(n: int) -> Any:
        out = np.empty(n, dtype=object)
        out[:] = [values[i % len(values)] for i in range(n)]
        return out

    return answer


TABLE = Training(np.random.default_rng(0).normal(size=(40, 3)), list("abc"), {2: ["x"]}, ["p", "q"])
FEW = Settings(max_samples=300, batch=20)
ROW, PICTURE = np.array([0.0, 1.0, 0.0]), np.random.default_rng(0).random((6, 6))
EXPLAINED = {
    "tabular": (AnchorTabular(TABLE, FEW), ROW),
    "tabular scores": (AnchorTabular(TABLE, FEW, output="scores"), ROW),
    "tabular positive": (AnchorTabular(TABLE, FEW, output="positive"), ROW),
    "text": (AnchorText(FEW), texts_of("a b c")(1)),
    "image": (AnchorImages(FEW, segments=4), PICTURE),
    "counterfactuals": (Counterfactuals(TABLE, samples=20), ROW),
    "counterfactuals of q": (Counterfactuals(TABLE, samples=20, target_class="q"), ROW),
    "shap": (KernelShap(TABLE), ROW),
    "shap logit": (KernelShap(TABLE, link="logit"), ROW),
}
ANSWERS: list[Any] = [
    lambda n: np.arange(n) % 3,
    lambda n: np.arange(n) % 2 == 0,
    lambda n: np.linspace(0, 1, n),
    lambda n: np.eye(2)[np.arange(n) % 2],
    lambda n: np.eye(3, dtype=int)[np.arange(n) % 3],
    lambda n: np.ones((n, 1)),
    lambda n: np.ones((n, 0)),
    lambda n: np.zeros((n, 2, 2)),
    lambda n: np.zeros(()),
    lambda n: np.zeros(n + 1),
    lambda n: np.zeros(0),
    lambda n: np.full(n, np.nan),
    lambda n: np.full(n, np.inf),
    lambda n: np.full((n, 2), 1e300),
    lambda n: np.arange(n).astype(np.float16),
    lambda n: np.array(["a", "b"])[np.arange(n) % 2],
    texts_of("a", "b"),
    texts_of(b"a", b"b"),
    texts_of(None),
    texts_of({"a": 1}),
    texts_of(10**400),
]


@pytest.mark.parametrize(("explainer", "instance"), EXPLAINED.values(), ids=EXPLAINED)
@given(
    first=st.sampled_from(ANSWERS),
    then=st.sampled_from(ANSWERS) | st.none(),
    turn=st.integers(1, 6),
)
def test_whatever_a_model_answers_is_explained_or_told(
    explainer: Explainer, instance: Any, first: Any, then: Any, turn: int
) -> None:
    """One kind of answer, or one and then another: an explanation as JSON, or an error of ours."""
    calls = 0

    def model(rows: Any) -> Any:
        nonlocal calls
        calls += 1
        return (first if then is None or calls <= turn else then)(len(rows))

    try:
        encode_result(document(explainer.explain(instance, model)))
    except (InvalidInput, ModelError):
        pass
