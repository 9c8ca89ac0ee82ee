"""A program the node starts by exec and keeps alive: the control plane, or a gateway.

It says on its status descriptor when it is ready. One that ends is started again with back-off, for ever;
only one that never came up, time and again, is given up, because then the node's own start has failed and
somebody at a terminal waits to be told.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Any, Final

from penstock.backends.local.backoff import Endings
from penstock.backends.local.clock import Clock, wait_event
from penstock.backends.local.logs import ProcessLog
from penstock.backends.local.node_protocol import ChildStatus
from penstock.backends.local.pipes import Pipe, StatusLines
from penstock.backends.local.spawn import Ending, Reaper

logger = logging.getLogger(__name__)

#: Endings before it was ever ready, until it is given up.
_TRIES: Final = 3
#: A program that says with this exit code that it cannot work is believed at once.
_EXIT_CANNOT: Final = 78
_HEALTHY_S: Final = 300.0


class Child:
    """One such program, whichever process it is at the moment."""

    def __init__(
        self, name: str, argv: Sequence[str], *, reaper: Reaper, log: ProcessLog, clock: Clock
    ) -> None:
        self.name = name
        self._argv = tuple(argv)
        self._reaper = reaper
        self._log = log
        self._clock = clock
        self._endings = Endings(_HEALTHY_S)
        self._stopping = False
        self._wake = asyncio.Event()
        self._pid: int | None = None
        self._ready_since: float | None = None
        self._restarts = 0
        #: Set while the present process is ready.
        self.ready = asyncio.Event()
        #: It came up at least once.
        self.was_ready = False
        #: Set when it is given up; `message` says why.
        self.given_up = asyncio.Event()
        self.message = ""
        self._done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> ChildStatus:
        return ChildStatus(self.name, self._pid, self.ready.is_set(), self._restarts, self.message)

    def begin(self) -> None:
        """Start it, and look after it until `stop`. Call once."""
        self._task = asyncio.get_running_loop().create_task(self._live(), name=self.name)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, `grace_s` seconds, SIGKILL to its process group; returns when it is gone."""
        if self._task is None:
            return
        self._stopping = True
        self._wake.set()
        if self._pid is not None:
            self._reaper.kill(self._pid, signal.SIGTERM)
        if not await wait_event(self._clock, self._done, grace_s):
            logger.warning("%s did not end within %g s and is killed", self.name, grace_s)
            if self._pid is not None:
                self._reaper.kill(self._pid)
            await self._done.wait()

    async def _live(self) -> None:
        tries = 0
        try:
            while not self._stop_asked():
                ending = await self._run_once()
                if self._stop_asked():
                    return
                tries += 1
                ready_for_s = self._clock.monotonic() - (self._ready_since or float("inf"))
                refused = isinstance(ending, Ending) and ending.exit_code == _EXIT_CANNOT
                last = self._log.last_line() if refused else self._log.last_error()
                how = str(ending) if isinstance(ending, Ending) else f"cannot be run: {ending}"
                self.message = f"{how}: {last}" if last else how
                if not self.was_ready:
                    cannot = isinstance(ending, OSError) or refused
                    if cannot or tries >= _TRIES:
                        self.given_up.set()
                        return
                delay = self._endings.next_delay_s(failed=False, healthy_for_s=ready_for_s)
                logger.warning(
                    "%s ended (%s); started again in %g s", self.name, self.message, delay
                )
                self._wake.clear()
                await wait_event(self._clock, self._wake, delay)
                self._restarts += 1
        finally:
            self._log.close()
            self._done.set()

    async def _run_once(self) -> Ending | OSError:
        self.ready.clear()
        self._ready_since = None
        self._log.forget_last()
        output = Pipe(self._log.write)
        status = Pipe(StatusLines(self._on_event).feed)
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        try:
            self._pid = self._reaper.spawn(
                (*self._argv, f"--status-fd={status.write_fd}"),
                ended.set_result,
                output_fd=output.write_fd,
                pass_fds=(status.write_fd,),
            )
            output.close_writer()
            status.close_writer()
            ending = await ended
            output.drain()
            return ending
        except OSError as e:
            return e
        finally:
            self._pid = None
            self.ready.clear()
            output.close()
            status.close()

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.was_ready = True
            self._ready_since = self._clock.monotonic()
            self.message = ""
            self.ready.set()

    def _stop_asked(self) -> bool:
        return self._stopping
