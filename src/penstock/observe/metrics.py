"""Counters and histograms for the hot path, and their sum over processes.

`prometheus_client` costs 0.4 to 1.2 us a sample and cannot remove what a dead process left behind, so each
process keeps plain Python numbers here (single-threaded: one event loop writes them), hands them out as a
JSON-able snapshot, and one place (`Merger`) adds them up and renders Prometheus text. A process that ends
keeps its share: its last snapshot is folded into a total, so counters never go back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from prometheus_client.utils import floatToGoString

#: Seconds. From a fast model's single row to a slow pipeline.
LATENCY_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
#: Rows.
BATCH_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

MetricKind: TypeAlias = Literal["counter", "gauge", "histogram"]
Snapshot: TypeAlias = dict[str, dict[str, Any]]


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Gauge:
    """A number that moves both ways. Over processes gauges are added."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount


class Histogram:
    """Counts per bucket, not cumulative until rendered; `bounds` are upper limits, inclusive."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Family:
    """A metric's name, help and label names, and its children by label values.

    Ask for a child once and keep it: `labels` is a dictionary look-up, a kept child is not.
    """

    __slots__ = ("bounds", "children", "help", "kind", "label_names", "name")

    def __init__(
        self,
        name: str,
        help_: str,
        kind: MetricKind,
        label_names: Sequence[str] = (),
        bounds: Sequence[float] = (),
    ) -> None:
        self.name = name
        self.help = help_
        self.kind = kind
        self.label_names = tuple(label_names)
        self.bounds = tuple(bounds)
        self.children: dict[tuple[str, ...], Any] = {}

    def labels(self, *values: str) -> Any:
        child = self.children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has labels {self.label_names}, got {values}")
            if self.kind == "counter":
                child = Counter()
            elif self.kind == "gauge":
                child = Gauge()
            else:
                child = Histogram(self.bounds)
            self.children[values] = child
        return child

    def remove(self, *values: str) -> None:
        """Forget a child, e.g. of a deleted service. No-op when absent."""
        self.children.pop(values, None)


class Registry:
    """The families of one process."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}

    def counter(self, name: str, help_: str, label_names: Sequence[str] = ()) -> Family:
        return self._add(Family(name, help_, "counter", label_names))

    def gauge(self, name: str, help_: str, label_names: Sequence[str] = ()) -> Family:
        return self._add(Family(name, help_, "gauge", label_names))

    def histogram(
        self,
        name: str,
        help_: str,
        label_names: Sequence[str] = (),
        bounds: Sequence[float] = LATENCY_S,
    ) -> Family:
        return self._add(Family(name, help_, "histogram", label_names, bounds))

    def _add(self, family: Family) -> Family:
        if family.name in self.families:
            raise ValueError(f"metric {family.name} is registered twice")
        self.families[family.name] = family
        return family

    def snapshot(self) -> Snapshot:
        """JSON-able: per family its help, kind, label names and [[label values], value] samples.

        A histogram's value is `[counts per bucket, sum]`.
        """
        out: Snapshot = {}
        for f in self.families.values():
            if f.kind == "histogram":
                samples = [[list(k), [list(c.counts), c.sum]] for k, c in f.children.items()]
            else:
                samples = [[list(k), c.value] for k, c in f.children.items()]
            out[f.name] = {
                "help": f.help,
                "kind": f.kind,
                "labels": list(f.label_names),
                "bounds": list(f.bounds),
                "samples": samples,
            }
        return out


class Merger:
    """The sum of many processes' snapshots, by process id (any string)."""

    def __init__(self) -> None:
        self._live: dict[str, Snapshot] = {}
        self._retired: Snapshot = {}

    def put(self, process: str, snapshot: Snapshot) -> None:
        """Replace what is known of a live process."""
        self._live[process] = snapshot

    def retire(self, process: str) -> None:
        """The process ended: keep its counters and histograms, drop its gauges. No-op when unknown."""
        last = self._live.pop(process, None)
        if last is not None:
            keep = {n: f for n, f in last.items() if f["kind"] != "gauge"}
            self._retired = add([self._retired, keep])

    def forget(self, labels: Mapping[str, str]) -> None:
        """Drop what ended processes left with all these labels, e.g. of a service that was deleted."""
        for family in self._retired.values():
            names = family["labels"]
            if all(n in names for n in labels):
                at = [(names.index(n), v) for n, v in labels.items()]
                family["samples"] = [
                    s for s in family["samples"] if any(s[0][i] != v for i, v in at)
                ]

    def processes(self) -> set[str]:
        return set(self._live)

    def total(self) -> Snapshot:
        return add([self._retired, *self._live.values()])

    def text(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        return render(self.total())


def add(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add snapshots sample by sample; families that disagree on labels or bounds raise ValueError."""
    out: Snapshot = {}
    sums: dict[str, dict[tuple[str, ...], Any]] = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            have = out.get(name)
            if have is None:
                out[name] = {**family, "samples": []}
                sums[name] = {}
            elif have["labels"] != family["labels"] or have["bounds"] != family["bounds"]:
                raise ValueError(f"two processes describe the metric {name} differently")
            values = sums[name]
            for labels, value in family["samples"]:
                key = tuple(labels)
                old = values.get(key)
                if old is None:
                    values[key] = value
                elif family["kind"] == "histogram":
                    values[key] = [
                        [a + b for a, b in zip(old[0], value[0], strict=True)],
                        old[1] + value[1],
                    ]
                else:
                    values[key] = old + value
    for name, values in sums.items():
        out[name]["samples"] = [[list(k), v] for k, v in values.items()]
    return out


def render(snapshot: Snapshot) -> bytes:
    """Prometheus text (version 0.0.4) of a snapshot, as prometheus_client's own writer would give it.

    That one makes an object of every line, which takes five seconds of the control plane for the lines of a
    thousand services; here what a family's lines have in common is written once.
    """
    out: list[str] = []
    for name, family in sorted(snapshot.items()):
        if family["kind"] == "counter":
            name = f"{name.removesuffix('_total')}_total"
        text = family["help"].replace("\\", r"\\").replace("\n", r"\n")
        out.append(f"# HELP {name} {text}\n# TYPE {name} {family['kind']}\n")
        if family["kind"] == "histogram":
            _histogram(name, family, out)
        else:
            order = _order(family["labels"])
            for labels, value in family["samples"]:
                out.append(f"{name}{_braces(_pairs(order, labels))} {_number(value)}\n")
    return "".join(out).encode()


def _histogram(name: str, family: Mapping[str, Any], out: list[str]) -> None:
    order = _order(family["labels"])
    # Labels are in alphabetical order, and the bucket's bound is one of them.
    before = [(label, i) for label, i in order if label < "le"]
    after = order[len(before) :]
    bounds = [*(repr(float(b)) for b in family["bounds"]), "+Inf"]
    has_sum = not family["bounds"] or family["bounds"][0] >= 0
    for labels, (counts, total) in family["samples"]:
        head = f'{name}_bucket{{{"".join(f"{pair}," for pair in _pairs(before, labels))}le="'
        foot = f'"{"".join(f",{pair}" for pair in _pairs(after, labels))}}} '
        running = 0
        for bound, n in zip(bounds, counts, strict=True):
            running += n
            out.append(f"{head}{bound}{foot}{_number(running)}\n")
        if has_sum:
            braces = _braces(_pairs(order, labels))
            out.append(f"{name}_count{braces} {_number(running)}\n")
            out.append(f"{name}_sum{braces} {_number(total)}\n")


def _order(labels: Sequence[str]) -> list[tuple[str, int]]:
    return sorted((label, i) for i, label in enumerate(labels))


def _pairs(order: Sequence[tuple[str, int]], labels: Sequence[str]) -> list[str]:
    return [f'{name}="{_escaped(labels[i])}"' for name, i in order]


def _braces(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


@lru_cache(4096)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


#: Most counts are small and many are equal.
_number = lru_cache(4096)(floatToGoString)
