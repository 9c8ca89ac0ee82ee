"""Who holds which accelerator of this node: granted before a replica's first process, kept until its end.

A replica that is started again keeps its share, so nothing that runs ever moves. One that finds no room waits
here: whenever something is given back, those that wait are tried again, the highest priority first and the
oldest first among equals. One that does not fit holds up none that does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from penstock.backends.local.inventory import OFF, Inventory
from penstock.domain.devices import (
    DeviceRequest,
    DeviceShare,
    DeviceStatus,
    place,
    visible,
    why_not,
)

Shares = tuple[DeviceShare, ...]


@dataclass(order=True, slots=True)
class _Waiting:
    rank: tuple[int, int]
    replica: str = field(compare=False)
    request: DeviceRequest = field(compare=False)
    granted: asyncio.Future[Shares] = field(compare=False)
    tell: Callable[[str], None] = field(compare=False)


class Devices:
    """The ledger. All methods are for the node's loop."""

    def __init__(self, inventory: Inventory | None = None, *, settle_s: float = 0.0) -> None:
        """Nothing is given within `settle_s` of the first question.

        A node that starts is asked for everything at once, in no order; the first to come shall not have
        what another one needs more.
        """
        self._inventory = inventory or Inventory(OFF)
        self._settle_s = settle_s
        self._settled = settle_s <= 0
        self._settling: asyncio.TimerHandle | None = None
        self._held: dict[str, Shares] = {}
        self._waiting: list[_Waiting] = []
        self._arrivals = itertools.count()

    async def acquire(
        self,
        replica: str,
        request: DeviceRequest,
        *,
        priority: int = 0,
        tell: Callable[[str], None] = lambda why: None,
    ) -> Shares:
        """What the replica holds already, or a share as soon as there is room. Cancel to give up.

        `tell` gets the reason, a sentence, while it waits, and again whenever that changes.
        """
        held = self._held.get(replica)
        if held is not None:
            return held
        if not self._settled and self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(self._settle_s, self._settle)
        with self._line(replica, request, priority, tell) as waiting:
            self._serve()
            return await waiting.granted

    @contextmanager
    def _line(
        self, replica: str, request: DeviceRequest, priority: int, tell: Callable[[str], None]
    ) -> Iterator[_Waiting]:
        waiting = _Waiting(
            (-priority, next(self._arrivals)),
            replica,
            request,
            asyncio.get_running_loop().create_future(),
            tell,
        )
        self._waiting.append(waiting)
        self._waiting.sort()
        try:
            yield waiting
        except asyncio.CancelledError:
            self.release(replica)  # granted in the moment it gave up
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def release(self, replica: str) -> None:
        """Give back what a replica holds. No-op when it holds nothing."""
        if self._held.pop(replica, None) is not None:
            self._serve()

    def refresh(self) -> None:
        """Look whether the operator declared other devices."""
        if self._inventory.refresh():
            self._serve()

    def environment(self, shares: Shares) -> dict[str, str]:
        """What tells a replica with these shares (none: no share) which devices it may see."""
        return visible(self._inventory.devices, shares)

    def list(self) -> tuple[DeviceStatus, ...]:
        """Each device, by index, with its holders."""
        return tuple(
            DeviceStatus(
                device,
                {
                    replica: share
                    for replica, shares in sorted(self._held.items())
                    for share in shares
                    if share.id == device.id
                },
            )
            for device in sorted(self._inventory.devices, key=lambda d: (d.resource, d.index))
        )

    def _settle(self) -> None:
        self._settled = True
        self._serve()

    def _serve(self) -> None:
        if not self._settled:
            for waiting in self._waiting:
                waiting.tell("The node has just started; devices are given out in a moment.")
            return
        still = []
        for waiting in self._waiting:
            if waiting.granted.done():
                continue
            held = [share for shares in self._held.values() for share in shares]
            shares = place(self._inventory.devices, held, waiting.request)
            if shares is None:
                still.append(waiting)
            else:
                self._held[waiting.replica] = shares
                waiting.granted.set_result(shares)
        self._waiting = still
        for waiting in still:
            waiting.tell(why_not(self._inventory.devices, self._held, waiting.request))
