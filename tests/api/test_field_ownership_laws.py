"""Laws of server-side apply, over documents that nobody thought of."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api import field_sets, ownership
from penstock.api.ownership import Owner
from penstock.api.wire import ApiError

A = Owner("a", "v1", applies=True)
B = Owner("b", "v1", applies=True)
EDITOR = Owner("e", "v1")

_words = st.sampled_from(["a", "b", "c.d", "e/f"])
_scalars = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "x", "y"]))
_keyed = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("pqr")}, optional={"value": _scalars}),
    max_size=3,
    unique_by=lambda e: e["name"],
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(_words, inner, max_size=3),
        st.fixed_dictionaries({}, optional={"env": _keyed, "a": inner}),
    ),
    max_leaves=8,
)
_specs = st.dictionaries(_words, _values, max_size=3)
_labels = st.dictionaries(_words, st.sampled_from("xy"), max_size=2)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "n"}
    if labels := draw(_labels):
        metadata["labels"] = labels
    if finalizers := draw(st.lists(st.sampled_from("fgh"), max_size=2, unique=True)):
        metadata["finalizers"] = finalizers
    return {"apiVersion": "v1", "kind": "K", "metadata": metadata, "spec": draw(_specs)}


def values(obj: dict[str, Any]) -> dict[field_sets.Path, Any]:
    return field_sets.leaves_of(obj)


def apply(
    stored: dict[str, Any] | None, config: dict[str, Any], owner: Owner, *, force: bool = True
) -> dict[str, Any]:
    config = copy.deepcopy(config)
    if stored is None:
        return ownership.applied_first(config, owner)
    over = ownership.apply_over(stored, config, owner)
    if not force:
        over.check_conflicts()
    return over.result()


def without_empty(leaves: dict[field_sets.Path, Any]) -> dict[field_sets.Path, Any]:
    return {k: v for k, v in leaves.items() if v not in ({}, [])}


@given(documents())
@settings(deadline=None)
def test_fields_survive_the_wire(document: dict[str, Any]) -> None:
    fields = frozenset(values(document))
    assert field_sets.decoded(field_sets.encoded(fields)) == fields


@given(documents(), documents())
@settings(max_examples=100, deadline=None)
def test_what_is_applied_by_force_is_what_is_there(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    stored = apply(apply(None, first, A), second, B)
    now = values(stored)
    for path, value in values(second).items():
        # What is empty in it may have entries of others.
        assert now[path] == value if path in now else value in ({}, [])


@given(documents(), documents())
@settings(max_examples=100, deadline=None)
def test_one_owner_alone_replaces_what_it_applied(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    stored = apply(apply(None, first, A), second, A, force=False)
    assert without_empty(values(stored)) == without_empty(values(second))


@given(documents(), documents(), documents())
@settings(max_examples=100, deadline=None)
def test_an_apply_without_force_changes_nothing_of_others(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    stored = apply(apply(None, first, A), second, B)
    theirs = ownership.owners_of(stored).get(B)
    before = {k: v for k, v in values(stored).items() if theirs and k in theirs.fields}
    try:
        now = values(apply(stored, third, A, force=False))
    except ApiError:
        return
    for path, value in before.items():
        # A map or list of no entries may get some, and is no field any more then.
        assert path in now or value in ({}, []), path
        assert path not in now or now[path] == value


@given(documents(), documents())
@settings(max_examples=100, deadline=None)
def test_owners_own_only_what_there_is(first: dict[str, Any], second: dict[str, Any]) -> None:
    stored = apply(apply(None, first, A), second, B)
    edited = {**first, "metadata": dict(first["metadata"])}
    for obj in (stored, ownership.updated(stored, edited, EDITOR)):
        there = {path[:i] for path in values(obj) for i in range(1, len(path) + 1)}
        for owned in ownership.owners_of(obj).values():
            assert owned.fields <= there


@given(documents(), documents())
@settings(max_examples=100, deadline=None)
def test_after_an_update_every_field_has_an_owner(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    stored = ownership.updated(None, first, EDITOR)
    now = ownership.updated(stored, second, Owner("f", "v1"))
    owned = frozenset[field_sets.Path]().union(
        *(o.fields for o in ownership.owners_of(now).values())
    )
    assert owned >= frozenset(values(now))


@given(documents(), documents())
@settings(max_examples=100, deadline=None)
def test_nothing_that_is_given_is_changed(first: dict[str, Any], second: dict[str, Any]) -> None:
    stored = apply(None, first, A)
    before = copy.deepcopy((stored, second))
    ownership.apply_over(stored, second, B).result()
    ownership.updated(stored, second, EDITOR)
    assert (stored, second) == before
