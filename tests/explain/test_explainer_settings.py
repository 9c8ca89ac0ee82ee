"""Settings of explainers: Alibi's are known, what does nothing is told, nonsense is refused."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import dialects
from penstock.domain import explainers
from penstock.errors import FieldProblem

#: Every setting that KServe's Alibi server takes, as texts, as manifests have them.
ANCHORS = {
    "threshold": "0.9", "delta": "0.1", "tau": "0.15", "batch_size": "40", "coverage_samples": "1000",
    "beam_size": "2", "stop_on_first": "True", "max_anchor_size": "3", "max_samples_start": "50",
    "n_covered_ex": "10", "binary_cache_size": "10000", "cache_margin": "1000", "verbose": "False",
    "verbose_every": "1",
}  # fmt: skip
OF_TYPE = {
    "AnchorTabular": {},
    "AnchorText": {"use_unk": "True", "use_similarity_proba": "False", "sample_proba": "0.5", "top_n": "10",
                   "temperature": "0.5"},
    "AnchorImages": {"p_sample": "0.3"},
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_TYPE)
def test_every_setting_of_kserves_alibi_server_is_known(kind: str) -> None:
    found = explainers.find(kind)
    assert found is not None
    warnings: list[FieldProblem] = []
    values, problems = explainers.read(found, {**ANCHORS, **OF_TYPE[kind]}, "config", warnings)
    assert problems == []
    assert values["stop_on_first"] is True
    assert values["epsilon"] == 0.15
    assert values["coverage_samples"] == 1000
    ignored = {w.path.removeprefix("config.") for w in warnings}
    assert {"verbose", "cache_margin", "n_covered_ex"} <= ignored
    assert not ignored & set(values)


def isvc(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "cifar10"},
        "spec": {
            "predictor": {"tensorflow": {"storageUri": "gs://b/resnet"}},
            "explainer": {
                "alibi": {"type": "AnchorImages", "storageUri": "gs://b/e", "config": config}
            },
        },
    }


def test_a_setting_without_effect_is_a_warning_in_the_status() -> None:
    """KServe's own CIFAR-10 sample is accepted, and what it says that does nothing here is told."""
    found = dialects.translate(isvc({"batch_size": "40", "stop_on_first": "True"}))
    assert found.warnings == ()
    found = dialects.translate(isvc({"verbose": "True"}))
    assert [w.path for w in found.warnings] == ["spec.explainer.alibi.config.verbose"]
    assert "progress is not printed" in found.warnings[0].message


def test_a_setting_without_effect_of_a_model_of_seldon_is_told_by_its_place() -> None:
    found = dialects.translate(
        {
            "apiVersion": "mlops.seldon.io/v1alpha1",
            "kind": "Model",
            "metadata": {"name": "m-explainer"},
            "spec": {
                "storageUri": "gs://b/e",
                "explainer": {"type": "anchor_tabular", "modelRef": "m"},
                "parameters": [{"name": "threshold", "value": "0.9"}, {"name": "verbose", "value": "true"}],
            },
        }
    )  # fmt: skip
    assert [w.path for w in found.warnings] == ["spec.parameters[1]"]


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("AnchorTabular", {"seed": float("inf")}, "number"),
        ("AnchorTabular", {"seed": "1e400"}, "number"),
        ("AnchorTabular", {"threshold": float("nan")}, "number"),
        ("AnchorTabular", {7: 1}, "no such setting"),
        ("AnchorImages", {"background": float("inf")}, "number"),
        ("AnchorImages", {"image_shape": [1, 28, 28, 1]}, "at most 3"),
        ("AnchorImages", {"image_shape": [28]}, "at least 2"),
        ("IntegratedGradients", {"baseline": float("nan")}, "number"),
        ("IntegratedGradients", {"baseline": [[1], [2, 3]]}, "shape"),
        ("IntegratedGradients", {"baseline": "black"}, "number"),
        ("Counterfactuals", {"target_class": [1]}, "class"),
        ("Counterfactuals", {"feature_range": {"age": [9, 1]}}, "least, most"),
        ("Counterfactuals", {"feature_range": {"age": 7}}, "least, most"),
        ("Counterfactuals", {"feature_range": [0, 1]}, "object"),
    ],
)
def test_nonsense_is_refused(kind: str, config: dict[Any, Any], said: str) -> None:
    found = explainers.find(kind)
    assert found is not None
    values, problems = explainers.read(found, config)
    assert values == {}
    assert len(problems) == 1
    assert said in problems[0].message


def test_what_alibi_says_by_default_may_be_said() -> None:
    for kind, config in (
        ("KernelShap", {"nsamples": "auto"}),
        ("IntegratedGradients", {"method": "gausslegendre"}),
    ):
        found = explainers.find(kind)
        assert found is not None
        assert explainers.read(found, config) == (config, [])
    _, problems = explainers.read(
        explainers.TYPES["IntegratedGradients"], {"method": "riemann_trapezoid"}
    )
    assert "gausslegendre" in problems[0].message
