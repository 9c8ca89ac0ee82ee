"""Autoscaling as manifests say it: fields, Knative's annotations, Penstock's own block."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import dialects
from penstock.dialects.scaling_fields import seconds
from penstock.domain.service import ScaleMetric, Scaling
from penstock.errors import InvalidManifest

OWN = "penstock.dev/v1alpha1"
KSERVE = "serving.kserve.io/v1beta1"
KNATIVE = "autoscaling.knative.dev/"


def translate(
    predictor: dict[str, Any], annotations: dict[str, str] | None = None, api: str = OWN
) -> Any:
    return dialects.find(api, "InferenceService").translate(
        {
            "apiVersion": api,
            "kind": "InferenceService",
            "metadata": {"name": "iris", "annotations": annotations or {}},
            "spec": {"predictor": {"sklearn": {"storageUri": "x"}, **predictor}},
        }
    )


def scaling(*args: Any, **kwargs: Any) -> Scaling:
    return translate(*args, **kwargs).object.predictor.scaling  # type: ignore[no-any-return]


def test_the_own_block_says_windows_and_delays() -> None:
    found = scaling(
        {
            "minReplicas": 0,
            "maxReplicas": 4,
            "scaling": {
                "window": "2m",
                "panicWindow": "10s",
                "scaleDownDelay": 90,
                "scaleToZeroGrace": "1m30s",
            },
        }
    )
    assert found == Scaling(0, 4, None, ScaleMetric.CONCURRENCY, 0, 120.0, 10.0, 90.0, 90.0)


def test_knatives_annotations_say_what_fields_do_not() -> None:
    notes = {
        KNATIVE + "min-scale": "0",
        KNATIVE + "maxScale": "7",
        KNATIVE + "target": "12.5",
        KNATIVE + "metric": "rps",
        KNATIVE + "window": "40s",
        KNATIVE + "scale-to-zero-pod-retention-period": "1m",
    }
    found = scaling({}, notes, KSERVE)
    assert found == Scaling(0, 7, 12.5, ScaleMetric.RPS, 0, 40.0, 4.0, 0.0, 60.0)
    fields = scaling({"minReplicas": 2, "scaleTarget": 3, "scaleMetric": "concurrency"}, notes)
    assert (fields.min_replicas, fields.target, fields.metric) == (2, 3.0, ScaleMetric.CONCURRENCY)
    nearer = scaling({"annotations": {KNATIVE + "target": "9"}}, notes)
    assert nearer.target == 9.0


BLOCK = "spec.predictor.scaling"
DURATION = "must be a duration, such as 90s or 5m"


def noted(name: str) -> str:
    return f'metadata.annotations["{KNATIVE}{name}"]'


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"window": "5s"}, f"{BLOCK}.window: must be 6s to 1h"),
        ({"window": "soon"}, f"{BLOCK}.window: {DURATION}"),
        ({"panicWindow": "61s"}, f"{BLOCK}.panicWindow: must not be longer than window (60 s)"),
        ({"scaleDownDelay": "2h"}, f"{BLOCK}.scaleDownDelay: must be at most 1h"),
    ],
)
def test_a_wrong_window_or_delay_is_told_with_its_path(block: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidManifest) as raised:
        translate({"scaling": block})
    assert problem in [str(p) for p in raised.value.problems]


@pytest.mark.parametrize(
    ("notes", "problem"),
    [
        ({"target": "many"}, f"{noted('target')}: must be a number of 0.01 or more"),
        ({"min-scale": "-1"}, f"{noted('min-scale')}: must be a whole number, 0 or more"),
        (
            {"max-scale": "1", "min-scale": "2"},
            "spec.predictor.maxReplicas: must not be less than minReplicas (2)",
        ),
    ],
)
def test_a_wrong_annotation_is_told_with_its_path(notes: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidManifest) as raised:
        translate({}, {KNATIVE + k: v for k, v in notes.items()})
    assert problem in [str(p) for p in raised.value.problems]


def test_nobody_is_told_of_what_is_read_and_everybody_of_what_is_not() -> None:
    quiet = translate({"maxReplicas": 3, "scaleMetric": "rps"}, {KNATIVE + "target": "1"})
    assert quiet.warnings == ()
    told = translate({"maxReplicas": 3, "scaleMetric": "cpu"}, {KNATIVE + "initial-scale": "3"})
    assert {w.path for w in told.warnings} == {
        "spec.predictor.scaleMetric",
        f'metadata.annotations["{KNATIVE}initial-scale"]',
    }


@pytest.mark.parametrize("by", ["none", "external"])
def test_an_autoscaler_of_ones_own_means_that_none_scales_here(by: str) -> None:
    notes = {"serving.kserve.io/autoscalerClass": by}
    found = scaling({"minReplicas": 2, "maxReplicas": 9}, notes, KSERVE)
    assert (found.min_replicas, found.max_replicas) == (2, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90.0), ("1h2m3s", 3723.0), ("500ms", 0.5), ("0", 0.0), (7, 7.0), ("1.5m", 90.0)],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "1", "1d", "-3s", "1s2", True, -1, 1e99, "1" * 99 + "s"])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)
