"""What is worth an entry in a service's event log."""

from __future__ import annotations

from penstock.control.plan.observed import Event, Observed
from penstock.control.revisions import Kept
from penstock.domain.status import ServiceStatus, Truth


def rollout_event(before: Kept | None, kept: Kept, status: ServiceStatus) -> Event:
    """A revision is ready for the first time, `before` was the newest one of its workload until then."""
    component = status.components.get(kept.workload.role)
    traffic = {t.revision: t.percent for t in component.traffic} if component is not None else {}
    percent = traffic.get(kept.name, 0)
    if percent == 100:
        instead = f" in place of {before.name}" if before is not None else ""
        return Event("Normal", "RevisionReady", f"{kept.name} is ready and serves{instead}.")
    return Event(
        "Normal", "RevisionReady", f"{kept.name} is ready and takes {percent}% of the requests."
    )


def events_of(o: Observed, status: ServiceStatus) -> tuple[Event, ...]:
    """What changed of the condition Ready."""
    old = {c.type: c for c in o.previous}.get("Ready")
    new = next(c for c in status.conditions if c.type == "Ready")
    if old is not None and (old.status, old.reason) == (new.status, new.reason):
        return ()
    if new.status is Truth.FALSE:
        return (Event("Warning", new.reason or "NotReady", new.message),)
    if new.status is Truth.TRUE and new.reason in ("Asleep", "Waking"):
        return (Event("Normal", new.reason, new.message),)
    if new.status is Truth.TRUE and (old is None or old.status is not Truth.TRUE):
        return (Event("Normal", "Ready", new.message or "The service is ready."),)
    return ()
