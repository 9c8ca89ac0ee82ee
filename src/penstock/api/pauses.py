"""Keeps Python's garbage collector from holding the control plane up.

A thousand services are some million objects that live for as long as their services. The collector's oldest
generation looks at all of them, 150 ms of the process's time whenever a quarter of them has come anew, and a
reading of a thousand processes' metrics makes so many. So the oldest generation is not left to itself: soon
after something was made, what lives of it is put aside (`gc.freeze`) before it is much to look at. What is
aside goes when nobody refers to it, as ever; only garbage of cycles among it waits for a look at everything.
That comes a few times a day, and whenever the process has grown much: what was under way when it was put
aside can be large, and end as such a cycle.

What a start reads and makes lives, all of it. It is put aside without a look: requests wait meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Final

from penstock.backends.local.memory import resident_bytes
from penstock.control.clock import Clock

LOOK_S: Final = 0.5
#: Collections of the middle generation, about 7,000 objects each, after which there is enough to put aside.
ENOUGH: Final = 4
EVERYTHING_S: Final = 6 * 3600.0
#: Growth after which everything is looked at: bytes, and as a part of what there was after the last time.
GROWN_BYTES: Final = 64 * 1024 * 1024
GROWN_PART: Final = 0.25
#: The oldest generation's threshold: never by itself.
_NEVER: Final = 1_000_000


def put_aside() -> None:
    """Collect what came since the last time, and look no more at what lives of it."""
    gc.collect()
    gc.freeze()


def resident() -> int:
    """Bytes of this process's memory that are in use."""
    return resident_bytes(os.getpid()) or 0


async def keep_short(
    clock: Clock, begun: asyncio.Event, resident: Callable[[], int] = resident
) -> None:
    """Do so for as long as the process has a loop. Cancelled from outside, which leaves all as it was.

    `begun` is set when the start is over.
    """
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], _NEVER)
    gc.freeze()
    whole_at = clock.monotonic() + EVERYTHING_S
    try:
        while not begun.is_set():
            await clock.sleep(LOOK_S)
            gc.freeze()
        most = _most(resident())
        while True:
            await clock.sleep(LOOK_S)
            if clock.monotonic() >= whole_at or resident() > most:
                gc.unfreeze()
                put_aside()
                whole_at = clock.monotonic() + EVERYTHING_S
                most = _most(resident())
            elif gc.get_count()[2] >= ENOUGH:
                put_aside()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _most(size: int) -> int:
    return size + max(GROWN_BYTES, int(size * GROWN_PART))
