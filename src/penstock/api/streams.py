"""Answers that go on: watches and followed logs.

Each ends when its client hangs up, when its time is over, or when the server stops, whichever is first, and
never holds up the shutdown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec

from penstock.api.kinds import Resource
from penstock.api.objects import Selection
from penstock.api.redaction import redact
from penstock.api.wire import ApiError, status_object
from penstock.backends.base import Backend
from penstock.errors import NotFound, PenstockError
from penstock.store.base import Change, ChangeType, Expired, Store

T = TypeVar("T")

#: Watches end after this long at the latest; clients open the next from where they were.
MAX_WATCH_S = 3600.0
#: Log chunks waiting for a slow client, per followed replica.
_MAX_WAITING = 64

_encode = msgspec.json.Encoder().encode


async def until(
    items: AsyncIterator[T], stop: asyncio.Event, timeout_s: float | None
) -> AsyncIterator[T]:
    """`items` until they end, `stop` is set, or the time is over."""
    loop = asyncio.get_running_loop()
    end = None if timeout_s is None else loop.time() + timeout_s
    stopped = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[T] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(items))
            left = None if end is None else max(0.0, end - loop.time())
            await asyncio.wait(
                {following, stopped}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if not following.done():
                return
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        stopped.cancel()
        pending = [stopped]
        if following is not None and not following.done():
            following.cancel()
            pending.append(following)  # type: ignore[arg-type]
        await asyncio.gather(*pending, return_exceptions=True)
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def watch(
    store: Store,
    resource: Resource,
    namespace: str | None,
    selection: Selection,
    since: int | None,
    stop: asyncio.Event,
    timeout_s: float | None,
    shape: Callable[[dict[str, Any]], Any] = dict,
) -> AsyncIterator[bytes]:
    """One JSON line per change, the object in the `shape` that was asked for.

    An object that stops matching the selection is told as DELETED, and one that begins to as ADDED, so that
    a client's picture is always what a list would show.
    """
    picked = _Picked(selection, from_start=since is None)
    changes = store.watch(resource.stored, since=since)
    try:
        async for change in until(changes, stop, min(timeout_s or MAX_WATCH_S, MAX_WATCH_S)):
            if namespace is not None and change.key.namespace != namespace:
                continue
            type_ = picked.type_of(change)
            if type_ is not None:
                shown = redact(change.object, resource.dialect)
                yield _encode({"type": type_.value, "object": shape(shown)}) + b"\n"
    except Expired as exc:
        gone = status_object(ApiError(410, f"too old resource version: {exc}"))
        yield _encode({"type": "ERROR", "object": gone}) + b"\n"


class _Picked:
    """Which objects a watch has shown, so that it can tell when one leaves the selection."""

    def __init__(self, selection: Selection, *, from_start: bool) -> None:
        self._selection = selection
        self._from_start = from_start
        self._shown: set[tuple[str, str]] = set()
        self._hidden: set[tuple[str, str]] = set()

    def type_of(self, change: Change) -> ChangeType | None:
        """What to call a change; None when it is none for this selection."""
        key = (change.key.namespace, change.key.name)
        if not self._selection.fields.matches(*key):
            return None
        if not self._selection.labels:
            return change.type
        # A watch that resumes does not know what its client has seen: anything may have been shown.
        maybe_shown = key in self._shown or (not self._from_start and key not in self._hidden)
        labels = change.object["metadata"].get("labels") or {}
        if change.type is not ChangeType.DELETED and self._selection.labels.matches(labels):
            self._hidden.discard(key)
            self._shown.add(key)
            return change.type if maybe_shown else ChangeType.ADDED
        self._shown.discard(key)
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
) -> AsyncIterator[bytes]:
    """What replicas wrote, one after the other; followed ones as it comes, whole lines."""
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
        async for line in until(_drained(queue, len(tasks)), stop, None):
            yield line
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
