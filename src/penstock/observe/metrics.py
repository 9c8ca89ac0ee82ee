"""Counters and histograms for the hot path, and their sum over processes.

`prometheus_client` costs 0.4 to 1.2 us a sample and cannot remove what a dead process left behind, so each
process keeps plain Python numbers here (single-threaded: one event loop writes them), hands them out as a
JSON-able snapshot, and one place (`observe.merging`) adds them up and writes Prometheus text. A process that
ends keeps its share, so counters never go back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

#: Seconds. From a fast model's single row to a slow pipeline.
LATENCY_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
#: Rows.
BATCH_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

#: Which process it is that answers at an address: a gauge by its pid, for who takes its snapshots one by one.
START_TIME: Final = "penstock_gateway_start_time_seconds"

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
                else:
                    values[key] = add_values(family["kind"], old, value)
    for name, values in sums.items():
        out[name]["samples"] = [[list(k), v] for k, v in values.items()]
    return out


def add_values(kind: str, a: Any, b: Any) -> Any:
    """The sum of two samples of a metric."""
    if kind == "histogram":
        return [[x + y for x, y in zip(a[0], b[0], strict=True)], a[1] + b[1]]
    return a + b


def render(snapshot: Snapshot) -> bytes:
    """Prometheus text (version 0.0.4) of a snapshot, as prometheus_client's own writer would give it.

    That one makes an object of every line, which takes five seconds of the control plane for the lines of a
    thousand services; here what a family's lines have in common is written once.
    """
    out: list[str] = []
    for key, f in sorted(snapshot.items()):
        name = f.get("name", key)
        out.append(heading(name, f["kind"], f["help"]))
        out += [
            sample_text(name, f["kind"], f["labels"], f["bounds"], labels, value)
            for labels, value in f["samples"]
        ]
    return "".join(out).encode()


def heading(name: str, kind: str, help_: str) -> str:
    """What goes before a metric's lines."""
    name = _shown(name, kind)
    text = help_.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def sample_text(
    name: str,
    kind: str,
    labels: Sequence[str],
    bounds: Sequence[float],
    values: Sequence[str],
    value: Any,
) -> str:
    """The lines of one sample: one, or a histogram's."""
    order = _order(tuple(labels))
    if kind != "histogram":
        return f"{_shown(name, kind)}{_braces(_pairs(order, values))} {_number(value)}\n"
    counts, total = value
    # Labels are in alphabetical order, and the bucket's bound is one of them.
    before = [(label, i) for label, i in order if label < "le"]
    after = order[len(before) :]
    head = f'{name}_bucket{{{"".join(f"{pair}," for pair in _pairs(before, values))}le="'
    foot = f'"{"".join(f",{pair}" for pair in _pairs(after, values))}}} '
    running = 0
    out = []
    for bound, n in zip((*(repr(float(b)) for b in bounds), "+Inf"), counts, strict=True):
        running += n
        out.append(f"{head}{bound}{foot}{_number(running)}\n")
    if not bounds or bounds[0] >= 0:
        braces = _braces(_pairs(order, values))
        out.append(f"{name}_count{braces} {_number(running)}\n")
        out.append(f"{name}_sum{braces} {_number(total)}\n")
    return "".join(out)


def _shown(name: str, kind: str) -> str:
    return f"{name.removesuffix('_total')}_total" if kind == "counter" else name


@lru_cache(1024)
def _order(labels: tuple[str, ...]) -> list[tuple[str, int]]:
    return sorted((label, i) for i, label in enumerate(labels))


def _pairs(order: Sequence[tuple[str, int]], labels: Sequence[str]) -> list[str]:
    return [f'{name}="{_escaped(labels[i])}"' for name, i in order]


def _braces(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


@lru_cache(4096)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@lru_cache(4096)  # most counts are small and many are equal
def _number_unless_zero(value: float) -> str:
    # Gateways and model processes give numbers, and only who is asked for text needs this: its package
    # imports an HTTP server.
    from prometheus_client.utils import floatToGoString

    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _number(value: float) -> str:
    # To a cache 0.0 and -0.0 are the same.
    return _number_unless_zero(value) if value else str(float(value))
