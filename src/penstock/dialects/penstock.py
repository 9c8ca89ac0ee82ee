"""Penstock's own InferenceService, penstock.dev/v1alpha1: KServe's field names, and what KServe lacks.

More than KServe has: `options` in every framework block (what the runtime understands, such as `method:
predict_proba`) and `versionPolicy` (which numbered folders are served), `python` for a class of one's own,
`catboost` and `mlflow`; `scaling` in the predictor; `traffic` with rules, a shadow and stickiness; `rollout`
for revisions that get their requests in steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from penstock.dialects.bandit_fields import ANNOTATION, BanditFields, problems_of
from penstock.dialects.base import Manifest, Translation, refuse
from penstock.dialects.kserve.fields import (
    Explainer,
    ExplainerBlock,
    FrameworkBlock,
    InferenceService,
    InferenceServiceSpec,
    ModelBlock,
    Predictor,
    PyTorchBlock,
    Transformer,
)
from penstock.dialects.kserve.service import dialect, translate_service
from penstock.dialects.kserve.support import TABLE
from penstock.dialects.scaling_fields import ScalingBlock, seconds
from penstock.dialects.schema import Spec
from penstock.domain.patterns import pattern_problem
from penstock.domain.service import VersionPolicy
from penstock.domain.traffic import (
    GaugeLimit,
    HeaderTest,
    MatchRule,
    MetricLimit,
    Rollout,
    Shadow,
    Sticky,
    Traffic,
)
from penstock.errors import FieldProblem

#: The name of a version's folder; YAML reads it as a number.
Folder = Annotated[str, Field(pattern=r"^[0-9]+$")] | Annotated[int, Field(ge=0)]

#: What stands in a path behind `/labels/`.
Label = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,62}$")]


class VersionFields(Spec):
    """One of three, in Triton's words. Without them the newest numbered folder is served.

    `labels` are TensorFlow Serving's: names for versions that are served.
    """

    #: How many of the newest.
    latest: Annotated[int, Field(ge=1)] | None = None
    all: Literal[True] | None = None
    specific: Annotated[list[Folder], Field(min_length=1)] | None = None
    labels: Annotated[dict[Label, Folder], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> VersionFields:
        said = [n for n in ("latest", "all", "specific") if getattr(self, n) is not None]
        if len(said) > 1 or not (said or self.labels):
            raise ValueError("has to be one of `latest: N`, `all: true` and `specific: [...]`")
        return self


class Versioned(FrameworkBlock):
    """What each of our blocks has over KServe's."""

    options: dict[str, Any] | None = None
    version_policy: VersionFields | None = None

    def served_versions(self) -> VersionPolicy | None:
        given = self.version_policy
        if given is None:
            return None
        return VersionPolicy(
            latest=given.latest if given.all or given.specific else given.latest or 1,
            all=bool(given.all),
            specific=tuple(str(v) for v in given.specific or ()),
            labels=tuple((label, str(v)) for label, v in sorted((given.labels or {}).items())),
        )


class Block(Versioned):
    def runtime_options(self) -> dict[str, Any]:
        return {**super().runtime_options(), **(self.options or {})}


class OwnPyTorchBlock(PyTorchBlock, Versioned):
    model_class_kwargs: dict[str, Any] | None = None

    def runtime_options(self) -> dict[str, Any]:
        kwargs = {"modelClassKwargs": self.model_class_kwargs} if self.model_class_kwargs else {}
        return {**super().runtime_options(), **kwargs, **(self.options or {})}


class OwnModelBlock(ModelBlock, Versioned):
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


class OwnTransformer(Transformer):
    """A class of one's own, around the predictor: `python`, or by KServe's word `custom`."""

    #: In the predictor's own process: no hop. The class lies with the model's files.
    collocated: bool | None = None

    python: PythonBlock | None = None
    custom: PythonBlock | None = None
    scaling: ScalingBlock | None = None


class OwnExplainer(Explainer):
    """An algorithm by family and type, or a class of one's own."""

    anchors: ExplainerBlock | None = None
    shap: ExplainerBlock | None = None
    gradients: ExplainerBlock | None = None
    counterfactuals: ExplainerBlock | None = None
    python: PythonBlock | None = None
    custom: PythonBlock | None = None
    scaling: ScalingBlock | None = None


class ShadowFields(Spec):
    #: Of a hundred requests, how many are copied to the newest revision.
    percent: Annotated[int, Field(ge=0, le=100)] = 100


class StickyFields(Spec):
    #: The request header whose hash decides; without it a cookie does.
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None


class TestFields(Spec):
    """One of three."""

    exact: Annotated[str, Field(max_length=1024)] | None = None
    prefix: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    #: Of the whole value.
    regex: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> TestFields:
        said = [n for n in ("exact", "prefix", "regex") if getattr(self, n) is not None]
        if len(said) != 1:
            raise ValueError("has to be one of exact, prefix and regex")
        if self.regex is not None and (problem := pattern_problem(self.regex)):
            raise ValueError(f"regex {problem}")
        return self

    def test(self, header: str) -> HeaderTest:
        for kind in ("exact", "prefix", "regex"):
            value = getattr(self, kind)
            if value is not None:
                return HeaderTest(header.lower(), kind, value)
        raise AssertionError("validated")


HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class MatchFields(Spec):
    #: A request fits when each of these headers is there and passes.
    headers: Annotated[dict[HeaderName, TestFields], Field(min_length=1, max_length=8)]
    #: latest, previous, a named canary, or a revision's name.
    to: Annotated[str, Field(min_length=1, max_length=128)]


class TrafficFields(Spec):
    #: Which requests go to which revision; the first rule that fits decides.
    match: Annotated[list[MatchFields], Field(max_length=32)] | None = None
    shadow: ShadowFields | None = None
    sticky: StickyFields | None = None
    #: Rewards say who gets the requests.
    bandit: BanditFields | None = None


MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]{0,127}$")]
MetricLabels = Annotated[
    dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,127}$")], str],
    Field(max_length=8),
]


class MetricFields(Spec):
    """A share that a metric of the new revision may reach."""

    #: A counter or a histogram with the label `revision`, of the gateways or of the model processes.
    name: MetricName
    #: Most share, 0 to 1. Either this or `against`.
    max: Annotated[float, Field(ge=0, lt=1)] | None = None
    against: Literal["stable"] | None = None
    #: For a histogram: observations above this count.
    above: float | None = None
    #: For a counter: the counter of what its events are a part of; without it, requests.
    per: MetricName | None = None
    #: Only series that have these labels; of `per`, those.
    labels: MetricLabels | None = None
    per_labels: MetricLabels | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> MetricFields:
        if (self.max is None) == (self.against is None):
            raise ValueError("has to have one of `max` and `against: stable`")
        if self.above is not None and self.per is not None:
            raise ValueError("has `above`, for a histogram, and `per`, for a counter")
        if self.per_labels is not None and self.per is None:
            raise ValueError("has `perLabels` without `per`")
        return self


class GaugeFields(Spec):
    """What a gauge of the new revision may be, on average over an interval."""

    #: A gauge with the label `revision`.
    name: MetricName
    #: Exactly one of these three.
    max: float | None = None
    min: float | None = None
    against: Literal["stable"] | None = None
    #: With `against`: which side is worse; above if not said.
    worse: Literal["above", "below"] | None = None
    #: With `against`: the share of the stable revision's value that does not count as worse; 0.1 if not said.
    tolerance: Annotated[float, Field(ge=0, le=10)] | None = None
    #: How long an interval is: longer than the gauge's own ups and downs; 10s if not said.
    every: str | float | None = None
    #: Only series that have these labels.
    labels: MetricLabels | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> GaugeFields:
        if sum(x is not None for x in (self.max, self.min, self.against)) != 1:
            raise ValueError("has to have one of `max`, `min` and `against: stable`")
        if self.against is None and (self.worse is not None or self.tolerance is not None):
            raise ValueError("has `worse` or `tolerance`, which are for `against: stable`")
        return self


class LimitFields(Spec):
    #: Most share of requests that may fail; without it, no more than of the stable revision.
    error_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    #: A duration that 99% of requests have to be answered within.
    p99: str | float | None = None
    metrics: Annotated[list[MetricFields], Field(max_length=8)] | None = None
    gauges: Annotated[list[GaugeFields], Field(max_length=8)] | None = None


class RolloutFields(Spec):
    steps: Annotated[list[Annotated[int, Field(ge=1, le=99)]], Field(min_length=1)] | None = None
    hold: str | float | None = None
    min_requests: Annotated[int, Field(ge=1)] | None = None
    limits: LimitFields | None = None


class OwnInferenceServiceSpec(InferenceServiceSpec):
    rollout: RolloutFields | None = None
    predictor: OwnPredictor
    transformer: OwnTransformer | None = None
    explainer: OwnExplainer | None = None
    traffic: TrafficFields | None = None


class OwnInferenceService(InferenceService):
    spec: OwnInferenceServiceSpec


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceService -> `Service`."""
    translation = translate_service(
        OwnInferenceService, TABLE, manifest, runs_containers=runs_containers
    )
    spec = manifest["spec"]
    if not spec.get("traffic") and spec.get("rollout") is None:
        return translation
    # Validated just now, as a part of the whole.
    fields = TrafficFields.model_validate(spec.get("traffic") or {})
    service = translation.object
    problems: list[FieldProblem] = []
    canary = ""
    if service.predictor.canary_percent is not None:
        canary = "canaryTrafficPercent"
    elif service.canaries:
        canary = "canary"
    if fields.shadow is not None and canary:
        problems.append(FieldProblem("spec.traffic.shadow", _ONE_WAY.format(canary)))
    rollout = None
    if spec.get("rollout") is not None:
        learns = fields.bandit is not None or ANNOTATION in service.annotations
        if fields.shadow is not None or (canary and not (service.canaries and learns)):
            other = canary or "traffic.shadow"
            said = _ONE_WAY.format(other) + (_ARMS if service.canaries else "")
            problems.append(FieldProblem("spec.rollout", said))
        rollout = _rollout(RolloutFields.model_validate(spec["rollout"]), problems)
        arms = 1 + sum(c.percent > 0 for c in service.canaries)
        if arms > 1 and max(rollout.steps) > 100 - arms:
            said = f"must leave 1% for each of the {arms} arms: {100 - arms} at most"
            problems.append(FieldProblem("spec.rollout.steps", said))
    traffic = Traffic(
        shadow=Shadow(fields.shadow.percent) if fields.shadow is not None else None,
        sticky=Sticky((fields.sticky.header or "").lower()) if fields.sticky is not None else None,
        rollout=rollout,
        match=tuple(
            MatchRule(tuple(t.test(name) for name, t in rule.headers.items()), rule.to)
            for rule in fields.match or ()
        ),
        bandit=fields.bandit.bandit() if fields.bandit is not None else None,
    )
    if traffic.bandit is not None:
        found = problems_of(service, traffic)
        problems += [FieldProblem("spec.traffic.bandit", problem) for problem in found]
        if ANNOTATION in service.annotations:
            problems.append(
                FieldProblem("spec.traffic.bandit", f"is said twice, by {ANNOTATION} too")
            )
    if problems:
        refuse(manifest, problems)
    return replace(translation, object=replace(service, traffic=traffic))


_ONE_WAY = "may not be given together with {}: one of them says what the newest revision gets"

_ARMS = "; beside traffic.bandit, which makes arms of named predictors, it may"


def _rollout(given: RolloutFields, problems: list[FieldProblem]) -> Rollout:
    plain = Rollout()
    limits = given.limits or LimitFields()
    said = {"spec.rollout.hold": given.hold, "spec.rollout.limits.p99": limits.p99}
    read: dict[str, float | None] = {}
    for where, value in said.items():
        try:
            read[where] = seconds(value) if value is not None else None
        except ValueError as exc:
            problems.append(FieldProblem(where, str(exc)))
    steps = tuple(given.steps or plain.steps)
    if list(steps) != sorted(set(steps)):
        problems.append(FieldProblem("spec.rollout.steps", "must grow from one to the next"))
    hold = read.get("spec.rollout.hold")
    gauges = tuple(
        _gauge(gauge, f"spec.rollout.limits.gauges[{i}]", problems)
        for i, gauge in enumerate(limits.gauges or ())
    )
    return Rollout(
        steps=steps,
        hold_s=plain.hold_s if hold is None else hold,
        min_requests=plain.min_requests if given.min_requests is None else given.min_requests,
        error_rate=limits.error_rate,
        p99_s=read.get("spec.rollout.limits.p99"),
        metrics=tuple(
            MetricLimit(
                m.name, m.max, m.above, m.per or "", _labels(m.labels), _labels(m.per_labels)
            )
            for m in limits.metrics or ()
        ),
        gauges=gauges,
    )


def _gauge(given: GaugeFields, where: str, problems: list[FieldProblem]) -> GaugeLimit:
    plain = GaugeLimit(given.name)
    every_s = plain.every_s
    if given.every is not None:
        try:
            every_s = seconds(given.every)
            if every_s < 1:  # a gauge is read once a second
                raise ValueError("must be at least 1s")
        except ValueError as exc:
            problems.append(FieldProblem(f"{where}.every", str(exc)))
    return GaugeLimit(
        given.name,
        bound=given.max if given.max is not None else given.min,
        lower_is_worse=given.min is not None or given.worse == "below",
        tolerance=plain.tolerance if given.tolerance is None else given.tolerance,
        every_s=every_s,
        labels=_labels(given.labels),
    )


def _labels(given: dict[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((given or {}).items()))


DIALECT = dialect("penstock.dev/v1alpha1", OwnInferenceService, translate)
