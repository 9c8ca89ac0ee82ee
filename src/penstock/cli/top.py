"""`penstock top`: what every service does right now, out of two readings of the metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cli.client import Client
from penstock.cli.exits import CliError
from penstock.cli.output import note, say, size, table

REQUESTS = "penstock_gateway_requests"
SECONDS = "penstock_gateway_request_seconds"
WAITING = "penstock_gateway_requests_waiting"
BATCH = "penstock_batch_rows"
MEMORY = "penstock_replica_memory_bytes"
REPLICAS = "penstock_replicas"
READ_AT = "penstock_metrics_read_monotonic_seconds"

#: The server reads its processes at most once a second; so long is waited for a reading that is newer.
NEWER_S = 3.0

Snapshot = Mapping[str, Mapping[str, Any]]
Key = tuple[str, str, str]

HEADERS = (
    "SERVICE", "REVISION", "REPLICAS", "REQ/S", "P50", "P99", "ERRORS", "WAITING", "BATCH", "MEMORY",
)  # fmt: skip


@dataclass
class Line:
    """One revision of a service."""

    requests: float = 0.0
    errors: float = 0.0
    bounds: Sequence[float] = ()
    counts: list[float] = field(default_factory=list)
    batches: float = 0.0
    rows: float = 0.0
    memory: float = 0.0


def top(
    client: Client, *, namespace: str, all_namespaces: bool, once: bool, interval_s: float
) -> None:
    """A table that is drawn anew every `interval_s` seconds until Ctrl-C; one table with `once`."""
    scope = None if all_namespaces else namespace
    before = client.get("/metrics.json")
    if once or not sys.stdout.isatty():
        time.sleep(interval_s)
        after = client.get("/metrics.json")
        deadline = time.monotonic() + NEWER_S
        while elapsed_s(before, after) <= 0 and time.monotonic() < deadline:
            time.sleep(0.1)
            after = client.get("/metrics.json")
        rows = rows_of(before, after, elapsed_s(before, after), scope)
        if not rows:
            note("There are no services.")
            return
        say(table(HEADERS, rows))
        return
    _live(client, before, scope, interval_s)


def elapsed_s(before: Snapshot, after: Snapshot) -> float:
    """Seconds between two readings of the processes; 0 when both are of the same one."""
    return _read_at(after) - _read_at(before)


def _read_at(snapshot: Snapshot) -> float:
    return sum(float(value) for _, value in _samples(snapshot, READ_AT))


def _live(client: Client, before: Snapshot, scope: str | None, interval_s: float) -> None:
    from rich.live import Live
    from rich.table import Table

    def drawn(rows: Iterable[Sequence[str]], title: str) -> Table:
        shown = Table(
            title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for i, header in enumerate(HEADERS):
            shown.add_column(header, justify="left" if i < 2 else "right", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        return shown

    with Live(drawn((), "reading…"), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval_s)
            try:
                after = client.get("/metrics.json")
            except CliError as exc:
                live.update(drawn((), exc.message), refresh=True)
                continue
            if elapsed_s(before, after) == 0:
                continue  # nothing was read anew meanwhile
            # Below zero: another control plane; its first reading is compared with the next one.
            rows = rows_of(before, after, elapsed_s(before, after), scope)
            live.update(drawn(rows, f"{client.server}   every {interval_s:g} s"), refresh=True)
            before = after


def rows_of(
    before: Snapshot, after: Snapshot, elapsed_s: float, namespace: str | None
) -> list[tuple[str, ...]]:
    """Table rows from two readings `elapsed_s` apart."""
    lines = _lines(after)
    old = _lines(before)
    phases = _phases(after)
    waiting = _by_service(after, WAITING)
    out: list[tuple[str, ...]] = []
    for key in sorted(lines):
        if namespace is not None and key[0] != namespace:
            continue
        now, then = lines[key], old.get(key, Line())
        requests = max(0.0, now.requests - then.requests)
        errors = max(0.0, now.errors - then.errors)
        # One that was not asked yet, before or now, has no histogram.
        old_counts = then.counts or [0.0] * len(now.counts)
        counts = [max(0.0, a - b) for a, b in zip(now.counts, old_counts, strict=False)]
        batches = now.batches - then.batches
        service = key[:2]
        out.append(
            (
                key[1] if namespace is not None else f"{key[0]}/{key[1]}",
                key[2] or "-",
                phases.get(service, "0/0"),
                f"{requests / elapsed_s:.1f}" if elapsed_s > 0 else "-",
                milliseconds(quantile(now.bounds, counts, 0.5)),
                milliseconds(quantile(now.bounds, counts, 0.99)),
                f"{errors / requests:.1%}" if requests and errors else "0",
                f"{waiting.get(service, 0):.0f}",
                f"{(now.rows - then.rows) / batches:.1f}" if batches > 0 else "-",
                size(now.memory) if now.memory else "-",
            )
        )
    return out


def quantile(bounds: Sequence[float], counts: Sequence[float], q: float) -> float | None:
    """The q-quantile of a histogram, straight lines inside buckets; None without observations."""
    total = sum(counts)
    if not total:
        return None
    wanted = q * total
    running = 0.0
    for i, n in enumerate(counts):
        if running + n >= wanted and n:
            low = bounds[i - 1] if i else 0.0
            if i >= len(bounds):
                return float(bounds[-1])
            return float(low + (bounds[i] - low) * (wanted - running) / n)
        running += n
    return float(bounds[-1])


def milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    ms = seconds * 1000
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"


def _samples(snapshot: Snapshot, name: str) -> Iterable[tuple[dict[str, str], Any]]:
    family = snapshot.get(name)
    if family is None:
        return
    for labels, value in family["samples"]:
        yield dict(zip(family["labels"], labels, strict=True)), value


def _key(labels: Mapping[str, str]) -> Key:
    return (labels["namespace"], labels["service"], labels.get("revision", ""))


def _lines(snapshot: Snapshot) -> dict[Key, Line]:
    lines: dict[Key, Line] = {}
    for labels, value in _samples(snapshot, REQUESTS):
        line = lines.setdefault(_key(labels), Line())
        line.requests += value
        if labels["status"].startswith("5"):
            line.errors += value
    for labels, (counts, _) in _samples(snapshot, SECONDS):
        line = lines.setdefault(_key(labels), Line())
        line.bounds = snapshot[SECONDS]["bounds"]
        line.counts = [
            a + b for a, b in zip(line.counts or [0.0] * len(counts), counts, strict=True)
        ]
    for labels, (counts, total) in _samples(snapshot, BATCH):
        line = lines.setdefault(_key(labels), Line())
        line.batches += sum(counts)
        line.rows += total
    for labels, value in _samples(snapshot, MEMORY):
        lines.setdefault(_key(labels), Line()).memory += value
    # Requests that no revision answered are the service's, not those of a revision called ''.
    named = {(k[0], k[1]) for k in lines if k[2]}
    return {k: v for k, v in lines.items() if k[2] or (k[0], k[1]) not in named}


def _phases(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    ready: dict[tuple[str, str], int] = {}
    total: dict[tuple[str, str], int] = {}
    for labels, value in _samples(snapshot, REPLICAS):
        if labels["phase"] == "Stopped":
            continue
        key = (labels["namespace"], labels["service"])
        total[key] = total.get(key, 0) + int(value)
        if labels["phase"] == "Ready":
            ready[key] = ready.get(key, 0) + int(value)
    return {k: f"{ready.get(k, 0)}/{n}" for k, n in total.items()}


def _by_service(snapshot: Snapshot, name: str) -> dict[tuple[str, str], float]:
    out: dict[tuple[str, str], float] = {}
    for labels, value in _samples(snapshot, name):
        key = (labels["namespace"], labels["service"])
        out[key] = out.get(key, 0.0) + value
    return out
