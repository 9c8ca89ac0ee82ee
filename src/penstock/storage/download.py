"""One listed file to one local file: resumed, retried, bounded, hashed on the way.

The bytes are hashed as they are written, so a model is read once. What an earlier try left is kept when the
source can say that it is still the same object (`Entry.version`), and hashed again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from penstock.errors import LoadError, Unavailable
from penstock.storage.settings import Settings
from penstock.storage.source import CHUNK_BYTES, Changed, Entry, Source, Transient

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Own threads, started on first use: unpacking takes minutes, and the loop's default executor, a few threads
#: on a small machine, is everybody's.
_THREADS: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="penstock-storage")


@dataclass(slots=True)
class Meter:
    """How far a download is, bytes; `total` is None while nobody knows."""

    done: int = 0
    total: int | None = None
    #: Files of its archive that are unpacked, and of how many (None: a tar does not say).
    unpacked: tuple[int, int | None] | None = None


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run `function` in a thread of storage's own; a cancelled caller waits for it to end.

    Otherwise a lock is let go while a write goes on, and somebody else writes to the same file.
    """
    task = asyncio.get_running_loop().run_in_executor(_THREADS, function, *args)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                pass
        if not task.cancelled():
            task.exception()  # looked at: the cancellation is what the caller hears of
        raise


async def retried(what: Callable[[], Awaitable[T]], settings: Settings, shown: str) -> T:
    """`what()`, again after each Transient; Unavailable when `attempts` are used up."""
    attempt = 0
    while True:
        try:
            return await what()
        except Transient as error:
            attempt += 1
            await pause(attempt, error, settings, shown)


async def pause(attempt: int, error: Transient, settings: Settings, shown: str) -> None:
    """Wait before the next try; Unavailable when there is none left."""
    # The error may say, too, what it was about: the place, or an object in it.
    text = str(error).removeprefix(shown).removeprefix(shown.partition(": ")[0]).lstrip(": ")
    if attempt >= settings.attempts:
        raise Unavailable(
            f"{shown}: {text} ({attempt} tries).", hint="It is worth trying again later."
        ) from error
    wait_s = min(settings.backoff_s * 2 ** (attempt - 1), settings.backoff_max_s)
    wait_s *= 0.5 + random.random() / 2
    log.info("%s: %s; trying again", shown, text)
    await asyncio.sleep(max(wait_s, error.retry_after_s or 0.0))


async def download(
    source: Source, entry: Entry, target: Path, *, settings: Settings, meter: Meter, most_bytes: int
) -> tuple[int, str]:
    """Fill `target` with `entry`; its size and SHA-256.

    Raises Changed, Unavailable (tries used up), LoadError (a wrong digest, over `most_bytes`), and what the
    source raises.
    """
    part = _Part(target, entry)
    try:
        await in_thread(part.resume, source)
        meter.done += part.size
        attempt = 0
        # The most that was ever there: what has to begin anew each time gets nowhere by arriving again.
        most = part.size
        while not part.complete:
            try:
                await _drain(source, entry, part, meter, most_bytes)
                part.finish(source.shown)
            except Transient as error:
                attempt = 1 if part.size > most else attempt + 1
                most = max(most, part.size)
                await pause(attempt, error, settings, f"{source.shown}: {entry.path}")
                if entry.version is None:
                    await _restart(part, meter)
        if not await source.settled(entry):
            raise Changed
        if entry.sha256 is not None and part.hash.hexdigest() != entry.sha256:
            await _restart(part, meter)
            raise LoadError(
                f"{source.shown}: {entry.path} arrived with other bytes than its published SHA-256 says."
            )
        return part.size, part.hash.hexdigest()
    except Changed:
        await _restart(part, meter)
        raise
    finally:
        part.close()


async def _restart(part: _Part, meter: Meter) -> None:
    meter.done -= part.size
    await in_thread(part.restart)


async def _drain(source: Source, entry: Entry, part: _Part, meter: Meter, most_bytes: int) -> None:
    async with aclosing(source.read(entry, part.size)) as chunks:  # type: ignore[type-var]
        while True:
            chunk = await anext(chunks, None)
            if chunk is None:
                return
            if part.size + len(chunk) > (
                most_bytes if entry.size_bytes is None else entry.size_bytes
            ):
                if entry.size_bytes is not None:
                    raise Changed  # longer than it was listed
                raise LoadError(
                    f"{source.shown}: {entry.path} is larger than the {most_bytes} bytes left."
                )
            await in_thread(part.append, chunk)
            meter.done += len(chunk)


class _Part:
    """The file on its way. `resume`, `append` and `restart` block; one at a time."""

    def __init__(self, target: Path, entry: Entry) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._entry = entry
        self._descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.hash = hashlib.sha256()
        self.size = 0
        self.complete = False

    def resume(self, source: Source) -> None:
        """Take what is there already, or clone the whole file."""
        entry = self._entry
        there = os.fstat(self._descriptor).st_size
        if entry.version is None or (entry.size_bytes is not None and there > entry.size_bytes):
            self.restart()
            there = 0
        if there == 0 and source.clone(entry, self._descriptor):
            there = os.fstat(self._descriptor).st_size
        if there:
            self._take(there)
        self.complete = entry.size_bytes is not None and self.size == entry.size_bytes

    def _take(self, there: int) -> None:
        while self.size < there:
            data = os.pread(self._descriptor, CHUNK_BYTES, self.size)
            if not data:
                break
            self.hash.update(data)
            self.size += len(data)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], self.size + written)
        self.hash.update(view)
        self.size += len(view)

    def restart(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.size = 0
        self.hash = hashlib.sha256()

    def finish(self, shown: str) -> None:
        """The source said that was all."""
        wanted = self._entry.size_bytes
        if wanted is not None and self.size < wanted:
            raise Transient(
                f"{shown}: {self._entry.path} broke off after {self.size} of {wanted} bytes"
            )
        self.complete = True

    def close(self) -> None:
        os.close(self._descriptor)
