"""A model that is fetched before anybody asks for it, and kept."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.service import Storage


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What to fetch. `namespace` is empty for one that is for all namespaces."""

    namespace: str
    name: str
    storage: Storage
    #: As declared; more than the cache may hold is refused before the fetch.
    size_bytes: int

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name
