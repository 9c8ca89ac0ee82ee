"""What is written about a service: its events, and its status in its own dialect."""

from __future__ import annotations

from typing import Any

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.manifests import ManifestCache
from penstock.control.plan import Event, Wanted, one_line
from penstock.control.service_state import ServiceState
from penstock.store.base import Key, Kind, Object, Store


class Records:
    """Writes to the store."""

    def __init__(self, store: Store, manifests: ManifestCache) -> None:
        self._store = store
        self._manifests = manifests

    async def status(self, kind: Kind, manifest: Object, status: Any) -> None:
        """Write the status."""
        written = await self._store.update_status({**manifest, "status": status})
        self._manifests.wrote(kind, written)

    @staticmethod
    def changed_status(manifest: Object, dialect: Any, wanted: Wanted) -> Any:
        """The status as the manifest's dialect says it; None when it says so already."""
        status = dialect.render_status(manifest, wanted.status)
        return None if status == manifest.get("status") else status

    async def events(
        self, kind: Kind, manifest: Object, state: ServiceState, wanted: Wanted
    ) -> None:
        """Write what happened since the last look, what this one says, and new warnings."""
        while state.pending:
            await self.event(kind, manifest, state.pending.popleft())
        for event in wanted.events:
            await self.event(kind, manifest, event)
        if wanted.status.warnings != state.warned:
            for warning in wanted.status.warnings:
                await self.event(kind, manifest, Event("Warning", "NoEffect", warning))
            state.warned = wanted.status.warnings

    async def event(self, kind: Kind, manifest: Object, event: Event) -> None:
        """Write one."""
        meta = manifest["metadata"]
        await self._store.record_event(
            Key(kind, meta.get("namespace", ""), meta["name"]),
            type_=event.type,
            reason=event.reason,
            message=event.message,
            uid=meta.get("uid", ""),
        )


def replica_event(old: ReplicaStatus | None, new: ReplicaStatus) -> Event | None:
    """What is worth an entry in the event log of a replica's change."""
    why = f"{new.reason}: {one_line(new.message)}" if new.message else new.reason
    if new.phase is Phase.FAILED and (old is None or old.phase is not Phase.FAILED):
        return Event("Warning", new.reason or "ReplicaFailed", f"{new.id}: {why}")
    if old is not None and new.restarts > old.restarts:
        return Event(
            "Warning", "ReplicaEnded", f"{new.id} ended and is started again. {why}".strip()
        )
    return None
