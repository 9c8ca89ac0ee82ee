"""What the documentation and samples of Seldon Core V2 and MLServer show of explainers, as data."""

from __future__ import annotations

from typing import Any

from component_scenarios_base import (
    IMAGE,
    ROW,
    TEXT,
    Call,
    Manifest,
    Scenario,
    all_of,
    in_upper_left,
    manifest,
    only,
    system,
    tensor,
)

API_VERSION = "mlops.seldon.io/v1alpha1"
INFER = "/v2/models/{}/infer"
#: As Seldon's clients ask for a text.
WORDS = {
    "parameters": {"content_type": "str"},
    "inputs": [{"name": "foo", "data": [TEXT], "datatype": "BYTES", "shape": [1]}],
}
IMAGES = {
    "inputs": [{"name": "x", "shape": [1, 8, 8, 3], "datatype": "FP32", "data": [IMAGE]}],
}  # fmt: skip


def model(name: str, files: str, *requirements: str, **spec: Any) -> Manifest:
    if requirements:
        spec["requirements"] = [*requirements]
    return manifest(API_VERSION, "Model", name, {"storageUri": files, **spec})


def explainer(
    name: str, type_: str, ref: str, files: str = "models/table", **spec: Any
) -> Manifest:
    return model(name, files, explainer={"type": type_, "modelRef": ref}, **spec)


def pipeline(name: str, *steps: Manifest) -> Manifest:
    last = steps[-1]["name"]
    return manifest(API_VERSION, "Pipeline", name, {"steps": [*steps], "output": {"steps": [last]}})


TABLE = model("v2-income", "models/table", "sklearn")
MOOD = model("v2-mood", "models/mood", "sklearn")
INCOME = explainer("v2-income-explainer", "anchor_tabular", "v2-income")
MOVIE = explainer("v2-mood-explainer", "anchor_text", "v2-mood", "models/mood")
WHOLE = pipeline("v2-whole", {"name": "v2-mood"})

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "anchor_tabular with modelRef (income)", (TABLE, INCOME),
        Call(INFER, tensor(ROW, name="predict")),
        {"explained.data.anchor": only("a"), "explained.meta.name": "AnchorTabular",
         "outputs[0].shape": [1, 1], "outputs[0].parameters.content_type": "str"},
    ),
    Scenario(
        "The same by gRPC", (TABLE, INCOME), Call(INFER, tensor(ROW, name="predict"), wire="grpc"),
        {"explained.data.anchor": only("a")},
    ),
    Scenario(
        "anchor_text with modelRef (moviesentiment)", (MOOD, MOVIE), Call(INFER, WORDS),
        {"explained.data.anchor": ["good"]},
    ),
    Scenario(
        "anchor_image with modelRef",
        (model("v2-pictures", "models/pictures", "onnx"),
         explainer("v2-pictures-explainer", "anchor_image", "v2-pictures", "models/pictures",
                   parameters=[{"name": "background", "value": "0"}])),
        Call(INFER, IMAGES), {"explained.data.mask": in_upper_left},
    ),
    Scenario(
        "kernel_shap with modelRef",
        (TABLE, explainer("v2-shap", "kernel_shap", "v2-income")),
        Call(INFER, tensor(ROW)), {"explained.data.shap_values": all_of(0)},
    ),
    Scenario(
        "Settings by the Model's parameters",
        (TABLE, explainer("v2-settings", "anchor_tabular", "v2-income",
                          parameters=[{"name": "threshold", "value": "0.9"}])),
        Call(INFER, tensor(ROW)), {"explained.meta.params.threshold": 0.9},
        note="MLServer reads a pickled explainer's own",
    ),
    Scenario(
        "pipelineRef: a pipeline is explained as a whole",
        (MOOD, WHOLE, model("v2-whole-explainer", "models/mood",
                            explainer={"type": "anchor_text", "pipelineRef": "v2-whole"})),
        Call(INFER, WORDS), {"explained.data.anchor": ["good"]},
    ),
    Scenario(
        "An explainer as a step of a pipeline (speech to sentiment)",
        (MOOD, MOVIE, pipeline("v2-told", {"name": "v2-mood-explainer"})),
        Call(INFER, WORDS), {"explained.data.anchor": ["good"]},
    ),
    Scenario(
        "/explain of the model", (TABLE, INCOME), Call("/v2/models/{}/explain", tensor(ROW)),
        {"explained.data.anchor": only("a")}, note="MLServer has it at /explain, for one model",
    ),
    Scenario(
        "explain_parameters in a request", (TABLE, INCOME),
        Call(INFER, {**tensor(ROW), "parameters": {"explain_parameters": {"threshold": 0.8}}}),
        {"error": "explain_parameters is not read: an explainer's settings are its manifest's"},
        400, note="MLServer reads them",
    ),
    Scenario(
        "An explainer block on a folder with model-settings.json and ./data",
        (TABLE, explainer("v2-artifact", "anchor_tabular", "v2-income", "models/artifact")),
        Call(INFER, tensor(ROW)), {"explained.data.anchor": only("a")},
    ),
    Scenario(
        "MLServer's model-settings.json with mlserver_alibi_explain, beside its model's",
        (model("v2-repository", "models/repository", "mlserver"),),
        Call("/v2/models/mls-anchors/infer", tensor(ROW)),
        {"explained.data.anchor": only("a")},
    ),
    Scenario(
        "A folder with Alibi's pickled explainer",
        (explainer("v2-pickled", "anchor_tabular", "v2-income", "models/pickled"),),
        Call(INFER, tensor(ROW)), {}, 503,
        note="Seldon reads it; here the folder has training data",
        told="explainer.dill is a pickled explainer of Alibi's, which is not read.",
    ),
)  # fmt: skip


def _of(**explainer_: str) -> Manifest:
    return model("m", "models/table", explainer=explainer_)


#: (what is wrong, manifest, field, what is said)
REFUSED: tuple[tuple[str, Manifest, str, str], ...] = (
    ("an explainer of nothing", _of(type="anchor_tabular"), "spec.explainer.modelRef", "is required"),
    ("an explainer of a model and of a pipeline", _of(type="anchor_tabular", modelRef="a", pipelineRef="b"),
     "spec.explainer.pipelineRef", "modelRef says already what is explained"),
    ("a misspelt explainer", _of(type="anchor_tabluar", modelRef="a"), "spec.explainer.type",
        "there is no explainer 'anchor_tabluar': did you mean AnchorTabular? there are "
        "AnchorTabular, AnchorText, AnchorImages, KernelShap, TreeShap, "
        "IntegratedGradients, Counterfactuals"),
    ("what looks into the model", _of(type="integrated_gradients", modelRef="a"),
     "spec.explainer.type", "IntegratedGradients looks into the model: give it to the service as its "
        "explainer"),
    ("an explainer and an llm", model("m", "x", explainer={"type": "anchor_text", "modelRef": "a"},
                                      llm={"modelRef": "b"}),
     "spec.llm", "llm runtimes that refer to another model are not supported"),
    ("a setting there is not", explainer("m", "anchor_text", "a", parameters=[
        {"name": "threshhold", "value": "0.9"}]),
     "spec.parameters[0]", "AnchorText has no such setting; did you mean threshold?"),
    ("the capability without the block", model("m", "x", "alibi-explain"), "spec.requirements[0]",
        "is for a Model with an explainer block; it says the type and the model"),
)  # fmt: skip

SYSTEM = system(
    "Seldon Core V2's and MLServer's explainers",
    "Seldon",
    SCENARIOS,
    REFUSED,
    tests="`tests/e2e/test_e2e_component_scenarios.py` on real models",
    place=3,
)
