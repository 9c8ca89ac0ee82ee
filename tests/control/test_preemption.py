"""Who gives way: never an equal or a higher rank, never below the least, the least used first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.control.placement.preemption import Holder, Key, Taken, in_order, take, take_bytes


def holder(
    name: str, rank: int = 0, replicas: int = 1, least: int = 0, used: float = 0, busy: bool = False
) -> Holder:
    return Holder(("default", name), rank, replicas, least, used, busy)


def key(name: str) -> Key:
    return ("default", name)


def test_the_lowest_rank_goes_first_then_the_idle_then_the_least_recently_used() -> None:
    holders = [
        holder("busy", busy=True),
        holder("recent", used=9),
        holder("old", used=1),
        holder("higher", rank=5, used=0),
        holder("same", rank=10),
    ]
    assert [name for _, name in in_order(holders, below=10)] == ["old", "recent", "busy", "higher"]


def test_only_what_is_above_the_least_can_be_spared() -> None:
    assert in_order([holder("a", replicas=3, least=1), holder("b", replicas=1, least=1)], 10) == [
        key("a"),
        key("a"),
    ]


def test_nothing_is_taken_in_vain() -> None:
    """Not enough even with all of it: nobody loses anything."""
    assert take([holder("a", replicas=3)], 10, lambda taken: False) == Counter()


def test_whose_part_is_not_needed_keeps_it() -> None:
    """The first in line is on another device than the one that has to be free."""
    holders = [holder("elsewhere", used=1), holder("here", used=2)]
    taken = take(holders, 10, lambda taken: bool(taken.get(key("here"))))
    assert taken == {key("here"): 1}


def test_memory_is_taken_until_it_is_enough_or_nobody_is_left() -> None:
    holders = [holder("a", replicas=2, used=1), holder("b", used=2)]
    each = {key("a"): 100.0, key("b"): 100.0}
    assert take_bytes(holders, 10, each, 150) == {key("a"): 2}
    assert take_bytes(holders, 10, each, 1000) == {key("a"): 2, key("b"): 1}
    assert take_bytes(holders, 10, each, 0) == {}
    assert take_bytes(holders, 0, each, 1000) == {}, "an equal rank"


names_ = st.sampled_from("abcdef")
holders_ = st.dictionaries(
    names_,
    st.tuples(
        st.integers(-3, 3), st.integers(0, 4), st.integers(0, 3), st.integers(0, 9), st.booleans()
    ),
).map(lambda d: [holder(n, *fields) for n, fields in d.items()])
sizes_ = st.fixed_dictionaries({n: st.integers(0, 500) for n in "abcdef"})


def check(holders: list[Holder], below: int, taken: Taken) -> None:
    by_key = {h.key: h for h in holders}
    for k, n in taken.items():
        assert by_key[k].rank < below
        assert by_key[k].replicas - n >= by_key[k].least


@given(holders_, st.integers(-4, 4), sizes_, st.integers(0, 2000))
def test_memory_never_takes_what_it_may_not_nor_more_than_it_must(
    holders: list[Holder], below: int, sizes: dict[str, int], need: int
) -> None:
    each = {key(n): float(size) for n, size in sizes.items()}
    taken = take_bytes(holders, below, each, need)
    check(holders, below, taken)
    freed = sum(each[k] * n for k, n in taken.items())
    useful = [k for k in in_order(holders, below) if each[k]]
    assert list(taken.elements()) == useful[: taken.total()], "in the order of the line"
    if freed < need:
        assert taken.total() == len(useful), "all that may be taken was not enough"
    elif taken:
        assert freed - each[useful[taken.total() - 1]] < need, "and one less would not do"


@given(holders_, st.integers(-4, 4), st.dictionaries(names_, st.integers(1, 3)))
def test_devices_take_the_smallest_part_that_does_or_nothing(
    holders: list[Holder], below: int, needed: dict[str, int]
) -> None:
    """`needed`: these replicas have to go for a device to be free."""

    def enough(taken: Taken) -> bool:
        return all(taken.get(key(n), 0) >= count for n, count in needed.items())

    taken = take(holders, below, enough)
    check(holders, below, taken)
    spare = Counter(in_order(holders, below))
    if enough(spare) and spare:
        assert enough(taken) or not needed
        assert all(not enough(taken - Counter([k])) for k in taken) or not needed
    else:
        assert not taken
