"""Answers that go on: watches and followed logs.

Each ends when its client hangs up, when its time is over, or when the server stops, whichever is first, and
never holds up the shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from penstock.api.kinds import Resource
from penstock.api.read_options import WatchOptions
from penstock.api.redaction import redact
from penstock.api.selections import Selection
from penstock.api.wire import ApiError, status_object
from penstock.backends.base import Backend
from penstock.errors import NotFound, PenstockError
from penstock.store.base import Change, ChangeType, Expired, Listing, Watch

T = TypeVar("T")


class Source(Protocol):
    """Where a watch finds what there is, and what changes."""

    async def list(self) -> Listing: ...

    def watch(self, since: int) -> Watch: ...


#: Watches end after this long at the latest; clients open the next from where they were.
MAX_WATCH_S = 3600.0
#: A watch that asked for bookmarks gets one so often, and one at its end.
BOOKMARK_S = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
#: Log chunks waiting for a slow client, per followed replica.
_MAX_WAITING = 64

_encode = msgspec.json.Encoder().encode


async def ticking(
    items: AsyncIterator[T], stop: asyncio.Event, timeout_s: float | None, tick_s: float | None
) -> AsyncIterator[T | None]:
    """`items` until they end, `stop` is set, or the time is over; and None every `tick_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s if timeout_s is not None else math.inf
    due = loop.time() + tick_s if tick_s is not None else math.inf
    stopped = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[T] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(items))
            both: set[asyncio.Future[Any]] = {following, stopped}
            left = max(0.0, min(end, due) - loop.time())
            await asyncio.wait(
                both,
                timeout=None if left == math.inf else left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if following.done():
                try:
                    item = following.result()
                except StopAsyncIteration:
                    return
                following = None
                yield item
            elif stopped.done() or loop.time() >= end:
                return
            if loop.time() >= due:
                due = loop.time() + (tick_s or 0.0)
                yield None
    finally:
        stopped.cancel()
        pending: list[asyncio.Future[Any]] = [stopped]
        if following is not None and not following.done():
            following.cancel()
            pending.append(following)
        await asyncio.gather(*pending, return_exceptions=True)
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def watch(
    source: Source,
    resource: Resource,
    namespace: str | None,
    selection: Selection,
    options: WatchOptions,
    stop: asyncio.Event,
    shape: Callable[[dict[str, Any]], Any] = dict,
) -> AsyncIterator[bytes]:
    """One JSON line per change, the object in the `shape` that was asked for.

    An object that stops matching the selection is told as DELETED, and one that begins to as ADDED, so that
    a client's picture is always what a list would show. Bookmarks tell how far a quiet watch has come.
    """
    picked = _Picked(selection, from_start=options.initial)
    since = options.since
    seconds = min(options.timeout_s or MAX_WATCH_S, MAX_WATCH_S)
    tick_s = BOOKMARK_S if options.bookmarks else None
    try:
        if since is None:
            listing = await source.list()
            since = listing.version
            for obj in listing.items if options.initial else ():
                picked.listed(obj)
                yield _line("ADDED", shape(obj))
            if options.initial and options.bookmarks:
                yield _line("BOOKMARK", shape(_bookmark(resource, since, ended=True)))
        changes = source.watch(since)
        changes.position = since
        async for change in ticking(changes, stop, seconds, tick_s):
            if change is None:
                yield _line("BOOKMARK", shape(_bookmark(resource, changes.position)))
                continue
            if namespace is not None and change.key.namespace != namespace:
                continue
            type_ = picked.type_of(change)
            if type_ is not None:
                shown = redact(change.object, resource.dialect)
                yield _line(type_.value, shape(shown))
        if options.bookmarks:
            yield _line("BOOKMARK", shape(_bookmark(resource, changes.position)))
    except Expired as exc:
        gone = status_object(ApiError(410, f"too old resource version: {exc}"))
        yield _line("ERROR", gone)
    except PenstockError as exc:  # the answer has begun: this is the way to say it
        yield _line("ERROR", status_object(exc))


def _line(type_: str, obj: Any) -> bytes:
    return _encode({"type": type_, "object": obj}) + b"\n"


def _bookmark(resource: Resource, version: int, *, ended: bool = False) -> dict[str, Any]:
    """Nothing but a version; at the end of what there was, that says so."""
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if ended:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}


class _Picked:
    """Which objects a watch has shown, so that it can tell when one leaves the selection."""

    def __init__(self, selection: Selection, *, from_start: bool) -> None:
        self._selection = selection
        self._from_start = from_start
        self._shown: set[tuple[str, str]] = set()
        self._hidden: set[tuple[str, str]] = set()

    def listed(self, obj: dict[str, Any]) -> None:
        """It was shown before the first change."""
        if self._selection.moves:
            meta = obj["metadata"]
            self._shown.add((meta.get("namespace", ""), meta["name"]))

    def type_of(self, change: Change) -> ChangeType | None:
        """What to call a change; None when it is none for this selection."""
        if not self._selection.may_pick(change.object):
            return None
        if not self._selection.moves:
            return change.type
        key = (change.key.namespace, change.key.name)
        # A watch that resumes does not know what its client has seen: anything may have been shown.
        maybe_shown = key in self._shown or (not self._from_start and key not in self._hidden)
        if change.type is not ChangeType.DELETED and self._selection.picks(change.object):
            self._hidden.discard(key)
            self._shown.add(key)
            return change.type if maybe_shown else ChangeType.ADDED
        self._shown.discard(key)
        if change.type is ChangeType.DELETED:
            # Forgotten, so that what comes and goes does not pile up.
            self._hidden.discard(key)
        else:
            self._hidden.add(key)
        return ChangeType.DELETED if maybe_shown and change.type is not ChangeType.ADDED else None


async def logs(
    backend: Backend,
    replica_ids: list[str],
    *,
    tail: int | None,
    follow: bool,
    prefix: bool,
    stop: asyncio.Event,
    limit_bytes: int | None = None,
) -> AsyncIterator[bytes]:
    """What replicas wrote, one after the other; followed ones as it comes, whole lines."""
    lines = _logs(backend, replica_ids, tail=tail, follow=follow, prefix=prefix, stop=stop)
    async with contextlib.aclosing(lines):
        async for line in lines:
            if limit_bytes is None:
                yield line
                continue
            yield line[:limit_bytes]
            limit_bytes -= len(line)
            if limit_bytes <= 0:
                return


async def _logs(
    backend: Backend,
    replica_ids: list[str],
    *,
    tail: int | None,
    follow: bool,
    prefix: bool,
    stop: asyncio.Event,
) -> AsyncGenerator[bytes, None]:
    if not follow:
        for replica_id in replica_ids:
            lines = _lines(backend.logs(replica_id, tail=tail), replica_id if prefix else None)
            async for line in lines:
                yield line
        return
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_WAITING * max(1, len(replica_ids)))

    async def pump(replica_id: str) -> None:
        source = backend.logs(replica_id, tail=tail, follow=True)
        async for line in _lines(source, replica_id if prefix else None):
            await queue.put(line)
        await queue.put(None)

    tasks = [asyncio.create_task(pump(r)) for r in replica_ids]
    try:
        async for chunk in ticking(_drained(queue, len(tasks)), stop, None, None):
            if chunk is not None:
                yield chunk
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drained(queue: asyncio.Queue[bytes | None], sources: int) -> AsyncIterator[bytes]:
    while sources:
        line = await queue.get()
        if line is None:
            sources -= 1
        else:
            yield line


async def _lines(chunks: AsyncIterator[bytes], name: str | None) -> AsyncIterator[bytes]:
    """Whole lines of a log, each with the replica's name in front if there is one."""
    front = f"[{name}] ".encode() if name else b""
    rest = b""
    try:
        async for chunk in chunks:
            rest += chunk
            if b"\n" in rest:
                whole, _, rest = rest.rpartition(b"\n")
                if front:
                    yield b"".join(front + line + b"\n" for line in whole.split(b"\n"))
                else:
                    yield whole + b"\n"
    except NotFound:
        pass  # gone since it was listed
    except PenstockError as exc:
        yield front + f"(the log breaks off: {exc})\n".encode()
    if rest:
        yield front + rest + b"\n"
