"""KServe's TrainedModel, serving.kserve.io/v1alpha1: a model added to an InferenceService that has none.

Here every model has a process of its own, so a TrainedModel is a service of its own, which is reached under
the address of the InferenceService that it names, too. That one may have no model; see `HOSTS` in
`component`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.conversion import Converted, translate_converted
from penstock.dialects.kserve import service as kserve
from penstock.dialects.kserve.status import render_status as render_kserve
from penstock.dialects.metadata import ObjectMeta
from penstock.dialects.pod import Loose
from penstock.dialects.schema import Spec, read
from penstock.dialects.support import Table
from penstock.domain.names import service_problem
from penstock.domain.status import ServiceStatus
from penstock.errors import FieldProblem

API_VERSION = "serving.kserve.io/v1alpha1"


class ModelFields(Spec):
    storage_uri: Annotated[str, Field(min_length=1)]
    #: The model format.
    framework: Annotated[str, Field(min_length=1)]
    memory: Any


class TrainedModelSpec(Spec):
    inference_service: Annotated[str, Field(min_length=1)]
    model: ModelFields


class TrainedModel(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: TrainedModelSpec
    status: Loose | None = None


TABLE = Table(())


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """TrainedModel -> `Service`, with the service that it is added to as its parent."""
    parsed, problems = read(TrainedModel, manifest)
    if parsed is None:
        refuse(manifest, problems)
    spec = parsed.spec
    problem = service_problem(spec.inference_service)
    if problem:
        problems.append(FieldProblem("spec.inferenceService", problem))
    elif spec.inference_service == parsed.metadata.name:
        problems.append(FieldProblem("spec.inferenceService", "is the model's own name"))
    places = {
        "spec": "spec",
        "spec.predictor": "spec.model",
        "spec.predictor.model": "spec.model",
        "spec.predictor.model.modelFormat": "spec.model.framework",
        "spec.predictor.model.modelFormat.name": "spec.model.framework",
        "spec.predictor.model.resources.requests.memory": "spec.model.memory",
    }
    converted = Converted(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": manifest["metadata"],
            "spec": {
                "predictor": {
                    "model": {
                        "modelFormat": {"name": spec.model.framework},
                        "storageUri": spec.model.storage_uri,
                        "resources": {"requests": {"memory": spec.model.memory}},
                    }
                }
            },
        },
        places,
    )
    translation = translate_converted(
        manifest,
        converted,
        kserve.translate,
        problems=problems,
        runs_containers=runs_containers,
    )
    service = replace(translation.object, parent=spec.inference_service)
    return replace(translation, object=service)


def check_update(old: Manifest, new: Manifest) -> list[FieldProblem]:
    """KServe's webhook: what the model is a part of, and its memory, stay."""
    problems = []
    for path in (("inferenceService",), ("model", "memory")):
        before, after = _at(old, path), _at(new, path)
        if before is not None and before != after:
            place = ".".join(("spec", *path))
            problems.append(
                FieldProblem(
                    place, f"cannot change from {before}; delete the model and apply it again"
                )
            )
    return problems


def _at(manifest: Manifest, path: tuple[str, ...]) -> Any:
    value: Any = manifest.get("spec")
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """TrainedModelStatus: conditions, and the address under the service that it is added to."""
    rendered = render_kserve(manifest, status)
    name = manifest["metadata"].get("name", "")
    parent = _at(manifest, ("inferenceService",))
    if status.url:
        url = status.url.rpartition("/")[0] + f"/{parent}/v1/models/{name}"
        rendered["url"] = f"{url}:predict"
        rendered["address"] = {"url": f"{url}:predict"}
    return rendered


DIALECT = Dialect(
    api_version=API_VERSION,
    kind="TrainedModel",
    plural="trainedmodels",
    singular="trainedmodel",
    short_names=("tm",),
    namespaced=True,
    model=TrainedModel,
    table=TABLE,
    translator=translate,
    renderer=render_status,
    update_check=check_update,
)
