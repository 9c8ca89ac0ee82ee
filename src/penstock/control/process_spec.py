"""What a replica's process is told, made from its revision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from penstock.control.plan import DEFAULT_TIMEOUT_S
from penstock.control.revisions import Kept
from penstock.domain.devices import request_of
from penstock.domain.process import Neighbour, ProcessSpec, ServedModel
from penstock.domain.service import Component, Model, Role, Service, VersionPolicy


def threads_for(cores: int, replicas: int, cpu_limit: float | None) -> int:
    """Threads for one replica's numeric libraries: its share of the cores, at least 1.

    A cpu limit is the share, rounded up; else the cores are divided among the service's replicas.
    """
    if cpu_limit is not None:
        return max(1, min(cores, math.ceil(cpu_limit)))
    return max(1, cores // max(1, replicas))


def hosts_only(component: Component) -> bool:
    """The component has no model: it is there for those that are added to its service."""
    model = component.model
    if model is None or component.role is not Role.PREDICTOR:
        return False
    storage = model.storage
    # A class in an installed package has no files either.
    return not (storage.uri or storage.path or storage.key or "class" in model.options)


def served_name(component: Component, service: Service) -> str:
    """A component's model's name on the wire."""
    model = component.model
    return (model.served_name if model is not None else None) or service.name


def _models(
    kept: Kept, service: Service, model: Model, options: Mapping[str, Any]
) -> tuple[ServedModel, ...]:
    """What the process serves: the files' own models, or the component's one; a transformer around it."""
    component = kept.revision.component
    models = tuple(
        replace(
            m,
            options={**m.options, **options},
            versions=model.versions or m.versions,
            batching=component.batching or m.batching,
        )
        for m in kept.models
    ) or (
        ServedModel(
            name=served_name(component, service),
            framework=kept.revision.framework,
            path=kept.path,
            options=dict(options),
            versions=model.versions or VersionPolicy(),
            batching=component.batching,
        ),
    )
    if not component.around:
        return models
    # The transformer takes the public name; the predictor stands behind it under one of its own.
    public = models[0].name
    inner = replace(models[0], name=f"{public}-predictor")
    outer = ServedModel(
        name=public,
        framework="transformer",
        path=kept.path,
        options=dict(component.around),
        behind=inner.name,
    )
    return inner, outer


def process_spec(
    kept: Kept,
    service: Service,
    replica: str,
    *,
    env: Mapping[str, str],
    cores: int,
    replicas: int,
    priority: int = 0,
    gateways: tuple[str, ...] = (),
    inference_url: str = "",
) -> ProcessSpec:
    """The message for one replica. `listen` is left to the backend, which owns the addresses.

    `gateways` are the sockets by which a transformer or an explainer reaches the predictor; its code may
    know them by `inference_url`.
    """
    component = kept.revision.component
    model = component.model
    if model is None:
        raise ValueError(f"{kept.name} runs a container")
    resources = component.resources
    options: dict[str, Any] = dict(kept.options)
    timeout_s = component.timeout_s
    asked = options.pop("predictor", "") if kept.revision.framework == "explainer" else ""
    predictor = None
    if component.role is not Role.PREDICTOR:
        base = f"/serving/{service.namespace}/{service.name}"
        scheme, _, host = inference_url.partition("://")
        predictor = Neighbour(
            gateways,
            f"{base}/components/{Role.PREDICTOR}",
            host=host if scheme == "http" else "",
        )
    elif asked:
        # An explainer that stands by itself names the service that it explains.
        base = f"/serving/{service.namespace}/{quote(asked, safe='@')}"
        predictor = Neighbour(gateways, base, asked.partition("@")[0])
    return ProcessSpec(
        listen="",
        models=() if hosts_only(component) else _models(kept, service, model, options),
        namespace=service.namespace,
        service=service.name,
        revision=kept.name,
        replica=replica,
        component=component.role.value,
        predictor=predictor,
        threads=threads_for(cores, replicas, resources.cpu_limit),
        env=dict(env),
        memory_limit_bytes=resources.memory_limit_bytes,
        cpu_limit=resources.cpu_limit,
        device=request_of(resources.gpu, resources.gpu_resource, resources.gpu_memory_bytes),
        priority=priority,
        timeout_s=timeout_s if timeout_s is not None else DEFAULT_TIMEOUT_S,
    )
