"""What the control plane counts itself: services and replicas, looks, restarts, gateways.

Gauges are read off the caches when somebody asks for metrics; nothing is kept beside them. A restart is
counted when it is told.
"""

from __future__ import annotations

from penstock.backends.base import ReplicaStatus
from penstock.control.loop import Loop
from penstock.control.manifests import ManifestCache, ServiceKey
from penstock.control.replicas import ReplicaCache
from penstock.control.routes import RoutePublisher
from penstock.domain.devices import WHOLE
from penstock.observe.metrics import Registry


class OwnMetrics:
    """The control plane's own families in `registry`."""

    def __init__(
        self,
        registry: Registry,
        *,
        manifests: ManifestCache,
        replicas: ReplicaCache,
        routes: RoutePublisher,
        loop: Loop[ServiceKey],
    ) -> None:
        self._manifests = manifests
        self._replica_cache = replicas
        self._routes = routes
        self._loop = loop
        self._services = registry.gauge(
            "penstock_services", "Services by the status of their Ready condition.", ("ready",)
        )
        self._replicas = registry.gauge(
            "penstock_replicas", "Replicas by phase.", ("namespace", "service", "phase")
        )
        self._memory = registry.gauge(
            "penstock_replica_memory_bytes",
            "Private memory of a replica's process.",
            ("namespace", "service", "revision", "replica"),
        )
        self._devices = registry.gauge(
            "penstock_replica_device_share",
            "Share of an accelerator that a replica holds.",
            ("resource", "device", "namespace", "service", "revision", "replica"),
        )
        self._restarts = registry.counter(
            "penstock_replica_restarts",
            "Replicas that ended without being told to, by reason.",
            ("namespace", "service", "reason"),
        )
        self._looks = registry.counter("penstock_control_looks", "Looks taken at services.")
        self._failed_looks = registry.counter(
            "penstock_control_failed_looks", "Looks at services that raised."
        )
        self._gateways = registry.gauge(
            "penstock_gateways", "Gateways connected to the control plane."
        )

    def replica_changed(self, old: ReplicaStatus | None, new: ReplicaStatus | None) -> None:
        """Count the restarts of a replica between two states of it."""
        if new is None or old is None:
            return
        ended = new.restarts - old.restarts
        if ended > 0:
            reason = new.reason or old.reason or "Exit"
            self._restarts.labels(new.namespace, new.service, reason).inc(ended)

    def forget(self, key: ServiceKey) -> None:
        """The service is gone."""
        for labels in [k for k in self._restarts.children if k[:2] == key]:
            self._restarts.remove(*labels)

    def refresh(self) -> None:
        """Bring all of them up to now."""
        ready = self._manifests.ready
        for value in ("True", "False", "Unknown"):
            self._services.labels(value).set(ready[value])
        self._replicas.children.clear()
        self._memory.children.clear()
        self._devices.children.clear()
        for r in self._replica_cache.all():
            self._replicas.labels(r.namespace, r.service, r.phase.value).inc()
            if r.memory_bytes is not None:
                self._memory.labels(r.namespace, r.service, r.revision, r.id).set(r.memory_bytes)
            for d in r.devices:
                self._devices.labels(
                    d.resource, str(d.index), r.namespace, r.service, r.revision, r.id
                ).set(d.milli / WHOLE)
        looks = self._looks.labels()
        looks.inc(self._loop.looks - looks.value)
        failed = self._failed_looks.labels()
        failed.inc(self._loop.failed - failed.value)
        self._gateways.labels().set(self._routes.gateways)
