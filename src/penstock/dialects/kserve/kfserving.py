"""KFServing's own versions, serving.kubeflow.org v1alpha1 and v1alpha2, as KServe's v1beta1.

v1alpha1 (0.1 and its early builds) has the framework right under `spec.default`, and kinds KFService,
KFServing, KFSERVICE and InferenceService; v1alpha2 (0.2 to 0.5) has a predictor there. Both have the canary
as a whole second component beside `default`. A manifest is rewritten as KFServing's conversion webhook did
and translated by `kserve`; what a v1alpha2 client reads in the status is added to KServe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from penstock.dialects.base import Dialect, Manifest, Translation, refuse, unsaid
from penstock.dialects.conversion import Converted, moved_rows, translate_converted
from penstock.dialects.kserve import service as kserve
from penstock.dialects.kserve.fields import Batcher
from penstock.dialects.kserve.status import render_status as render_kserve
from penstock.dialects.kserve.support import TABLE as KSERVE_TABLE
from penstock.dialects.metadata import ObjectMeta
from penstock.dialects.pod import Container, Loose, ResourceRequirements
from penstock.dialects.schema import Spec, read
from penstock.dialects.support import Row, Table, refused
from penstock.dialects.variants import Tried, together
from penstock.domain.service import Role
from penstock.domain.status import ServiceStatus
from penstock.errors import FieldProblem

GROUP = "serving.kubeflow.org"
_BETA = "serving.kubeflow.org/v1beta1"


class Framework(Spec):
    """A framework's block. `modelUri` was the first name of `storageUri`."""

    storage_uri: str | None = None
    model_uri: str | None = None
    #: The model's name on the wire.
    model_name: str | None = None
    runtime_version: str | None = None
    resources: ResourceRequirements | None = None
    service_account: str | None = None
    service_account_name: str | None = None


class PyTorch(Framework):
    model_class_name: str | None = None


class Custom(Spec):
    container: Container


class Alibi(Framework):
    type: str | None = None
    config: dict[str, Any] | None = None


class Deployed(Spec):
    """What every component has."""

    service_account: str | None = None
    service_account_name: str | None = None
    min_replicas: Annotated[int, Field(ge=0)] | None = None
    max_replicas: Annotated[int, Field(ge=0)] | None = None
    #: Requests in one replica at a time.
    parallelism: Annotated[int, Field(ge=0)] | None = None
    logger: Loose | None = None
    batcher: Batcher | None = None


class Component(Deployed):
    """What v1alpha1 has under `default`, and v1alpha2 under `default.predictor`."""

    tensorflow: Framework | None = None
    tensorrt: Framework | None = None
    triton: Framework | None = None
    onnx: Framework | None = None
    pytorch: PyTorch | None = None
    sklearn: Framework | None = None
    xgboost: Framework | None = None
    lightgbm: Framework | None = None
    pmml: Framework | None = None
    custom: Custom | None = None


class Transformer(Deployed):
    custom: Custom | None = None


class Explainer(Deployed):
    alibi: Alibi | None = None
    custom: Custom | None = None


class Endpoint(Spec):
    predictor: Component
    transformer: Transformer | None = None
    explainer: Explainer | None = None


class CanaryEndpoint(Spec):
    predictor: Component
    transformer: Loose | None = None
    explainer: Loose | None = None


class SpecV1Alpha1(Spec):
    default: Component
    canary: Component | None = None
    canary_traffic_percent: Annotated[int, Field(ge=0, le=100)] | None = None


class SpecV1Alpha2(Spec):
    default: Endpoint
    canary: CanaryEndpoint | None = None
    canary_traffic_percent: Annotated[int, Field(ge=0, le=100)] | None = None


class ManifestV1Alpha1(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: SpecV1Alpha1
    status: Loose | None = None


class ManifestV1Alpha2(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: SpecV1Alpha2
    status: Loose | None = None


_FRAMEWORKS = (
    "tensorflow", "tensorrt", "triton", "onnx", "pytorch", "sklearn", "xgboost", "lightgbm", "pmml",
    "alibi",
)  # fmt: skip

#: The canary's name among a service's predictors.
CANARY = "canary"


def _rows(at: str, model: type[Spec]) -> tuple[Row, ...]:
    places = (at, at.replace("spec.default", "spec.canary", 1))
    return tuple(
        row
        for place in places
        for row in moved_rows(KSERVE_TABLE, {"spec.predictor": place}, model)
    )


TABLE_V1ALPHA1 = Table(_rows("spec.default", ManifestV1Alpha1))
TABLE_V1ALPHA2 = Table(
    (
        *_rows("spec.default.predictor", ManifestV1Alpha2),
        *moved_rows(
            KSERVE_TABLE,
            {f"spec.{role}": f"spec.default.{role}" for role in ("transformer", "explainer")},
            ManifestV1Alpha2,
        ),
        refused(
            "spec.canary.{transformer,explainer}",
            "the one under default is asked for both; a canary has a predictor only",
        ),
    )
)


def translate_v1alpha1(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """KFService (by any of its names) -> `Service`."""
    return _translate(
        ManifestV1Alpha1, TABLE_V1ALPHA1, "spec.default", manifest, runs_containers=runs_containers
    )


def translate_v1alpha2(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceService of KFServing 0.2 to 0.5 -> `Service`."""
    return _translate(
        ManifestV1Alpha2,
        TABLE_V1ALPHA2,
        "spec.default.predictor",
        manifest,
        runs_containers=runs_containers,
    )


def _translate(
    model: type[ManifestV1Alpha1] | type[ManifestV1Alpha2],
    table: Table,
    at: str,
    manifest: Manifest,
    *,
    runs_containers: bool,
) -> Translation:
    unsupported, warnings = table.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(model, manifest)
    if parsed is None:
        refuse(manifest, problems + unsaid(unsupported, problems))
    given = {"predictor": manifest["spec"]["default"]}
    if at.endswith("predictor"):
        given = given["predictor"]
    places = {"spec": at, "spec.predictor": at}
    components: dict[str, Any] = {}
    for role in ("predictor", "transformer", "explainer"):
        component = given.get(role)
        if component is not None:
            here = at if role == "predictor" else f"spec.default.{role}"
            places[f"spec.{role}"] = here
            components[role] = _component(component, role, here, places, unsupported)
    converted = Converted(
        {
            "apiVersion": _BETA,
            "kind": "InferenceService",
            "metadata": manifest["metadata"],
            "spec": components,
        },
        places,
    )
    spec = manifest["spec"]
    percent = spec.get("canaryTrafficPercent") or 0
    if percent and not spec.get("canary"):
        unsupported.append(FieldProblem("spec.canaryTrafficPercent", "there is no spec.canary"))

    def default() -> Translation:
        return translate_converted(
            manifest,
            converted,
            kserve.translate,
            problems=unsupported,
            warnings=warnings,
            runs_containers=runs_containers,
        )

    if not spec.get("canary"):
        return default()

    def canary() -> Translation:
        return _canary(manifest, at, runs_containers=runs_containers)

    return together(manifest, default, [Tried(CANARY, percent, canary, "spec.canary")])


def _canary(manifest: Manifest, at: str, *, runs_containers: bool) -> Translation:
    """The canary, as if it stood alone."""
    here = at.replace("spec.default", "spec.canary", 1)
    given = manifest["spec"]["canary"]
    if here.endswith("predictor"):
        given = given["predictor"]
    places = {"spec": here, "spec.predictor": here}
    problems: list[FieldProblem] = []
    predictor = _component(given, "predictor", here, places, problems)
    converted = Converted(
        {
            "apiVersion": _BETA,
            "kind": "InferenceService",
            "metadata": manifest["metadata"],
            "spec": {"predictor": predictor},
        },
        places,
    )
    return translate_converted(
        manifest,
        converted,
        kserve.translate,
        problems=problems,
        runs_containers=runs_containers,
    )


def _component(
    given: Mapping[str, Any],
    role: str,
    at: str,
    places: dict[str, str],
    problems: list[FieldProblem],
) -> dict[str, Any]:
    """v1beta1's component. A place that cannot be the same path is noted in `places`."""
    new = f"spec.{role}"
    predictor: dict[str, Any] = {}
    for name in ("serviceAccountName", "serviceAccount", "minReplicas", "maxReplicas"):
        if given.get(name) is not None:
            predictor[name] = given[name]
    if given.get("parallelism") is not None:
        predictor["containerConcurrency"] = given["parallelism"]
        places[f"{new}.containerConcurrency"] = f"{at}.parallelism"
    for name in ("batcher", "logger"):
        if given.get(name) is not None:
            predictor[name] = given[name]
    custom = given.get("custom")
    if custom is not None:
        predictor["containers"] = [custom["container"]]
        places[f"{new}.containers[0]"] = f"{at}.custom.container"
        places[f"{new}.containers"] = f"{at}.custom"
    for name in _FRAMEWORKS:
        block = given.get(name)
        if block is None:
            continue
        newer = "triton" if name == "tensorrt" else name
        here = f"{at}.{name}"
        places[f"{new}.{newer}"] = here
        if newer in predictor:
            problems.append(FieldProblem(here, "may not be given together with triton"))
        predictor[newer] = _block(block, f"{new}.{newer}", here, places, problems, predictor)
    if custom is not None and len(predictor.keys() & set(_FRAMEWORKS)):
        problems.append(
            FieldProblem(f"{at}.custom", "may not be given together with a framework's block")
        )
    return predictor


def _block(
    given: Mapping[str, Any],
    newer: str,
    here: str,
    places: dict[str, str],
    problems: list[FieldProblem],
    predictor: dict[str, Any],
) -> dict[str, Any]:
    block = {
        k: given[k]
        for k in (
            "storageUri",
            "runtimeVersion",
            "resources",
            "modelClassName",
            "type",
            "config",
        )
        if given.get(k) is not None
    }
    uri = given.get("modelUri")
    if uri is not None:
        if "storageUri" in block:
            problems.append(
                FieldProblem(f"{here}.modelUri", "may not be given together with storageUri")
            )
        block["storageUri"] = uri
        places[f"{newer}.storageUri"] = f"{here}.modelUri"
    if given.get("modelName") is not None:
        block["args"] = [f"--model_name={given['modelName']}"]
        places[f"{newer}.args"] = f"{here}.modelName"
    for key in ("serviceAccountName", "serviceAccount"):
        if given.get(key) is not None:
            if predictor.setdefault(key, given[key]) != given[key]:
                problems.append(
                    FieldProblem(f"{here}.{key}", "is not the account that is named beside it")
                )
            else:
                places[f"{newer.rpartition('.')[0]}.{key}"] = f"{here}.{key}"
    return block


def render_status(manifest: Manifest, status: ServiceStatus) -> dict[str, Any]:
    """KServe's status, and the fields that clients of v1alpha1 and v1alpha2 look at.

    `traffic` is the percentage that `default` takes once something serves, `canaryTraffic` the canary's.
    """
    rendered = render_kserve(manifest, status)
    predictor = status.components.get(Role.PREDICTOR)
    serving = predictor.latest_ready_revision if predictor is not None else ""
    if serving and predictor is not None:
        percents = {t.revision: t.percent for t in predictor.traffic}
        tried = next((c for c in status.canaries if c.name == CANARY and c.revision), None)
        taken = percents.get(tried.revision, 0) if tried is not None else 0
        rendered["traffic"] = 100 - taken
        entry: dict[str, Any] = {"name": serving, "replicas": predictor.ready_replicas}
        old = manifest.get("apiVersion") == f"{GROUP}/v1alpha1"
        rendered["default"] = {**entry, "traffic": 100 - taken} if old else {"predictor": entry}
        if tried is not None:
            rendered["canaryTraffic"] = taken
            entry = {"name": tried.revision}
            rendered["canary"] = {**entry, "traffic": taken} if old else {"predictor": entry}
    return rendered


def _dialect(version: str, kind: str, plural: str, short_names: tuple[str, ...] = ()) -> Dialect:
    old = version == "v1alpha1"
    return Dialect(
        api_version=f"{GROUP}/{version}",
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short_names=short_names,
        namespaced=True,
        model=ManifestV1Alpha1 if old else ManifestV1Alpha2,
        table=TABLE_V1ALPHA1 if old else TABLE_V1ALPHA2,
        translator=translate_v1alpha1 if old else translate_v1alpha2,
        renderer=render_status,
    )


#: KFSERVICE has the singular for its path: the plural is KFService's.
DIALECTS = (
    _dialect("v1alpha2", "InferenceService", "inferenceservices", ("isvc",)),
    _dialect("v1alpha1", "InferenceService", "inferenceservices", ("isvc",)),
    _dialect("v1alpha1", "KFService", "kfservices"),
    _dialect("v1alpha1", "KFServing", "kfservings"),
    _dialect("v1alpha1", "KFSERVICE", "kfservice"),
)
