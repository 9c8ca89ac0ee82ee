"""A serving runtime: which model formats it runs, over which protocols, and how.

Made from ServingRuntime and ClusterServingRuntime manifests of every dialect, and by hand for the ones that
are built in. `runtime_selection` chooses among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.domain.service import EMPTY, EnvVar, Protocol


@dataclass(frozen=True, slots=True)
class SupportedFormat:
    """One model format of a runtime. `priority` counts only where `auto_select` is set; None is lowest."""

    name: str
    version: str | None = None
    auto_select: bool = False
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class ServingRuntime:
    """A runtime. `namespace` is empty for cluster-scoped and built-in ones; `created` is Unix seconds."""

    name: str
    namespace: str = ""
    formats: tuple[SupportedFormat, ...] = ()
    #: Empty: any protocol.
    protocols: tuple[Protocol, ...] = ()
    disabled: bool = False
    multi_model: bool = False
    multi_node: bool = False
    created: float = 0.0
    #: Format name -> module of `penstock.runtimes` that runs it without a container.
    frameworks: Mapping[str, str] = EMPTY
    #: Options given to the framework, under the model's own.
    options: Mapping[str, Any] = EMPTY
    #: Environment of the runtime's first container, under the component's own.
    env: tuple[EnvVar, ...] = ()
    #: The pod part of the manifest as it was written, for backends that run containers.
    pod: Mapping[str, Any] = EMPTY
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    built_in: bool = False
