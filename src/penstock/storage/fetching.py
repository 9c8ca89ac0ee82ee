"""`fetch`: the way from a URI to a folder in the cache.

List with the caller's own credentials; name the listing by a key; then, one process and one task at a time
for each key, take what the cache has or download, unpack, seal and admit. Callers that want the same
listing at the same time wait for one download, and each of them has listed it for itself.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeAlias

import msgspec

from penstock.errors import PenstockError, Unavailable
from penstock.storage.archive import unpack
from penstock.storage.cache import Cache, Fetched
from penstock.storage.credentials import Credentials
from penstock.storage.download import Meter, download, in_thread, retried
from penstock.storage.locks import held
from penstock.storage.packing import Packing, packing_of
from penstock.storage.settings import Settings
from penstock.storage.source import Changed, Listing, Source
from penstock.storage.tree import Manifest, remove, seal
from penstock.storage.uris import Kind, Location, parse, redact

__all__ = ["Fetched", "Progress", "fetch"]

log = logging.getLogger(__name__)

#: Called with bytes done, bytes in all (None: nobody knows yet), and where an archive is being unpacked how
#: many of its files are and of how many (None: nobody knows); at most ten times a second, on the loop.
Progress: TypeAlias = Callable[[int, int | None, tuple[int, int | None] | None], None]

_PROGRESS_S = 0.1
#: Listings, when the place changes while it is read.
_LISTINGS = 3


async def fetch(
    uri: str,
    *,
    cache: Cache,
    credentials: Credentials | None = None,
    progress: Progress | None = None,
    base_dir: Path | str | None = None,
    settings: Settings | None = None,
    pin: str | None = None,
) -> Fetched:
    """The model at `uri`, on this disk; `path` is a folder whose content never changes.

    `pin` keeps it for that owner (a revision) in the same step, so that nothing can evict it in between.
    A single file is a folder with that file in it; a single archive (.zip, .tar, .tar.gz and their like) is
    unpacked.

    Raises InvalidInput (no such kind of URI, or nonsense in it), Unsupported, NotFound (with what was looked
    for), Unauthorized, Forbidden, LoadError (an archive that is refused, a model larger than the cache, a
    missing package), TooLarge, Unavailable (network, disk full, deadline; a later try goes on from what has
    arrived). No message holds a password, a token or a signature.
    """
    s = settings or Settings()
    location = parse(uri, base_dir)
    deadline = asyncio.timeout(s.deadline_s)
    try:
        async with deadline:
            return await _fetch(location, cache, credentials or Credentials(), progress, s, pin)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Unavailable(
            f"{redact(uri)} was not here within {s.deadline_s:g} s.",
            hint="What has arrived is kept, and the next try goes on from there.",
        ) from None


async def _fetch(
    location: Location,
    cache: Cache,
    credentials: Credentials,
    progress: Progress | None,
    settings: Settings,
    pin: str | None,
) -> Fetched:
    for _ in range(_LISTINGS):
        source = await in_thread(open_source, location, credentials, settings)
        handed_over = False
        try:
            listing = await retried(source.list, settings, source.shown)
            key = _key(source, listing)
            job = cache.jobs.get(key)
            if job is not None:
                await retried(partial(source.prove, listing), settings, source.shown)
                job = cache.jobs.get(key)  # it may have ended meanwhile
            if job is None:
                job = _Job(key, source, listing, cache, settings)
                cache.jobs[key] = job
                job.task = asyncio.create_task(job.run(), name=f"fetch {source.shown}")
                handed_over = True
        except Changed:
            continue
        finally:
            if not handed_over:
                await source.close()
        try:
            found = await job.wait(progress, pin)
        except Changed:
            log.info("%s changed while it was read; listing it again", redact(location.uri))
            continue
        if pin is not None and pin not in job.pinned:
            await in_thread(cache.pin, pin, found.digest)
        return found
    raise Unavailable(
        f"{redact(location.uri)} keeps changing while it is read.",
        hint="Write models under a new name, and rename them when they are whole.",
    )


def open_source(location: Location, credentials: Credentials, settings: Settings) -> Source:
    """The source for a place. Its libraries are imported here, which may take a second."""
    kind = location.kind
    if kind in (Kind.FILE, Kind.PVC):
        from penstock.storage.local import LocalSource

        return LocalSource(location, settings)
    if kind is Kind.WEB:
        from penstock.storage.web import WebSource

        return WebSource(location, credentials, settings)
    if kind is Kind.S3:
        from penstock.storage.s3 import S3Source

        return S3Source(location, credentials.s3, settings)
    if kind is Kind.AZURE:
        from penstock.storage.azure import AzureSource

        return AzureSource(location, credentials.azure, settings)
    if kind is Kind.GCS:
        from penstock.storage.gcs import GcsSource

        return GcsSource(location, credentials.gcs, settings)
    if kind is Kind.MLFLOW:
        from penstock.storage.mlflow import MlflowSource

        return MlflowSource(
            location, credentials, settings, lambda inner: open_source(inner, credentials, settings)
        )
    if kind is Kind.BENTOML:
        from penstock.storage.local import LocalSource, in_bentoml_store

        return LocalSource(in_bentoml_store(location, settings), settings)
    if kind is Kind.HDFS:
        from penstock.storage.webhdfs import HdfsSource

        return HdfsSource(location, credentials.hdfs, settings)
    from penstock.storage.hub import HubSource

    return HubSource(location, credentials.hub, settings)


def _key(source: Source, listing: Listing) -> str:
    # Everything that decides what ends up on the disk.
    entries = [[e.path, e.size_bytes, e.version] for e in listing.entries]
    parts = [source.identity, listing.single, listing.media_type, entries]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@dataclass(slots=True)
class _Job:
    """One download, and those who wait for it. It ends with the last of them."""

    key: str
    source: Source
    listing: Listing
    cache: Cache
    settings: Settings
    meter: Meter = field(default_factory=Meter)
    owners: set[str] = field(default_factory=set)
    #: Those of them that the cache has pinned by itself.
    pinned: frozenset[str] = frozenset()
    waiting: int = 0
    task: asyncio.Task[Fetched] = field(init=False)

    async def wait(self, progress: Progress | None, pin: str | None) -> Fetched:
        if pin is not None:
            self.owners.add(pin)
        self.waiting += 1
        try:
            told: tuple[int, int | None, tuple[int, int | None] | None] | None = None
            while not self.task.done():
                await asyncio.wait({self.task}, timeout=_PROGRESS_S if progress else None)
                now = (self.meter.done, self.meter.total, self.meter.unpacked)
                if progress is not None and now != told and not self.task.done():
                    told = now
                    progress(*now)
            found = self.task.result()
            if progress is not None:
                progress(found.size_bytes, found.size_bytes, None)
            return found
        finally:
            self.waiting -= 1
            if not self.waiting and not self.task.done():
                # Nobody wants it any more. What has arrived stays, for the next who does.
                self._leave()
                self.task.cancel()
                await asyncio.wait({self.task})
                if not self.task.cancelled():
                    self.task.exception()  # seen: nobody is left to hear it

    def _leave(self) -> None:
        """Nobody else shall join."""
        if self.cache.jobs.get(self.key) is self:
            del self.cache.jobs[self.key]

    async def run(self) -> Fetched:
        shown = self.source.shown
        remember = self.listing.reusable and all(
            e.version is not None for e in self.listing.entries
        )
        try:
            path = await in_thread(self.cache.lock_path, self.key)
            async with held(path):
                if remember:
                    if await in_thread(self.cache.lookup, self.key) is not None:
                        prove = partial(self.source.prove, self.listing)
                        await retried(prove, self.settings, shown)
                    owners = frozenset(self.owners)
                    found = await in_thread(self.cache.lookup, self.key, owners)
                    if found is not None:
                        self.pinned = owners
                        return found
                return await self._build(remember)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                await in_thread(self.cache.abandon, self.key)
                raise Unavailable(
                    f"The disk is full: {shown} does not fit where {self.cache.root} is.",
                    hint="Free some space; the fetch is tried again.",
                ) from error
            raise Unavailable(f"{shown}: the cache {self.cache.root} fails: {error}.") from error
        finally:
            self._leave()
            await self.source.close()

    async def _build(self, remember: bool) -> Fetched:
        shown = self.source.shown
        total = self.listing.size_bytes
        self.meter.total = total
        folder = await in_thread(
            _begin, self.cache, self.key, total or 0, shown, not self.listing.reusable
        )
        arriving = folder / "arriving"
        hashes = await self._download(arriving)
        files = folder / "sealed" / "files"
        await in_thread(remove, folder / "sealed")  # of a try that was killed while it unpacked
        packing = None
        entry = self.listing.entries[0]
        if self.listing.single:
            head = await in_thread(_head, arriving / entry.path)
            packing = packing_of(entry.path, self.listing.media_type, head)
        if packing is not None:
            hashes = await self._unpack(arriving / entry.path, packing, files)
        else:
            await in_thread(_move, arriving, files)
        manifest: Manifest = await in_thread(seal, files, hashes)
        owners = frozenset(self.owners)
        found = await in_thread(self._admit, files, manifest, remember, owners)
        self.pinned = owners
        return found

    def _admit(
        self, files: Path, manifest: Manifest, remember: bool, owners: frozenset[str]
    ) -> Fetched:
        return self.cache.admit(
            self.key, files, manifest, self.source.shown, remember=remember, owners=owners
        )

    async def _download(self, arriving: Path) -> dict[str, tuple[int, str]]:
        hashes: dict[str, tuple[int, str]] = {}
        waiting = iter(self.listing.entries)

        async def work() -> None:
            for entry in waiting:
                hashes[entry.path] = await download(
                    self.source,
                    entry,
                    arriving / entry.path,
                    settings=self.settings,
                    meter=self.meter,
                    most_bytes=self.cache.max_bytes,
                )

        workers = min(self.settings.concurrency, len(self.listing.entries))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return hashes

    async def _unpack(
        self, archive: Path, packing: Packing, files: Path
    ) -> dict[str, tuple[int, str]]:
        stop = Event()
        self.meter.unpacked = (0, None)

        def tell(files: int, total: int | None) -> None:
            self.meter.unpacked = (files, total)

        def blocking() -> dict[str, tuple[int, str]]:
            return unpack(
                archive,
                packing,
                files,
                shown=self.source.shown,
                settings=self.settings,
                most_bytes=self.cache.max_bytes,
                stop=stop,
                tell=tell,
            )

        task = asyncio.ensure_future(in_thread(blocking))
        try:
            hashes = await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise
        except PenstockError:
            # The archive is bad, not the download: keeping either would only fill the disk.
            await in_thread(self.cache.abandon, self.key)
            raise
        await in_thread(archive.unlink)
        return hashes


def _begin(cache: Cache, key: str, expected: int, shown: str, fresh: bool) -> Path:
    return cache.begin(key, expected, shown, fresh=fresh)


def _head(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(4096)


def _move(arriving: Path, files: Path) -> None:
    files.parent.mkdir()
    arriving.rename(files)
