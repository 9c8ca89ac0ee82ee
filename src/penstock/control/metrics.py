"""Every process's metrics, read when somebody asks and shown as one.

Gateways and model processes answer `GET /metrics.json` on their own sockets with a `Registry.snapshot()`.
`reading` reads them in batches with a deadline, so that a hung process costs a scrape one second and its own
numbers; `observe.merging` has their sum, and keeps the share of processes that ended. Two scrapes within
`FRESH_S` are one reading. A background reading every `BACKGROUND_S` bounds what is lost when a process is
killed between two scrapes.

Of a thousand model processes few have had a request since the last reading, and the gateways know which: a
service's processes are read when a gateway's numbers of it changed, or while it has requests under way. What
a process counts without a gateway (a client at its own socket, a model's own gauge) is seen when it is read
in turn, after `STALE_S` or so. Without a gateway that answers, all are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from penstock.control.clock import Clock
from penstock.control.reading import Result, read_snapshots, well_formed
from penstock.observe.merging import Merger
from penstock.observe.metrics import START_TIME, Registry, Snapshot

log = logging.getLogger(__name__)

#: Processes that are read at once.
BATCH = 64
DEADLINE_S = 1.0
FRESH_S = 1.0
BACKGROUND_S = 10.0
#: Share of the time that background readings may take.
BACKGROUND_SHARE = 0.03
#: A process without requests is read again after this long.
STALE_S = 60.0
#: Series whose text is written before others get their turn of the loop.
TURN = 400

ServiceKey: TypeAlias = tuple[str, str]
#: Result by address, in order.
Read: TypeAlias = Callable[[Sequence[str]], Awaitable[list[Result]]]

#: The control plane's own part of the sum.
_OWN = ""


class Process(NamedTuple):
    """Something that has metrics."""

    address: str
    #: (namespace, name) of a model process's service; None for a gateway.
    service: ServiceKey | None = None


#: By process id: any string that changes when the process is another one.
Processes: TypeAlias = Mapping[str, Process]


async def read_in_thread(addresses: Sequence[str]) -> list[Result]:
    return await asyncio.to_thread(read_snapshots, addresses, deadline_s=DEADLINE_S)


def went_back(old: Snapshot, new: Snapshot) -> bool:
    """True when another process has taken the address: one that says when it started, or has a lower counter.

    A gateway says it, because its counters of a graph begin anew when the graph is deleted and applied again.
    """
    if START_TIME in old and START_TIME in new:
        return list(old[START_TIME]["samples"]) != list(new[START_TIME]["samples"])
    for name, family in old.items():
        if family["kind"] == "gauge":
            continue
        now = {tuple(labels): value for labels, value in new.get(name, {}).get("samples", ())}
        for labels, value in family["samples"]:
            have = now.get(tuple(labels))
            if have is None:
                if name not in new:
                    return True
                continue  # a child that was removed, not a fresh process
            if family["kind"] == "histogram":
                if sum(have[0]) < sum(value[0]):
                    return True
            elif have < value:
                return True
    return False


class MetricsCollector:
    """Reads `processes()` and the control plane's own registry into one text."""

    def __init__(
        self,
        processes: Callable[[], Processes],
        own: Registry,
        *,
        clock: Clock,
        refresh_own: Callable[[], None] = lambda: None,
        busy: Callable[[ServiceKey], bool] = lambda service: False,
        read: Read = read_in_thread,
    ) -> None:
        """`busy`: whether a service has requests under way, as far as is known."""
        self._processes = processes
        self._own = own
        self._clock = clock
        self._refresh_own = refresh_own
        self._busy = busy
        self._read = read
        self._merger = Merger()
        self._last: dict[str, Snapshot] = {}
        #: When a process was read last, the longest ago first.
        self._last_at: dict[str, float] = {}
        #: Services that have had requests since all their processes were read.
        self._due: set[ServiceKey] = set()
        #: How many more may be read in turn.
        self._in_turn = 0.0
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._unread = own.counter(
            "penstock_metrics_unread_total", "Readings of a process's metrics that failed"
        ).labels()
        self._read_gauge = own.gauge(
            "penstock_metrics_read_monotonic_seconds",
            "When the processes' metrics were read; differences of it are between two readings.",
        ).labels()

    async def text(self) -> bytes:
        """Prometheus text of all processes."""
        await self._up_to_date()
        # A thousand services' lines take a second if all are new: the loop's others go on meanwhile.
        parts = []
        for part in self._merger.parts(TURN):
            parts.append(part)
            await asyncio.sleep(0)
        return b"".join(parts)

    async def total(self) -> Snapshot:
        """The sum over all processes, at most `FRESH_S` old."""
        await self._up_to_date()
        return self._merger.total()

    async def _up_to_date(self) -> None:
        await self._fresh()
        self._refresh_own()
        self._merger.put(_OWN, self._own.snapshot())

    def forget(self, namespace: str, service: str) -> None:
        """Drop the ended processes' share of a service that was deleted."""
        self._merger.forget(namespace, service)

    async def run(self) -> None:
        """Read in the background, for ever. Cancelled from outside."""
        every_s = BACKGROUND_S
        while True:
            await self._clock.sleep(every_s)
            began = self._clock.monotonic()
            await self._fresh()
            # A thousand processes take a while to read; in the background that may be a share of time.
            every_s = max(BACKGROUND_S, (self._clock.monotonic() - began) / BACKGROUND_SHARE)

    async def close(self) -> None:
        """Stop a reading that runs."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _fresh(self) -> None:
        if self._clock.monotonic() - self._read_at < FRESH_S:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        # Shielded: a scraper that hangs up must not take the reading from the others.
        await asyncio.shield(self._reading)

    async def _read_all(self) -> None:
        processes = dict(self._processes())
        for gone in self._merger.processes() - processes.keys() - {_OWN}:
            self._retire(gone)
        gateways = {p: a for p, a in processes.items() if a.service is None}
        self._merger.stirred()  # by model processes, in the last reading
        unread = await self._read_some(gateways)
        self._due |= self._merger.stirred()
        # Who cannot ask the gateways knows of no service that it had no requests.
        everybody = bool(unread) or not gateways
        models = {p: a for p, a in processes.items() if a.service is not None}
        wanted = models if everybody else self._wanted(models)
        unread = await self._read_some(wanted)
        self._due = {service for p in unread if (service := models[p].service) is not None}
        self._read_at = self._clock.monotonic()
        self._read_gauge.set(self._read_at)

    def _wanted(self, models: Processes) -> dict[str, Process]:
        """Those that may have something new, and of the others those that were read longest ago."""
        now = self._clock.monotonic()
        wanted = {}
        for process, about in models.items():
            service = about.service
            if service is not None and (
                process not in self._last or service in self._due or self._busy(service)
            ):
                wanted[process] = about
        # In turn, so that a thousand that were started at once are not read at once for ever.
        if self._last_at:
            self._in_turn += len(models) * min(STALE_S, now - self._read_at) / STALE_S
        turns, self._in_turn = int(self._in_turn), self._in_turn % 1
        for process in self._last_at:
            if not turns:
                break
            if process in models and process not in wanted:
                wanted[process] = models[process]
                turns -= 1
        return wanted

    async def _read_some(self, processes: Processes) -> list[str]:
        """Read them into the sum; those that could not be read."""
        unread = []
        ids = list(processes)
        for first in range(0, len(ids), BATCH):
            batch = ids[first : first + BATCH]
            results = await self._read([processes[p].address for p in batch])
            for process, result in zip(batch, results, strict=True):
                problem = self._take(process, result)
                if problem is not None:
                    unread.append(process)
                    self._unread.inc()
                    log.debug("metrics of %s cannot be read: %s", process, problem)
        return unread

    def _take(self, process: str, result: Result) -> Exception | None:
        """Put what was read into the sum; what is wrong with it otherwise."""
        if isinstance(result, Exception):
            return result
        if not well_formed(result):
            return ValueError("these are no metrics")
        last = self._last.get(process)
        if last == result:
            self._note(process, result)
            return None
        if last is not None and went_back(last, result):
            self._retire(process)
        try:
            self._merger.put(process, result)
        except ValueError as exc:
            return exc
        self._note(process, result)
        return None

    def _note(self, process: str, snapshot: Snapshot) -> None:
        self._last[process] = snapshot
        self._last_at.pop(process, None)
        self._last_at[process] = self._clock.monotonic()

    def _retire(self, process: str) -> None:
        self._merger.retire(process)
        self._last.pop(process, None)
        self._last_at.pop(process, None)
