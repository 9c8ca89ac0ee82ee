"""One version of a model that is in memory: what calls it, what it counts, and how it goes.

It is closed when its last request has its answer; `repository` decides when.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.protocols.classification import Classes
from penstock.runtimes.base import PayloadRuntime, Runtime
from penstock.server.batching import Batcher
from penstock.server.execution import Executor
from penstock.server.statistics import Statistics
from penstock.server.workers import OffLoop, Workers

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Loaded:
    """One version that is in memory. Exactly one of `batcher` and `payload` is set."""

    name: str
    version: str
    platform: str
    runtime: Runtime | PayloadRuntime
    statistics: Statistics
    probe: str
    load_s: float
    batcher: Batcher | None = None
    executor: Executor | None = None
    payload: PayloadRuntime | None = None
    workers: Workers | None = None
    #: Rows that may share a call; 0 where requests are not batched.
    batch_rows: int = 0
    #: How long a request waits for others to share its call with, seconds.
    max_latency_s: float = 0.0
    #: Outputs of which is known what their largest values are called; None: of none.
    classes: Mapping[str, Classes] | None = None
    #: Payload calls that run now; the batcher counts its own.
    calls: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def decoupled(self) -> bool:
        """A request may have any number of responses."""
        return self.payload is not None and self.payload.decoupled

    def enter(self) -> None:
        self.calls += 1

    def leave(self) -> None:
        self.calls -= 1
        if not self.calls:
            self._idle.set()

    async def close(self, off_loop: OffLoop) -> None:
        """Wait for the last answer, then release the runtime."""
        if self.batcher is not None:
            await self.batcher.drain()
        while self.calls:
            self._idle.clear()
            await self._idle.wait()
        await release(self.name, self.version, self.runtime, off_loop)
        if self.executor is not None:
            self.executor.close()
        if self.workers is not None:
            self.workers.close()


async def release(
    name: str, version: str, runtime: Runtime | PayloadRuntime, off_loop: OffLoop
) -> None:
    """Close a runtime; what that raises is logged."""
    try:
        if isinstance(runtime, Runtime):
            await off_loop(runtime.close)
        else:
            await runtime.stop()
    except Exception:
        log.exception("model %s version %s could not be closed", name, version)
