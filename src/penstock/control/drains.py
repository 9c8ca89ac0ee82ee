"""Replicas on their way out: first out of every gateway's table, then told to finish and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock.backends.base import Backend
from penstock.control.clock import Clock
from penstock.control.routes import RoutePublisher
from penstock.errors import PenstockError

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]


class Drains:
    """The drains under way. What is cut off by the end of this process is begun anew by the next."""

    def __init__(
        self,
        backend: Backend,
        routes: RoutePublisher,
        on_done: Callable[[ServiceKey], None],
        *,
        applied_s: float,
        grace_s: float,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._routes = routes
        self._on_done = on_done
        self._applied_s = applied_s
        self._grace_s = grace_s
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def ids(self) -> frozenset[str]:
        """Replicas that are being drained."""
        return frozenset(self._tasks)

    def __contains__(self, replica_id: str) -> bool:
        return replica_id in self._tasks

    def begin(self, key: ServiceKey, replica_id: str, sequence: int) -> None:
        """Stop a replica that the table of `sequence` has no more. No-op while that is under way."""
        if replica_id not in self._tasks:
            self._tasks[replica_id] = asyncio.create_task(self._run(key, replica_id, sequence))

    async def _run(self, key: ServiceKey, replica_id: str, sequence: int) -> None:
        try:
            await self._routes.applied(sequence, timeout_s=self._applied_s)
            await self._backend.stop(replica_id, grace_s=self._grace_s)
        except PenstockError as exc:
            log.warning("%s could not be stopped: %s", replica_id, exc)
            await self._clock.sleep(1.0)
        finally:
            self._tasks.pop(replica_id, None)
            self._on_done(key)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
