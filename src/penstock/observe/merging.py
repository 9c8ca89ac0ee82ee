"""The sum of many processes' metrics, kept up to date instead of added up when somebody asks.

A thousand processes have some ten thousand series, and of most of them nothing has happened since they were
last read. So each series knows what each process contributed to it, its sum and its line of text; a reading
touches the series that it changes, and the whole text is a concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from penstock.observe.metrics import Snapshot, add_values, heading, sample_text

Labels: TypeAlias = tuple[str, ...]
#: (namespace, service).
Service: TypeAlias = tuple[str, str]


class _Series:
    """One line of a metric (or the lines of one histogram)."""

    __slots__ = ("ended", "parts", "text", "total")

    def __init__(self) -> None:
        #: By process that lives.
        self.parts: dict[str, Any] = {}
        #: What processes that ended have left.
        self.ended: Any = None
        #: None: not added up since the last change.
        self.total: Any = None
        self.text: str | None = None


class _Family:
    """A metric."""

    def __init__(self, name: str, described: Mapping[str, Any]) -> None:
        #: What it is known by.
        self.name = name
        #: What it is shown as; several may be shown as one, with other labels or buckets.
        self.shown: str = described.get("name", name)
        self.help: str = described["help"]
        self.kind: str = described["kind"]
        self.labels: list[str] = list(described["labels"])
        self.bounds: list[float] = list(described["bounds"] or ())
        self.series: dict[Labels, _Series] = {}
        #: Where the labels say whose it is; a graph has its name among those of services.
        self.service_at: tuple[int, int] | None = None
        whose = next((label for label in ("service", "graph") if label in self.labels), "")
        if whose and "namespace" in self.labels:
            self.service_at = (self.labels.index("namespace"), self.labels.index(whose))

    def fits(self, described: Mapping[str, Any]) -> bool:
        return (
            self.kind == described["kind"]
            and self.labels == list(described["labels"])
            and self.bounds == list(described["bounds"] or ())
        )

    def total(self, series: _Series) -> Any:
        total = series.total
        if total is None:
            total = series.ended
            for value in series.parts.values():
                total = value if total is None else add_values(self.kind, total, value)
            series.total = total
        return total

    def text(self, labels: Labels, series: _Series) -> str:
        if series.text is None:
            series.text = sample_text(
                self.shown, self.kind, self.labels, self.bounds, labels, self.total(series)
            )
        return series.text


class Merger:
    """Snapshots of processes, by process id (any string), and their sum."""

    def __init__(self) -> None:
        self._live: dict[str, Snapshot] = {}
        self._families: dict[str, _Family] = {}
        self._of: dict[Service, set[tuple[str, Labels]]] = {}
        self._stirred: set[Service] = set()

    def processes(self) -> set[str]:
        """Those that live."""
        return set(self._live)

    def stirred(self) -> set[Service]:
        """Services with a series that changed since this was last asked."""
        found, self._stirred = self._stirred, set()
        return found

    # -- what is read ------------------------------------------------------------------------------

    def put(self, process: str, snapshot: Snapshot) -> None:
        """Replace what is known of a live process.

        ValueError, and nothing changes, when it describes a metric differently from the others.
        """
        for name, described in snapshot.items():
            have = self._families.get(name)
            if have is not None and have.series and not have.fits(described):
                raise ValueError(f"two processes describe the metric {name} differently")
        old = self._live.get(process, {})
        for name in old.keys() - snapshot.keys():
            for labels, _ in old[name]["samples"]:
                self._take(self._families[name], tuple(labels), process)
        for name, described in snapshot.items():
            before = old[name]["samples"] if name in old else []
            after = described["samples"]
            family = self._families.get(name)
            if family is None or not family.series:
                family = self._families[name] = _Family(name, described)
            if before != after:
                self._changed(family, process, before, after)
        self._live[process] = snapshot

    def _changed(self, family: _Family, process: str, before: list[Any], after: list[Any]) -> None:
        # Nearly always the same series in the same order, and new ones behind them.
        same = len(before) <= len(after)
        for old, new in zip(before, after, strict=False):
            if old[0] != new[0]:
                same = False
                break
            if old[1] != new[1]:
                self._give(family, tuple(new[0]), process, new[1])
        if same:
            for labels, value in after[len(before) :]:
                self._give(family, tuple(labels), process, value)
            return
        present = {tuple(labels): value for labels, value in after}
        for labels, _ in before:
            if tuple(labels) not in present:
                self._take(family, tuple(labels), process)
        for key, value in present.items():
            self._give(family, key, process, value)

    def _give(self, family: _Family, labels: Labels, process: str, value: Any) -> None:
        series = family.series.get(labels)
        if series is None:
            series = family.series[labels] = _Series()
            if family.service_at is not None:
                self._of.setdefault(_service(family, labels), set()).add((family.name, labels))
        elif series.parts.get(process) == value:
            return
        series.parts[process] = value
        self._touch(family, labels, series)

    def _take(self, family: _Family, labels: Labels, process: str) -> None:
        series = family.series[labels]
        series.parts.pop(process, None)
        if series.parts or series.ended is not None:
            self._touch(family, labels, series)
        else:
            self._drop(family, labels)

    def _touch(self, family: _Family, labels: Labels, series: _Series) -> None:
        series.total = series.text = None
        if family.service_at is not None:
            self._stirred.add(_service(family, labels))

    def _drop(self, family: _Family, labels: Labels) -> None:
        del family.series[labels]
        if family.service_at is not None:
            service = _service(family, labels)
            self._stirred.add(service)
            of = self._of[service]
            of.discard((family.name, labels))
            if not of:
                del self._of[service]

    # -- ends --------------------------------------------------------------------------------------

    def retire(self, process: str) -> None:
        """The process ended: keep its counters and histograms, drop its gauges. No-op when unknown."""
        for name, described in self._live.pop(process, {}).items():
            family = self._families[name]
            if family.kind == "gauge":
                for labels, _ in described["samples"]:
                    self._take(family, tuple(labels), process)
                continue
            for labels, _ in described["samples"]:
                series = family.series[tuple(labels)]
                value = series.parts.pop(process)
                ended = series.ended
                # The sum is what it was, and so is the text.
                series.ended = value if ended is None else add_values(family.kind, ended, value)

    def forget(self, namespace: str, service: str) -> None:
        """Drop what ended processes left of a service, e.g. of one that was deleted."""
        for name, labels in tuple(self._of.get((namespace, service), ())):
            family = self._families[name]
            series = family.series[labels]
            series.ended = None
            if series.parts:
                self._touch(family, labels, series)
            else:
                self._drop(family, labels)

    # -- what is asked -----------------------------------------------------------------------------

    def total(self) -> Snapshot:
        """The sum, as a snapshot.

        A gauge has `processes` too: by sample, how many processes it is the sum of.
        """
        return {f.name: self._described(f) for f in self._families.values()}

    def _described(self, f: _Family) -> dict[str, Any]:
        described: dict[str, Any] = {
            "help": f.help,
            "kind": f.kind,
            "labels": f.labels,
            "bounds": f.bounds,
            "samples": [[list(labels), f.total(s)] for labels, s in f.series.items()],
        }
        if f.shown != f.name:
            described["name"] = f.shown
        if f.kind == "gauge":
            described["processes"] = [len(s.parts) for s in f.series.values()]
        return described

    def parts(self, most: int) -> Iterator[bytes]:
        """Prometheus text format, version 0.0.4, of about so many series at a time.

        What is put in between two parts is in those that follow.
        """
        last: _Family | None = None
        for family in sorted(self._families.values(), key=lambda f: (f.shown, f.kind, f.name)):
            out: list[str] = []
            if last is None or last.shown != family.shown:
                out.append(heading(family.shown, family.kind, family.help))
                last = family
            elif last.kind != family.kind:
                # One name has one type in this format.
                out.append(
                    f"# {family.shown} is a {family.kind} for some, who are left out here.\n"
                )
                yield out[0].encode()
                continue
            left = list(family.series.items())
            for first in range(0, len(left) or 1, most):
                out += [
                    family.text(labels, series)
                    for labels, series in left[first : first + most]
                    if series.parts or series.ended is not None  # it may have gone meanwhile
                ]
                yield "".join(out).encode()
                out = []

    def text(self) -> bytes:
        """All of it at once."""
        return b"".join(self.parts(1_000_000))


def _service(family: _Family, labels: Labels) -> Service:
    assert family.service_at is not None  # noqa: S101 - callers ask only then
    namespace, service = family.service_at
    return labels[namespace], labels[service]
