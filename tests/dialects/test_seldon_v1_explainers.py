"""Explainers of a SeldonDeployment's single models: a component of the first one, services of the others."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import dialects
from penstock.errors import InvalidManifest


def predictor(name: str, **more: Any) -> dict[str, Any]:
    graph = {"name": "m", "implementation": "XGBOOST_SERVER", "modelUri": f"s3://models/{name}"}
    return {"name": name, "graph": {**graph, **more.pop("graph", {})}, **more}


def read(*predictors: dict[str, Any], **spec: Any) -> Any:
    manifest = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "ab", "namespace": "team"},
        "spec": {"predictors": list(predictors), **spec},
    }
    dialect = dialects.find(manifest["apiVersion"], "SeldonDeployment")
    return dialect.translate(manifest).object


KERNEL = {"type": "KernelShap", "config": {"seed": "1"}}


def test_each_has_its_own() -> None:
    service = read(
        predictor("main", traffic=60, explainer=KERNEL),
        predictor("canary", traffic=40, explainer={**KERNEL, "modelUri": "s3://e", "replicas": 2}),
        predictor("dark", shadow=True, explainer=KERNEL),
    )
    assert service.explainers == (
        ("main", ""),
        ("canary", "ab-canary-explainer"),
        ("dark", "ab-dark-explainer"),
    )
    assert service.explainer.model.storage.uri == "s3://models/main"
    canary, dark = service.parts
    assert canary["metadata"] == {
        "name": "ab-canary-explainer",
        "namespace": "team",
        "labels": {"seldon-deployment-id": "ab"},
    }
    component = canary["spec"]["predictor"]
    assert (component["minReplicas"], component["maxReplicas"]) == (2, 2)
    block = component["model"]
    assert block["modelFormat"] == {"name": "explainer"}
    assert block["storageUri"] == "s3://e"
    assert block["args"] == ["--model_name=ab"]
    assert block["options"]["predictor"] == "ab@canary"
    assert (block["options"]["type"], block["options"]["config"]["seed"]) == ("KernelShap", 1)
    assert dark["spec"]["predictor"]["model"]["storageUri"] == "s3://models/dark"
    for part in service.parts:
        made = dialects.find(part["apiVersion"], part["kind"]).translate(part)
        assert made.object.predictor.model.format.name == "explainer"
        assert not made.warnings


def test_one_that_looks_into_its_model_has_that_models_files() -> None:
    service = read(
        predictor("main", traffic=60),
        predictor("canary", traffic=40, explainer={"type": "TreeShap"}),
    )
    assert service.explainer is None
    assert service.explainers == (("canary", "ab-canary-explainer"),)
    block = service.parts[0]["spec"]["predictor"]["model"]
    assert block["storageUri"] == "s3://models/canary"
    assert block["options"]["model_format"] == "xgboost"


def test_files_are_opened_as_the_models_are_and_resources_are_its_own() -> None:
    service = read(
        predictor("main", traffic=60),
        predictor(
            "canary",
            traffic=40,
            graph={"envSecretRefName": "keys", "serviceAccountName": "reader"},
            explainer={**KERNEL, "containerSpec": {"resources": {"limits": {"memory": "1Gi"}}}},
        ),
    )
    (part,) = service.parts
    assert part["metadata"]["annotations"] == {"serving.kserve.io/storageSecretName": "keys"}
    assert part["spec"]["predictor"]["serviceAccountName"] == "reader"
    resources = part["spec"]["predictor"]["model"]["resources"]
    assert resources == {"limits": {"memory": "1Gi"}}


def test_only_the_first_ones_is_a_component_that_is_asked_for_it_alone() -> None:
    service = read(predictor("main", traffic=60, explainer=KERNEL), predictor("canary", traffic=40))
    assert service.explainers == (("main", ""),)
    assert service.parts == ()


@pytest.mark.parametrize(
    "predictors",
    [
        [predictor("main", explainer=KERNEL)],
        [predictor("main", traffic=60), predictor("canary", traffic=40)],
        # One without a type is none, as in Seldon's operator.
        [predictor("main", traffic=60), predictor("canary", traffic=40, explainer={"config": {}})],
    ],
)
def test_others_have_none(predictors: list[dict[str, Any]]) -> None:
    service = read(*predictors)
    assert (service.explainers, service.parts) == ((), ())


@pytest.mark.parametrize(
    ("explainer", "path"),
    [
        ({"type": "Magic"}, "spec.predictors[1].explainer.type"),
        ({"type": "KernelShap", "config": {"nsamples": "many"}}, "explainer.config.nsamples"),
        ({**KERNEL, "initParameters": "{a: 1}"}, "spec.predictors[1].explainer.initParameters"),
        ({**KERNEL, "containerSpec": {"image": "x"}}, "explainer.containerSpec.image"),
        ({**KERNEL, "replicas": -1}, "spec.predictors[1].explainer"),
    ],
)
def test_what_is_wrong_with_the_second_ones_is_told_where_it_is(
    explainer: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidManifest) as told:
        read(predictor("main", traffic=60), predictor("canary", traffic=40, explainer=explainer))
    assert any(path in p.path for p in told.value.problems), told.value.problems
