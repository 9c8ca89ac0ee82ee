"""How a manifest's priority becomes a number."""

from __future__ import annotations

import pytest

from penstock.domain.priority import Priority, PriorityClass, Rank, resolve

HIGH = PriorityClass("high", 100)
POLITE = PriorityClass("polite", 50, preempts=False)


@pytest.mark.parametrize(
    ("asked", "rank"),
    [
        (Priority(), Rank(0)),
        (Priority("high"), Rank(100)),
        (Priority("polite"), Rank(50, False)),
        (Priority("polite", preempts=True), Rank(50, True)),
        (Priority("high", preempts=False), Rank(100, False)),
        (Priority("", 7), Rank(7)),
        (Priority("", 7, False), Rank(7, False)),
        (Priority("system-cluster-critical"), Rank(2_000_000_000)),
        (Priority("none"), None),
    ],
)
def test_a_class_or_a_number(asked: Priority, rank: Rank | None) -> None:
    assert resolve(asked, {c.name: c for c in (HIGH, POLITE)}) == rank


def test_who_says_nothing_has_the_default_classes_priority_and_the_lowest_of_several() -> None:
    some = PriorityClass("some", 10, default=True)
    more = PriorityClass("more", 20, default=True)
    assert resolve(Priority(), {"some": some, "more": more}) == Rank(10)
    assert resolve(Priority("", 5), {"some": some}) == Rank(5)
