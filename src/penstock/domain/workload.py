"""Workloads: the parts of a service that run, each with revisions of its own.

A service is one workload per component: its predictor, its transformer, its explainer, and each named
predictor that is tried beside the first (KServe's `canary[]`). What runs is known by role and variant, not by
its place in the manifest: a canary that is promoted by naming it as the predictor is the same workload as
before, so its processes carry on and only shares move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from penstock.domain.service import Component, Role, Service


class WorkloadId(NamedTuple):
    """Role, and the predictor's name where it has one; empty for the others."""

    role: Role
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.role}/{self.variant}" if self.variant else str(self.role)


#: The predictor without a name.
PREDICTOR = WorkloadId(Role.PREDICTOR)


@dataclass(frozen=True, slots=True)
class Workload:
    """One component of a service that runs."""

    id: WorkloadId
    component: Component
    #: Of its role's requests; those of a role's workloads add up to 100.
    percent: int = 100
    #: False: the manifest has it no more, and it runs only until others have taken over.
    wanted: bool = True


def id_of(component: Component) -> WorkloadId:
    """The workload that a component is."""
    return WorkloadId(component.role, component.name or "")


def workloads_of(service: Service) -> tuple[Workload, ...]:
    """Those that the manifest asks for: the predictor first, named canaries behind it, then the others."""
    tried = sum(c.percent for c in service.canaries)
    found = [Workload(id_of(service.predictor), service.predictor, 100 - tried)]
    found += [Workload(id_of(c.component), c.component, c.percent) for c in service.canaries]
    for component in (service.transformer, service.explainer):
        if component is not None:
            found.append(Workload(id_of(component), component))
    return tuple(found)


def revision_base(service_name: str, workload: WorkloadId) -> str:
    """What its revisions are named after: `iris`, `iris-transformer`, `iris-VARIANT`."""
    if workload == PREDICTOR:
        return service_name
    return f"{service_name}-{workload.variant or workload.role}"


def component_key(service_name: str, role: Role) -> str:
    """`iris` for the predictor, `iris/transformer` for others: in routes, loads and scaling."""
    return service_name if role is Role.PREDICTOR else f"{service_name}/{role}"


def service_key(key: tuple[str, str]) -> tuple[str, str]:
    """(namespace, service) of a key whose name may be a component's."""
    return key[0], key[1].partition("/")[0]
