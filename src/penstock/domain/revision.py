"""Revisions: immutable, numbered snapshots of everything that decides what runs.

Two specs with the same digest are one revision, so a change of labels, scaling or traffic starts nothing
anew. What is in the digest is listed here once, by name: a new field of `Component` is left out until it is
decided on, and a test holds this list and the dataclass together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import msgspec

from penstock.domain.service import Component

#: Fields of `Component` that decide what runs.
DECIDES = (
    "role",
    "model",
    "container",
    "env",
    "args",
    "resources",
    "batching",
    "service_account",
    # A process is told its time limit at its start.
    "timeout_s",
    "around",
)
#: Fields that decide how often, for whom, or under what name: changed in place.
DOES_NOT_DECIDE = (
    "name",
    "scaling",
    "canary_percent",
    "priority",
    "recreate",
    "labels",
    "annotations",
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of one component. `created` is Unix seconds; `component` is as it was applied then."""

    name: str
    number: int
    digest: str
    created: float
    component: Component
    #: Digest of the model's files, empty for containers and until they were fetched.
    files: str = ""
    #: The runtime that was selected, so that a later change of runtimes moves nothing by itself.
    runtime: str = ""
    framework: str = ""


def revision_name(base: str, number: int) -> str:
    """`iris-00001`; the base is the service's name, with the role for what is no predictor."""
    return f"{base}-{number:05d}"


def digest(component: Component, *, files: str = "", runtime: str = "") -> str:
    """`sha256:...` over what decides what runs: the component, its files, the runtime selected for it.

    The same on every machine and in every release that does not change `DECIDES`: canonical JSON with
    sorted keys, fields at their default left out.
    """
    what: dict[str, Any] = {name: _plain(getattr(component, name)) for name in DECIDES}
    what["files"] = files
    what["runtime"] = runtime
    kept = {key: value for key, value in what.items() if value not in (None, "", [], {})}
    return "sha256:" + hashlib.sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()


def _plain(value: Any) -> Any:
    """JSON values; empty and absent are the same, so that a field added with a default moves no digest."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, _plain(getattr(value, f.name))) for f in fields(value))
        return {name: plain for name, plain in pairs if plain not in (None, "", [], {})}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
