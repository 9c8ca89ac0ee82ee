"""Errors quote what callers sent, and are of a length that people and logs can bear."""

from __future__ import annotations

import pickle
from time import process_time

import pytest

from penstock.errors import (
    LONGEST_MESSAGE,
    LONGEST_WORD,
    FieldProblem,
    InvalidManifest,
    NotFound,
    PenstockError,
    Unavailable,
    quotable,
)
from penstock.protocols.errors import error_body


def test_a_long_name_is_cut_in_the_middle() -> None:
    """Where it begins and how it ends tells which one it is."""
    name = "a" * 2500 + "z" * 2500
    error = NotFound(f"Model with name {name} does not exist.", hint=f"Not {name}.")
    assert error.message == f"Model with name {'a' * 160}...{'z' * 60} does not exist."
    assert len(error_body(error)) < 600


@pytest.mark.parametrize("name", ["n" * (LONGEST_WORD - 1), "gs://b/" + "d" * 240])
def test_names_that_there_may_be_stay_whole(name: str) -> None:
    assert name in NotFound(f"There is nothing at {name} now.").message
    assert name in Unavailable("No.", hint=f"Look at {name} again.").hint


def test_words_are_cut_and_sentences_are_not() -> None:
    """A manifest's problems are told to the last one."""
    problems = [FieldProblem(f"spec.steps[{i}].name", "has to be given") for i in range(200)]
    message = InvalidManifest(problems, about="p").message
    assert message.endswith("spec.steps[199].name: has to be given")


def test_a_long_name_with_blanks_is_cut_too() -> None:
    message = NotFound("Model " + "a " * 3_000_000 + " does not exist.").message
    assert len(message) == LONGEST_MESSAGE
    assert message.endswith("...")


def test_what_a_message_costs_is_in_its_length_not_in_its_words() -> None:
    """A caller who chooses the words may not choose how long an error takes to be made."""

    def cost(word: str) -> float:
        text = word * (1_000_000 // len(word))
        costs = []
        for _ in range(3):
            began = process_time()
            quotable(text)
            costs.append(process_time() - began)
        return min(costs)

    assert cost("n" * LONGEST_WORD + " ") < 5 * cost("n" * 10 + " ")


def test_a_cut_message_is_the_same_after_a_pipe() -> None:
    error = PenstockError("x" * 5000)
    assert pickle.loads(pickle.dumps(error)).message == error.message
