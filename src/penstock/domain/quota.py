"""Quotas of a namespace: sums over its services that must not be exceeded.

A service counts with the most it may take: its resources times the most replicas its autoscaler may start,
so that a quota holds whatever the load does. A stopped service takes nothing but its place in the count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from penstock.domain.devices import NVIDIA
from penstock.domain.service import Component, Resources, Service
from penstock.domain.workload import workloads_of

#: Names of Kubernetes' that mean the same.
_SAME = {"cpu": "requests.cpu", "memory": "requests.memory"}
#: Counts of objects by kind, services and graphs; of services of all kinds it is `SERVICES`.
COUNT = "count/"
SERVICES = "penstock.dev/services"
#: Replicas; Kubernetes would count their pods.
REPLICAS = "pods"
_PER_REPLICA = ("requests.cpu", "limits.cpu", "requests.memory", "limits.memory")

#: What is taken, by canonical name; None where it is not said.
Usage = Mapping[str, Fraction | None]


@dataclass(frozen=True, slots=True)
class Quota:
    """One ResourceQuota; cpu in cores, memory in bytes."""

    namespace: str
    name: str
    hard: Mapping[str, Fraction]


class Undeclared(Exception):
    """A quota limits what a service does not declare."""


def canonical(resource: str) -> str | None:
    """The name that a quota's resource is counted by; None when nothing here counts it."""
    name = _SAME.get(resource, resource)
    if name in _PER_REPLICA or name in (REPLICAS, SERVICES):
        return name
    if name.startswith(COUNT):
        return name
    if name.startswith("requests.") and ("gpu" in name or "nvidia.com/" in name):
        return name
    return None


def most_replicas(service: Service) -> int:
    """The most replicas a service may come to have."""
    if service.stopped:
        return 0
    return sum(most for _, most in _parts(service))


def _parts(service: Service) -> Iterator[tuple[Component, int]]:
    """What runs of a service, and the most replicas of it. A canary has its part of the predictor's."""
    for workload in workloads_of(service):
        scaling = workload.component.scaling
        most = max(scaling.min_replicas, scaling.max_replicas or 0)
        if any(workload.component is c.component for c in service.canaries):
            most = max(scaling.min_replicas, -(-most * workload.percent // 100))
        yield workload.component, max(1, most)


def usage(service: Service, kind: str) -> dict[str, Fraction | None]:
    """What a service takes, by canonical name; None where it does not say. `kind`: `plural.group`."""
    sums: dict[str, Fraction | None] = {
        SERVICES: Fraction(1),
        COUNT + kind: Fraction(1),
        REPLICAS: Fraction(most_replicas(service)),
    }
    for component, replicas in _parts(service):
        for name, amount in _declared(component.resources).items():
            if service.stopped:
                amount = Fraction(0)
            before = sums.get(name, Fraction(0))
            sums[name] = None if amount is None or before is None else before + amount * replicas
    return sums


def added(usages: Iterable[Usage]) -> dict[str, Fraction | None]:
    """What several take together; what one of them does not say, they do not say."""
    sums: dict[str, Fraction | None] = {}
    for taken in usages:
        for name, amount in taken.items():
            before = sums.get(name, Fraction(0))
            sums[name] = None if amount is None or before is None else before + amount
    return sums


def _declared(r: Resources) -> dict[str, Fraction | None]:
    def exact(value: float | None) -> Fraction | None:
        return None if value is None else Fraction(value).limit_denominator(1000)

    found: dict[str, Fraction | None] = {
        # As in Kubernetes, what is not requested is requested up to the limit.
        "requests.cpu": exact(r.cpu_request if r.cpu_request is not None else r.cpu_limit),
        "limits.cpu": exact(r.cpu_limit),
        "requests.memory": exact(
            r.memory_request_bytes if r.memory_request_bytes is not None else r.memory_limit_bytes
        ),
        "limits.memory": exact(r.memory_limit_bytes),
    }
    if r.gpu or r.gpu_memory_bytes:
        # How much of a device some memory is, only the device's owner knows.
        found[f"requests.{r.gpu_resource or NVIDIA}"] = exact(r.gpu or None)
    return found


def exceeded(
    quota: Quota, others: Usage, new: Usage, old: Usage | None
) -> list[tuple[str, Fraction, Fraction, Fraction]]:
    """(resource, asked for, used by others, hard) of each sum that `new` would exceed beside `others`.

    What does not grow against `old` is let through: a quota that was lowered must not forbid a change to
    less. Raises Undeclared.
    """
    found = []
    for resource, hard in quota.hard.items():
        name = canonical(resource)
        if name is None:
            continue
        asked = new.get(name, Fraction(0))
        if asked is None:
            raise Undeclared(resource)
        before = old.get(name, Fraction(0)) if old is not None else Fraction(0)
        if asked <= (before or 0):
            continue
        used = others.get(name) or Fraction(0)
        if used + asked > hard:
            found.append((resource, asked, used, hard))
    return found
