"""Replicas as one gateway process sees them: connections, outstanding requests, up or down.

A replica is down from the moment a connection to it fails, or ends unasked, until its process says that it
is ready; while it is down it is not chosen, and one probe with a growing pause asks it. So a killed process
costs each gateway its in-flight requests and one failed connection, not a failed request per arrival, and the
one in its place is left alone while it loads, whether or not there is a control plane to say so.

A replica that let a request's whole time pass without a byte is doubted: it is not chosen until it has
answered something, or its process has ended and another is up, or a while has passed with neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from penstock.domain.routes import Address
from penstock.domain.routes import Replica as ReplicaAddress
from penstock.http.client import Upstream, UpstreamError, closes, fetch

logger = logging.getLogger(__name__)

#: Pauses between attempts to reach a replica that is down, seconds: first, and most.
PROBE_FIRST_S: Final = 0.01
PROBE_MOST_S: Final = 1.0
#: The same while its process takes connections and is not ready: it may be at any moment.
PROBE_LOADING_S: Final = 0.1
#: How long a process that takes connections is asked whether it is ready, seconds; then it is taken as it is.
#: One of many models that cannot be loaded keeps a process from being ready, and not from answering.
LOADING_S: Final = 30.0
#: Longest doubt, seconds. A model process that hangs ends itself well within it; another kind of server may
#: just be slow.
DOUBT_S: Final = 3.0


class Replica:
    """One address of a revision."""

    __slots__ = (
        "_closed", "_loop", "_on_up", "_pause_s", "_probe",
        "address", "doubted", "id", "outstanding", "up", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        replica: ReplicaAddress,
        loop: asyncio.AbstractEventLoop,
        on_up: Callable[[], None],
    ) -> None:
        self.id = replica.id
        self.address = replica.address
        self.outstanding = 0
        self.up = True
        #: Not up because a request got no answer in its time, though connections are accepted.
        self.doubted = False
        address = Address.parse(replica.address)
        # Behind a Unix socket is a model process of ours; elsewhere is who knows what.
        self.upstream = Upstream(address, loop=loop, shared=address.path is not None)
        self.upstream.on_lost = self.mark_down
        self._loop = loop
        self._on_up = on_up
        self._pause_s = PROBE_FIRST_S
        self._probe: asyncio.Task[None] | None = None
        self._closed = False

    def mark_down(self) -> None:
        """A connection failed: stop choosing this replica until its process says that it is ready."""
        if self.up and not self._closed:
            self.up = False
            self._pause_s = PROBE_FIRST_S
            self._probe = self._loop.create_task(self._until_up())

    def doubt(self) -> None:
        """A request got no answer in its time: stop choosing this replica until it is known better."""
        if self.up and not self._closed:
            logger.warning("%s let a request's time pass and is not chosen for now", self.address)
            self.up = False
            self.doubted = True
            self._pause_s = PROBE_FIRST_S
            self._probe = self._loop.create_task(self._until_known())

    def trust(self) -> None:
        """It answered a request: choose it again."""
        if self.doubted and not self._closed:
            if self._probe is not None:
                self._probe.cancel()
            self._rise()

    async def _until_known(self) -> None:
        # A connection that says nothing is closed by the other end when its process ends or drains.
        ended = await closes(Address.parse(self.address), DOUBT_S)
        if ended:
            self.doubted = False  # from here on it is down like any other
            await self._until_up()
        elif not self._closed:
            self._rise()

    def _rise(self) -> None:
        self.up = True
        self.doubted = False
        self._probe = None
        self._on_up()

    async def _until_up(self) -> None:
        accepted_at: float | None = None
        while not self._closed:
            await asyncio.sleep(self._pause_s)
            ready = await self._ready()
            now = self._loop.time()
            if ready is None:
                accepted_at = None
            elif accepted_at is None:
                accepted_at = now
            if ready or (accepted_at is not None and now - accepted_at >= LOADING_S):
                self._rise()
                return
            most_s = PROBE_MOST_S if ready is None else PROBE_LOADING_S
            self._pause_s = min(self._pause_s * 1.5, most_s)

    async def _ready(self) -> bool | None:
        """Whether its process can answer requests; None when there is none."""
        try:
            status, _, _ = await fetch(Address.parse(self.address), "GET", "/v2/health/ready")
        except UpstreamError as exc:
            return None if exc.phase == "connect" else False
        except TimeoutError:
            return False
        return status != 503

    def close(self) -> None:
        """Stop choosing it; requests under way finish, idle connections close."""
        self._closed = True
        self.up = False
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self.upstream.close()


def least_busy(replicas: list[Replica], limit: int) -> Replica | None:
    """The replica with the fewest outstanding requests, among those that are up and under `limit`.

    `limit` 0 is none. Ties go to the one that comes first, which keeps its connections and caches warm;
    under load there are no ties for long.
    """
    best: Replica | None = None
    fewest = limit or 1 << 60
    for replica in replicas:
        if replica.outstanding < fewest and replica.up:
            if not replica.outstanding:
                return replica
            best = replica
            fewest = replica.outstanding
    return best
