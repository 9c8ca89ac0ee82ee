"""Watches that feed the queue, kept open however often the other side goes away.

A watch is only ever a hint to look again (see `control.loop`), so after a break it is enough to open it
anew: both stores and backends start a fresh watch with what exists.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from penstock.control.clock import Clock
from penstock.control.loop import Backoff
from penstock.errors import PenstockError
from penstock.store.base import Expired

log = logging.getLogger(__name__)

T = TypeVar("T")


async def follow(
    what: str,
    open_watch: Callable[[], AsyncIterator[T]],
    handle: Callable[[T], None],
    *,
    clock: Clock,
    backoff: Backoff = Backoff(0.05, 5.0),  # noqa: B008 - frozen
    on_open: Callable[[], None] | None = None,
) -> None:
    """Hand every item of a watch to `handle`, for ever; reopen with back-off when it ends.

    Cancelled from outside. `on_open` is called before each opening after the first.
    """
    failures = 0
    first = True
    while True:
        if not first and on_open is not None:
            on_open()
        first = False
        watch = open_watch()
        try:
            async for item in watch:
                failures = 0
                handle(item)
            reason = "ended"
        except Expired:
            reason = "expired"
        except (PenstockError, OSError) as exc:
            reason = str(exc)
        finally:
            close = getattr(watch, "aclose", None)
            if close is not None:
                with contextlib.suppress(RuntimeError):
                    await close()
        failures += 1
        delay_s = backoff.delay_s(failures)
        level = logging.WARNING if failures in (1, 10) else logging.DEBUG
        log.log(level, "the watch on %s broke off (%s); again in %.2f s", what, reason, delay_s)
        await clock.sleep(delay_s)
