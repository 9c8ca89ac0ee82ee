"""What a model's own code counts with `prometheus_client`, read with the process's other metrics.

Classes that come from KServe, MLServer or a service of their own count with that library. They go on
doing so: its registry is read when somebody asks for metrics, its series get the labels of the process, and
the control plane adds them up over processes like all others. Nothing of it is on a request's way, and a
process whose model does not count has not imported it.

Two services may use one name for two things, so a family's key says what it is, and `name` how it is shown.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Final

from penstock.observe.metrics import Snapshot

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

log = logging.getLogger(__name__)

#: Series of one process; what is beyond is left out, and said in the log once.
MOST_SERIES: Final = 1000
#: The platform's own families.
_RESERVED: Final = "penstock_"
#: A metric's label of this name is shown as `exported_...`, as Prometheus does with a target's labels.
_TAKEN: Final = frozenset({"namespace", "service", "revision"})


class OwnMetrics:
    """Reads a registry, if none is given the library's. `labels` are namespace, service and revision."""

    def __init__(
        self, labels: tuple[str, str, str], registry: CollectorRegistry | None = None
    ) -> None:
        self._labels = labels
        self._registry = registry
        self._told: set[str] = set()

    def snapshot(self) -> Snapshot:
        """Its counters, gauges, histograms and summaries; empty for a model that counts nothing."""
        if self._registry is None:
            self._registry = _registry_of_the_library()
        if self._registry is None:
            return {}
        out: Snapshot = {}
        left = MOST_SERIES
        try:
            for metric in self._registry.collect():
                if metric.name.startswith(_RESERVED):
                    self._tell(f"the metric {metric.name} is left out: {_RESERVED} is taken")
                    continue
                for key, family in self._families(metric):
                    samples = family["samples"]
                    if len(samples) > left:
                        self._tell(f"of the model's own metrics {MOST_SERIES} series are kept")
                        del samples[left:]
                    left -= len(samples)
                    if samples:
                        out[key] = family
        except Exception:  # a collector of the model's own may raise anything
            log.exception("the model's own metrics cannot be read")
        return out

    def _families(self, metric: Any) -> Iterable[tuple[str, dict[str, Any]]]:
        """Usually one; a custom collector may give series of one metric different labels."""
        kind = "histogram" if metric.type == "summary" else metric.type
        if kind not in ("counter", "gauge", "histogram"):
            return ()
        name = f"{metric.name}_total" if kind == "counter" else metric.name
        if kind == "histogram":
            found = _distributions(metric)
        else:
            found = [
                (sample.labels, (), float(sample.value))
                for sample in metric.samples
                if sample.name == name and (kind == "gauge" or isfinite(sample.value))
            ]
        families: dict[str, dict[str, Any]] = {}
        for own, bounds, value in found:
            names = sorted(own)
            shown = [f"exported_{n}" if n in _TAKEN else n for n in names]
            labels = ["namespace", "service", "revision", *shown]
            key = f"{name} {kind} {','.join(shown)} {','.join(map(repr, bounds))}"
            family = families.get(key)
            if family is None:
                family = families[key] = {
                    "name": name,
                    "help": metric.documentation,
                    "kind": kind,
                    "labels": labels,
                    "bounds": list(bounds),
                    "samples": [],
                }
            family["samples"].append([[*self._labels, *(own[n] for n in names)], value])
        return families.items()

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", what)


def _registry_of_the_library() -> CollectorRegistry | None:
    """None while nobody has imported it: it has an HTTP server and more, 4 MB that most models do without."""
    library: Any = sys.modules.get("prometheus_client")
    # What the library says of every Python process costs a thousand of them more than it tells.
    its_own: list[Any] = [
        getattr(library, f"{name}_COLLECTOR", None) for name in ("GC", "PLATFORM", "PROCESS")
    ]
    if library is None or None in its_own:  # None: it is being imported right now
        return None
    registry: CollectorRegistry = library.REGISTRY
    for collector in its_own:
        try:
            registry.unregister(collector)
        except KeyError:
            continue  # the model's code did it
    return registry


def _distributions(metric: Any) -> list[tuple[Mapping[str, str], tuple[float, ...], Any]]:
    """A histogram's or summary's series: labels, bounds, and [counts per bucket, sum]."""
    buckets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in metric.samples:
        labels = {n: v for n, v in sample.labels.items() if n not in ("le", "quantile")}
        key = tuple(sorted(labels.items()))
        if sample.name == f"{metric.name}_bucket":
            buckets.setdefault(key, {})[float(sample.labels["le"])] = sample.value
        elif sample.name == f"{metric.name}_count":
            buckets.setdefault(key, {})[inf] = sample.value
        elif sample.name == f"{metric.name}_sum":
            sums[key] = sample.value
    found: list[tuple[Mapping[str, str], tuple[float, ...], Any]] = []
    for key, cumulative in buckets.items():
        bounds = sorted(cumulative)
        counts, before = [], 0.0
        for bound in bounds:
            counts.append(int(cumulative[bound] - before))
            before = cumulative[bound]
        found.append((dict(key), tuple(bounds[:-1]), [counts, sums.get(key, 0.0)]))
    return found
