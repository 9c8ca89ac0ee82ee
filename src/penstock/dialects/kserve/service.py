"""KServe's InferenceService, serving.kserve.io/v1beta1: every field of KServe 0.20 known, none ignored.

The fields are in `fields`, one component in `component`, what is refused or has no effect
in `support`, annotations in `annotations`, the status in `status`. This file turns a
validated manifest into a `domain.Service`; Penstock's own dialect (`penstock`) does so with the same
functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from penstock.dialects import components
from penstock.dialects.base import Dialect, Manifest, Translation, refuse, unsaid
from penstock.dialects.conversion import moved_back
from penstock.dialects.kserve import annotations as notes
from penstock.dialects.kserve import canary
from penstock.dialects.kserve.component import ComponentReader, frozen
from penstock.dialects.kserve.fields import (
    ComponentFields,
    InferenceService,
    InferenceServiceSpec,
    Predictor,
)
from penstock.dialects.kserve.status import render_status
from penstock.dialects.kserve.support import TABLE
from penstock.dialects.metadata import (
    DEFAULT_NAMESPACE,
    check_metadata,
)
from penstock.dialects.schema import path, read
from penstock.dialects.support import Table
from penstock.domain.annotations import stops
from penstock.domain.names import service_problem
from penstock.domain.service import (
    Canary,
    Component,
    Role,
    Service,
)
from penstock.errors import FieldProblem


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """InferenceService -> `Service`."""
    return translate_service(InferenceService, TABLE, manifest, runs_containers=runs_containers)


def translate_hosting(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """The same, where a predictor may be without a model: one that TrainedModels are added to."""
    return translate_service(
        InferenceService, TABLE, manifest, runs_containers=runs_containers, hosts=True
    )


def translate_service(
    model: type[InferenceService],
    table: Table,
    manifest: Manifest,
    *,
    runs_containers: bool,
    hosts: bool = False,
) -> Translation:
    """Read `manifest` as `model`; all problems of fields, of values and of support together."""
    unsupported, warnings = table.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(model, manifest)
    if parsed is None:
        refuse(manifest, problems + unsaid(unsupported, problems))
    meta = parsed.metadata
    problems = check_metadata(meta, name_problem=service_problem, namespaced=True)
    problems += unsupported
    annotations = meta.annotations or {}
    problems += notes.problems(annotations, ("metadata", "annotations"))
    warnings += notes.warnings(annotations, ("metadata", "annotations"))
    spec = manifest["spec"]
    reader = ComponentReader(annotations, problems, warnings, spec["predictor"])
    reader.hosts = hosts
    predictor = reader.component(parsed.spec.predictor, ("spec", "predictor"))
    canaries: tuple[Canary, ...] = ()
    if predictor is not None and parsed.spec.canary:
        canaries = _canaries(
            type(parsed.spec.predictor),
            table,
            spec,
            predictor,
            annotations,
            problems,
            warnings,
            runs_containers=runs_containers,
        )
    around = {
        role: found
        for role in (Role.TRANSFORMER, Role.EXPLAINER)
        if predictor is not None
        and (found := _around(role, parsed.spec, spec, predictor, annotations, problems, warnings))
    }
    if problems or predictor is None:
        refuse(manifest, _without_repeats(problems))
    transformer = around.get(Role.TRANSFORMER)
    if transformer is not None and spec["transformer"].get("collocated"):
        predictor = components.collocated(predictor, transformer)
        canaries = tuple(
            replace(c, component=components.collocated(c.component, transformer)) for c in canaries
        )
        transformer = None
    service = Service(
        namespace=meta.namespace or DEFAULT_NAMESPACE,
        name=meta.name or "",
        predictor=predictor,
        canaries=canaries,
        transformer=transformer,
        explainer=around.get(Role.EXPLAINER),
        labels=frozen(meta.labels),
        annotations=frozen(meta.annotations),
        stopped=stops(annotations),
    )
    return Translation(service, tuple(_without_repeats(warnings)))


def _around(
    role: Role,
    parsed: InferenceServiceSpec,
    spec: Mapping[str, Any],
    predictor: Component,
    annotations: Mapping[str, str],
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
) -> Component | None:
    """The transformer or the explainer; None when there is none, or the problems say why."""
    given: ComponentFields | None = getattr(parsed, role)
    if given is None:
        return None
    at = ("spec", str(role))
    transforms = role is Role.TRANSFORMER
    if not transforms and any(spec[role].get(name) for name in components.FOREIGN):
        return None  # the table says why
    blocks = components.TRANSFORMER_BLOCKS if transforms else components.EXPLAINER_BLOCKS
    reader = ComponentReader(annotations, problems, warnings, spec[role])
    component = reader.component(given, at, role=role, blocks=blocks)
    if component is None or transforms:
        problems += components.collocation_problems(spec[role], at)
        return component and components.transformed(component, predictor)
    name = next((n for n, b in blocks.items() if getattr(given, b.attribute, None)), "")
    component, wrong = components.explained(component, name, (*at, name), predictor, warnings)
    problems += wrong
    return component


def _canaries(
    model: type[Predictor],
    table: Table,
    spec: Mapping[str, Any],
    stable: Component,
    annotations: Mapping[str, str],
    problems: list[FieldProblem],
    warnings: list[FieldProblem],
    *,
    runs_containers: bool,
) -> tuple[Canary, ...]:
    """The named predictors of `spec.canary`, each merged over the stable one."""
    problems += canary.entry_problems(spec)
    found = []
    for i, entry in enumerate(spec["canary"]):
        at = ("spec", "canary", i, "predictor")
        places = {"spec.predictor": path(at)}
        given = entry["predictor"]
        # What the stable predictor says was looked at already.
        wrong, without_effect = table.check(
            {"spec": {"predictor": given}}, runs_containers=runs_containers
        )
        problems += [moved_back(p, places) for p in wrong]
        warnings += [moved_back(w, places) for w in without_effect]
        raw = canary.merged(spec["predictor"], given)
        raw.pop("canaryTrafficPercent", None)
        raw.pop("maxReplicas", None)
        parsed, misread = read(model, raw)
        if parsed is None:
            problems += [FieldProblem(f"{path(at)}.{p.path}", p.message) for p in misread]
            continue
        component = ComponentReader(annotations, problems, warnings, raw).component(parsed, at)
        if component is None:
            continue
        percent = entry["trafficPercent"]
        most = stable.scaling.min_replicas
        least = given.get("minReplicas")
        if least is None:
            least = canary.least_replicas(most, percent)
        elif least > most:
            problems.append(
                FieldProblem(
                    f"{path(at)}.minReplicas", f"must not be more than the stable one's {most}"
                )
            )
        component = replace(component, scaling=replace(stable.scaling, min_replicas=least))
        found.append(Canary(component, percent))
    return tuple(found)


def _without_repeats(problems: list[FieldProblem]) -> list[FieldProblem]:
    return list(dict.fromkeys(problems))


def check_update(old: Manifest, new: Manifest) -> list[FieldProblem]:
    """KServe's rules for changes: the deployment mode stays, a renamed predictor is a promotion."""
    problems = []

    def annotation(manifest: Manifest, key: str) -> str | None:
        return ((manifest.get("metadata") or {}).get("annotations") or {}).get(key)

    renamed = canary.promotion_problem(old.get("spec") or {}, new.get("spec") or {})
    if renamed is not None:
        problems.append(renamed)
    before, after = annotation(old, notes.DEPLOYMENT_MODE), annotation(new, notes.DEPLOYMENT_MODE)
    if old.get("status") and before and after and before != after:
        problems.append(
            FieldProblem(
                path(("metadata", "annotations", notes.DEPLOYMENT_MODE)),
                f"cannot change from {before}; delete the service and apply it again",
            )
        )
    return problems


def dialect(
    api_version: str,
    model: type[InferenceService] = InferenceService,
    translator: Callable[..., Translation] = translate,
) -> Dialect:
    """An InferenceService under another apiVersion."""
    return Dialect(
        api_version=api_version,
        kind="InferenceService",
        plural="inferenceservices",
        singular="inferenceservice",
        short_names=("isvc",),
        namespaced=True,
        model=model,
        table=TABLE,
        translator=translator,
        renderer=render_status,
        update_check=check_update,
    )


#: KServe 0.7 and newer, and KFServing 0.5 and 0.6, which had the same fields under its older group.
DIALECTS = (
    dialect("serving.kserve.io/v1beta1", translator=translate_hosting),
    dialect("serving.kubeflow.org/v1beta1"),
)
