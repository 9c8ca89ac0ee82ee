"""What the sum of all metrics says of one revision: counts, shares and gauges that a rollout is judged by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.control.rollouts.evidence import Tally
from penstock.control.rollouts.progress import Count
from penstock.domain.traffic import GaugeLimit, Labels, MetricLimit

ServiceKey = tuple[str, str]


def count_of(
    total: Mapping[str, Any],
    key: ServiceKey,
    revision: str,
    slower_s: float | None,
    metrics: Sequence[MetricLimit] = (),
) -> Count:
    """What was counted of a revision, by all gateways and model processes together."""
    requests = failed = slow = 0
    family = total.get("penstock_gateway_requests")
    if family is not None:
        for labels, value in family["samples"]:
            namespace, service, _, of, _, status = labels
            if (namespace, service, of) == (*key, revision):
                requests += int(value)
                failed += int(value) if status.isdigit() and int(status) >= 500 else 0
    family = total.get("penstock_gateway_request_seconds")
    if family is not None and slower_s is not None:
        # The bucket that the limit lies in counts as fast enough.
        first = bisect_left(family["bounds"], slower_s) + 1
        for labels, value in family["samples"]:
            if (labels[0], labels[1], labels[3]) == (*key, revision):
                slow += int(sum(value[0][first:]))
    tallies = tuple(_tally(total, key, revision, m, requests) for m in metrics)
    return Count(requests, min(failed, requests), min(slow, requests), tallies)


def _tally(
    total: Mapping[str, Any], key: ServiceKey, revision: str, metric: MetricLimit, requests: int
) -> Tally:
    samples = _samples(total, key, revision, metric.name, metric.labels)
    family = _family(total, key, revision, metric.name)
    if metric.above is not None:
        if family is None or family["kind"] != "histogram":
            return Tally()
        first = bisect_left(family["bounds"], metric.above) + 1
        return Tally(
            int(sum(sum(value[0][first:]) for value in samples)),
            int(sum(sum(value[0]) for value in samples)),
        )
    if family is None or family["kind"] != "counter":
        return Tally()
    trials = requests
    if metric.per:
        per = _family(total, key, revision, metric.per)
        if per is None or per["kind"] != "counter":
            return Tally()
        trials = int(sum(_samples(total, key, revision, metric.per, metric.per_labels)))
    return Tally(min(trials, int(sum(samples))), trials)


def _families(total: Mapping[str, Any], name: str) -> list[Any]:
    """A metric by the name that it is shown under: counters are shown with `_total`.

    Several, where services use one name for different things (`name` in a family).
    """
    names = (name, name.removesuffix("_total"), f"{name}_total")
    for known in names:
        if known in total:
            return [total[known]]
    return [family for family in total.values() if family.get("name") in names]


def _family(
    total: Mapping[str, Any], key: ServiceKey, revision: str, name: str, kind: str = ""
) -> Any:
    """The one that has the revision's samples; else one of that kind, or any; None: nobody keeps it."""
    found = _families(total, name)
    if len(found) < 2:
        return found[0] if found else None
    for family in found:
        places = _places(family, key, revision, ())
        if places and any(all(of[i] == v for i, v in places) for of, _ in family["samples"]):
            return family
    return next((f for f in found if f["kind"] == kind), found[0])


def _samples(
    total: Mapping[str, Any], key: ServiceKey, revision: str, name: str, labels: Labels
) -> list[Any]:
    family = _family(total, key, revision, name)
    places = _places(family, key, revision, labels)
    if places is None:
        return []
    return [value for of, value in family["samples"] if all(of[i] == v for i, v in places)]


def _places(
    family: Any, key: ServiceKey, revision: str, labels: Labels
) -> list[tuple[int, str]] | None:
    """Where a sample of that revision has to have which label; None: no sample of this metric is one."""
    if family is None or "revision" not in family["labels"]:
        return None
    at = {name: i for i, name in enumerate(family["labels"])}
    wanted = {"namespace": key[0], "service": key[1], "revision": revision}
    places = [(at[name], value) for name, value in wanted.items() if name in at]
    for name, value in labels:
        if name not in at:
            return None
        places.append((at[name], value))
    return places


def reading_of(
    total: Mapping[str, Any], key: ServiceKey, revision: str, gauge: GaugeLimit
) -> float | None:
    """The mean of a gauge over the revision's processes; None: none of them has it."""
    family = _family(total, key, revision, gauge.name)
    if family is None or family["kind"] != "gauge":
        return None
    places = _places(family, key, revision, gauge.labels)
    if places is None:
        return None
    value, processes = 0.0, 0
    for (of, sample), parts in zip(family["samples"], family["processes"], strict=True):
        if all(of[i] == v for i, v in places):
            value += sample
            processes += parts
    return value / processes if processes else None


def problem_of(
    total: Mapping[str, Any], key: ServiceKey, revision: str, name: str, kind: str
) -> str:
    """Why a metric cannot be looked at as a counter, histogram or gauge; or an empty string."""
    family = _family(total, key, revision, name, kind)
    if family is None:
        return f"nobody keeps a metric {name}"
    if family["kind"] == "gauge" != kind:
        # Readings of one are no independent trials: one spike that lasts would be taken for as much evidence
        # as there are readings of it, whatever bound a test puts on them.
        return f"{name} is a gauge, whose readings depend on each other; its place is limits.gauges"
    if family["kind"] != kind:
        return f"{name} is a {family['kind']}, not a {kind}"
    return "" if "revision" in family["labels"] else f"{name} is not kept per revision"
