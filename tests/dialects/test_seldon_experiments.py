"""Seldon V2's Experiment: what it means, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import problems_of

from penstock import dialects
from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.status import Condition, ServiceStatus, Truth


def experiment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "trial"},
        "spec": {
            "candidates": [{"name": "iris", "weight": 50}, {"name": "iris2", "weight": 50}],
            **spec,
        },
    }


def test_an_experiment_is_candidates_a_default_and_a_mirror() -> None:
    manifest = experiment(default="iris", mirror={"name": "iris3", "percent": 10})
    assert dialects.translate(manifest).object == Experiment(
        "default",
        "trial",
        (Candidate("iris", 50), Candidate("iris2", 50)),
        default="iris",
        mirror="iris3",
        mirror_percent=10,
    )


@pytest.mark.parametrize(
    ("spec", "path", "word"),
    [
        ({"default": "other"}, "spec.default", "one of the candidates"),
        ({"candidates": []}, "spec.candidates", "at least one"),
        ({"candidates": [{"name": "a", "weight": 0}]}, "spec.candidates", "above 0"),
        (
            {"candidates": [{"name": "a", "weight": 1}, {"name": "a", "weight": 1}]},
            "spec.candidates[1].name",
            "a candidate already",
        ),
        ({"candidates": [{"name": "trial", "weight": 1}]}, "spec.candidates[0].name", "own name"),
        ({"mirror": {"name": "iris", "percent": 1}}, "spec.mirror.name", "is a candidate"),
        ({"mirror": {"name": "b", "percent": 101}}, "spec.mirror.percent", "100"),
        ({"resourceType": "graph"}, "spec.resourceType", "must be 'pipeline' or 'model'"),
        (
            {"candidates": [{"modelName": "a", "weight": 1}]},
            "spec.candidates[0].modelName",
            "it became name",
        ),
        ({"defaultModel": "iris"}, "spec.defaultModel", "it became default"),
        ({"candidates": [{"name": "a", "wieght": 1}]}, "spec.candidates[0].wieght", "weight"),
    ],
)
def test_problems_are_told_with_their_path(spec: dict[str, Any], path: str, word: str) -> None:
    told = [p.partition(": ") for p in problems_of(experiment(**spec))]
    assert [m for p, _, m in told if p == path and word in m], told


def test_the_status_has_seldons_conditions() -> None:
    status = ServiceStatus(conditions=(Condition("Ready", Truth.FALSE, "ServicesNotReady", "why"),))
    manifest = experiment(mirror={"name": "iris3", "percent": 10})
    rendered = dialects.of(manifest).render_status(manifest, status)
    assert {c["type"]: c["status"] for c in rendered["conditions"]} == {
        "Ready": "False",
        "ExperimentReady": "False",
        "CandidatesReady": "False",
        "MirrorReady": "False",
    }
    assert "modelStatus" not in rendered
