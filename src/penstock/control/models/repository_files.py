"""Fetched files that are another server's model repository: which models a process is to serve from them.

The format of a manifest (`triton`, `mlserver`, `bentoml`) asks for it, or the files themselves say so: a
`config.pbtxt` or a `model-settings.json` beside a model means what it means to its own server. Read right
after the fetch, so that what cannot be served is a message of the service and no process that ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from penstock import repositories
from penstock.control.models.fetches import Files
from penstock.domain.process import ServedModel
from penstock.domain.service import Component, Role
from penstock.errors import LoadError
from penstock.repositories import mlserver
from penstock.repositories.mlserver_explainers import FRAMEWORK as EXPLAINER


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """`control.models.fetches.Files`, and the models in them."""

    path: object
    digest: str
    size_bytes: int
    models: tuple[ServedModel, ...]
    #: What of the repository's configuration has no effect here.
    warnings: tuple[str, ...] = ()


async def with_models(files: Files, component: Component, framework: str, name: str) -> Files:
    """`files`, with their models when they are a repository; LoadError for one that cannot be served.

    `framework` is what was selected for the manifest's format, `name` what a model without a name is called.
    """
    if component.role is not Role.PREDICTOR or component.model is None or not str(files.path):
        return files
    return await asyncio.to_thread(_read, files, component, framework, name)


def _read(files: Files, component: Component, framework: str, name: str) -> Files:
    path = Path(str(files.path))
    if framework == EXPLAINER:
        # Which explainer and whose answers is said by the manifest; of MLServer's settings the place counts.
        place = mlserver.place(path)
        if place == path:
            return files
        model = ServedModel(name, framework, str(place))
        return RepositoryFiles(files.path, files.digest, files.size_bytes, (model,))
    asked = framework if framework in repositories.KINDS else None
    kind = asked
    if kind is None and framework != "custom":  # a class opens its files itself, whatever they are
        kind = repositories.detect(path)
    if kind is None:
        return files
    found = repositories.read(kind, path, name=name)
    models = found.models
    if asked is None and kind != "triton":
        # The manifest names one framework and one service: so it is one model of it, under its name.
        others = [m.framework for m in models if m.framework != framework]
        if others or len(models) > 1:
            what = f"is for {others[0]}" if others else f"has {len(models)} models"
            raise LoadError(
                f"The manifest's format is for {framework}, and the files' own configuration {what}.",
                hint=f"Say modelFormat: {kind}.",
            )
        models = (replace(models[0], name=name),)
    return RepositoryFiles(files.path, files.digest, files.size_bytes, models, found.warnings)


def models_of(files: Files) -> tuple[ServedModel, ...]:
    """The models of a repository; empty for a model's own files."""
    return files.models if isinstance(files, RepositoryFiles) else ()


def warnings_of(files: Files) -> tuple[str, ...]:
    return files.warnings if isinstance(files, RepositoryFiles) else ()
