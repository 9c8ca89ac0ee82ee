"""What Penstock's own dialect has over KServe's."""

# ruff: noqa: E501 - a row of a table reads better in one line

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import KSERVE, OWN, isvc, problems_of

from penstock import dialects
from penstock.domain.runtime_selection import select
from penstock.domain.service import Model, VersionPolicy


def model(predictor: dict[str, Any]) -> Model:
    found = dialects.translate(isvc(predictor, api_version=OWN)).object.predictor.model
    assert isinstance(found, Model)
    return found


def test_the_eight_lines_of_the_readme() -> None:
    found = model({"sklearn": {"storageUri": "models/iris"}})
    assert found.storage.uri == "models/iris"
    assert select(found).framework == "sklearn"


@pytest.mark.parametrize(
    ("block", "framework"),
    [("catboost", "catboost"), ("mlflow", "mlflow"), ("pytorch", "torch"), ("onnx", "onnx")],
)
def test_blocks(block: str, framework: str) -> None:
    assert select(model({block: {"storageUri": "x"}})).framework == framework


@pytest.mark.parametrize(
    ("predictor", "options"),
    [
        ({"sklearn": {"storageUri": "x", "options": {"method": "predict_proba"}}}, {"method": "predict_proba"}),
        (
            {"pytorch": {"storageUri": "x", "modelClassName": "Net", "modelClassKwargs": {"width": 8}}},
            {"modelClassName": "Net", "modelClassKwargs": {"width": 8}},
        ),
        (
            {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "x", "options": {"file": "m.onnx"}}},
            {"file": "m.onnx"},
        ),
        ({"python": {"storageUri": "x", "class": "model.py:Mine", "options": {"k": [1]}}},
         {"class": "model.py:Mine", "k": [1]}),
        ({"huggingface": {"storageUri": "x", "args": ["--task=fill-mask"], "options": {"task": "ner"}}}, {"task": "ner"}),
    ],
)  # fmt: skip
def test_options(predictor: dict[str, Any], options: dict[str, Any]) -> None:
    assert model(predictor).options == options


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({"latest": 2}, VersionPolicy(latest=2)),
        ({"all": True}, VersionPolicy(latest=None, all=True)),
        ({"specific": [1, "10"]}, VersionPolicy(latest=None, specific=("1", "10"))),
        (
            {"all": True, "labels": {"stable": 1, "canary": "2"}},
            VersionPolicy(latest=None, all=True, labels=(("canary", "2"), ("stable", "1"))),
        ),
        ({"labels": {"stable": 7}}, VersionPolicy(labels=(("stable", "7"),))),
        (None, None),
    ],
)
@pytest.mark.parametrize("block", ["sklearn", "pytorch", "model"])
def test_which_numbered_folders_are_served(block: str, given: Any, policy: Any) -> None:
    predictor: dict[str, Any] = {"storageUri": "x", "versionPolicy": given}
    if block == "model":
        predictor["modelFormat"] = {"name": "onnx"}
    assert model({block: predictor}).versions == policy


@pytest.mark.parametrize(
    "given", [{}, {"latest": 1, "all": True}, {"latest": 0}, {"all": False}, {"specific": []}, {"specific": ["x"]},
              {"labels": {}}, {"labels": {"a/b": 1}}, {"labels": {"a": "x"}}]
)  # fmt: skip
def test_a_version_policy_is_one_of_three(given: dict[str, Any]) -> None:
    (problem, *_) = problems_of(
        isvc({"sklearn": {"storageUri": "x", "versionPolicy": given}}, api_version=OWN)
    )
    assert problem.startswith("spec.predictor.sklearn.versionPolicy")


def test_a_class_of_ones_own() -> None:
    found = model({"python": {"storageUri": "models/mine"}})
    assert select(found).framework == "custom"
    # An importable class needs no files.
    assert model({"python": {"class": "package.module:Mine"}}).storage.uri == ""
    assert problems_of(isvc({"python": {}}, api_version=OWN)) == [
        "spec.predictor.python.storageUri: is required: where are the model's files?"
    ]


def test_kserves_dialect_has_none_of_it() -> None:
    assert problems_of(
        isvc({"sklearn": {"storageUri": "x", "options": {}}}, api_version=KSERVE)
    ) == ["spec.predictor.sklearn.options: unknown field"]
    (problem,) = problems_of(isvc({"catboost": {"storageUri": "x"}}, api_version=KSERVE))
    assert problem.startswith("spec.predictor.catboost: unknown field")


def test_everything_else_is_kserves() -> None:
    theirs = {s.path for s in dialects.find(KSERVE, "InferenceService").supported()}
    ours = {s.path for s in dialects.find(OWN, "InferenceService").supported()}
    assert theirs <= ours
