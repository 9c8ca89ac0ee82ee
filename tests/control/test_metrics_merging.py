"""The sum that is kept up to date, held to the sum that is made anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.observe.merging import Merger
from penstock.observe.metrics import Registry, Snapshot, add, render

PROCESSES = ("a", "b", "c")
SERVICES = ("x", "y")


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Whole numbers: sums of floats depend on the order."""
    r = Registry()
    c = r.counter("c", "C.", ("namespace", "service"))
    g = r.gauge("g", "G.", ("service", "namespace"))
    h = r.histogram("h", "H.", ("namespace", "service", "model"), bounds=(1.0, 5.0))
    for service in draw(st.permutations(SERVICES)):
        if draw(st.booleans()):
            c.labels("ns", service).inc(draw(st.integers(0, 5)))
        if draw(st.booleans()):
            g.labels(service, "ns").set(draw(st.integers(-5, 5)))
        for value in draw(st.lists(st.integers(0, 9), max_size=3)):
            h.labels("ns", service, "m").observe(value)
    snapshot = r.snapshot()
    if draw(st.booleans()):
        del snapshot["h"]
    return snapshot


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(PROCESSES), snapshots()),
        st.tuples(st.just("retire"), st.sampled_from(PROCESSES), st.none()),
        st.tuples(st.just("forget"), st.sampled_from(SERVICES), st.none()),
        st.tuples(st.just("text"), st.just(""), st.none()),
    ),
    max_size=12,
)


class Slow:
    """What the sum is, by adding everything up."""

    def __init__(self) -> None:
        self.live: dict[str, Snapshot] = {}
        self.ended: list[Snapshot] = []

    def forget(self, service: str) -> None:
        for snapshot in self.ended:
            for family in snapshot.values():
                at = family["labels"].index("service")
                family["samples"] = [s for s in family["samples"] if s[0][at] != service]

    def retire(self, process: str) -> None:
        last = self.live.pop(process, None)
        if last is not None:
            self.ended.append(
                {
                    n: {**f, "samples": [*f["samples"]]}
                    for n, f in last.items()
                    if f["kind"] != "gauge"
                }
            )

    def total(self) -> Snapshot:
        return add([*self.ended, *self.live.values()])


def by_name(snapshot: Snapshot) -> dict[str, Any]:
    """Samples in any order; metrics without any do not matter."""
    return {
        name: sorted((tuple(labels), value) for labels, value in f["samples"])
        for name, f in snapshot.items()
        if f["samples"]
    }


def lines(text: bytes) -> list[str]:
    return sorted(line for line in text.decode().splitlines() if not line.startswith("#"))


@given(STEPS)
def test_the_sum_is_that_of_all_snapshots(steps: list[tuple[str, str, Any]]) -> None:
    merger, slow = Merger(), Slow()
    for what, name, snapshot in steps:
        if what == "put":
            merger.put(name, snapshot)
            slow.live[name] = snapshot
        elif what == "retire":
            merger.retire(name)
            slow.retire(name)
        elif what == "forget":
            merger.forget("ns", name)
            slow.forget(name)
        else:
            merger.text()  # what is written ahead is not what is written later
        assert by_name(merger.total()) == by_name(slow.total())
        assert merger.processes() == set(slow.live)
    assert lines(merger.text()) == lines(render(slow.total()))


def test_a_gauges_sum_says_of_how_many_processes_it_is() -> None:
    """A mean is what can be compared between revisions of one replica and of four."""
    merger = Merger()
    for process, value in (("a", 1.0), ("b", 3.0)):
        registry = Registry()
        registry.gauge("held", "", ("revision",)).labels("r1").set(value)
        merger.put(process, registry.snapshot())
    assert merger.total()["held"]["samples"] == [[["r1"], 4.0]]
    assert merger.total()["held"]["processes"] == [2]
    merger.retire("b")
    assert merger.total()["held"]["samples"] == [[["r1"], 1.0]]
    assert merger.total()["held"]["processes"] == [1]


def test_services_with_news_are_known() -> None:
    r = Registry()
    c = r.counter("c", "C.", ("namespace", "service"))
    c.labels("ns", "x").inc()
    c.labels("ns", "y").inc()
    merger = Merger()
    merger.put("p", r.snapshot())
    assert merger.stirred() == {("ns", "x"), ("ns", "y")}
    merger.put("p", r.snapshot())
    assert merger.stirred() == set()
    c.labels("ns", "y").inc()
    merger.put("p", r.snapshot())
    assert merger.stirred() == {("ns", "y")}
    merger.retire("p")
    assert merger.stirred() == set()


def test_a_process_that_describes_a_metric_differently_changes_nothing() -> None:
    a, b = Registry(), Registry()
    a.counter("c", "C.", ("x",)).labels("1").inc()
    b.counter("a", "A.").labels().inc()
    b.counter("c", "C.", ("y",)).labels("1").inc()
    merger = Merger()
    merger.put("a", a.snapshot())
    before = merger.text()
    with pytest.raises(ValueError, match="metric c differently"):
        merger.put("b", b.snapshot())
    assert merger.text() == before


def test_the_text_is_written_in_parts() -> None:
    r = Registry()
    c = r.counter("c", "C.", ("n",))
    for i in range(10):
        c.labels(str(i)).inc()
    merger = Merger()
    merger.put("p", r.snapshot())
    parts = list(merger.parts(4))
    assert [len(lines(part)) for part in parts] == [4, 4, 2]
    assert b"".join(parts) == merger.text()


def test_what_changes_between_two_parts_does_no_harm() -> None:
    merger = Merger()
    for service in ("a", "b", "c"):
        r = Registry()
        r.counter("c", "C.", ("namespace", "service")).labels("ns", service).inc()
        merger.put(service, r.snapshot())
    parts = merger.parts(1)
    first = next(parts)
    merger.put("b", {})
    merger.retire("c")
    later = Registry()
    later.counter("d", "D.").labels().inc()
    merger.put("d", later.snapshot())
    rest = b"".join(parts)
    assert lines(first + rest) == [
        'c_total{namespace="ns",service="a"} 1.0',
        'c_total{namespace="ns",service="c"} 1.0',
    ]
    assert b"d_total 1.0" in merger.text()


def test_ends_of_many_processes_cost_what_they_have_themselves() -> None:
    """Ten thousand services that fall asleep one by one: not each over all that ended before."""
    touched = 0

    class Counted(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            nonlocal touched
            touched += 1
            return super().__getitem__(key)

    merger = Merger()
    for i in range(500):
        r = Registry()
        r.counter("c", "C.", ("namespace", "service")).labels("ns", f"s{i}").inc()
        merger.put(f"p{i}", r.snapshot())
        if i == 0:
            merger._families["c"].series = Counted(merger._families["c"].series)
    touched = 0
    for i in range(500):
        merger.retire(f"p{i}")
    assert touched == 500
