"""MLServer's Alibi runtime: which explainer it is here, whose model it asks, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from repository_folders import write

from penstock import repositories
from penstock.errors import LoadError

MODEL = {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}}
URI = "http://localhost:8080/v2/models/classifier/infer"


def settings(**extra: Any) -> dict[str, Any]:
    return {
        "implementation": "mlserver_alibi_explain.AlibiExplainRuntime",
        "parameters": {"uri": "./data", "extra": extra},
    }


def folder(tmp_path: Path, given: dict[str, Any]) -> Path:
    return write(
        tmp_path,
        {
            "classifier/model-settings.json": MODEL,
            "classifier/model.joblib": b"x",
            "anchors/model-settings.json": given,
            "anchors/data/train.csv": b"a,b\n1,2\n",
        },
    )


def explainer(tmp_path: Path, **extra: Any) -> Any:
    found = repositories.read("mlserver", folder(tmp_path, settings(**extra)))
    return next(m for m in found.models if m.name == "anchors"), found.warnings


@pytest.mark.parametrize(
    "uri",
    [URI, "https://x/a/v2/models/classifier/infer/", "/v2/models/classifier/versions/1/infer"],
)
def test_it_explains_the_model_that_its_address_names(tmp_path: Path, uri: str) -> None:
    model, warnings = explainer(tmp_path, explainer_type="anchor_tabular", infer_uri=uri)
    assert model.framework == "explainer"
    assert model.path.endswith("anchors/data")
    assert model.options == {"type": "AnchorTabular", "config": {}, "predictor": "classifier"}
    assert warnings == ()


def test_arguments_of_alibis_classes_are_settings(tmp_path: Path) -> None:
    model, warnings = explainer(
        tmp_path,
        explainer_type="anchor_image",
        infer_uri=URI,
        infer_output="scores",
        explainer_batch=True,
        init_parameters={
            "image_shape": [28, 28, 1],
            "segmentation_fn": "slic",
            "segmentation_kwargs": {"n_segments": 15, "compactness": 20},
            "images_background": None,
        },
    )
    assert model.options["config"] == {
        "image_shape": [28, 28, 1],
        "segmentation": "slic",
        "segments": 15,
        "compactness": 20,
        "output_name": "scores",
    }
    at = "anchors/model-settings.json: parameters.extra.explainer_batch"
    assert warnings == (f"{at}: has no effect here",)


def test_what_looks_into_the_model_has_it_among_its_files(tmp_path: Path) -> None:
    model, _ = explainer(
        tmp_path, explainer_type="integrated_gradients", init_parameters={"n_steps": 50}
    )
    assert model.options == {"type": "IntegratedGradients", "config": {"n_steps": 50}}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({}, "explainer_type: there is no explainer ''"),
        ({"explainer_type": "anchor_tabluar"}, "did you mean AnchorTabular"),
        ({"explainer_type": "cem"}, "explainer_type: "),
        ({"explainer_type": "anchor_text"}, "infer_uri: .../v2/models/MODEL/infer is expected"),
        ({"explainer_type": "anchor_text", "infer_uri": "http://x/predict"}, "infer_uri: .../v2"),
        (
            {"explainer_type": "anchor_text", "infer_uri": URI.replace("classifier", "other")},
            "anchors: parameters.extra.infer_uri: the repository has no model other, it has classifier",
        ),
        (
            {"explainer_type": "anchor_text", "infer_uri": URI.replace("classifier", "anchors")},
            "the repository has no model anchors",
        ),
        (
            {"explainer_type": "anchor_text", "infer_uri": URI, "init_parameters": {"nlp": "en"}},
            "parameters.extra.init_parameters.nlp: AnchorText has no such setting",
        ),
        (
            {"explainer_type": "anchor_text", "infer_uri": URI, "init_parameters": "x"},
            "init_parameters: an object is expected",
        ),
        ({"explainer_type": "anchor_text", "infer_uri": URI, "infer": 1}, "infer: is not read"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tmp_path: Path, extra: dict[str, Any], said: str
) -> None:
    with pytest.raises(LoadError) as told:
        explainer(tmp_path, **extra)
    assert said in str(told.value)


def test_extra_that_is_no_object(tmp_path: Path) -> None:
    given = settings()
    given["parameters"]["extra"] = ["anchor_text"]
    with pytest.raises(LoadError, match=r"parameters\.extra: an object is expected"):
        repositories.read("mlserver", folder(tmp_path, given))
