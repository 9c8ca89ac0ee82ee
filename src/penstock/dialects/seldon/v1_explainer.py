"""The explainer of a SeldonDeployment's graph, or of one of its models: a service of its own, which asks it.

Where a deployment is one model, its explainer is a component of the same service (`v1_reader`), and so is
that of the first one of several; each other one's is a service that asks its predictor by name (`beside`).
A graph has no files and no process that one could stand beside; so its explainer is one more service that is
made for the deployment, with the graph's address to ask. What looks into a model has nothing to look into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.dialects import penstock
from penstock.dialects.base import Manifest
from penstock.dialects.components import EXPLAINER
from penstock.dialects.conversion import Converted
from penstock.dialects.kserve import annotations as notes
from penstock.dialects.seldon.v1_reader import (
    container_of_explainer,
    part_metadata,
    part_name,
    places_of_explainer,
)
from penstock.dialects.seldon.v1_tree import Node
from penstock.domain import explainers
from penstock.domain.annotations import STOP, stops
from penstock.domain.service import Component
from penstock.errors import FieldProblem

#: What stands in the name of an explainer's service where others have their node's.
NAME: Final = "explainer"


def explains(predictor: Mapping[str, Any]) -> bool:
    """Whether a predictor has an explainer; one without a type is none, as in Seldon's operator."""
    return bool((predictor.get("explainer") or {}).get("type"))


def service_name(deployment: str, predictor: str) -> str:
    """The name of the explainer's service: `DEPLOYMENT-PREDICTOR-explainer`."""
    return part_name(deployment, predictor, NAME)


def convert(
    manifest: Manifest,
    index: int,
    nodes: list[Node],
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
) -> Converted:
    """The service of a predictor's explainer.

    `problems` gets what is wrong with it, `warnings` what has no effect.
    """
    spec = manifest["spec"]
    predictor: Mapping[str, Any] = spec["predictors"][index]
    given: Mapping[str, Any] = predictor["explainer"]
    at = f"spec.predictors[{index}].explainer"
    deployment = manifest["metadata"].get("name") or ""
    options = _options(given, at, problems, warnings)
    options["predictor"] = deployment
    if len(spec["predictors"]) > 1:
        options["predictor"] += f"@{predictor['name']}"
    block: dict[str, Any] = {
        "modelFormat": {"name": EXPLAINER},
        "options": options,
        # Its clients ask it under the deployment's name.
        "args": [f"--model_name={deployment}"],
        "storageUri": given.get("modelUri") or _files(nodes),
    }
    block |= container_of_explainer(given, at, problems)
    if not block["storageUri"]:
        problems.append(FieldProblem(f"{at}.modelUri", "is required: no node has files to use"))
        block["storageUri"] = "missing"
    return Converted(
        _service(manifest, index, block, [n.given for n in nodes]),
        {
            "spec": at,
            "metadata": "metadata",
            "spec.predictor.model": at,
            "spec.predictor.model.storageUri": f"{at}.modelUri",
            **places_of_explainer("spec.predictor.model", given, at),
        },
    )


def beside(manifest: Manifest, index: int, explainer: Component) -> Manifest:
    """The service that explains one of several models; `explainer` is what was read with its predictor."""
    predictor: Mapping[str, Any] = manifest["spec"]["predictors"][index]
    deployment = manifest["metadata"].get("name") or ""
    model = explainer.model
    assert model is not None  # noqa: S101 - an explainer by its type
    block: dict[str, Any] = {
        "modelFormat": {"name": EXPLAINER},
        "options": {**model.options, "predictor": f"{deployment}@{predictor['name']}"},
        "args": [f"--model_name={deployment}"],
    }
    if model.storage.uri:
        block["storageUri"] = model.storage.uri
    block |= container_of_explainer(predictor["explainer"], "", [])
    made = _service(manifest, index, block, [predictor["graph"]])
    if stops(manifest["metadata"].get("annotations") or {}):
        # It goes with the service that it asks.
        made["metadata"].setdefault("annotations", {})[STOP] = "true"
    return made


def _service(
    manifest: Manifest, index: int, block: dict[str, Any], nodes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The manifest of an explainer's service."""
    spec = manifest["spec"]
    predictor: Mapping[str, Any] = spec["predictors"][index]
    replicas = predictor["explainer"].get("replicas")
    annotations = {}
    if replicas == 0 or predictor.get("replicas", spec.get("replicas")) == 0:
        annotations[STOP] = "true"
    count = replicas or 1
    component: dict[str, Any] = {"minReplicas": count, "maxReplicas": count, "model": block}
    # Files are opened with the credentials of the models'.
    account, secret = (
        next((n[key] for n in nodes if n.get(key)), "")
        for key in ("serviceAccountName", "envSecretRefName")
    )
    if account:
        component["serviceAccountName"] = account
    if secret:
        annotations[notes.STORAGE_SECRET] = secret
    name = service_name(manifest["metadata"].get("name") or "", predictor["name"])
    return {
        "apiVersion": penstock.DIALECT.api_version,
        "kind": "InferenceService",
        "metadata": part_metadata(manifest, name, annotations),
        "spec": {"predictor": component},
    }


def _options(
    given: Mapping[str, Any], at: str, problems: list[FieldProblem], warnings: list[FieldProblem]
) -> dict[str, Any]:
    kind = explainers.find(given["type"])
    if kind is None:
        problems.append(FieldProblem(f"{at}.type", explainers.unknown(given["type"])))
        return {}
    if kind.looks_inside:
        problems.append(
            FieldProblem(
                f"{at}.type",
                f"{kind.name} looks into the model, and a graph is none; KernelShap asks it instead",
            )
        )
    values, wrong = explainers.read(kind, given.get("config") or {}, f"{at}.config", warnings)
    problems += wrong
    return {"type": kind.name, "config": values}


def _files(nodes: list[Node]) -> str:
    """The files of the graph's first node that has some: training data may lie beside the model."""
    return next((n.given["modelUri"] for n in nodes if n.given.get("modelUri")), "")
