"""A model process from birth to end: listen, load, serve, drain.

`main` is what a zygote calls in a freshly forked child, and what `python -m penstock.server` calls. The
process listens before it loads, so that health can be asked from the start, and says on its status channel
when it is ready. How it ends is its exit code.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import uvloop

from penstock import runtimes
from penstock.domain.process import ProcessSpec
from penstock.domain.routes import Address
from penstock.errors import DeadlineExceeded, LoadError, PenstockError
from penstock.http.h2.server import Http2Server
from penstock.http.limits import Limits as HttpLimits
from penstock.http.server import HttpServer
from penstock.observe.metrics import Registry
from penstock.protocols.grpc.wire import refusal
from penstock.runtimes.base import Framework
from penstock.server.application import Application
from penstock.server.farewell import answer_all
from penstock.server.memory import release_free_memory, release_zeros
from penstock.server.pulse import Pulse
from penstock.server.repository import Limits, Repository
from penstock.server.statistics import Metrics
from penstock.server.status import Status
from penstock.server.threads import Pools, share
from penstock.server.warming import warm
from penstock.server.workers import Watchdog

#: `warm` is for zygotes: they call it before they fork.
__all__ = ["EXIT_CANNOT_LOAD", "EXIT_DRAINED", "EXIT_HUNG", "ModelProcess", "main", "warm"]

log = logging.getLogger(__name__)

EXIT_DRAINED: Final = 0
#: A model cannot be loaded: the same files will not load again by themselves.
EXIT_CANNOT_LOAD: Final = 78
#: A call of a model never returned: start another process.
EXIT_HUNG: Final = 79
#: Seconds that other requests get to finish when a model hangs.
HUNG_GRACE_S: Final = 2.0
#: Longest a call may hold the loop. It ran there because it was expected to take a millisecond, and the
#: supervisor replaces a process that gives no sign of life for ten seconds.
LOOP_HELD_S: Final = 8.0
#: Seconds a thread may hold the interpreter while another waits for it. Python's own is five times that.
SWITCH_S: Final = 0.001
#: Container objects before the collector looks. A request makes a few dozen, nearly none in a cycle.
GC_THRESHOLD: Final = 20_000


def keep_what_is_loaded() -> None:
    """What was loaded stays: the collector need not walk over it again and again."""
    release_free_memory()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


class ModelProcess:
    """One model process; `serve` runs it to its end and returns the exit code."""

    def __init__(
        self,
        spec: ProcessSpec,
        status: Status,
        *,
        find: Callable[[str], Framework] = runtimes.find,
        on_listening: Callable[[Address], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        at_rest: Callable[[], None] = keep_what_is_loaded,
    ) -> None:
        self.spec = spec
        self.status = status
        self._find = find
        self._on_listening = on_listening
        self._on_ready = on_ready
        self._at_rest = at_rest
        self._stop = asyncio.Event()
        self._hung: str | None = None
        self._pools = Pools(share(spec))
        # A model's thread that computes in Python lets the loop wait for as long as this.
        sys.setswitchinterval(SWITCH_S)
        self.metrics = Metrics(
            Registry(), namespace=spec.namespace, service=spec.service, revision=spec.revision
        )
        self._pulse = Pulse(status, watched=lambda: self._watchdog.awake)
        self._watchdog = Watchdog(
            min(spec.timeout_s, LOOP_HELD_S), self._loop_hangs, pulse=self._pulse
        )
        self.repository = Repository(
            spec.models,
            metrics=self.metrics,
            hung=self._model_hangs,
            find=find,
            limits=Limits(
                timeout_s=spec.timeout_s,
                max_queue=spec.max_queue,
                threads=self._pools.threads,
                devices=spec.devices,
                predictor=spec.predictor,
            ),
            watchdog=self._watchdog,
            prepare_thread=self._pools.prepare_thread,
            also=spec.service,
            empty=not spec.models,
        )
        self.application = Application(spec, self.repository, self.metrics)
        limits = HttpLimits(max_body=spec.max_body_bytes)
        self.server = self.application.server = HttpServer(self.application, limits=limits)
        #: For clients that come without a gateway.
        self.grpc = (
            Http2Server(
                self.application.streamed,
                limits=limits,
                streaming=True,
                http1=False,
                refusal=refusal,
            )
            if spec.listen_grpc
            else None
        )

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            address = await self.server.listen(Address.parse(self.spec.listen), mode=0o600)
            if self.grpc is not None:
                await self.grpc.listen(Address.parse(self.spec.listen_grpc), mode=0o600)
            self.status.say("listening", address=_text(address))
            self._pulse.begin(loop)
            if self._on_listening is not None:
                self._on_listening(address)
            failed = await self._load()
            if failed is not None:
                return failed
            await self._stop.wait()
            return await self._end()
        finally:
            self.server.close()
            if self.grpc is not None:
                self.grpc.close()
            self._pulse.close()
            self._watchdog.close()

    async def _load(self) -> int | None:
        """Load what shall be there at start. An exit code when the process has to end instead."""
        loading = asyncio.ensure_future(self.repository.load_all())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not loading.done():
            loading.cancel()
            return EXIT_DRAINED
        error = loading.exception()
        if error is None:
            self._ready()
            return None
        if not isinstance(error, PenstockError):
            log.error("loading failed", exc_info=error)
        reason = error.reason if isinstance(error, LoadError) else LoadError.reason
        message = " ".join(str(error).split()) or type(error).__name__
        log.error("%s: %s", reason, message)
        self.status.say("failed", reason=reason, message=message)
        return EXIT_CANNOT_LOAD

    def _ready(self) -> None:
        self._at_rest()
        loaded = self.repository.loaded()
        answered = bool(loaded) and all(v.probe == "answered" for v in loaded)
        self.status.say(
            "ready",
            probe="answered" if answered else "not-tried",
            load_s=round(sum(v.load_s for v in loaded), 6),
            models=[v.name for v in loaded],
        )
        if self._on_ready is not None:
            self._on_ready()

    async def _end(self) -> int:
        """Answer what was taken, within the grace time, and let go of everything."""
        self.application.draining = True
        hung = self._hung is not None
        grace_s = min(self.spec.grace_s, HUNG_GRACE_S) if hung else self.spec.grace_s
        servers = [self.server] if self.grpc is None else [self.server, self.grpc]
        await asyncio.gather(*(s.drain(grace_s) for s in servers))
        if hung:
            return EXIT_HUNG
        try:
            async with asyncio.timeout(grace_s):
                await self.application.payloads.drain()
                await self.repository.close()
        except TimeoutError:
            log.warning("models were still busy after %g s of grace", grace_s)
        return EXIT_DRAINED

    def _model_hangs(self, message: str) -> None:
        """A call in a worker thread never returned. In the loop."""
        if self._hung is not None:
            return
        self._hung = message
        log.error("%s The process ends, to be replaced.", message)
        self.status.say("hung", message=message)
        self.repository.abandon_hung(DeadlineExceeded(message))
        self._stop.set()

    def _loop_hangs(self, message: str) -> None:
        """A call in the loop never returned. In the watchdog's thread: nothing but this runs any more."""
        log.error("%s The process ends, to be replaced.", message)
        self.status.say("hung", message=message)
        answer_all(self.server, DeadlineExceeded(message))
        logging.shutdown()
        os._exit(EXIT_HUNG)


def _text(address: Address) -> str:
    if address.path is not None:
        return f"unix:{address.path}"
    return f"tcp:{address.host}:{address.port}"


def configure_logging() -> None:
    """Everything to stderr, which is the replica's log; level from PENSTOCK_LOG_LEVEL (INFO)."""
    root = logging.getLogger()
    if root.handlers:
        return
    level = os.environ.get("PENSTOCK_LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        stream=sys.stderr,
        level=level if level in logging.getLevelNamesMapping() else "INFO",
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


def main(
    spec: ProcessSpec,
    status_fd: int | None = None,
    *,
    find: Callable[[str], Framework] = runtimes.find,
    on_listening: Callable[[Address], None] | None = None,
    on_ready: Callable[[], None] | None = None,
    at_rest: Callable[[], None] = keep_what_is_loaded,
) -> int:
    """Run a model process to its end; the exit code. The caller has applied `spec.env`.

    `at_rest` is called once, when all models are loaded and before that is said.
    """
    configure_logging()
    status = Status(status_fd)

    async def run() -> int:
        process = ModelProcess(
            spec,
            status,
            find=find,
            on_listening=on_listening,
            on_ready=on_ready,
            at_rest=at_rest,
        )
        return await process.serve()

    # Not asyncio.Runner: its handler for SIGINT is never used, and costs 0.2 MB of a forked process.
    loop = uvloop.new_event_loop()
    release_zeros(loop)
    asyncio.set_event_loop(loop)
    try:
        code: int = loop.run_until_complete(run())
        return code
    finally:
        asyncio.set_event_loop(None)
        loop.close()
