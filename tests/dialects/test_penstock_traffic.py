"""spec.traffic of Penstock's own dialect."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import dialects
from penstock.domain.traffic import Shadow, Sticky, Traffic
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
