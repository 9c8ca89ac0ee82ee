"""Kubernetes' ResourceQuota, version v1, as far as services can be counted by it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from penstock.dialects.base import Dialect, Manifest, Translation, refuse
from penstock.dialects.metadata import DEFAULT_NAMESPACE, ObjectMeta, check_metadata
from penstock.dialects.pod import Loose
from penstock.dialects.schema import Spec, path, read
from penstock.dialects.support import Table, refused
from penstock.domain.names import subdomain_problem
from penstock.domain.quantity import parse_quantity
from penstock.domain.quota import COUNT, Quota, canonical
from penstock.errors import FieldProblem

_KNOWN = (
    "cpu, memory, limits.cpu, limits.memory, requests.nvidia.com/gpu, pods (replicas), "
    "count/PLURAL.GROUP of services and graphs, and penstock.dev/services"
)


class QuotaSpec(Spec):
    hard: dict[str, str | int | float] | None = None
    scopes: list[str] | None = None
    scope_selector: Loose | None = None


class QuotaManifest(Spec):
    api_version: str
    kind: str
    metadata: ObjectMeta
    spec: QuotaSpec
    status: Loose | None = None


TABLE = Table(
    (refused("spec.{scopes,scopeSelector}", "a quota counts all services of its namespace"),)
)


def _counted() -> frozenset[str]:
    """`plural.group` of kinds that mean services and graphs."""
    from penstock.dialects import all_dialects  # the registry has this dialect, too

    return frozenset(f"{d.plural}.{d.group}" for d in all_dialects() if d.renderer is not None)


def translate(manifest: Manifest, *, runs_containers: bool = False) -> Translation:
    """ResourceQuota -> `domain.Quota`."""
    unsupported, _ = TABLE.check(manifest, runs_containers=runs_containers)
    parsed, problems = read(QuotaManifest, manifest)
    if parsed is None:
        refuse(manifest, problems)
    problems = check_metadata(parsed.metadata, name_problem=subdomain_problem, namespaced=True)
    problems += unsupported
    hard: dict[str, Any] = {}
    for resource, quantity in (parsed.spec.hard or {}).items():
        at = path(("spec", "hard", resource))
        if canonical(resource) is None or (
            resource.startswith(COUNT) and resource.removeprefix(COUNT) not in _counted()
        ):
            problems.append(FieldProblem(at, f"is not counted here; known are {_KNOWN}"))
            continue
        try:
            hard[resource] = parse_quantity(quantity)
        except ValueError as exc:
            problems.append(FieldProblem(at, str(exc)))
            continue
        if hard[resource] < 0:
            problems.append(FieldProblem(at, "must not be negative"))
    if problems:
        refuse(manifest, problems)
    return Translation(
        Quota(
            namespace=parsed.metadata.namespace or DEFAULT_NAMESPACE,
            name=parsed.metadata.name or "",
            hard=MappingProxyType(hard),
        )
    )


DIALECTS = (
    Dialect(
        api_version="v1",
        kind="ResourceQuota",
        plural="resourcequotas",
        singular="resourcequota",
        short_names=("quota",),
        namespaced=True,
        model=QuotaManifest,
        table=TABLE,
        translator=translate,
    ),
)
