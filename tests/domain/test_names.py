"""Names, labels and keys by Kubernetes' rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.domain import names

GOOD_AND_BAD: list[tuple[Callable[[str], str | None], list[str], list[str]]] = [
    (
        names.label_problem,
        ["a", "0", "a-b", "1a", "a" * 63],
        ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "ü", "a\n"],
    ),
    (
        names.service_problem,
        ["iris", "a1", "a-1", "a" * 63],
        ["", "1a", "-a", "a-", "Iris", "a.b", "a_b", "a" * 64, "iris\n"],
    ),
    (
        names.subdomain_problem,
        ["a", "a.b-c.d", "0.1", "a" * 253],
        ["", ".a", "a.", "a..b", "A.b", "a" * 254, "a/b"],
    ),
    (
        names.key_problem,
        ["app", "App_1.x", "a.b/C", "penstock.dev/x"],
        ["", "/a", "a/", "a/b/c", "-a", "a-", "A.b/c", "x" * 64, "a b"],
    ),
    (
        names.label_value_problem,
        ["", "a", "A.b_c-1", "x" * 63],
        ["-", "a ", "a/b", "x" * 64, "ü", "a\n"],
    ),
    (names.env_problem, ["A", "_a", "a.b", "A-B"], ["", "1A", "A B", "A=B", "Ü"]),
    (names.secret_key_problem, ["a", "..a", "A_b.c-1"], ["", ".", "..", "a/b", "a b", "x" * 254]),
]


@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule, good, _ in GOOD_AND_BAD for name in good]
)
def test_good_names(rule: Callable[[str], str | None], name: str) -> None:
    assert rule(name) is None


@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule, _, bad in GOOD_AND_BAD for name in bad]
)
def test_bad_names(rule: Callable[[str], str | None], name: str) -> None:
    problem = rule(name)
    assert problem
    assert len(problem) < 300
