"""Ids that say what was chosen: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.gateway.learning.request_ids import (
    MOST_CHARACTERS,
    MOST_CHOICES,
    PREFIX,
    Choice,
    RequestIds,
    arm_hash,
    key_hash,
    read_key,
    rounded,
)

features = st.lists(st.floats(-1e6, 1e6, width=32), max_size=33).map(tuple)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
choices = st.lists(st.builds(Choice, names, names, features), min_size=1, max_size=MOST_CHOICES)


@given(chosen=choices, now=st.floats(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_what_goes_in_comes_out(chosen: list[Choice], now: float) -> None:
    ids = RequestIds(b"key")
    made = ids.make(chosen, now)
    assert made.isascii()
    assert made.isprintable()
    assert len(made) <= MOST_CHARACTERS
    issued = ids.read(made)
    assert issued is not None
    assert issued.at == int(now)
    assert [tuple(c) for c in issued.chosen] == [
        (key_hash(c.key), arm_hash(c.arm), c.features) for c in chosen
    ]
    assert RequestIds(b"other").read(made) is None


@given(
    text=st.one_of(
        st.text(max_size=300), st.text("abcdefXYZ-_=01", max_size=300).map(PREFIX.__add__)
    )
)
@settings(max_examples=300, deadline=None)
def test_what_is_no_id_is_none(text: str) -> None:
    assert RequestIds(b"key").read(text) is None


@given(place=st.integers(0, 60), change=st.sampled_from("AB09-_=. "))
@settings(max_examples=200, deadline=None)
def test_a_changed_id_is_none(place: int, change: str) -> None:
    ids = RequestIds(b"key")
    made = ids.make([Choice("k", "a")], 1)
    place %= len(made)
    changed = made[:place] + change + made[place + 1 :]
    assert ids.read(changed) is None or changed == made
    for longer in (made + change, made + "=", made[:-1]):
        assert ids.read(longer) is None


def test_no_two_are_the_same() -> None:
    one, other = RequestIds(b"key"), RequestIds(b"key")
    made = [i.make([Choice("k", "a")], 1) for i in (one, other) for _ in range(1000)]
    assert len({one.read(m).number for m in made}) == 2000  # type: ignore[union-attr]


def test_more_choices_than_fit_are_left_out() -> None:
    ids = RequestIds(b"key")
    issued = ids.read(ids.make([Choice("k", str(i)) for i in range(20)], 1))
    assert issued is not None
    assert [c.arm for c in issued.chosen] == [arm_hash(str(i)) for i in range(MOST_CHOICES)]


def test_features_are_rounded_to_what_an_id_holds() -> None:
    assert rounded((0.1, 1.0)) != (0.1, 1.0)
    assert rounded(rounded((0.1, 1.0))) == rounded((0.1, 1.0))


def test_gateways_that_start_together_have_one_key(tmp_path: Path) -> None:
    path = tmp_path / "feedback.key"
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: read_key(path), range(64)))
    assert len(found) == 1
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert read_key(path) in found
    assert read_key(None) != read_key(None)
