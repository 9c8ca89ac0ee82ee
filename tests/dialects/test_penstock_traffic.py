"""spec.traffic of Penstock's own dialect."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import problems_of

from penstock import dialects
from penstock.domain.traffic import GaugeLimit, MetricLimit, Rollout, Shadow, Sticky, Traffic
from penstock.errors import InvalidManifest


def manifest(traffic: Any, **predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"predictor": {"sklearn": {"storageUri": "x"}, **predictor}, "traffic": traffic},
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, Traffic()),
        ({}, Traffic()),
        ({"shadow": {}}, Traffic(shadow=Shadow(100))),
        ({"shadow": {"percent": 20}}, Traffic(shadow=Shadow(20))),
        ({"sticky": {}}, Traffic(sticky=Sticky())),
        ({"sticky": {"header": "X-User"}}, Traffic(sticky=Sticky("x-user"))),
    ],
)
def test_what_traffic_means(given: Any, meant: Traffic) -> None:
    assert dialects.translate(manifest(given)).object.traffic == meant


@pytest.mark.parametrize(
    ("given", "predictor", "says"),
    [
        ({"shadow": {"percent": 101}}, {}, "spec.traffic.shadow.percent: must be 100 or less"),
        ({"shadow": {"percentage": 10}}, {}, "spec.traffic.shadow.percentage"),
        ({"sticky": {"header": "a b"}}, {}, "spec.traffic.sticky.header"),
        ({"shadow": {}}, {"canaryTrafficPercent": 10}, "may not be given together"),
    ],
)
def test_what_is_refused(given: Any, predictor: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidManifest, match=says):
        dialects.translate(manifest(given, **predictor))


def test_what_a_rollout_means() -> None:
    given = manifest(None)
    given["spec"]["rollout"] = {
        "steps": [5, 25],
        "hold": "1m30s",
        "minRequests": 50,
        "limits": {"errorRate": 0.01, "p99": "200ms"},
    }
    assert dialects.translate(given).object.traffic.rollout == Rollout((5, 25), 90.0, 50, 0.01, 0.2)
    given["spec"]["rollout"] = {}
    assert dialects.translate(given).object.traffic.rollout == Rollout()


@pytest.mark.parametrize(
    ("rollout", "more", "says"),
    [
        ({"steps": [25, 5]}, {}, "spec.rollout.steps: must grow"),
        ({"steps": []}, {}, "spec.rollout.steps"),
        ({"steps": [100]}, {}, "spec.rollout.steps"),
        ({"hold": "soon"}, {}, "spec.rollout.hold: must be a duration"),
        ({"limits": {"errorRate": 1.5}}, {}, "spec.rollout.limits.errorRate"),
        ({}, {"canaryTrafficPercent": 10}, "may not be given together with canaryTrafficPercent"),
    ],
)
def test_what_of_a_rollout_is_refused(
    rollout: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    given = manifest(None, **more)
    given["spec"]["rollout"] = rollout
    with pytest.raises(InvalidManifest, match=says):
        dialects.translate(given)


def test_rules_on_headers_are_read() -> None:
    match = [
        {
            "headers": {"X-Group": {"exact": "beta"}, "user-agent": {"prefix": "curl/"}},
            "to": "latest",
        },
        {"headers": {"x-region": {"regex": "eu-.*"}}, "to": "v2"},
    ]
    first, second = dialects.translate(manifest({"match": match})).object.traffic.match
    assert [tuple(t) for t in first.tests] == [
        ("x-group", "exact", "beta"),
        ("user-agent", "prefix", "curl/"),
    ]
    assert (first.to, second.to) == ("latest", "v2")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"headers": {}, "to": "latest"}, "headers"),
        ({"headers": {"x": {"exact": "a"}}}, "to: is required"),
        ({"headers": {"x y": {"exact": "a"}}, "to": "latest"}, "headers"),
        ({"headers": {"x": {}}, "to": "latest"}, "one of exact, prefix and regex"),
        (
            {"headers": {"x": {"exact": "a", "regex": "b"}}, "to": "v2"},
            "one of exact, prefix and regex",
        ),
        (
            {"headers": {"x": {"regex": "(a+)+"}}, "to": "v2"},
            "repeats more than a single character",
        ),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(rule: dict[str, Any], why: str) -> None:
    assert any(why in p for p in problems_of(manifest({"match": [rule]})))


def with_metrics(*metrics: dict[str, Any]) -> dict[str, Any]:
    obj = manifest(None)
    obj["spec"]["rollout"] = {"limits": {"metrics": list(metrics)}}
    return obj


def test_limits_on_metrics_are_read() -> None:
    found = dialects.translate(
        with_metrics(
            {"name": "low_total", "against": "stable"},
            {"name": "low_total", "max": 0.1, "per": "rows_total"},
            {"name": "seconds", "max": 0.01, "above": 0.2},
            {
                "name": "x",
                "max": 0.01,
                "labels": {"key": "low"},
                "per": "y",
                "perLabels": {"b": "2", "a": "1"},
            },
        )
    ).object.traffic.rollout
    assert found.metrics == (
        MetricLimit("low_total"),
        MetricLimit("low_total", 0.1, per="rows_total"),
        MetricLimit("seconds", 0.01, above=0.2),
        MetricLimit("x", 0.01, None, "y", (("key", "low"),), (("a", "1"), ("b", "2"))),
    )


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ({"name": "x"}, "one of `max` and `against: stable`"),
        ({"name": "x", "max": 0.1, "against": "stable"}, "one of `max` and `against: stable`"),
        ({"name": "x y", "max": 0.1}, "name"),
        ({"name": "x", "max": 1.0}, "max"),
        ({"name": "x", "max": 0.1, "above": 1, "per": "y"}, "for a histogram"),
        ({"max": 0.1}, "name: is required"),
        ({"name": "x", "max": 0.1, "perLabels": {"a": "b"}}, "`perLabels` without `per`"),
        ({"name": "x", "max": 0.1, "labels": {"a-b": "c"}}, "labels"),
    ],
)
def test_limits_that_mean_nothing_are_refused(metric: dict[str, Any], why: str) -> None:
    assert any(why in p for p in problems_of(with_metrics(metric)))


def with_gauges(*gauges: dict[str, Any]) -> dict[str, Any]:
    obj = manifest(None)
    obj["spec"]["rollout"] = {"limits": {"gauges": list(gauges)}}
    return obj


def test_limits_on_gauges_are_read() -> None:
    found = dialects.translate(
        with_gauges(
            {"name": "accuracy", "min": 0.9, "labels": {"key": "all"}},
            {"name": "queue", "max": 10, "every": "1m"},
            {"name": "memory", "against": "stable"},
            {"name": "accuracy", "against": "stable", "worse": "below", "tolerance": 0},
        )
    ).object.traffic.rollout
    assert found.gauges == (
        GaugeLimit("accuracy", 0.9, lower_is_worse=True, labels=(("key", "all"),)),
        GaugeLimit("queue", 10, every_s=60),
        GaugeLimit("memory"),
        GaugeLimit("accuracy", lower_is_worse=True, tolerance=0),
    )


@pytest.mark.parametrize(
    ("gauge", "why"),
    [
        ({"name": "x"}, "one of `max`, `min` and `against: stable`"),
        ({"name": "x", "max": 1, "min": 0}, "one of `max`, `min` and `against: stable`"),
        ({"name": "x", "max": 1, "tolerance": 0.1}, "which are for `against: stable`"),
        ({"name": "x", "max": 1, "worse": "below"}, "which are for `against: stable`"),
        ({"name": "x", "against": "stable", "worse": "higher"}, "worse"),
        ({"name": "x", "max": 1, "every": "100ms"}, "gauges[0].every: must be at least 1s"),
        ({"name": "x", "max": 1, "every": "soon"}, "gauges[0].every"),
        ({"name": "x", "max": 1, "for": "1m"}, "for"),
    ],
)
def test_limits_on_gauges_that_mean_nothing_are_refused(gauge: dict[str, Any], why: str) -> None:
    assert any(why in p for p in problems_of(with_gauges(gauge)))
