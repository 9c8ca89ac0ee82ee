"""spec.traffic of Penstock's own dialect."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import dialects
from penstock.domain.traffic import Rollout, Shadow, Sticky, Traffic
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
