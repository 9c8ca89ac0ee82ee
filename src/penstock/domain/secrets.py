"""Secrets and service accounts, as far as models need them: credentials for storage and for environments.

The values never show in a repr, so that no log line or traceback can carry one by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.domain.service import EMPTY


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret with its values decoded. `annotations` say where KServe's s3 secrets point."""

    namespace: str
    name: str
    type: str = "Opaque"
    data: Mapping[str, bytes] = field(default_factory=lambda: EMPTY, repr=False)
    annotations: Mapping[str, str] = EMPTY
    immutable: bool = False

    def text(self, key: str) -> str | None:
        """A value as text, None when absent; UnicodeDecodeError when it is none."""
        value = self.data.get(key)
        return None if value is None else value.decode()


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account: the names of the Secrets whose credentials its services may use."""

    namespace: str
    name: str
    secrets: tuple[str, ...] = ()
    annotations: Mapping[str, str] = EMPTY


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace."""

    name: str
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
