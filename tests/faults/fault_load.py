"""Load while something breaks, and the book of what each fault cost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from platform_harness import Platform, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
CLIENTS = 8
#: A client that finds nobody tries again after this long, seconds.
AGAIN_S = 0.05


@dataclass
class Seen:
    """What the clients saw: counts by status or kind of error, and who answered with what."""

    counts: Counter[str] = field(default_factory=Counter)
    #: (revision, status) of answers.
    by_revision: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Monotonic seconds of the first and the last request that found nobody.
    refused: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.counts["200"]

    @property
    def failed(self) -> int:
        return sum(n for what, n in self.counts.items() if what != "200")

    def __str__(self) -> str:
        bad = ", ".join(f"{n} {what}" for what, n in self.counts.items() if what != "200")
        return f"{self.answered} answered, {bad or 'none failed'}"


@contextmanager
def load(platform: Platform, name: str, *, clients: int = CLIENTS) -> Iterator[Seen]:
    """Requests from `clients` clients while the block runs, and until all is well after it."""
    seen = Seen()
    stop = threading.Event()
    url = f"{platform.http}/v1/models/{name}:predict"

    def client() -> None:
        with httpx.Client(timeout=30) as c:
            while not stop.is_set():
                try:
                    answer = c.post(url, json=V1)
                except httpx.TransportError as exc:
                    seen.counts[type(exc).__name__] += 1
                    if isinstance(exc, httpx.ConnectError):
                        seen.refused.append(time.monotonic())
                        stop.wait(AGAIN_S)
                    continue
                status = str(answer.status_code)
                seen.counts[status] += 1
                seen.by_revision[answer.headers.get("x-penstock-revision", ""), status] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for t in threads:
        t.start()
    try:
        until(lambda: seen.answered > 50, "load")
        yield seen
        before = seen.answered
        until(lambda: seen.answered > before + 50, "answers after the fault", 60)
    finally:
        stop.set()
        for t in threads:
            t.join()


@dataclass(frozen=True)
class Row:
    fault: str
    seen: str
    bound: str
    why: str


class Book:
    """The rows of docs/faults.md, as this run saw them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def note(self, fault: str, seen: object, bound: str, why: str) -> None:
        self.rows.append(Row(fault, str(seen), bound, why))

    def write(self, file: Path) -> None:
        """Replace the table in a page that has the two marks."""
        lines = [
            "| fault, under load | seen | most that may fail | why no fewer |",
            "|---|---|---|---|",
        ]
        lines += [f"| {r.fault} | {r.seen} | {r.bound} | {r.why} |" for r in self.rows]
        begin, end = "<!-- seen: made by `make faults` -->", "<!-- end of seen -->"
        head, _, rest = file.read_text().partition(begin)
        _, _, tail = rest.partition(end)
        file.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}")
