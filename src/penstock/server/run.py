"""`penstock run`: one model process on a port of this machine, without a control plane."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock import repositories, runtimes
from penstock.domain.process import Neighbour, ProcessSpec, ServedModel
from penstock.domain.routes import Address
from penstock.errors import InvalidInput, LoadError
from penstock.server.process import main

log = logging.getLogger(__name__)

#: `my_model.py:MyModel`
_CLASS = re.compile(r"(.+\.py):([A-Za-z_][A-Za-z0-9_.]*)")


def served_model(
    model: str,
    *,
    framework: str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ServedModel:
    """What `model` names: files of a framework, or FILE.py[:Class].

    Raises LoadError when there is nothing, or nothing known, and NotFound for an unknown framework.
    """
    chosen = dict(options or {})
    path = Path(model)
    match = _CLASS.fullmatch(model)
    if match is not None and not path.exists():
        path = Path(match[1])
        if framework not in (None, "custom", "transformer"):
            raise InvalidInput(f"{model} is a Python class, which {framework} cannot serve.")
        framework = framework or "custom"
        chosen["class"] = match[2]
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    path = path.resolve()
    if framework is None:
        framework = runtimes.detect(str(path))
    runtimes.find(framework)
    return ServedModel(
        name=name or _name_of(path), framework=framework, path=str(path), options=chosen
    )


def served_models(
    model: str,
    *,
    framework: str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[ServedModel, ...]:
    """What `model` names: one model (see `served_model`), or those of a repository.

    `framework` may be the kind of repository: triton, mlserver or bentoml. Raises as `served_model` does.
    """
    path = Path(model)
    kind = framework if framework in repositories.KINDS else None
    if kind is None and framework is None and path.is_dir():
        kind = repositories.detect(path)
    if kind is None:
        return (served_model(model, framework=framework, name=name, options=options),)
    if not path.exists():
        raise LoadError(f"There is no model at {path}.")
    path = path.resolve()
    found = repositories.read(kind, path, name=name or _name_of(path))
    for warning in found.warnings:
        log.warning("%s", warning)
    if name is not None and len(found.models) > 1:
        raise InvalidInput(
            f"{model} has {len(found.models)} models, which have names of their own."
        )
    given = dict(options or {})
    return tuple(
        replace(m, name=name or m.name, options={**m.options, **given}) for m in found.models
    )


def run(
    model: str,
    *,
    framework: str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int | None = None,
    threads: int = 0,
    timeout_s: float = 60.0,
    allow_shared_memory: bool = False,
    predictor: str | None = None,
    on_listening: Callable[[Address], None] | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Serve `model` until SIGINT or SIGTERM; the exit code. Raises as `served_model` does.

    `predictor` is the address that a transformer or an explainer asks: `http://HOST:PORT[/PREFIX]`, the
    predictor's paths `/v1` and `/v2` behind it. A class is a transformer then, unless `framework` says more.
    """
    behind = None if predictor is None else neighbour(predictor)
    framework = framework_of(model, framework, predictor)
    models = served_models(model, framework=framework, name=name, options=options)
    with contextlib.ExitStack() as stack:
        regions = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-regions-"))
            if allow_shared_memory
            else ""
        )
        spec = ProcessSpec(
            listen=f"tcp:{host}:{port}",
            models=models,
            listen_grpc="" if grpc_port is None else f"tcp:{host}:{grpc_port}",
            service=models[0].name,
            revision="local",
            replica="local",
            threads=threads,
            shared_memory=regions,
            timeout_s=timeout_s,
            predictor=behind,
        )
        return main(spec, None, on_listening=on_listening, on_ready=on_ready)


def framework_of(model: str, framework: str | None, predictor: str | None) -> str | None:
    """`transformer` for a class with a predictor to ask, where nothing else was said."""
    is_class = _CLASS.fullmatch(model) is not None or model.endswith(".py")
    return "transformer" if framework is None and predictor is not None and is_class else framework


def neighbour(url: str) -> Neighbour:
    """`HOST:PORT` or `http://HOST:PORT/PREFIX` as a transformer's predictor. InvalidInput otherwise."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.query:
        raise InvalidInput(f"{url} is no predictor: http://HOST:PORT is expected, without TLS.")
    return Neighbour(
        (f"tcp:{parts.hostname}:{port}",),
        parts.path.rstrip("/"),
        host=f"{parts.hostname}:{port}",
    )


def _name_of(path: Path) -> str:
    """A model's name on the wire: its folder's, or its file's without the suffix."""
    stem = path.name if path.is_dir() else path.stem
    if stem == "model" and path.parent.name:
        stem = path.parent.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"
