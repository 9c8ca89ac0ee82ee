"""The store of one machine: SQLite in WAL mode.

`objects` has the newest state, `changes` the last `KEEP_CHANGES` changes with the state before each, so a
watch resumes from any kept version and a paged list stays at the version it began with. Versions have no
gaps: one change, one version. Watches are not queues: each has a position, and reads on from there out of a
ring of the newest changes in memory or, when it is further behind, out of the file. A slow watch costs nobody
anything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import itertools
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from penstock.domain.selectors import FieldSelector, LabelSelector
from penstock.errors import Conflict, InvalidInput
from penstock.store import objects, sqlite_events
from penstock.store.base import (
    Change,
    ChangeType,
    Key,
    Kind,
    Kinds,
    Listing,
    Object,
    Objects,
    Store,
    Watch,
)
from penstock.store.ring import Ring
from penstock.store.sqlite_events import Event
from penstock.store.sqlite_file import FileLock, connect, mapped, open_file, prepare
from penstock.store.sqlite_rows import (
    Cursor,
    Logged,
    body_of,
    changes_after,
    check_kept,
    everything,
    existing,
    forget_changes,
    log_change,
    newest_version,
    put,
    remove,
    state_at,
)
from penstock.store.sqlite_threads import DatabaseThread

#: Changes kept for watches and paged lists.
KEEP_CHANGES = 10_000
#: Of these, the newest are in memory too.
RING = 2_000
#: Changes of the event log that watches of it can be behind.
EVENT_RING = 2_000
#: Rows read from the file at a time by a watch that is behind.
_CATCH_UP = 500
#: Old rows are removed after so many new ones, not after each.
_PRUNE_EVERY = 256


#: `list` is a method of the store, so the type needs another name inside the class.
Batch: TypeAlias = list[Logged]


class News(NamedTuple):
    """What a transaction changed."""

    changes: Batch
    events: Batch


class SqliteStore(Store):
    """See `Store`. Made by `open` or `in_memory`, on the loop that uses it."""

    def __init__(
        self,
        writer_connection: sqlite3.Connection,
        reader_connection: sqlite3.Connection | None,
        *,
        where: str,
        lock: FileLock | None,
        now: Callable[[], float],
        keep_changes: int,
        ring: int,
    ) -> None:
        self._lock = lock
        self._now = now
        self._keep_changes = keep_changes
        self._closed = False
        # Written by the writer's thread only; what the loop may see comes with `_publish`.
        self._next = newest_version(writer_connection) + 1
        self._pending: Batch = []
        self._pending_events: Batch = []
        self._since_prune = 0
        self._events_since_prune = 0
        # The loop's.
        self._version = self._next - 1
        self._ring: deque[Logged] = deque(maxlen=ring)
        self._wakeups: set[asyncio.Event] = set()
        self._events: Ring[Logged] = Ring(sqlite_events.newest_turn(writer_connection), EVENT_RING)

        def map_error(e: sqlite3.Error) -> Any:
            return mapped(e, where)

        self._writer: DatabaseThread[News] = DatabaseThread(
            "penstock-store-writer",
            writer_connection,
            begin="BEGIN IMMEDIATE",
            map_error=map_error,
            after_commit=self._take_pending,
            after_rollback=self._forget_pending,
            publish=self._publish,
        )
        self._reader: DatabaseThread[Any] | None = None
        if reader_connection is not None:
            self._reader = DatabaseThread(
                "penstock-store-reader", reader_connection, begin="BEGIN", map_error=map_error
            )

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        now: Callable[[], float] = time.time,
        keep_changes: int = KEEP_CHANGES,
        ring: int = RING,
    ) -> SqliteStore:
        """Open or create the file. Damaged, Unsupported (a newer schema) or Unavailable (in use, full)."""
        path = Path(path)

        def open_both() -> tuple[FileLock, sqlite3.Connection, sqlite3.Connection]:
            lock = FileLock(path.with_name(path.name + ".lock"))
            try:
                writer = open_file(path)
                reader = connect(str(path))
                reader.execute("PRAGMA query_only = 1")
            except BaseException:
                lock.release()
                raise
            return lock, writer, reader

        lock, writer, reader = await asyncio.to_thread(open_both)
        return cls(
            writer,
            reader,
            where=str(path),
            lock=lock,
            now=now,
            keep_changes=keep_changes,
            ring=ring,
        )

    @classmethod
    async def in_memory(
        cls,
        *,
        now: Callable[[], float] = time.time,
        keep_changes: int = KEEP_CHANGES,
        ring: int = RING,
    ) -> SqliteStore:
        """A store that is gone when it is closed, for tests and one-off runs."""
        connection = connect(":memory:")
        prepare(connection, wal=False)
        return cls(
            connection,
            None,
            where="in memory",
            lock=None,
            now=now,
            keep_changes=keep_changes,
            ring=ring,
        )

    @property
    def version(self) -> int:
        """The newest version that watches have been told of."""
        return self._version

    # --- writing: these run in the writer's thread, in one transaction with their neighbours

    async def create(self, obj: Object) -> Object:
        obj = objects.with_name(obj)
        key = objects.key_of(obj)

        def run(db: sqlite3.Connection) -> Object:
            if body_of(db, key) is not None:
                raise Conflict(f"{objects.show(key)} already exists.")
            new = objects.created(obj, version=self._next, now=self._now())
            self._write(db, ChangeType.ADDED, key, new, None)
            return new

        return _copy(await self._writer.submit(run))

    async def update(self, obj: Object) -> Object:
        return await self._replace(obj, objects.updated)

    async def update_status(self, obj: Object) -> Object:
        return await self._replace(obj, objects.status_updated)

    async def _replace(self, obj: Object, change: Callable[..., Object | None]) -> Object:
        key = objects.key_of(obj)

        def run(db: sqlite3.Connection) -> Object:
            body = existing(db, key)
            old = objects.decode(body)
            objects.check_version(key, old, obj["metadata"].get("resourceVersion"))
            new = change(old, obj, version=self._next)
            if new is None:
                return old
            type_ = ChangeType.DELETED if objects.is_finished(new) else ChangeType.MODIFIED
            self._write(db, type_, key, new, body)
            return new

        return _copy(await self._writer.submit(run))

    async def delete(self, key: Key, *, version: str | None = None) -> Object:
        def run(db: sqlite3.Connection) -> Object:
            body = existing(db, key)
            old = objects.decode(body)
            objects.check_version(key, old, version, required=False)
            if old["metadata"].get("finalizers"):
                marked = objects.marked_for_deletion(old, version=self._next, now=self._now())
                if marked is None:
                    return old
                self._write(db, ChangeType.MODIFIED, key, marked, body)
                return marked
            last = objects.with_version(old, self._next)
            self._write(db, ChangeType.DELETED, key, last, body)
            return last

        return _copy(await self._writer.submit(run))

    def _write(
        self, db: sqlite3.Connection, type_: ChangeType, key: Key, new: Object, before: bytes | None
    ) -> None:
        # First of all, because it may refuse.
        body = objects.encode(new)
        logged = Logged(self._next, type_, key.kind, key.namespace, key.name, body)
        if type_ is ChangeType.DELETED:
            remove(db, key)
        else:
            labels = new["metadata"].get("labels")
            encoded = msgspec.json.encode(labels) if labels else None
            put(db, key, version=logged.version, labels=encoded, body=body)
        log_change(db, logged, before)
        self._since_prune += 1
        if self._since_prune >= _PRUNE_EVERY:
            self._since_prune = 0
            forget_changes(db, logged.version - self._keep_changes)
        self._pending.append(logged)
        self._next = logged.version + 1

    def _take_pending(self) -> News:
        done = News(self._pending, self._pending_events)
        self._pending, self._pending_events = [], []
        return done

    def _forget_pending(self) -> None:
        self._pending_events = []
        if self._pending:
            self._next = self._pending[0].version
            self._pending = []

    def _publish(self, news: News) -> None:
        self._events.add(news.events)
        if not news.changes:
            return
        self._ring.extend(news.changes)
        self._version = news.changes[-1].version
        for wakeup in self._wakeups:
            wakeup.set()

    # --- reading

    async def _read(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        return await (self._reader or self._writer).submit(run)

    async def get(self, key: Key) -> Object:
        return objects.decode(await self._read(lambda db: existing(db, key)))

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Object]:
        wanted = tuple(keys)
        bodies = await self._read(lambda db: [body_of(db, key) for key in wanted])
        return {
            key: objects.decode(body)
            for key, body in zip(wanted, bodies, strict=True)
            if body is not None
        }

    async def kinds(self) -> Kinds:
        rows = await self._read(
            lambda db: db.execute("SELECT DISTINCT grp, kind FROM objects ORDER BY 1, 2").fetchall()
        )
        return [Kind(*row) for row in rows]

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
        if limit is not None and limit < 1:
            limit = None
        selector = labels if isinstance(labels, LabelSelector) else LabelSelector.of(labels or {})
        cursor = _decode_cursor(continue_) if continue_ else None
        named = cursor.version if cursor else version

        def run(db: sqlite3.Connection) -> tuple[list[bytes], int, str]:
            newest = newest_version(db)
            version = newest if named is None else named
            if version != newest:
                check_kept(db, version, newest)
            rows = state_at(db, kind, namespace, version, newest, cursor)
            found: list[bytes] = []
            last = ("", "")
            for at_namespace, at_name, row_labels, body in rows:
                if fields and not fields.matches(at_namespace, at_name):
                    continue
                if selector and not selector.matches(msgspec.json.decode(row_labels or b"{}")):
                    continue
                if limit is not None and len(found) == limit:
                    return found, version, _encode_cursor(Cursor(version, *last))
                found.append(body)
                last = (at_namespace, at_name)
            return found, version, ""

        bodies, at, more = await self._read(run)
        return Listing([objects.decode(b) for b in bodies], at, more)

    def watch(self, kind: Kind | None = None, *, since: int | None = None) -> Watch:
        return Watch(lambda watch: self._watch(watch, kind, since))

    async def _watch(
        self, watch: Watch, kind: Kind | None, since: int | None
    ) -> AsyncGenerator[Change, None]:
        if since is None:
            rows, position = await self._read(lambda db: everything(db, kind))
            for logged in rows:
                yield _change(logged)
        else:
            position = since
        watch.position = position
        wakeup = asyncio.Event()
        self._wakeups.add(wakeup)
        try:
            while not self._closed:
                wakeup.clear()
                news = await self._after(position)
                for logged in news:
                    position = logged.version
                    if kind is None or logged.kind == kind:
                        yield _change(logged)
                    watch.position = position
                if not news:
                    await wakeup.wait()
        finally:
            self._wakeups.discard(wakeup)

    async def _after(self, position: int) -> Batch:
        """Changes after `position`, some of them; none when it is the newest."""
        if position == self._version:
            return []
        if self._ring and self._ring[0].version <= position + 1 <= self._ring[-1].version:
            # Versions have no gaps, so the place in the ring can be computed.
            start = position + 1 - self._ring[0].version
            return Batch(itertools.islice(self._ring, start, start + _CATCH_UP))

        found: Batch = await self._read(lambda db: changes_after(db, position, _CATCH_UP))
        return found

    # --- events

    async def record_event(
        self, about: Key, *, type_: str, reason: str, message: str, uid: str = ""
    ) -> None:
        def run(db: sqlite3.Connection) -> None:
            event = Event(about, type_, reason, message, uid)
            self._pending_events += sqlite_events.record(db, event, now=self._now())
            self._events_since_prune += 1
            if self._events_since_prune >= _PRUNE_EVERY:
                self._events_since_prune = 0
                self._pending_events += sqlite_events.prune(db)

        await self._writer.submit(run)

    async def list_events(self, *, namespace: str | None = None) -> Listing:
        def run(db: sqlite3.Connection) -> Listing:
            found = sqlite_events.select(db, namespace=namespace, about=None)
            return Listing(found, sqlite_events.newest_turn(db))

        listing: Listing = await self._read(run)
        return listing

    def watch_events(self, *, since: int) -> Watch:
        return Watch(lambda watch: self._watch_events(watch, since))

    async def _watch_events(self, watch: Watch, since: int) -> AsyncGenerator[Change, None]:
        watch.position = since
        async with contextlib.aclosing(self._events.follow(since)) as changes:
            async for version, logged in changes:
                yield _change(logged)
                watch.position = version

    async def events(self, *, namespace: str | None = None, about: Key | None = None) -> Objects:
        found: Objects = await self._read(
            lambda db: sqlite_events.select(db, namespace=namespace, about=about)
        )
        return found

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for wakeup in self._wakeups:
            wakeup.set()
        self._events.close()
        if self._reader is not None:
            await self._reader.close()
        await self._writer.close()
        if self._lock is not None:
            self._lock.release()


def _change(logged: Logged) -> Change:
    return Change(
        ChangeType(logged.type),
        Key(logged.kind, logged.namespace, logged.name),
        objects.decode(logged.body),
        logged.version,
    )


def _copy(obj: Object) -> Object:
    """A caller's own copy, as it would be read."""
    return objects.decode(objects.encode(obj))


def _encode_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def _decode_cursor(text: str) -> Cursor:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text.encode()), type=Cursor)
    except (binascii.Error, ValueError, msgspec.DecodeError) as e:
        raise InvalidInput("The continue token is none that a list has given.") from e
