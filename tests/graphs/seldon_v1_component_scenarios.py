"""What Seldon Core V1's documentation and notebooks show of explainers, as data."""

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

AT = "/seldon/default/{}-explainer/default"
EXPLAIN = f"{AT}/api/v1.0/explain"
MESSAGE = {"data": {"ndarray": [ROW]}}
ANCHORS = {"type": "AnchorTabular"}
SHAP = {"type": "KernelShap"}
TABLE = {"name": "classifier", "implementation": "SKLEARN_SERVER", "modelUri": "models/table"}
MOOD = {**TABLE, "modelUri": "models/mood"}


def deployment(name: str, *predictors: Manifest, **spec: Any) -> Manifest:
    """`predictors` have their names and shares, where there are several."""
    return manifest(
        "machinelearning.seldon.io/v1", "SeldonDeployment", name, {"predictors": [*predictors], **spec}
    )  # fmt: skip


def explained(
    name: str, explainer: Manifest, graph: Manifest | None = None, **spec: Any
) -> Manifest:
    predictor = {"name": "default", "graph": graph or TABLE, "explainer": explainer}
    return deployment(name, predictor, **spec)


def unit(name: str, type_: str, cls: str, *children: Manifest) -> Manifest:
    """A node that is the class classes/CLS."""
    return {"name": name, "type": type_, "modelUri": f"classes/{cls}", "children": [*children]}


INTEGRATED_GRADIENTS = "IntegratedGradients (mnist)"
INCOME = explained("v1-income", ANCHORS)
TWO = deployment(
    "v1-two",
    {"name": "default", "traffic": 50, "graph": TABLE, "explainer": SHAP},
    {"name": "canary", "traffic": 50, "graph": unit("m", "MODEL", "by_second"),
     "explainer": {**SHAP, "modelUri": "models/table"}},
)  # fmt: skip

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "AnchorTabular (income)", (INCOME,), Call(EXPLAIN, MESSAGE),
        {"data.anchor": only("a"), "meta.name": "AnchorTabular"},
    ),
    Scenario(
        "AnchorText (moviesentiment)", (explained("v1-movie", {"type": "AnchorText"}, MOOD),),
        Call(EXPLAIN, {"data": {"ndarray": [TEXT]}}), {"data.anchor": ["good"]},
    ),
    Scenario(
        "AnchorImages (cifar10)",
        (explained("v1-cifar", {"type": "AnchorImages", "config": {"background": "0"}},
                   unit("m", "MODEL", "sees")),),
        Call(EXPLAIN, {"data": {"ndarray": [IMAGE]}}), {"data.mask": in_upper_left},
    ),
    Scenario(
        "KernelShap (wine)", (explained("v1-wine", SHAP),), Call(EXPLAIN, MESSAGE),
        {"data.shap_values": all_of(0)},
    ),
    Scenario(
        "TreeShap (XGBoost)",
        (explained("v1-trees", {"type": "TreeShap"}, {
            **TABLE, "implementation": "XGBOOST_SERVER", "modelUri": "models/boosted"}),),
        Call(EXPLAIN, MESSAGE), {"data.shap_values": all_of(0)},
    ),
    Scenario(
        INTEGRATED_GRADIENTS,
        (explained("v1-gradients", {
            "type": "IntegratedGradients", "config": {"n_steps": "20", "target": "1"},
        }, {**TABLE, "implementation": "TENSORFLOW_SERVER", "modelUri": "models/linear"}),),
        Call(EXPLAIN, {"data": {"ndarray": [[2.0, 4.0]]}}),
        {"data.attributions": lambda shares: [round(v, 3) for v in shares] == [-4.0, 12.0]},
        note="of a Keras file of the explainer's; here of the model", alone=True,
    ),
    Scenario(
        "The address of the protocol tensorflow", (INCOME,),
        Call(AT + "/v1/models/classifier:explain", {"instances": [ROW]}),
        {"data.anchor": only("a")},
    ),
    Scenario(
        "Protocol v2 (iris)", (explained("v1-v2", ANCHORS, protocol="v2"),),
        Call(AT + "/v2/models/{}-explainer/infer", tensor(ROW, name="predict")),
        {"explained.data.anchor": only("a")},
    ),
    Scenario(
        "Each of two predictors: the first", (TWO,), Call(EXPLAIN, MESSAGE),
        {"data.shap_values": all_of(0)},
    ),
    Scenario(
        "Each of two predictors: the second", (TWO,),
        Call("/seldon/default/{}-explainer/canary/api/v1.0/explain", MESSAGE),
        {"data.shap_values": all_of(1)},
    ),
    Scenario(
        "A graph, as a whole",
        (explained("v1-graph", {**SHAP, "modelUri": "models/table"},
                   unit("t", "TRANSFORMER", "swaps", unit("m", "MODEL", "by_second"))),),
        Call(EXPLAIN, MESSAGE), {"data.shap_values": all_of(0)},
    ),
    Scenario(
        "A folder with Alibi's pickled explainer",
        (explained("v1-pickled", {**ANCHORS, "modelUri": "models/pickled"}),),
        Call(EXPLAIN, MESSAGE), {}, 503,
        note="Seldon reads it; here the folder has training data",
        told="explainer.dill is a pickled explainer of Alibi's, which is not read.",
    ),
)  # fmt: skip

_AT = "spec.predictors[0].explainer"
#: (what is wrong, manifest, field, what is said)
REFUSED: tuple[tuple[str, Manifest, str, str], ...] = (
    ("an explainer there is not", explained("m", {"type": "ALE"}), f"{_AT}.type",
        "ALE is not supported; there are AnchorTabular, AnchorText, AnchorImages, "
        "KernelShap, TreeShap, IntegratedGradients, Counterfactuals"),
    ("a setting there is not", explained("m", {**SHAP, "config": {"nsample": "10"}}),
     f"{_AT}.config.nsample", "KernelShap has no such setting; did you mean nsamples?"),
    (
        "arguments of Alibi's class", explained("m", {**SHAP, "initParameters": '{"link": "logit"}'}),
        f"{_AT}.initParameters", "is for Alibi's classes; settings of Penstock's explainers go into config",
    ),
    (
        "an explainer that is an image",
        explained("m", {**SHAP, "containerSpec": {"name": "e", "image": "mine:1"}}),
        f"{_AT}.containerSpec.image",
        "only resources and env of an explainer's container have a meaning here",
    ),
    (
        "gradients of a graph",
        explained("m", {"type": "IntegratedGradients"},
                  unit("t", "TRANSFORMER", "swaps", unit("m", "MODEL", "by_second"))),
        f"{_AT}.type", "IntegratedGradients looks into the model, and a graph is none; KernelShap asks "
        "it instead",
    ),
)  # fmt: skip

SYSTEM = system(
    "Seldon Core V1's explainers",
    "Seldon",
    SCENARIOS,
    REFUSED,
    tests=(
        "`tests/e2e/test_e2e_component_scenarios.py` on real models, IntegratedGradients by"
        " `tests/components/test_deployed_gradients.py`"
    ),
    place=40,
)
