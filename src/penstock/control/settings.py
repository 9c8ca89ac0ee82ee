"""How the controllers behave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Set by the process that runs the control plane."""

    inference_url: str = "http://127.0.0.1:8080"
    """Where clients reach the gateways; services' addresses are made from it."""

    cores: int = 1
    """Cores that replicas share."""

    scale_to_zero_grace_s: float = 300.0
    """A service with `minReplicas: 0` keeps its replica for this long after its last request."""

    memory_budget_bytes: int | None = None
    """Private memory that all model processes together may hold; None is no bound."""

    routes_applied_s: float = 2.0
    """Most seconds to wait until gateways stop sending to a replica before it is told to drain."""

    ready_applied_s: float = 0.5
    """Most seconds to wait until gateways know a route before its service is said to be ready."""

    drain_grace_s: float = 30.0
    """Seconds a draining replica has to finish what it was sent."""

    gateways: tuple[str, ...] = ()
    """The gateways' own sockets (`unix:/path`), by which components of a service reach each other."""
