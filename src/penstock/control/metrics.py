"""Every process's metrics, read when somebody asks and shown as one.

Gateways and model processes answer `GET /metrics.json` on their own sockets with a
`Registry.snapshot()`. The collector reads them side by side (at most `CONCURRENCY` at a time, each with a
deadline, so a hung process costs a scrape one second and its own numbers), adds them up with
`observe.metrics.Merger`, and keeps the share of processes that ended. Two scrapes within `FRESH_S` are one
reading. A background reading every `BACKGROUND_S` bounds what is lost when a process is killed between
two scrapes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from penstock.control.clock import Clock
from penstock.domain.routes import Address
from penstock.observe.metrics import Merger, Registry, Snapshot, add, render

log = logging.getLogger(__name__)

CONCURRENCY = 32
DEADLINE_S = 1.0
FRESH_S = 1.0
BACKGROUND_S = 10.0
#: Share of the time that background readings may take.
BACKGROUND_SHARE = 0.03
#: Bytes of one process's snapshot.
MAX_BYTES = 16 * 1024 * 1024

#: Process id (any string that changes when the process is another one) to address.
Processes = Mapping[str, str]


async def read_snapshot(address: str) -> Snapshot:
    """`GET /metrics.json` at `unix:/path` or `tcp:host:port`. Raises OSError, ValueError.

    By hand: a thousand processes are read at a time, and a client library's pool for each costs ten times
    what the reading does.
    """
    where = Address.parse(address)
    try:
        if where.path is not None:
            reader, writer = await asyncio.open_unix_connection(where.path)
        else:
            reader, writer = await asyncio.open_connection(where.host, where.port)
    except OSError as e:
        raise OSError(f"{address}: {e}") from e
    try:
        writer.write(_REQUEST)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *fields = head[:-4].decode("latin-1").split("\r\n")
            status = line.split(" ", 2)[1:2]
            if status != ["200"]:
                raise OSError(f"{address} answered {line[:100]!r}")
            length = _content_length(address, fields)
            body = await reader.readexactly(length)
        except asyncio.IncompleteReadError as e:
            raise OSError(f"{address} broke off its answer") from e
        except asyncio.LimitOverrunError as e:
            raise ValueError(f"{address}: a head without an end") from e
    finally:
        writer.close()
    return msgspec.json.decode(body, type=dict[str, dict[str, Any]])


_REQUEST = b"GET /metrics.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def _content_length(address: str, fields: list[str]) -> int:
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "content-length" and value.strip().isdigit():
            length = int(value)
            if length > MAX_BYTES:
                raise ValueError(f"{address}: {length} bytes of metrics")
            return length
    raise ValueError(f"{address} does not say how long its metrics are")


def went_back(old: Snapshot, new: Snapshot) -> bool:
    """True when a counter is lower than before: another process has taken the address."""
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
        read: Callable[[str], Any] = read_snapshot,
    ) -> None:
        self._processes = processes
        self._own = own
        self._clock = clock
        self._refresh_own = refresh_own
        self._read = read
        self._merger = Merger()
        self._last: dict[str, Snapshot] = {}
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
        return render(await self.total())

    async def total(self) -> Snapshot:
        """The sum over all processes, at most `FRESH_S` old."""
        await self._fresh()
        self._refresh_own()
        return add([self._merger.total(), self._own.snapshot()])

    def forget(self, namespace: str, service: str) -> None:
        """Drop the ended processes' share of a service that was deleted."""
        self._merger.forget({"namespace": namespace, "service": service})

    async def run(self) -> None:
        """Read in the background, for ever. Cancelled from outside."""
        every_s = BACKGROUND_S
        while True:
            await self._clock.sleep(every_s)
            began = self._clock.monotonic()
            await self._fresh()
            # A thousand processes take a second to read; in the background that may be a share of time.
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
        for gone in self._merger.processes() - processes.keys():
            self._retire(gone)
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one(process: str, address: str) -> None:
            async with gate:
                try:
                    async with asyncio.timeout(DEADLINE_S):
                        snapshot = await self._read(address)
                except (OSError, ValueError, TimeoutError) as exc:
                    self._unread.inc()
                    log.debug("metrics of %s cannot be read: %s", process, exc)
                    return
            last = self._last.get(process)
            if last is not None and went_back(last, snapshot):
                self._retire(process)
            self._last[process] = snapshot
            self._merger.put(process, snapshot)

        await asyncio.gather(*(one(p, a) for p, a in processes.items()))
        self._read_at = self._clock.monotonic()
        self._read_gauge.set(self._read_at)

    def _retire(self, process: str) -> None:
        self._merger.retire(process)
        self._last.pop(process, None)


def counter_by(snapshot: Snapshot, name: str, keys: Iterable[str]) -> dict[tuple[str, ...], float]:
    """Sums of a counter by the values of the labels `keys`; a histogram is its count."""
    family = snapshot.get(name)
    if family is None:
        return {}
    try:
        at = [family["labels"].index(k) for k in keys]
    except ValueError:
        return {}
    out: dict[tuple[str, ...], float] = {}
    for labels, value in family["samples"]:
        key = tuple(labels[i] for i in at)
        amount = sum(value[0]) if family["kind"] == "histogram" else value
        out[key] = out.get(key, 0.0) + amount
    return out
