"""Gathers what `plan` decides from: a service's workloads, replicas, load, rank, and its routes' weights."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.control.bandits import Arms
from penstock.control.drains import Drains
from penstock.control.placement.priorities import Priorities
from penstock.control.plan import LIVE, Observed, ObservedWorkload
from penstock.control.replicas import ReplicaCache
from penstock.control.revision_keeper import RevisionKeeper
from penstock.control.routes import RoutePublisher
from penstock.control.scaling.scaler import Scaler
from penstock.control.service_state import ServiceState
from penstock.control.workloads import Workloads
from penstock.domain.priority import Priority, Rank
from penstock.domain.service import Role, Service
from penstock.domain.status import ArmStatus, conditions_of
from penstock.domain.workload import component_key
from penstock.store.base import Object

ServiceKey = tuple[str, str]


class Observer:
    """Looks at everything that there is to know of one service."""

    def __init__(
        self,
        workloads: Workloads,
        *,
        revisions: RevisionKeeper,
        replicas: ReplicaCache,
        routes: RoutePublisher,
        drains: Drains,
        scaler: Scaler,
        priorities: Priorities,
        inference_url: str,
        arms: Arms = lambda *service: (),
    ) -> None:
        self._workloads = workloads
        self._revisions = revisions
        self._replicas = replicas
        self._routes = routes
        self._drains = drains
        self._scaler = scaler
        self._priorities = priorities
        self._inference_url = inference_url
        #: What the bandits of a namespace, name and uid have learned.
        self._arms = arms

    async def observe(
        self,
        key: ServiceKey,
        manifest: Object,
        service: Service,
        warnings: tuple[str, ...],
        state: ServiceState,
    ) -> Observed:
        """All of it; a workload whose files are here gets its revision on the way."""
        # What a load asks for is decided by what was ready before this look.
        proven = {
            k.workload.role for k in self._revisions.of(key, state.uid) if k.ready_at is not None
        }
        workloads = await self._workloads.observe(key, manifest, service, state)
        ranks, unknown = await self._ranks(service, workloads)
        replicas = self._replicas.of(key)
        url = f"{self._inference_url}/serving/{service.namespace}/{service.name}"
        return Observed(
            service=service,
            generation=int(manifest["metadata"].get("generation", 0)),
            workloads=workloads,
            replicas=replicas,
            draining=frozenset(r.id for r in replicas if r.id in self._drains),
            scale=self._scale(key, workloads, proven, ranks),
            weights=self._weights(key),
            previous=conditions_of(manifest.get("status") or {}),
            warnings=(*warnings, *unknown),
            url=url,
            address=url,
            arms=self._learned(key, service, state),
        )

    def _learned(
        self, key: ServiceKey, service: Service, state: ServiceState
    ) -> tuple[ArmStatus, ...]:
        if service.traffic.bandit is None:
            return ()
        kept = {k.name for k in self._revisions.of(key, state.uid)}
        return self._arms(*key, state.uid, {"": kept})

    async def _ranks(
        self, service: Service, workloads: tuple[ObservedWorkload, ...]
    ) -> tuple[dict[Role, Rank], tuple[str, ...]]:
        """How much each role matters: as much as its first workload says, else as the predictor."""
        ranks: dict[Role, Rank] = {}
        warnings: list[str] = []
        for seen in workloads:
            role, asked = seen.workload.id.role, seen.workload.component.priority
            if role not in ranks:
                said = asked if asked != Priority() else service.predictor.priority
                ranks[role], warning = await self._priorities.rank(said)
                warnings += [f"spec.{role}.{warning}"] if warning and said is asked else []
        return ranks, tuple(warnings)

    def _scale(
        self,
        key: ServiceKey,
        workloads: tuple[ObservedWorkload, ...],
        proven: set[Role],
        ranks: Mapping[Role, Rank],
    ) -> dict[Role, int]:
        """The replicas that each role's load asks for; the first workload of a role says how it scales."""
        scale: dict[Role, int] = {}
        for seen in workloads:
            role = seen.workload.id.role
            if role in scale or not seen.workload.wanted:
                continue
            scale[role] = self._scaler.want(
                component_of(key, role),
                seen.workload.component.scaling,
                running=sum(
                    r.phase in LIVE and r.component == role for r in self._replicas.of(key)
                ),
                proven=role in proven,
                rank=ranks[role],
            )
        for role in Role:
            if role not in scale:
                self._scaler.forget(component_of(key, role))
        return scale

    def _weights(self, key: ServiceKey) -> dict[str, int]:
        found = (self._routes.get(name) for name in route_keys(key))
        return {t.revision: t.weight for route in found if route is not None for t in route.targets}


def component_of(key: ServiceKey, role: Role) -> ServiceKey:
    """What a component of the service is known by, where services are counted by their key."""
    return key[0], component_key(key[1], role)


def route_keys(key: ServiceKey) -> list[str]:
    """Of all the routes that a service may have; the predictor's first."""
    return ["/".join(component_of(key, role)) for role in Role]
