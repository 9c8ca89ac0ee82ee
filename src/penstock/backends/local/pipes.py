"""The node's end of a child's pipe: its log, or its status lines."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

#: A status line is a few hundred bytes; a child that writes more without a newline is not understood.
_MAX_LINE: Final = 256 * 1024
#: Most that is read at once when a child has ended and its last words are wanted.
_MAX_DRAIN: Final = 4 * 1024 * 1024


class Pipe:
    """Reads a pipe on the running loop until end of file or `close`."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        #: The write end, for the child; `close_writer` once it has been handed over.
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)
        self._loop.add_reader(self.read_fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self.read_fd, 65536)
        except BlockingIOError:
            return
        if data:
            self._on_data(data)
        else:
            self.close()

    def drain(self) -> None:
        """Take what is in the pipe now, without waiting for more."""
        taken = 0
        while self.read_fd >= 0 and taken < _MAX_DRAIN:
            try:
                data = os.read(self.read_fd, 65536)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            taken += len(data)
            self._on_data(data)

    def close_writer(self) -> None:
        """Drop our copy of the write end, so that the child's end is the last. No-op when done."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        """Stop reading. No-op when closed."""
        self.close_writer()
        if self.read_fd >= 0:
            self._loop.remove_reader(self.read_fd)
            os.close(self.read_fd)
            self.read_fd = -1


class StatusLines:
    """Splits a status pipe's bytes into events: one JSON object with a string `event` a line."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            logger.warning("a status line of more than %d bytes was dropped", _MAX_LINE)
            self._rest = b""
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                self._on_event(event)
            elif line.strip():
                logger.warning("not understood on a status pipe: %r", line[:200])
