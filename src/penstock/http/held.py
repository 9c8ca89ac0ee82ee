"""What a server asks of each of its connections, whatever is spoken on it."""

from __future__ import annotations

import asyncio


class Held(asyncio.Protocol):
    """A connection of a server's: a protocol that can be looked at and ended from outside."""

    __slots__ = ()

    def check(self, now: float) -> bool | None:
        """Close what has waited too long. True: it is at rest, and need not be looked at for a while."""
        raise NotImplementedError

    def close_if_idle(self) -> None:
        """For a drain."""
        raise NotImplementedError

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        """Break the connection for a reason that no handler knows of."""
        raise NotImplementedError
