"""Conditions keep the time of their last change."""

from __future__ import annotations

import pytest

from penstock.domain.status import (
    Condition,
    ServiceStatus,
    Truth,
    conditions_of,
    from_rfc3339,
    rfc3339,
    with_conditions,
)


def test_a_conditions_time_moves_with_its_status_and_not_with_its_message() -> None:
    first = with_conditions(
        ServiceStatus(conditions=(Condition("Ready", Truth.FALSE, message="loading"),)), (), 100.0
    )
    assert first.conditions[0].since == 100.0
    same = ServiceStatus(conditions=(Condition("Ready", Truth.FALSE, message="still loading"),))
    second = with_conditions(same, first.conditions, 200.0)
    assert second.conditions[0].since == 100.0
    ready = ServiceStatus(conditions=(Condition("Ready", Truth.TRUE),))
    assert with_conditions(ready, second.conditions, 300.0).conditions[0].since == 300.0


def test_ready_is_the_condition() -> None:
    assert not ServiceStatus().ready
    assert ServiceStatus().condition("Ready") is Truth.UNKNOWN
    assert ServiceStatus(conditions=(Condition("Ready", Truth.TRUE),)).ready
    assert [Truth.of(v) for v in (True, False, None)] == ["True", "False", "Unknown"]


def test_times() -> None:
    assert rfc3339(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert from_rfc3339("2023-11-14T22:13:20Z") == 1_700_000_000
    assert from_rfc3339("2023-11-14T23:13:20+01:00") == 1_700_000_000
    for text in ("", "yesterday", "2023-11-14T22:13:20"):
        with pytest.raises(ValueError, match=r"."):
            from_rfc3339(text)


def test_conditions_are_read_back_and_a_broken_time_is_an_unknown_one() -> None:
    rendered = {
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
            {"type": "Odd", "status": "False", "lastTransitionTime": None, "reason": "R"},
        ]
    }
    assert conditions_of(rendered) == (
        Condition("Ready", Truth.TRUE, since=1_700_000_000.0),
        Condition("Odd", Truth.FALSE, reason="R"),
    )
    assert conditions_of({}) == ()
