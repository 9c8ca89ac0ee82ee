"""What runs, with versions: replicas and devices as lists and watches of the API need them.

Nothing of it is stored. Versions begin with the time of the start, so that those of an earlier process are
too old and never mean something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from penstock.backends.base import ReplicaStatus
from penstock.domain.devices import DeviceStatus
from penstock.errors import PenstockError
from penstock.store.base import Change, ChangeType, Key, Kind, Object, Watch
from penstock.store.ring import Ring

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Changes that a watch can be behind.
KEEP_CHANGES = 2_000
#: Seconds between two looks at what tells of no change by itself.
LOOK_S = 2.0


class _Happened(NamedTuple, Generic[T]):
    type: ChangeType
    item: T


#: An item and its version as an object.
Render = Callable[[T, int], Object]


class Feed(Generic[T]):
    """`put` and `drop` items by name; list and watch them as objects."""

    def __init__(self, *, keep: int = KEEP_CHANGES) -> None:
        self._items: dict[str, tuple[T, int]] = {}
        self._ring: Ring[_Happened[T]] = Ring(int(time.time() * 1000), keep)

    @property
    def version(self) -> int:
        return self._ring.newest

    def put(self, name: str, item: T) -> None:
        old = self._items.get(name)
        if old is not None and old[0] == item:
            return
        self._ring.add([_Happened(ChangeType.ADDED if old is None else ChangeType.MODIFIED, item)])
        self._items[name] = (item, self.version)

    def drop(self, name: str) -> None:
        old = self._items.pop(name, None)
        if old is not None:
            self._ring.add([_Happened(ChangeType.DELETED, old[0])])

    def names(self) -> set[str]:
        return set(self._items)

    def objects(
        self, render: Render[T], wanted: Callable[[T], bool] = lambda item: True
    ) -> list[Object]:
        return [render(item, version) for item, version in self._items.values() if wanted(item)]

    def watch(self, since: int, render: Render[T], kind: Kind) -> Watch:
        """Raises `Expired`."""
        return Watch(lambda watch: self._watch(watch, since, render, kind))

    async def _watch(
        self, watch: Watch, since: int, render: Render[T], kind: Kind
    ) -> AsyncGenerator[Change, None]:
        watch.position = since
        async with contextlib.aclosing(self._ring.follow(since)) as changes:
            async for version, (type_, item) in changes:
                obj = render(item, version)
                meta = obj["metadata"]
                key = Key(kind, meta.get("namespace", ""), meta["name"])
                yield Change(type_, key, obj, version)
                watch.position = version


class ReplicaFeed(Feed[ReplicaStatus]):
    """Told by the control plane's own watch."""

    def changed(self, old: ReplicaStatus | None, new: ReplicaStatus | None) -> None:
        if new is not None:
            self.put(new.id, new)
        elif old is not None:
            self.drop(old.id)


class DeviceFeed(Feed[DeviceStatus]):
    """Devices tell nothing: they are looked at when somebody asks, and while somebody watches."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Iterable[DeviceStatus]]],
        name: Callable[[DeviceStatus], str],
    ) -> None:
        super().__init__()
        self._read = read
        self._name = name

    async def look(self) -> None:
        """Raises Unavailable."""
        found = {self._name(status): status for status in await self._read()}
        for name in self.names() - found.keys():
            self.drop(name)
        for name, status in found.items():
            self.put(name, status)

    async def _watch(
        self, watch: Watch, since: int, render: Render[DeviceStatus], kind: Kind
    ) -> AsyncGenerator[Change, None]:
        looking = asyncio.create_task(self._keep_looking())
        try:
            async with contextlib.aclosing(super()._watch(watch, since, render, kind)) as changes:
                async for change in changes:
                    yield change
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self.look()
            except PenstockError as exc:
                log.warning("devices cannot be read: %s", exc)
            await asyncio.sleep(LOOK_S)
