"""Time as the node sees it, injected so that tests own it.

Delays run on the monotonic clock, so a clock that is stepped back holds nothing up; only what people read
(`started_at`, `retry_at`) comes from the wall clock.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The real clock. A test's clock overrides all of it."""

    def now(self) -> float:
        """Wall time, Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds."""
        await asyncio.sleep(delay_s)


async def wait_event(clock: Clock, event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until `event` is set or `timeout_s` has passed on `clock`; True when it is set."""
    if event.is_set() or timeout_s <= 0:
        return event.is_set()
    waits = (asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(timeout_s)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for w in waits:
            w.cancel()
        # The cancellations are seen through here, so that no half-cancelled wait outlives its caller.
        await asyncio.gather(*waits, return_exceptions=True)
    return event.is_set()
