"""Frames on their way out: what is said within one turn of the loop is written with one call."""

from __future__ import annotations

import asyncio

from penstock.http.incoming import Buffer


class Outgoing:
    """The writing half of either end of a multiplexed connection."""

    __slots__ = ("_loop", "_out", "_scheduled", "progress", "transport")

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._out: list[Buffer] = []
        self._scheduled = False
        #: Counts what was read and written, for who looks whether there was anything.
        self.progress = 0

    def later(self, data: bytes) -> None:
        """Send a frame with the next ones."""
        self._out.append(data)
        self.flush_later()

    def flush_later(self) -> None:
        """Write at the end of this turn what is there by then."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_all)

    def _flush_all(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what is there, now."""
        out = self._out
        if out:
            if not self.transport.is_closing():
                self.transport.write(b"".join(out))
            out.clear()
            self.progress += 1
