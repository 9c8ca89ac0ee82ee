"""Which serving runtime runs a model: KServe's rule, exactly, over the user's runtimes and the built-in.

A runtime named in the manifest is looked up in the namespace, then in the cluster, then here. Otherwise every
runtime is kept that is enabled, serves single models on one node, lists the format with `autoSelect` (the
version too, when the model names one) and speaks the protocol (v1 unless the model says). Those of the
namespace come before those of the cluster; inside each, the highest priority for the format's name comes
first, none being the lowest; equals are ordered by their lowest protocol, then newest first, then by name.
Source: KServe 0.20, `GetSupportingRuntimes`.

What is selected here says, besides the runtime, which framework of `penstock.runtimes` runs the format. A
runtime without one needs a backend that runs its container. `builtin_runtimes` has the catalogue.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.domain.builtin_runtimes import ALIASES, BUILT_IN
from penstock.domain.service import Model, ModelFormat, Protocol
from penstock.domain.serving_runtime import ServingRuntime
from penstock.domain.status import FailureReason
from penstock.errors import InvalidInput

_PROTOCOL_ORDER = {p: i for i, p in enumerate(Protocol, start=1)}


class RuntimeNotSelected(InvalidInput):
    """No runtime can run the model; `failure` is KServe's reason for the status."""

    def __init__(self, failure: FailureReason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Selection:
    """The runtime, and the framework here that runs the model's format; empty needs `runtime`'s container."""

    runtime: ServingRuntime
    framework: str


def select(
    model: Model, runtimes: Iterable[ServingRuntime] = (), *, runs_containers: bool = False
) -> Selection:
    """Select for `model` among `runtimes` (the user's: its namespace's and the cluster's) and the built-in.

    A user's cluster runtime hides the built-in of the same name. `runs_containers` is the backend's; without
    it a runtime that is only a container is refused. RuntimeNotSelected.
    """
    known = list(runtimes)
    taken = {r.name for r in known if not r.namespace}
    known += [r for r in BUILT_IN if r.name not in taken]
    if model.runtime is not None:
        chosen = _named(model, model.runtime, known)
    else:
        candidates = candidates_for(model, known)
        if not candidates:
            raise _none_found(model, known)
        chosen = candidates[0]
    framework = chosen.frameworks.get(model.format.name, "")
    if not framework and not runs_containers:
        raise RuntimeNotSelected(
            FailureReason.NO_SUPPORTING_RUNTIME,
            f"Runtime {chosen.name} runs {model.format} in the container {_image(chosen)}, and containers "
            "cannot be run here.",
            hint="Name a runtime that is built in, or use a cluster.",
        )
    return Selection(chosen, framework)


def candidates_for(model: Model, runtimes: Iterable[ServingRuntime]) -> list[ServingRuntime]:
    """Every runtime that may be selected automatically, best first."""
    protocol = model.protocol or Protocol.V1
    fit = [
        r
        for r in runtimes
        if not r.disabled
        and not r.multi_model
        and not r.multi_node
        and _lists(r, model.format, auto=True)
        and _speaks(r, protocol)
    ]

    def order(runtime: ServingRuntime) -> tuple[bool, int, int, float, str]:
        return (
            not runtime.namespace,
            # Priorities begin at 1, so none is the lowest.
            -(_priority(runtime, model.format.name) or 0),
            min((_PROTOCOL_ORDER[p] for p in runtime.protocols), default=0),
            -runtime.created,
            runtime.name,
        )

    return sorted(fit, key=order)


def _named(model: Model, name: str, runtimes: list[ServingRuntime]) -> ServingRuntime:
    found = sorted((r for r in runtimes if r.name == name), key=lambda r: not r.namespace)
    runtime = found[0] if found else ALIASES.get(name)
    if runtime is None:
        raise RuntimeNotSelected(
            FailureReason.RUNTIME_NOT_RECOGNIZED,
            f"Waiting for runtime to become available: there is no runtime {name!r}.",
            hint=_meant(name, {r.name: r.name for r in (*runtimes, *BUILT_IN, *ALIASES.values())})
            + f"Built in are {', '.join(r.name for r in BUILT_IN)}.",
        )
    if runtime.disabled:
        raise RuntimeNotSelected(
            FailureReason.RUNTIME_DISABLED, f"Specified runtime is disabled: {name}."
        )
    # Only a protocol that the manifest names is held against a runtime that it names.
    if model.protocol is not None and not _speaks(runtime, model.protocol):
        raise RuntimeNotSelected(
            FailureReason.NO_SUPPORTING_RUNTIME,
            f"Specified runtime does not support specified protocol version: {name} speaks "
            f"{', '.join(runtime.protocols)}, not {model.protocol}.",
        )
    if not _lists(runtime, model.format, auto=False):
        raise RuntimeNotSelected(
            FailureReason.NO_SUPPORTING_RUNTIME,
            f"Specified runtime does not support specified framework/version: {name} runs "
            f"{_formats((runtime,))}, not {model.format}.",
        )
    return runtime


def _meant(name: str, known: Mapping[str, str]) -> str:
    """A question for the nearest of the names, by their spelling in small letters; or nothing."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return f"Did you mean {known[near[0]]}? " if near else ""


def _none_found(model: Model, runtimes: list[ServingRuntime]) -> RuntimeNotSelected:
    protocol = model.protocol or Protocol.V1
    same_name = [r for r in runtimes if any(f.name == model.format.name for f in r.formats)]
    if not same_name:
        known = {f.name.lower(): f.name for r in runtimes for f in r.formats}
        meant = _meant(model.format.name, known)
        hint = f"{meant}Formats with a runtime are {_formats(runtimes, versions=False)}."
    elif not any(_lists(r, model.format, auto=True) for r in same_name):
        hint = f"Runtimes list {_formats(same_name, only=model.format.name)}."
    else:
        hint = f"The runtimes that list it do not speak {protocol}."
    return RuntimeNotSelected(
        FailureReason.NO_SUPPORTING_RUNTIME,
        f"No runtime found to support specified framework/version: {model.format} over {protocol}.",
        hint=hint,
    )


def _lists(runtime: ServingRuntime, wanted: ModelFormat, *, auto: bool) -> bool:
    """The model's label is among the runtime's: a format counts with its version and without."""
    return any(
        f.name == wanted.name
        and (f.auto_select or not auto)
        and (wanted.version is None or f.version == wanted.version)
        for f in runtime.formats
    )


def _speaks(runtime: ServingRuntime, protocol: Protocol) -> bool:
    return not runtime.protocols or protocol in runtime.protocols


def _priority(runtime: ServingRuntime, format_name: str) -> int | None:
    """Of the first entry with the format's name, whatever its version, as KServe has it."""
    return next((f.priority for f in runtime.formats if f.name == format_name), None)


def _formats(
    runtimes: Iterable[ServingRuntime], *, versions: bool = True, only: str | None = None
) -> str:
    found: dict[str, None] = {}
    for runtime in runtimes:
        for f in runtime.formats:
            if only is None or f.name == only:
                found[f"{f.name}:{f.version}" if versions and f.version else f.name] = None
    return ", ".join(sorted(found)) or "nothing"


def _image(runtime: ServingRuntime) -> str:
    containers = runtime.pod.get("containers") or ()
    first: Mapping[str, object] = containers[0] if containers else {}
    return str(first.get("image") or "it describes")
