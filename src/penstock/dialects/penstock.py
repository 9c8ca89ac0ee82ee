"""Penstock's own InferenceService, penstock.dev/v1alpha1: KServe's field names, and what KServe lacks.

More than KServe has: `options` in every framework block (what the runtime understands, such as `method:
predict_proba`), `python` for a class of one's own, `catboost` and `mlflow`; `scaling` in the predictor;
`traffic` with a shadow and stickiness.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from penstock.dialects.base import Manifest, Translation, refuse
from penstock.dialects.kserve import dialect, translate_service
from penstock.dialects.kserve_fields import (
    FrameworkBlock,
    InferenceService,
    InferenceServiceSpec,
    ModelBlock,
    Predictor,
    PyTorchBlock,
)
from penstock.dialects.kserve_support import TABLE
from penstock.dialects.scaling_fields import ScalingBlock
from penstock.dialects.schema import Spec
from penstock.domain.traffic import Shadow, Sticky, Traffic
from penstock.errors import FieldProblem


class Block(FrameworkBlock):
    options: dict[str, Any] | None = None

    def runtime_options(self) -> dict[str, Any]:
        return {**super().runtime_options(), **(self.options or {})}


class OwnPyTorchBlock(PyTorchBlock):
    model_class_kwargs: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    def runtime_options(self) -> dict[str, Any]:
        kwargs = {"modelClassKwargs": self.model_class_kwargs} if self.model_class_kwargs else {}
        return {**super().runtime_options(), **kwargs, **(self.options or {})}


class OwnModelBlock(ModelBlock):
    options: dict[str, Any] | None = None

    def runtime_options(self) -> dict[str, Any]:
        return dict(self.options or {})


class PythonBlock(Block):
    """A class of one's own: `class: my_model.py:MyModel`, or the only model in the folder."""

    class_: Annotated[str | None, Field(alias="class")] = None

    def runtime_options(self) -> dict[str, Any]:
        return {**({"class": self.class_} if self.class_ else {}), **(self.options or {})}

    def runs_without_files(self) -> bool:
        return self.class_ is not None


class OwnPredictor(Predictor):
    sklearn: Block | None = None
    xgboost: Block | None = None
    tensorflow: Block | None = None
    pytorch: OwnPyTorchBlock | None = None
    triton: Block | None = None
    onnx: Block | None = None
    huggingface: Block | None = None
    pmml: Block | None = None
    lightgbm: Block | None = None
    paddle: Block | None = None
    catboost: Block | None = None
    mlflow: Block | None = None
    python: PythonBlock | None = None
    model: OwnModelBlock | None = None
    #: The autoscaler's windows and delays.
    scaling: ScalingBlock | None = None


class ShadowFields(Spec):
    #: Of a hundred requests, how many are copied to the newest revision.
    percent: Annotated[int, Field(ge=0, le=100)] = 100


class StickyFields(Spec):
    #: The request header whose hash decides; without it a cookie does.
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None


class TrafficFields(Spec):
    shadow: ShadowFields | None = None
    sticky: StickyFields | None = None


class OwnInferenceServiceSpec(InferenceServiceSpec):
    predictor: OwnPredictor
    traffic: TrafficFields | None = None


class OwnInferenceService(InferenceService):
    spec: OwnInferenceServiceSpec


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceService -> `Service`."""
    translation = translate_service(
        OwnInferenceService, TABLE, manifest, runs_containers=runs_containers
    )
    given = (manifest["spec"] or {}).get("traffic")
    if not given:
        return translation
    # Validated just now, as a part of the whole.
    fields = TrafficFields.model_validate(given)
    service = translation.object
    if fields.shadow is not None and service.predictor.canary_percent is not None:
        refuse(
            manifest,
            [
                FieldProblem(
                    "spec.traffic.shadow",
                    "may not be given together with canaryTrafficPercent: the newest revision gets copies "
                    "or requests",
                )
            ],
        )
    traffic = Traffic(
        shadow=Shadow(fields.shadow.percent) if fields.shadow is not None else None,
        sticky=Sticky((fields.sticky.header or "").lower()) if fields.sticky is not None else None,
    )
    return replace(translation, object=replace(service, traffic=traffic))


DIALECT = dialect("penstock.dev/v1alpha1", OwnInferenceService, translate)
