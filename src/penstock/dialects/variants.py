"""Several predictors of one manifest as one service: the first one, and those tried beside it.

KFServing's `default` and `canary`, and the predictors of a SeldonDeployment, are whole predictors each. Each
is translated as if it stood alone; this puts them together, so that all problems of all of them are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.dialects.base import Manifest, Translation, refuse
from penstock.dialects.kserve.canary import name_problem
from penstock.domain.service import Canary, Component, Service
from penstock.domain.traffic import Shadow
from penstock.errors import FieldProblem, InvalidManifest


@dataclass(frozen=True, slots=True)
class Tried:
    """A predictor beside the first one: its name in addresses, its share, and what it means alone."""

    name: str
    #: Of a hundred requests; copies of them where `shadow`.
    percent: int
    translate: Callable[[], Translation]
    #: Where its name is said.
    named_at: str
    shadow: bool = False
    #: Makes of its explainer the manifest of a service; None: only the first predictor's counts.
    explainer: Callable[[Component], Mapping[str, Any]] | None = None


def together(
    manifest: Manifest,
    main: Callable[[], Translation],
    tried: Sequence[Tried],
    *,
    name: str = "",
) -> Translation:
    """One `Service` of all of them. InvalidManifest with the problems of each.

    `name` is the first one's, where clients name a predictor to have it explained. One that is tried and has
    an explainer comes with the manifest of a service that explains it alone.
    """
    problems: list[FieldProblem] = []
    found: list[Translation | None] = []
    for translate in (main, *(t.translate for t in tried)):
        try:
            found.append(translate())
        except InvalidManifest as error:
            found.append(None)
            problems += error.problems
    for t in tried:
        if (problem := name_problem(t.name)) is not None:
            problems.append(FieldProblem(t.named_at, problem))
    first = found[0]
    if problems or first is None:
        refuse(manifest, list(dict.fromkeys(problems)))
    service: Service = first.object
    canaries = []
    explainers: list[tuple[str, str]] = []
    parts: list[Mapping[str, Any]] = []
    for t, translation in zip(tried, found[1:], strict=True):
        assert translation is not None  # noqa: S101 - there were no problems
        component = replace(translation.object.predictor, name=t.name)
        canaries.append(Canary(component, 0 if t.shadow else t.percent))
        if t.explainer is not None and translation.object.explainer is not None:
            part = t.explainer(translation.object.explainer)
            explainers.append((t.name, part["metadata"]["name"]))
            parts.append(part)
    own = [(name, "")] if name and service.explainer is not None else []
    traffic = service.traffic
    for t in tried:
        if t.shadow:
            traffic = replace(traffic, shadow=Shadow(t.percent, to=t.name))
    said = dict.fromkeys(w for translation in found if translation for w in translation.warnings)
    return Translation(
        replace(
            service,
            canaries=tuple(canaries),
            traffic=traffic,
            explainers=(*own, *explainers),
            parts=tuple(parts),
        ),
        tuple(said),
    )
