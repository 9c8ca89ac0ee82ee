"""Transformers and explainers in KServe's InferenceService, and what Penstock's own dialect has beside.

A transformer is a container at KServe; in `penstock.dev/v1alpha1` it may be a class: `python: {storageUri,
class}` (or `custom:`). An explainer is a block with a `type`: `alibi` as KServe 0.10 and older had it, in our
dialect also by family (`anchors`, `shap`, `gradients`, `counterfactuals`), or a class. Without a `storageUri`
an explainer has the predictor's files: training data may lie beside the model, and those that look into the
model need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from penstock.dialects.kserve.fields import Block
from penstock.dialects.pod import At
from penstock.dialects.schema import path
from penstock.dialects.support import Row, no_effect, refused
from penstock.domain import explainers
from penstock.domain.service import Component, Model
from penstock.errors import FieldProblem

TRANSFORMER: Final = "transformer"
EXPLAINER: Final = "explainer"


#: Blocks of a transformer and of an explainer: attribute and model format.
TRANSFORMER_BLOCKS: Final[Mapping[str, Block]] = {
    "python": Block("python", TRANSFORMER),
    "custom": Block("custom", TRANSFORMER),
}
#: Of a family, the types it may name; the only one need not be said.
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "alibi": tuple(explainers.TYPES),
    "anchors": ("AnchorTabular", "AnchorText", "AnchorImages"),
    "shap": ("KernelShap", "TreeShap"),
    "gradients": ("IntegratedGradients",),
    "counterfactuals": ("Counterfactuals",),
}
#: Explainers of KServe's that are refused by their name, whatever else is wrong with them.
FOREIGN: Final = ("art", "aix")
EXPLAINER_BLOCKS: Final[Mapping[str, Block]] = {
    **{name: Block(name, EXPLAINER) for name in FAMILIES},
    **TRANSFORMER_BLOCKS,
}


def explained(
    component: Component,
    name: str,
    at: At,
    predictor: Component,
    warnings: list[FieldProblem],
) -> tuple[Component, list[FieldProblem]]:
    """An explainer with its settings read and its files found, and what is wrong with them.

    `warnings` gets the settings without effect.
    """
    model = component.model
    if model is None:
        return component, []
    model = replace(model, served_name=_served(predictor))
    if model.format.name != EXPLAINER:
        return replace(component, model=model), []
    kind, problems = _kind(model.options.get("type"), name, at)
    if kind is None:
        return component, problems
    given = model.options.get("config") or {}
    config, wrong = explainers.read(kind, given, path((*at, "config")), warnings)
    problems += wrong
    options: dict[str, Any] = {"type": kind.name, "config": config}
    behind = predictor.model
    if kind.looks_inside and behind is not None:
        options |= {"model_format": behind.format.name, "model_options": dict(behind.options)}
    if not _has_files(model) and behind is not None:
        model = replace(model, storage=behind.storage, versions=behind.versions)
    if not _has_files(model) and kind.needs_files:
        problems.append(FieldProblem(path((*at, "storageUri")), f"is required by {kind.name}"))
    return replace(component, model=replace(model, options=options)), problems


def transformed(component: Component, predictor: Component) -> Component:
    """A transformer under the name that the predictor is known by."""
    if component.model is None:
        return component
    return replace(component, model=replace(component.model, served_name=_served(predictor)))


def collocated(predictor: Component, transformer: Component) -> Component:
    """The predictor with a transformer in its process."""
    model = transformer.model
    options = dict(model.options) if model is not None else {}
    # The class need not be named where the folder has only one; the mark that there is one remains.
    return replace(predictor, around={"class": None, **options})


def collocation_problems(given: Mapping[str, Any], at: At) -> list[FieldProblem]:
    """What cannot be said of a transformer that runs in the predictor's process."""
    if not given.get("collocated"):
        return []
    problems = []
    for name, value in given.items():
        if name in TRANSFORMER_BLOCKS:
            problems += [
                FieldProblem(
                    path((*at, name, field)),
                    "a collocated transformer has none of its own: its class lies with the model's files",
                )
                for field in value
                if field not in ("class", "options")
            ]
        elif name != "collocated" and value is not None:
            problems.append(
                FieldProblem(
                    path((*at, name)),
                    "a collocated transformer is the predictor's process: say it there",
                )
            )
    return problems


def _served(predictor: Component) -> str | None:
    return predictor.model.served_name if predictor.model is not None else None


def _has_files(model: Model) -> bool:
    storage = model.storage
    return bool(storage.uri or storage.path or storage.key)


def _kind(
    given: Any, family: str, at: At
) -> tuple[explainers.ExplainerType | None, list[FieldProblem]]:
    where = path((*at, "type"))
    types = FAMILIES[family]
    if given is None:
        if len(types) == 1:
            return explainers.TYPES[types[0]], []
        return None, [FieldProblem(where, f"is required: one of {', '.join(types)}")]
    kind = explainers.find(given)
    if kind is None:
        return None, [FieldProblem(where, explainers.unknown(given))]
    if kind.name not in types:
        return None, [FieldProblem(where, f"is none of {family}: {', '.join(types)}")]
    return kind, []


def rows(at: str, blocks: Mapping[str, Block]) -> tuple[Row, ...]:
    """What of a component's fields is refused or has no effect, besides the pod's."""
    named = "{" + ",".join(blocks) + "}"
    return (
        refused(f"{at}.logger", "logging of payloads is not supported yet"),
        refused(
            f"{at}.autoScaling",
            "scaling by further metrics is not supported; set scaleMetric and scaleTarget",
        ),
        refused(f"{at}.batcher", "only the predictor gathers requests into batches"),
        refused(
            f"{at}.canaryTrafficPercent",
            "only the predictor's revisions share traffic; a change here takes over when it is ready",
            harmless=(100,),
        ),
        refused(
            f"{at}.{named}.confidential",
            "confidential models are not supported",
            harmless=({"enabled": False}, {}),
        ),
        refused(f"{at}.{named}.storage.schemaPath", "ModelMesh's schemas are not supported"),
        no_effect(
            f"{at}.scaleMetric",
            "cpu and memory do not scale replicas here, minReplicas of them run; concurrency and rps do",
            only_processes=False,
            harmless=("concurrency", "rps"),
        ),
        no_effect(
            f"{at}.scaleMetricType",
            "is for scaling by cpu and memory, which is not done here",
            only_processes=False,
        ),
        no_effect(
            f"{at}.{named}.runtimeVersion",
            "the explainers are Penstock's own, whatever the version",
        ),
    )
