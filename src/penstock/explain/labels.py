"""What a model answers, as one label per row: anchors and counterfactuals ask "is it still the same?".

A classifier may answer labels (`predict`), a number per class (`predict_proba`, a network's last layer), or
the probability of the one class there is. Which of them it is has to be the same for every row that is ever
asked, so it is read off the first answer, and only where that leaves no doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.explain.base import Array, Ask, Bools, Floats

_POSITIVE: Final = 0.5
#: Squares and sums of numbers up to this are numbers yet.
_LARGEST: Final = 1e150


class Labelled:
    """A model seen as a classifier of rows, and how many rows it was asked for."""

    def __init__(self, ask: Ask, output: str = "auto") -> None:
        self._ask = ask
        self._output = output
        #: `output` was read off an answer; nobody said it.
        self._guessed = False
        #: Whether labels are texts, once there was an answer.
        self._texts: bool | None = None
        self.rows = 0
        self.calls = 0

    def labels(self, rows: Array) -> Array:
        """A label per row, 1-D: class indices where the model answers a number per class."""
        answer = self.raw(rows)
        texts = answer.dtype.kind in "OSU"
        if self._texts is None:
            self._texts = texts
            if self._output == "auto":
                self._output, self._guessed = kind_of(answer), True
        elif texts != self._texts:
            raise ModelError("the model answered texts and numbers as labels")
        elif self._guessed and self._output == "label" and answer.ndim == 1:
            # A probability of exactly 1 looks like a label; those of other rows do not.
            kind_of(answer)
        return to_labels(answer, self._output)

    def raw(self, rows: Array) -> Array:
        """The model's own answer; ModelError when it has another number of rows."""
        answer = np.asarray(self._ask(rows))
        self.rows += len(rows)
        self.calls += 1
        if answer.ndim == 0 or len(answer) != len(rows):
            got = len(answer) if answer.ndim else "one value"
            raise ModelError(f"the model answered {got} rows where {len(rows)} were asked for")
        if len(rows) and not answer.size:
            raise ModelError("the model answered no number for a row")
        if answer.ndim == 2 and answer.shape[1] == 1 and self._output != "scores":
            answer = answer[:, 0]
        if answer.dtype.kind == "f" and bool(np.any(np.isnan(answer))):
            raise ModelError("the model answered NaN, which is no class and no number")
        if answer.ndim > 2:
            raise ModelError(
                f"the model answers arrays of shape {list(answer.shape[1:])} per row, which is no class"
            )
        return answer

    def same(self, rows: Array, label: Any) -> Bools:
        """For each row whether the model gives it `label`."""
        return np.asarray(self.labels(rows) == label, dtype=np.bool_)


def kind_of(answer: Array) -> str:
    """`label`, `scores` or `positive`; InvalidInput when the answer is a regression's."""
    if answer.ndim == 2 and answer.dtype.kind in "iub":
        raise InvalidInput(
            f"The model answers {answer.shape[1]} whole numbers per row, which may be several labels.",
            hint="Where they are one per class, set the explainer's config to output: scores.",
        )
    if answer.ndim == 2:
        return "scores"
    if answer.dtype.kind in "OSUbiu":
        return "label"
    if answer.dtype.kind == "f" and bool(np.all(answer == np.round(answer))):
        return "label"
    raise InvalidInput(
        "The model answers numbers that are no classes.",
        hint="Where they are the probability of one class, set the explainer's config to output: positive;"
        " KernelShap explains amounts.",
    )


def to_labels(answer: Array, output: str) -> Array:
    """Labels of `answer`, read as `output` says. ModelError when it cannot be read that way."""
    if output in ("scores", "positive") and answer.dtype.kind not in "fiub":
        raise ModelError(f"the model answered texts where output: {output} says numbers")
    if output == "scores":
        if answer.ndim != 2:
            raise ModelError(
                "the model answered one number per row where one per class was expected"
            )
        return np.asarray(np.argmax(answer, axis=1))
    if answer.ndim != 1:
        raise ModelError(
            f"the model answered {answer.shape[1]} numbers per row where one label was expected"
        )
    if output == "positive":
        return np.asarray(answer.astype(np.float64) >= _POSITIVE).astype(np.int64)
    return answer


def to_scores(answer: Array, output: str = "auto") -> Floats:
    """Numbers per output, `[n, k]`: a value per row has k = 1.

    InvalidInput when they are no numbers, or the numbers of classes; ModelError when they are not finite.
    Whole numbers are classes unless `output` is `values` or there are none but 0 and 1, which are the
    probability of 1 for certain.
    """
    hint = "Serve its scores, for example with options: {method: predict_proba}."
    if answer.dtype.kind not in "fiub":
        raise InvalidInput(
            "The model answers labels that are no numbers, which have no parts to attribute.",
            hint=hint,
        )
    if (
        answer.dtype.kind in "iu"
        and output != "values"
        and bool(np.any((answer < 0) | (answer > 1)))
    ):
        raise InvalidInput(
            "The model answers whole numbers, which are classes' and have no parts to attribute.",
            hint=f"{hint} Where they are amounts, set the explainer's config to output: values.",
        )
    values = answer.astype(np.float64)
    if not bool(np.all(np.abs(values) < _LARGEST)):
        raise ModelError("the model's answers are not finite, or beyond what can be added up")
    return values[:, None] if values.ndim == 1 else values


def class_name(label: Any, classes: Sequence[str]) -> str:
    """The name of a class by its number; a label that is a text is its own."""
    label = plain(label)
    whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
    if whole and 0 <= label < len(classes):
        return str(classes[int(label)])
    # A float's noughts go; an int may be beyond any float.
    return f"{label:.15g}" if whole and isinstance(label, float) else str(label)


def plain(value: Any) -> Any:
    """A numpy scalar or bytes as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
