"""What the documentation and samples of KServe and KFServing show of transformers and explainers, as data."""

from __future__ import annotations

from typing import Any

from component_scenarios_base import (
    IMAGE,
    INSTANCES,
    KFSERVING,
    KSERVE,
    OWN,
    ROW,
    TEXT,
    Call,
    Manifest,
    Scenario,
    in_upper_left,
    isvc,
    only,
    system,
    tensor,
)

PREDICT = "/v1/models/{}:predict"
EXPLAIN = "/v1/models/{}:explain"
INFER = "/v2/models/{}/infer"
TABLE = {"sklearn": {"storageUri": "models/table"}}
MOOD = {"sklearn": {"storageUri": "models/mood"}}
PICTURES = {"onnx": {"storageUri": "models/pictures"}}
#: Answers whole numbers 0 and 1.
LOW, HIGH = [0.0, 3.0, 3.0], ROW


def around(name: str, code: str, predictor: Manifest | None = None, **block: Any) -> Manifest:
    """A service with the transformer classes/CODE."""
    python = {"storageUri": f"classes/{code}", **block}
    return isvc(name, {"predictor": predictor or TABLE, "transformer": {"python": python}})


def explained(
    name: str, type_: str, predictor: Manifest, api_version: str = KSERVE, **block: Any
) -> Manifest:
    spec = {"predictor": predictor, "explainer": {"alibi": {"type": type_, **block}}}
    return isvc(name, {"default": spec} if api_version == KFSERVING else spec, api_version)


TRANSFORMER = around("kserve-class", "extends_kserve")
NAMED = {"instances": [{"a": 3, "b": 0, "c": 1}, {"a": 0, "b": 3, "c": 3}]}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "kserve.Model's preprocess and postprocess, by V1", (TRANSFORMER,),
        Call(PREDICT, NAMED), {"predictions": ["high", "low"]},
    ),
    Scenario(
        "The same by V2, as InferRequest and InferResponse", (TRANSFORMER,),
        Call(INFER, tensor(HIGH, LOW)), {"outputs[0].data": ["high", "low"]},
    ),
    Scenario(
        "The same by V2's binary tensors", (TRANSFORMER,),
        Call(INFER, tensor(HIGH, LOW), wire="binary"), {"outputs[0].data": ["high", "low"]},
    ),
    Scenario(
        "The same by gRPC", (TRANSFORMER,),
        Call(INFER, tensor(HIGH, LOW), wire="grpc"), {"outputs[0].data": ["high", "low"]},
    ),
    Scenario(
        "V1 from the client, V2 to the predictor", (around("v1-to-v2", "v1_to_v2"),),
        Call(PREDICT, NAMED), {"predictions": ["high", "low"]},
    ),
    Scenario(
        "kserve.Model's own predict, by super()", (around("super-predict", "asks_super"),),
        Call(PREDICT, INSTANCES), {"predictions": [1], "asked": 2},
    ),
    Scenario(
        "kfserving.KFModel", (around("kf-class", "extends_kfserving"),),
        Call(PREDICT, NAMED), {"predictions": ["high", "low"]},
    ),
    Scenario(
        "A predict that asks predictor_host by HTTP itself", (around("asks-http", "asks_http"),),
        Call(PREDICT, INSTANCES), {"predictions": [1], "asked": "http"},
    ),
    Scenario(
        "A transformer with settings of its own",
        (around("settings", "with_settings", options={"names": ["no", "yes"]}),),
        Call(PREDICT, INSTANCES), {"predictions": ["yes"]},
        note="they are arguments of its image's program",
    ),
    Scenario(
        "InvalidInput in preprocess", (TRANSFORMER,),
        Call(PREDICT, {"instances": [{"a": "three"}]}), {"error": "a has to be a number"}, 400,
    ),
    Scenario(
        "Authorization, x-request-id and a trace go on to the predictor",
        (around("headers", "hands_on", {"python": {"storageUri": "classes/says_headers"}}),),
        Call(PREDICT, INSTANCES, {
            "authorization": "Bearer t", "x-request-id": "r1", "x-b3-traceid": "b1",
            "traceparent": "00-1-2-01", "cookie": "c=1",
        }),
        {"predictions": ["Bearer t", "r1", "b1", "00-1-2-01", None]},
        note="traceparent does not",
    ),
    Scenario(
        "Transformer and predictor together (collocation)",
        (isvc("beside", {
            "predictor": {"sklearn": {"storageUri": "models/beside"}},
            "transformer": {"collocated": True, "python": {"class": "named.py"}},
        }),),
        Call(PREDICT, NAMED), {"predictions": ["high", "low"]},
        note="a second container in the predictor's pod",
    ),
    Scenario(
        "AnchorTabular, KFServing's manifest (income)",
        (explained("income", "AnchorTabular", TABLE, KFSERVING),),
        Call(EXPLAIN, INSTANCES), {"data.anchor": only("a"), "meta.name": "AnchorTabular"},
    ),
    Scenario(
        "AnchorTabular with config",
        (explained("income-config", "AnchorTabular", TABLE, config={"threshold": "0.9", "seed": "1"}),),
        Call(EXPLAIN, INSTANCES), {"data.anchor": only("a"), "meta.params.threshold": 0.9},
    ),
    Scenario(
        "AnchorText (moviesentiment)", (explained("movie", "AnchorText", MOOD),),
        Call(EXPLAIN, {"instances": [TEXT]}), {"data.anchor": ["good"]},
    ),
    Scenario(
        "AnchorText by similar words: use_unk false, KFServing's manifest (moviesentiment2)",
        (explained("movie-words", "AnchorText", MOOD, KFSERVING, storageUri="models/words",
                   config={"use_unk": "false", "sample_proba": "0.5"}),),
        Call(EXPLAIN, {"instances": [TEXT]}), {"data.anchor": ["good"]},
        note="it takes spaCy's words; here those of a file",
    ),
    Scenario(
        "AnchorImages with batch_size, stop_on_first and a background (cifar10)",
        (explained("cifar", "AnchorImages", PICTURES,
                   config={"batch_size": "40", "stop_on_first": "True", "background": "0"}),),
        Call(EXPLAIN, {"instances": [IMAGE]}),
        {"data.mask": in_upper_left}, note="the background is Penstock's",
    ),
    Scenario(
        "Counterfactuals", (explained("nearest", "Counterfactuals", TABLE),),
        Call(EXPLAIN, INSTANCES), {"data.found": True},
        note="its manifests have it, its server does not",
    ),
    Scenario(
        "An explainer of one's own, a kserve.Model with explain",
        (isvc("own-explainer", {
            "predictor": TABLE,
            "explainer": {"python": {"storageUri": "classes/occludes"}},
        }),),
        Call(EXPLAIN, INSTANCES), {"importance": [1, 0, 0]},
    ),
    Scenario(
        "A transformer in front: the explainer gets the request and asks the predictor",
        (isvc("both", {
            "predictor": TABLE,
            "transformer": {"python": {"storageUri": "classes/extends_kserve"}},
            "explainer": {"alibi": {"type": "AnchorTabular"}},
        }),),
        Call(EXPLAIN, INSTANCES), {"data.anchor": only("a")},
    ),
    Scenario(
        "A transformer with explain, and no explainer", (around("explains", "explains"),),
        Call(EXPLAIN, INSTANCES), {"explained_by": "the transformer"},
    ),
    Scenario(
        "What the explainer is, by GET", (explained("income", "AnchorTabular", TABLE, KFSERVING),),
        Call(EXPLAIN), {"explainer": "AnchorTabular"}, note="KServe has none",
    ),
    Scenario(
        "V2's /explain", (explained("income", "AnchorTabular", TABLE, KFSERVING),),
        Call("/v2/models/{}/explain", tensor(ROW)), {"explained.data.anchor": only("a")},
        note="KServe has V1's only",
    ),
    Scenario(
        "No explainer", (isvc("unexplained", {"predictor": TABLE}, KSERVE),),
        Call(EXPLAIN, INSTANCES), {}, 501,
    ),
    Scenario(
        "A folder with Alibi's pickled explainer",
        (explained("pickled", "AnchorTabular", TABLE, storageUri="models/pickled"),),
        Call(EXPLAIN, INSTANCES), {}, 503,
        note="KServe reads it; here the folder has training data",
        told="explainer.dill is a pickled explainer of Alibi's, which is not read.",
    ),
    Scenario(
        "A transformer that is an image",
        (isvc("image", {
            "predictor": TABLE,
            "transformer": {"containers": [{"name": "kserve-container", "image": "mine:1"}]},
        }, KSERVE),),
        Call(PREDICT, INSTANCES), {}, 503,
        note="KServe runs it; here its class is given",
        told="container",
    ),
)  # fmt: skip


def _with(api_version: str = KSERVE, **components: Any) -> Manifest:
    return isvc("m", {"predictor": TABLE, **components}, api_version)


#: (what is wrong, manifest, field, what is said)
REFUSED: tuple[tuple[str, Manifest, str, str], ...] = (
    (
        "robustness attacks of ART",
        _with(explainer={"art": {"type": "SquareAttack", "config": {"nb_classes": "10"}}}),
        "spec.explainer.art", "robustness attacks of ART are not supported; alibi with type Counterfactuals "
        "tells for tables what would change the answer",
    ),
    (
        "LIME of AIX360",
        _with(explainer={"aix": {"type": "LimeImages", "config": {"num_samples": "100"}}}),
        "spec.explainer.aix", "LIME of AIX360 is not supported; alibi with type AnchorImages, AnchorText or "
        "KernelShap explains any model",
    ),
    ("an explainer there is not", _with(explainer={"alibi": {"type": "Contrastive"}}),
     "spec.explainer.alibi.type", "Contrastive is not supported; there are AnchorTabular, AnchorText, "
        "AnchorImages, KernelShap, TreeShap, IntegratedGradients, Counterfactuals"),
    ("a misspelt explainer", _with(explainer={"alibi": {"type": "AnchorTabluar"}}),
     "spec.explainer.alibi.type",
        "there is no explainer 'AnchorTabluar': did you mean AnchorTabular? there are "
        "AnchorTabular, AnchorText, AnchorImages, KernelShap, TreeShap, "
        "IntegratedGradients, Counterfactuals"),
    (
        "a setting there is not",
        _with(explainer={"alibi": {"type": "AnchorText", "config": {"use_unknown": "true"}}}),
        "spec.explainer.alibi.config.use_unknown", "AnchorText has no such setting; did you mean use_unk?",
    ),
    (
        "a setting out of its bounds",
        _with(explainer={"alibi": {"type": "AnchorText", "config": {"threshold": "1.5"}}}),
        "spec.explainer.alibi.config.threshold", "has to be above 0 and below 1, not '1.5'",
    ),
    (
        "a transformer's container beside a model (collocation)",
        isvc("m", {"predictor": {**TABLE, "containers": [
            {"name": "transformer-container", "image": "mine:1"}]}}, KSERVE),
        "spec.predictor.containers",
        "containers beside a model are not supported; a transformer in the predictor's "
        "process is a class: transformer {collocated: true, python: {class: FILE.py}} "
        "in penstock.dev/v1alpha1",
    ),
    (
        "a collocated transformer from elsewhere",
        _with(OWN, transformer={"collocated": True, "python": {"storageUri": "classes/x"}}),
        "spec.transformer.python.storageUri",
        "a collocated transformer has none of its own: its class lies with the model's "
        "files",
    ),
    ("a batcher before an explainer", _with(explainer={"alibi": {"type": "AnchorText"}, "batcher": {}}),
     "spec.explainer.batcher", "only the predictor gathers requests into batches"),
    ("a share for a transformer", _with(OWN, transformer={
        "python": {"storageUri": "x"}, "canaryTrafficPercent": 10}),
     "spec.transformer.canaryTrafficPercent",
        "only the predictor's revisions share traffic; a change here takes over when it "
        "is ready"),
)  # fmt: skip

SYSTEM = system(
    "KServe's and KFServing's transformers and explainers",
    "KServe",
    SCENARIOS,
    REFUSED,
    tests=(
        "`tests/e2e/test_e2e_component_scenarios.py` on real models. A transformer, and an explainer of one's"
        " own, is an image at KServe; here it is the class in it"
    ),
    place=2,
)
