"""The responses of a decoupled Python model of Triton's, on their way from its thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

from penstock.errors import PenstockError
from penstock.runtimes import triton_backend_utils as pb_utils

#: Responses of one request that may wait to be sent on.
_HELD: Final = 64
_END: Final = object()


class Collector:
    """A decoupled request's responses, sent from whatever thread the model has.

    A sender waits when the caller is slower than the model, so that little is held.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(_HELD)
        self._lock = threading.Lock()
        self._final = False
        #: Nobody waits any more.
        self.gone = False

    def send(self, response: Any, final: bool) -> None:
        with self._lock:
            if self._final:
                raise pb_utils.TritonModelException(
                    "Unable to send response. Response sender has been closed."
                )
            self._final = final
        if response is not None:
            self._room.acquire()
            self._put(response)
        if final:
            self._put(_END)

    def fail(self, error: PenstockError) -> None:
        """End with an error, behind what was sent before it."""
        self._put(error)

    def _put(self, item: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is on its way out
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def responses(self) -> AsyncGenerator[Any, None]:
        """As they come, to the end. Raises what the model's call raised."""
        try:
            while (item := await self._queue.get()) is not _END:
                if isinstance(item, PenstockError):
                    raise item
                self._room.release()
                yield item
        finally:
            self.gone = True
            for _ in range(_HELD):  # nobody is held by a caller that has left
                self._room.release()
