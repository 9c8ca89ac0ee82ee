"""Transformers and explainers in each dialect that has them."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import KSERVE, OWN, isvc, problems_of

from penstock import dialects
from penstock.domain import explainers
from penstock.domain.service import Component, Role, Service


def with_(api_version: str = OWN, predictor: Any = None, **components: Any) -> dict[str, Any]:
    manifest = isvc(
        predictor or {"sklearn": {"storageUri": "models/iris"}}, api_version=api_version
    )
    manifest["spec"] |= components
    return manifest


def service(manifest: dict[str, Any]) -> Service:
    found = dialects.translate(manifest).object
    assert isinstance(found, Service)
    return found


def explainer(manifest: dict[str, Any]) -> Component:
    found = service(manifest).explainer
    assert found is not None
    assert found.role is Role.EXPLAINER
    assert found.model is not None
    return found


@pytest.mark.parametrize("block", ["python", "custom"])
def test_a_transformer_is_a_class(block: str) -> None:
    found = service(
        with_(
            transformer={
                block: {"storageUri": "code", "class": "t.py:T", "options": {"scale": 2}},
                "minReplicas": 2,
                "timeout": 5,
            }
        )
    ).transformer
    assert found is not None
    assert found.model is not None
    assert found.role is Role.TRANSFORMER
    assert found.model.format.name == "transformer"
    assert found.model.storage.uri == "code"
    assert dict(found.model.options) == {"class": "t.py:T", "scale": 2}
    assert found.scaling.min_replicas == 2
    assert found.timeout_s == 5


def test_both_go_by_the_predictors_name_on_the_wire() -> None:
    found = service(
        with_(
            KSERVE,
            {"sklearn": {"storageUri": "x", "args": ["--model_name=flowers"]}},
            explainer={"alibi": {"type": "AnchorText"}},
        )
    )
    assert found.explainer is not None
    assert found.explainer.model is not None
    assert found.explainer.model.served_name == "flowers"


def test_kserves_transformer_is_a_container() -> None:
    found = service(
        with_(KSERVE, transformer={"containers": [{"name": "kserve-container", "image": "mine"}]})
    ).transformer
    assert found is not None
    assert found.container is not None
    assert found.container.image == "mine"
    assert problems_of(with_(KSERVE, transformer={"python": {"storageUri": "x"}}))


def test_alibis_settings_are_texts_and_are_read() -> None:
    found = explainer(
        with_(
            KSERVE,
            explainer={
                "alibi": {
                    "type": "AnchorText",
                    "storageUri": "s3://b/words",
                    "config": {"use_unk": "true", "sample_proba": "0.3", "threshold": "0.9"},
                },
                "minReplicas": 2,
            },
        )
    )
    assert found.model is not None
    assert found.model.storage.uri == "s3://b/words"
    assert dict(found.model.options) == {
        "type": "AnchorText",
        "config": {"use_unk": True, "sample_prob": 0.3, "threshold": 0.9},
    }


@pytest.mark.parametrize(
    ("family", "given", "kind"),
    [
        ("alibi", "AnchorImages", "AnchorImages"),
        ("alibi", "AnchorImage", "AnchorImages"),
        ("alibi", "anchor_tabular", "AnchorTabular"),
        ("anchors", "AnchorTabular", "AnchorTabular"),
        ("shap", "KernelShap", "KernelShap"),
        ("shap", "TreeShap", "TreeShap"),
        ("gradients", None, "IntegratedGradients"),
        ("counterfactuals", None, "Counterfactuals"),
        ("alibi", "Counterfactuals", "Counterfactuals"),
    ],
)
def test_types_by_family_and_by_their_names(family: str, given: str | None, kind: str) -> None:
    block = {"type": given} if given else {}
    found = explainer(with_(explainer={family: block}))
    assert found.model is not None
    assert found.model.options["type"] == kind
    # Without files of its own, it has the model's.
    assert found.model.storage.uri == "models/iris"
    inside = explainers.TYPES[kind].looks_inside
    assert (found.model.options.get("model_format") == "sklearn") == inside


def test_an_explainer_may_be_a_class() -> None:
    found = explainer(with_(explainer={"python": {"storageUri": "code", "class": "e.py:E"}}))
    assert found.model is not None
    assert found.model.format.name == "transformer"


@pytest.mark.parametrize(
    ("component", "path", "said"),
    [
        ({"alibi": {}}, "spec.explainer.alibi.type", "is required"),
        ({"alibi": {"type": "AnchorTabluar"}}, "spec.explainer.alibi.type", "did you mean AnchorTabular"),
        ({"alibi": {"type": "Contrastive"}}, "spec.explainer.alibi.type", "Contrastive is not supported"),
        ({"shap": {"type": "AnchorText"}}, "spec.explainer.shap.type", "none of shap"),
        (
            {"alibi": {"type": "AnchorText", "config": {"use_unknown": True}}},
            "spec.explainer.alibi.config.use_unknown", "did you mean use_unk",
        ),
        (
            {"alibi": {"type": "AnchorText", "config": {"sample_prob": "1.5"}}},
            "spec.explainer.alibi.config.sample_prob", "below 1",
        ),
        (
            {"anchors": {"type": "AnchorText", "config": {"use_unk": "maybe"}}},
            "spec.explainer.anchors.config.use_unk", "true or false",
        ),
        (
            {"alibi": {"type": "AnchorText", "config": {"sample_prob": 0}}},
            "spec.explainer.alibi.config.sample_prob", "above 0",
        ),
        ({}, "spec.explainer", "exactly one of"),
        ({"art": {"type": "SquareAttack"}}, "spec.explainer.art", "not supported"),
        ({"anchors": {"type": "AnchorText"}, "batcher": {}}, "spec.explainer.batcher", "predictor"),
        ({"anchrs": {}}, "spec.explainer.anchrs", "did you mean anchors"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(component: Any, path: str, said: str) -> None:
    found = problems_of(with_(explainer=component))
    assert any(p.startswith(f"{path}: ") and said in p for p in found), found


@pytest.mark.parametrize(
    ("block", "instead"),
    [
        ({"art": {"type": "SquareAttack", "config": {"nb_classes": "10"}}}, "Counterfactuals"),
        ({"aix": {"type": "LimeImages", "config": {"num_samples": "100"}}}, "AnchorImages"),
    ],
)
def test_kserves_other_explainers_are_refused_with_what_to_take_instead(
    block: dict[str, Any], instead: str
) -> None:
    (problem,) = problems_of(with_(explainer=block))
    assert problem.startswith(f"spec.explainer.{next(iter(block))}: ")
    assert instead in problem


def test_an_explainer_that_needs_files_and_has_none() -> None:
    manifest = with_(
        predictor={"python": {"class": "package.module:Model"}},
        explainer={"anchors": {"type": "AnchorTabular"}},
    )
    assert problems_of(manifest) == [
        "spec.explainer.anchors.storageUri: is required by AnchorTabular"
    ]
    assert problems_of({**manifest, "spec": {
        **manifest["spec"], "explainer": {"anchors": {"type": "AnchorText"}}
    }}) == []  # fmt: skip


def test_transformers_have_no_canary_share() -> None:
    found = problems_of(
        with_(transformer={"python": {"storageUri": "x"}, "canaryTrafficPercent": 10})
    )
    assert [p.partition(": ")[0] for p in found] == ["spec.transformer.canaryTrafficPercent"]


def test_kfservings_explainer_and_transformer() -> None:
    found = service(
        {
            "apiVersion": "serving.kubeflow.org/v1alpha2",
            "kind": "InferenceService",
            "metadata": {"name": "income"},
            "spec": {
                "default": {
                    "predictor": {"sklearn": {"storageUri": "gs://b/income/model"}},
                    "explainer": {
                        "alibi": {"type": "AnchorTabular", "storageUri": "gs://b/income/explainer"},
                        "minReplicas": 1,
                    },
                    "transformer": {
                        "custom": {"container": {"name": "kfserving-container", "image": "t"}}
                    },
                }
            },
        }
    )
    assert found.explainer is not None
    assert found.explainer.model is not None
    assert found.explainer.model.storage.uri == "gs://b/income/explainer"
    assert found.explainer.model.options["type"] == "AnchorTabular"
    assert found.transformer is not None
    assert found.transformer.container is not None


def test_kfservings_paths_in_problems() -> None:
    manifest = {
        "apiVersion": "serving.kubeflow.org/v1alpha2",
        "kind": "InferenceService",
        "metadata": {"name": "income"},
        "spec": {
            "default": {
                "predictor": {"sklearn": {"storageUri": "x"}},
                "explainer": {"alibi": {"type": "Contrastive"}},
            }
        },
    }
    (found,) = problems_of(manifest)
    assert found.startswith("spec.default.explainer.alibi.type: Contrastive")


def seldon(**explainer_fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "income"},
        "spec": {
            "predictors": [
                {
                    "name": "default",
                    "graph": {
                        "name": "classifier", "implementation": "SKLEARN_SERVER", "modelUri": "x",
                    },
                    "explainer": explainer_fields,
                }
            ]
        },
    }  # fmt: skip


def test_seldons_explainer() -> None:
    found = explainer(
        seldon(type="AnchorTabular", modelUri="gs://b/e", config={"threshold": "0.8"})
    )
    assert found.model is not None
    assert found.model.storage.uri == "gs://b/e"
    assert found.model.options["config"] == {"threshold": 0.8}
    assert service(seldon()).explainer is None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"type": "ALE"}, "spec.predictors[0].explainer.type"),
        ({"type": "AnchorText", "containerSpec": {"name": "x", "image": "y"}},
         "spec.predictors[0].explainer.containerSpec.image"),
        ({"type": "AnchorText", "initParameters": '{"a": 1}'}, "spec.predictors[0].explainer.initParameters"),
    ],
)  # fmt: skip
def test_seldons_paths_in_problems(fields: dict[str, Any], path: str) -> None:
    assert [p.partition(": ")[0] for p in problems_of(seldon(**fields))] == [path]


@pytest.mark.parametrize("kind", explainers.TYPES.values(), ids=lambda t: t.name)
def test_every_setting_refuses_what_it_is_not(kind: explainers.ExplainerType) -> None:
    for name, setting in kind.settings.items():
        if setting.kind == "value":
            continue
        values, problems = explainers.read(kind, {name: {"no": "such"}}, "config")
        assert values == {}
        assert [p.path for p in problems] == [f"config.{name}"]


def test_a_collocated_transformer_is_in_the_predictors_process() -> None:
    found = service(
        with_(
            transformer={
                "python": {"class": "t.py:T", "options": {"scale": 2}},
                "collocated": True,
            }
        )
    )
    assert found.transformer is None
    assert dict(found.predictor.around) == {"class": "t.py:T", "scale": 2}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"minReplicas": 2}, "spec.transformer.minReplicas"),
        ({"python": {"class": "t.py:T", "storageUri": "x"}}, "spec.transformer.python.storageUri"),
    ],
)
def test_a_collocated_transformer_has_nothing_of_its_own(more: dict[str, Any], path: str) -> None:
    given = {"python": {"class": "t.py:T"}, "collocated": True, **more}
    assert [p.partition(": ")[0] for p in problems_of(with_(transformer=given))] == [path]
