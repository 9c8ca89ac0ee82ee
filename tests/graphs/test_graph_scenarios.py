"""The page of scenarios is what the tests run."""

from __future__ import annotations

from graph_scenarios import PAGE, page, systems


def test_the_page_is_what_the_tests_run() -> None:
    assert PAGE.read_text() == page(), "run tests/graphs/graph_scenarios.py"


def test_no_scenario_is_there_twice() -> None:
    for system in systems():
        names = [r.name for r in system.rows]
        assert len(names) == len(set(names)), system.title
