"""Where manifests live: the contract that SQLite and the Kubernetes API both keep.

Objects are Kubernetes-shaped dictionaries kept as they were applied, plus the metadata a store owns (uid,
resourceVersion, generation, creationTimestamp). Every write is a compare-and-swap on resourceVersion;
versions grow over the whole store, so a watch can resume from any of them that is still kept. One contract
test set runs over every implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from penstock.domain.selectors import FieldSelector, LabelSelector

#: A manifest: apiVersion, kind, metadata, spec, status. Never mutated in place by a store.
Object: TypeAlias = dict[str, Any]
Objects: TypeAlias = list[Object]


class Kind(NamedTuple):
    """A group and kind. The version an object was applied with stays in its apiVersion."""

    group: str
    kind: str


#: What the event log is made of.
EVENT = Kind("", "Event")


class Key(NamedTuple):
    """An object's identity. `namespace` is empty for cluster-scoped kinds."""

    kind: Kind
    namespace: str
    name: str


#: `list` is a method of a store, so the type needs another name there.
Kinds: TypeAlias = list[Kind]


class ChangeType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One change in a watch. `object` is the new state, or the last one for DELETED."""

    type: ChangeType
    key: Key
    object: Object
    version: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent list and the version it was taken at."""

    items: list[Object]
    version: int
    #: Opaque; give it back to `list` for the next page. Empty at the end.
    continue_: str = ""


class Watch(AsyncIterator[Change]):
    """Changes in order, until the store is closed. `aclose` when it is no longer read."""

    def __init__(self, run: Callable[[Watch], AsyncGenerator[Change, None]]) -> None:
        #: All changes up to this version have been handed out.
        self.position = 0
        self._changes = run(self)

    async def __anext__(self) -> Change:
        return await anext(self._changes)

    async def aclose(self) -> None:
        await self._changes.aclose()


class Store(ABC):
    """Keeps objects. NotFound, Conflict and Unavailable are from `penstock.errors`."""

    @abstractmethod
    async def create(self, obj: Object) -> Object:
        """Keep a new object and return it with uid, generation 1 and its version; Conflict if it exists.

        What a user cannot decide is not taken from `obj`: status, uid, times, versions. With
        `metadata.generateName` and no name, a name is made up.
        """

    @abstractmethod
    async def get(self, key: Key) -> Object:
        """The newest state; NotFound."""

    @abstractmethod
    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Object]:
        """The newest states, all of one version, of those that there are."""

    @abstractmethod
    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | LabelSelector | None = None,
        fields: FieldSelector | None = None,
        limit: int | None = None,
        continue_: str = "",
        version: int | None = None,
    ) -> Listing:
        """Objects of a kind ordered by namespace and name, all of one version of the store.

        The newest, unless a `version` is named. Pages too: each page after the first is of the version the
        first one was taken at. Raises `Expired` when that version is no longer kept, InvalidInput for a
        `continue_` that is none.
        """

    @abstractmethod
    async def kinds(self) -> Kinds:
        """Every kind of which there is an object, sorted."""

    @abstractmethod
    async def update(self, obj: Object) -> Object:
        """Replace spec and metadata; status stays. Conflict unless metadata.resourceVersion is the newest.

        `generation` grows when anything outside metadata and status changed. An update that changes
        nothing writes nothing and returns the object as it is. One that removes the last finalizer of an
        object that is being deleted removes the object.
        """

    @abstractmethod
    async def update_status(self, obj: Object) -> Object:
        """Replace status only; Conflict as in `update`."""

    @abstractmethod
    async def delete(self, key: Key, *, version: str | None = None) -> Object:
        """Remove, or mark with deletionTimestamp while finalizers remain. NotFound, Conflict."""

    @abstractmethod
    def watch(self, kind: Kind | None = None, *, since: int | None = None) -> Watch:
        """Changes after version `since` in order; None starts with what exists as ADDED.

        Raises `Expired` (resync with `list`) when `since` is older than what is kept.
        """

    @abstractmethod
    async def record_event(
        self, about: Key, *, type_: str, reason: str, message: str, uid: str = ""
    ) -> None:
        """Append to the event log; the same (about, reason, message) again raises its count instead."""

    @abstractmethod
    async def events(self, *, namespace: str | None = None, about: Key | None = None) -> Objects:
        """Kubernetes v1 Events, oldest first."""

    @abstractmethod
    async def list_events(self, *, namespace: str | None = None) -> Listing:
        """Events, oldest first, and their version: they have versions of their own."""

    @abstractmethod
    def watch_events(self, *, since: int) -> Watch:
        """Changes of events after a version of theirs, of kind `EVENT`.

        Raises `Expired` when `since` is older than what is kept, which a restart shortens to nothing.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release resources; the store is not used after it."""


class Expired(Exception):
    """A watch asked for a version that is no longer kept (HTTP 410 Gone)."""
