"""Fetches that run: one per workload, beside the loop, so that a look never waits for a download.

The controller says what it wants (`want`) and is told how that stands; when it changes - progress, done,
failed - `on_change` puts the service back into the queue. A failed fetch is tried again with back-off, for
as long as the manifest asks for it: files that appear later are found without another apply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from penstock.control.clock import Clock, Timer
from penstock.control.loop import Backoff
from penstock.control.plan import FetchPhase, FetchState
from penstock.domain.service import Component
from penstock.domain.workload import service_key
from penstock.errors import PenstockError
from penstock.storage import Progress

log = logging.getLogger(__name__)

#: Fetches under way at a time; the others wait their turn.
CONCURRENCY = 8
#: Seconds between two reports of progress.
REPORT_EVERY_S = 1.0

#: Namespace and name; behind the name's first slash, which workload of the service.
ServiceKey = tuple[str, str]


class Files(Protocol):
    """A verified local copy (`penstock.storage.Fetched`)."""

    @property
    def path(self) -> object: ...
    @property
    def digest(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class ModelFiles(Protocol):
    """Where models' files come from (`control.models.model_files` over `penstock.storage`)."""

    async def fetch(
        self,
        namespace: str,
        component: Component,
        progress: Progress,
        *,
        revision: str,
    ) -> Files:
        """Fetch, and keep the files for as long as the `revision` exists that they are for."""
        ...

    def uri(self, component: Component) -> str:
        """For people, without secrets."""
        ...

    async def retain(self, revisions: Iterable[str]) -> None:
        """Only these revisions exist."""
        ...

    async def release(self, revision: str) -> None:
        """The revision is gone, or never came to be."""
        ...

    def present(self, path: str) -> bool:
        """The files are still there."""
        ...


#: Fetches: (progress callback) -> files. Made by the controller, credentials inside.
Job = Callable[[Progress], Awaitable[Files]]


@dataclass
class _Entry:
    asked: str
    job: Job
    state: FetchState
    task: asyncio.Task[None] | None = None
    timer: Timer | None = None
    failures: int = 0
    files: Files | None = None
    reported_at: float = field(default=float("-inf"))


class Fetches:
    """The fetches of all services."""

    def __init__(
        self,
        on_change: Callable[[ServiceKey], None],
        *,
        clock: Clock,
        backoff: Backoff = Backoff(1.0, 300.0),  # noqa: B008 - frozen
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._backoff = backoff
        self._gate = asyncio.Semaphore(concurrency)
        self._entries: dict[ServiceKey, _Entry] = {}
        self._of_service: dict[ServiceKey, set[ServiceKey]] = {}

    def want(self, key: ServiceKey, asked: str, uri: str, job: Job) -> Files | FetchState:
        """The files if they are here, else how their fetch stands; starts one if there is none.

        `asked` identifies what is wanted: another value cancels the old fetch.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.asked != asked:
            self.cancel(key)
            entry = None
        if entry is None:
            entry = _Entry(asked, job, FetchState(FetchPhase.WAITING, uri))
            self._entries[key] = entry
            self._of_service.setdefault(service_key(key), set()).add(key)
            self._start(key, entry)
        return entry.files if entry.files is not None else entry.state

    def state(self, key: ServiceKey) -> FetchState | None:
        entry = self._entries.get(key)
        return entry.state if entry is not None else None

    def forget(self, key: ServiceKey) -> None:
        """The result was used, or nobody wants it any more."""
        self.cancel(key)

    def hurry(self, key: ServiceKey) -> None:
        """Try a service's failed fetches again now."""
        for of in list(self._of_service.get(key, ())):
            entry = self._entries[of]
            if entry.timer is not None:
                entry.timer.cancel()
                entry.timer = None
                self._start(of, entry)

    def cancel_all(self, key: ServiceKey) -> None:
        """The service is gone."""
        for of in list(self._of_service.get(key, ())):
            self.cancel(of)

    def cancel(self, key: ServiceKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            of_service = self._of_service[service_key(key)]
            of_service.discard(key)
            if not of_service:
                del self._of_service[service_key(key)]
            if entry.timer is not None:
                entry.timer.cancel()
            if entry.task is not None:
                entry.task.cancel()

    async def close(self) -> None:
        tasks = [e.task for e in self._entries.values() if e.task is not None]
        for key in list(self._entries):
            self.cancel(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: ServiceKey, entry: _Entry) -> None:
        entry.task = asyncio.create_task(self._run(key, entry))

    async def _run(self, key: ServiceKey, entry: _Entry) -> None:
        uri = entry.state.uri
        loop = asyncio.get_running_loop()

        def progress(done: int, total: int | None, unpacked: tuple[int, int | None] | None) -> None:
            entry.state = FetchState(FetchPhase.RUNNING, uri, done, total, unpacked)
            now = self._clock.monotonic()
            if now - entry.reported_at >= REPORT_EVERY_S:
                entry.reported_at = now
                # A storage library may report from its own thread.
                loop.call_soon_threadsafe(self._on_change, key)

        try:
            async with self._gate:
                # The last failure is still what is known, until there is something better.
                entry.state = FetchState(FetchPhase.RUNNING, uri, message=entry.state.message)
                entry.files = await entry.job(progress)
        except PenstockError as exc:
            self._failed(key, entry, str(exc))
        except Exception as exc:
            log.exception("fetching %s for %s/%s failed", uri, *key)
            self._failed(key, entry, f"{type(exc).__name__} while fetching the model.")
        if self._entries.get(key) is entry:
            self._on_change(key)

    def _failed(self, key: ServiceKey, entry: _Entry, message: str) -> None:
        entry.failures += 1
        delay_s = self._backoff.delay_s(entry.failures)
        entry.state = FetchState(
            FetchPhase.FAILED,
            entry.state.uri,
            message=message,
            retry_at=self._clock.now() + delay_s,
        )

        def again() -> None:
            entry.timer = None
            self._start(key, entry)

        if self._entries.get(key) is entry:
            entry.timer = self._clock.call_later(delay_s, again)
