"""The sign of life that a model process gives its supervisor: often while its models are asked, else rarely.

A thousand processes that nobody asks anything should cost next to nothing, and each beat of each of them
wakes a core and takes its caches from somebody who works. So a process that rests says how long it will be
silent, and the first call after that ends the rest with a beat. A loop can stand still at rest only by what
a model's own threads do; that is then noticed a rest later than under load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from penstock.server.status import Status

#: Seconds between two beats while models are asked. A supervisor waits for ten.
BEAT_S: Final = 2.0
#: Seconds that a process at rest is silent.
REST_S: Final = 20.0


class Pulse:
    """Beats from the event loop, from `begin` to `close`. All methods are for the loop's thread."""

    def __init__(
        self,
        status: Status,
        *,
        watched: Callable[[], bool] = lambda: False,
        beat_s: float = BEAT_S,
        rest_s: float = REST_S,
    ) -> None:
        self._status = status
        #: Whether short calls in the loop are looked after now; if not, the next one calls `stir`.
        self._watched = watched
        self._beat_s = beat_s
        self._rest_s = rest_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: A process that starts is not at rest.
        self._stirred = True
        self._under_way = 0
        self._resting = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first beat, now."""
        self._loop = loop
        self._beat()

    def close(self) -> None:
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stir(self) -> None:
        """A model is being asked."""
        self._stirred = True
        if self._resting and self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._beat()

    def enter(self) -> None:
        """A call begins whose end `leave` tells: until then there is no rest."""
        self._under_way += 1
        self.stir()

    def leave(self) -> None:
        self._under_way -= 1
        self._stirred = True

    def _beat(self) -> None:
        assert self._loop is not None  # noqa: S101 - `begin` has set it, `close` has cancelled the timer
        self._resting = not (self._stirred or self._under_way or self._watched())
        self._stirred = False
        if self._resting:
            self._status.rest(self._rest_s)
        else:
            self._status.beat()
        self._timer = self._loop.call_later(
            self._rest_s if self._resting else self._beat_s, self._beat
        )
