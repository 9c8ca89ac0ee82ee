"""Makes room on the accelerators for a service that matters more than those who have them.

The node gives a device to whoever waits for it as soon as one is free, the highest priority first. Here it is
seen to that one becomes free: while a replica waits, services of a lower rank that have more replicas than
they need at least lose some - drained, so that no request fails for it.

A replica waits with the priority that it was started with. When its service's priority is another one by then
(the manifest or the class was changed), it makes way for one that waits with the new one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from penstock.backends.base import WAITING_FOR_TURN, Backend, Phase, ReplicaStatus
from penstock.control.clock import Clock
from penstock.control.placement.preemption import Key, Taken, take
from penstock.control.plan.observed import LIVE, worth
from penstock.control.replicas import ReplicaCache
from penstock.control.scaling.scaler import Scaler
from penstock.domain.devices import Device, DeviceRequest, DeviceShare, place
from penstock.domain.service import Role
from penstock.domain.workload import component_key
from penstock.errors import Unavailable

log = logging.getLogger(__name__)

EVERY_S = 2.0


def key_of(r: ReplicaStatus) -> Key:
    """The component that a replica belongs to, as scaling knows it."""
    return r.namespace, component_key(r.service, Role(r.component))


def _waits_for_device(r: ReplicaStatus) -> bool:
    """One that waits for its turn to load has its device."""
    return r.phase is Phase.WAITING and r.device is not None and r.reason != WAITING_FOR_TURN


class Placing:
    """Looks every two seconds; costs nothing while nobody waits."""

    def __init__(
        self,
        backend: Backend,
        replicas: ReplicaCache,
        scaler: Scaler,
        *,
        clock: Clock,
        tell: Callable[[Key, str], None] = lambda key, message: None,
    ) -> None:
        self._backend = backend
        self._replicas = replicas
        self._scaler = scaler
        self._clock = clock
        self._tell = tell

    async def look(self) -> Taken:
        """Take what must be taken; how many replicas, by component."""
        waiting = [r for r in self._replicas.all() if _waits_for_device(r)]
        waiting = [r for r in waiting if not await self._outranked(r)]
        if not waiting:
            return {}
        devices = [status.device for status in await self._backend.devices()]
        waiting.sort(key=lambda r: (-self._scaler.rank(key_of(r)).value, r.id))
        for replica in waiting:
            rank = self._scaler.rank(key_of(replica))
            if not rank.preempts:
                continue
            assert replica.device is not None  # noqa: S101 - chosen above
            taken = self._make_room(devices, replica.device, rank.value)
            if taken is None:
                return {}  # it is on its way
            for key, count in taken.items():
                if self._scaler.take(key, count):
                    self._tell(
                        key,
                        f"{replica.namespace}/{replica.service} has a higher priority "
                        f"({rank.value}) and needs {replica.device}.",
                    )
            if taken:
                return taken
        return {}

    async def _outranked(self, replica: ReplicaStatus) -> bool:
        """End a replica that waits with a priority that its service has no more: another will be started.

        It has no process, so nothing is lost by it but its place among equals.
        """
        rank = self._scaler.rank(key_of(replica)).value
        if replica.priority is None or replica.priority == rank:
            return False
        log.info("%s waits with priority %d, it is %d now", replica.id, replica.priority, rank)
        await self._backend.stop(replica.id, grace_s=0.0)
        return True

    def _make_room(self, devices: list[Device], request: DeviceRequest, rank: int) -> Taken | None:
        """What to take for one replica; None when room is being made already."""
        holding: dict[Key, list[ReplicaStatus]] = {}
        for r in self._replicas.all():
            # Those that drain are as good as gone.
            if r.phase in LIVE:
                holding.setdefault(key_of(r), []).append(r)
        going: dict[Key, int] = {}
        for key, found in holding.items():
            found.sort(key=worth)
            wanted = self._scaler.wanted(key)
            going[key] = 0 if wanted is None else max(0, len(found) - wanted)

        def fits(taken: Taken) -> bool:
            left: list[DeviceShare] = []
            for key, found in holding.items():
                for r in found[going[key] + taken.get(key, 0) :]:
                    left += r.devices
            return place(devices, left, request) is not None

        if fits({}):
            return None
        having = {k for k, found in holding.items() if any(r.devices for r in found)}
        return take((h for h in self._scaler.holders() if h.key in having), rank, fits)

    async def run(self) -> None:
        """Look for ever. Cancelled from outside."""
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                await self.look()
            except Unavailable as exc:
                log.debug("devices are not known: %s", exc)
            except Exception:  # the task's border: the next look may go better
                log.exception("room on the devices could not be made")
