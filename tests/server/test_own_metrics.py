"""Metrics that a model's own code keeps with prometheus_client."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from penstock.observe.merging import Merger
from penstock.observe.metrics import Registry, render
from penstock.server.own_metrics import MOST_SERIES, OwnMetrics
from penstock.server.statistics import Metrics

LABELS = ("default", "iris", "iris-00001")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def read(registry: CollectorRegistry) -> dict[str, Any]:
    """Families by the name that they are shown as."""
    return {f["name"]: f for f in OwnMetrics(LABELS, registry).snapshot().values()}


def shown(*snapshots: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper reads of the sum: values by name and labels."""
    merger = Merger()
    for i, snapshot in enumerate(snapshots):
        merger.put(str(i), snapshot)
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(merger.text().decode())
        for s in family.samples
    }


def of(*more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    names = ("namespace", "service", "revision")
    return tuple(sorted((*zip(names, LABELS, strict=True), *more)))


def test_each_kind_is_read_with_the_processs_labels(registry: CollectorRegistry) -> None:
    Counter("low", "Low confidence.", ["kind"], registry=registry).labels("cat").inc(3)
    Gauge("accuracy", "", registry=registry).set(0.9)
    seconds = Histogram("took", "", ["step"], buckets=(0.1, 1.0), registry=registry)
    for value in (0.05, 0.5, 0.7, 5.0):
        seconds.labels("a").observe(value)
    Summary("size", "", registry=registry).observe(7)
    found = read(registry)
    assert found["low_total"]["labels"] == ["namespace", "service", "revision", "kind"]
    assert found["low_total"]["samples"] == [[[*LABELS, "cat"], 3.0]]
    assert found["took"]["samples"] == [[[*LABELS, "a"], [[1, 2, 1], 6.25]]]
    assert found["size"]["samples"] == [[[*LABELS], [[1], 7.0]]]
    text = shown(OwnMetrics(LABELS, registry).snapshot())
    assert text["low_total", of(("kind", "cat"))] == 3
    assert text["accuracy", of()] == 0.9
    assert text["took_bucket", of(("step", "a"), ("le", "1.0"))] == 3
    assert text["took_count", of(("step", "a"))] == 4
    assert text["size_sum", of()] == 7


def test_processes_are_added_up() -> None:
    one, two = CollectorRegistry(), CollectorRegistry()
    for registry, n in ((one, 1), (two, 4)):
        Counter("low", "Said by one.", registry=registry).inc(n)
    text = shown(*(OwnMetrics(LABELS, r).snapshot() for r in (one, two)))
    assert text["low_total", of()] == 5


def test_one_name_may_be_two_things_of_two_services() -> None:
    """A neighbour's choice of labels or buckets takes nobody's metrics away."""
    one, two, three = (CollectorRegistry() for _ in range(3))
    Counter("hits", "", ["a"], registry=one).labels("x").inc()
    Counter("hits", "", ["b"], registry=two).labels("y").inc(2)
    Histogram("took", "", buckets=(1,), registry=one).observe(0.5)
    Histogram("took", "", buckets=(2, 3), registry=two).observe(2.5)
    Gauge("hits_total", "", registry=three).set(9)
    services = [("default", name, f"{name}-00001") for name in ("one", "two", "three")]
    snapshots = [
        OwnMetrics(labels, r).snapshot()
        for labels, r in zip(services, (one, two, three), strict=True)
    ]
    text = shown(*snapshots)
    values = {(name, dict(labels)["service"]): v for (name, labels), v in text.items()}
    assert values["hits_total", "one"] == 1
    assert values["hits_total", "two"] == 2
    assert values["took_count", "one"] == values["took_count", "two"] == 1
    # One name has one type: the gauge is left out, and the page stays one that can be read.
    assert ("hits_total", "three") not in values


def test_a_label_of_the_process_is_not_overwritten(registry: CollectorRegistry) -> None:
    Counter("hits", "", ["service"], registry=registry).labels("mine").inc()
    assert read(registry)["hits_total"]["labels"] == [
        "namespace",
        "service",
        "revision",
        "exported_service",
    ]


def test_what_is_no_number_to_add_and_what_is_reserved_is_left_out(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Info("build", "", registry=registry).info({"version": "1"})
    Enum("state", "", states=["a"], registry=registry)
    Counter("penstock_requests", "", registry=registry).inc()
    own = OwnMetrics(LABELS, registry)
    with caplog.at_level(logging.WARNING):
        assert own.snapshot() == own.snapshot() == {}
    assert [r.message for r in caplog.records] == [
        "the metric penstock_requests is left out: penstock_ is taken"
    ]


def test_a_process_keeps_only_so_many_series(registry: CollectorRegistry) -> None:
    """A class that makes a label of a request's id costs itself the detail, and nobody the memory."""
    hits = Counter("hits", "", ["id"], registry=registry)
    for i in range(MOST_SERIES + 50):
        hits.labels(str(i)).inc()
    Gauge("late", "", registry=registry).set(1)
    found = read(registry)
    assert len(found["hits_total"]["samples"]) == MOST_SERIES
    assert "late" not in found


def test_a_collector_that_raises_costs_only_itself(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def collect(self) -> Iterator[Any]:
            yield GaugeMetricFamily("fine", "", value=1)
            raise RuntimeError("mine")

    Counter("hits", "", registry=registry).inc()
    registry._collector_to_names[Broken()] = []  # one that describes nothing
    found = read(registry)
    assert {"hits_total", "fine"} <= found.keys()
    assert "cannot be read" in caplog.text


def test_a_model_that_counts_nothing_shows_nothing_of_the_library() -> None:
    metrics = Metrics(Registry(), namespace="d", service="s", revision="r")
    assert not [n for n in metrics.snapshot() if n.startswith(("python", "process"))]
    assert b"python_gc" not in render(metrics.snapshot())


def test_the_library_is_read_from_when_the_model_imports_it() -> None:
    code = """
        import sys
        import penstock.server.process
        from penstock.server.own_metrics import OwnMetrics

        own = OwnMetrics(("d", "s", "r"))
        assert own.snapshot() == {}
        assert "prometheus_client" not in sys.modules
        from prometheus_client import Counter
        Counter("seen", "").inc()
        print([f["name"] for f in own.snapshot().values()])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['seen_total']"


def test_a_processs_own_page_shows_them(registry: CollectorRegistry) -> None:
    Counter("low", "", registry=registry).inc(2)
    page = render(OwnMetrics(LABELS, registry).snapshot()).decode()
    assert 'low_total{namespace="default",revision="iris-00001",service="iris"} 2.0' in page
