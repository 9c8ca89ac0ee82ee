"""Starts the replicas that a plan asks for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock.backends.base import Backend
from penstock.control.models.fetches import ModelFiles
from penstock.control.plan import Event, Start, one_line
from penstock.control.process_spec import process_spec
from penstock.control.replicas import ReplicaCache
from penstock.control.revisions import Kept
from penstock.control.secrets import environment
from penstock.control.service_state import ServiceState
from penstock.control.settings import ControlSettings
from penstock.domain.service import Role, Service
from penstock.errors import PenstockError
from penstock.store.base import Store


class Starts:
    """Hands replicas to the backend, with their environment resolved."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        files: ModelFiles,
        replicas: ReplicaCache,
        *,
        settings: ControlSettings,
        enqueue: Callable[[tuple[str, str]], None],
    ) -> None:
        self._store = store
        self._backend = backend
        self._files = files
        self._replicas = replicas
        self._settings = settings
        self._enqueue = enqueue

    async def start(
        self,
        service: Service,
        state: ServiceState,
        starts: tuple[Start, ...],
        *,
        priority: Callable[[Role], int],
    ) -> None:
        """Start them side by side; raises the first error when all have been tried."""
        if not starts:
            return
        share = max(Counter(s.revision.name for s in starts).values())
        env: dict[str, Mapping[str, str]] = {}
        for start in starts:
            name = start.revision.name
            if name in env:
                continue
            if not self._files.present(start.revision.path):
                self._fetch_again(service, state, start.revision)
                continue
            try:
                env[name] = await environment(self._store, service.namespace, start.revision.env)
            except PenstockError as exc:
                state.pending.append(Event("Warning", "StartFailed", one_line(str(exc))))
                raise

        async def start_one(replica_id: str, kept: Kept) -> None:
            spec = process_spec(
                kept,
                service,
                replica_id,
                env=env[kept.name],
                cores=self._settings.cores,
                replicas=share,
                priority=priority(kept.workload.role),
                gateways=self._settings.gateways,
                inference_url=self._settings.inference_url,
            )
            status = await self._backend.start(replica_id, zygote_of(kept), spec)
            self._replicas.started(status)

        results = await asyncio.gather(
            *(start_one(s.replica_id, s.revision) for s in starts if s.revision.name in env),
            return_exceptions=True,
        )
        failed = [r for r in results if isinstance(r, BaseException)]
        if failed:
            raise failed[0]

    def _fetch_again(self, service: Service, state: ServiceState, revision: Kept) -> None:
        """The files of a revision are gone from the cache: nothing of it starts until they are back."""
        if revision.workload not in state.missing:
            state.missing.add(revision.workload)
            state.refresh += 1
            state.pending.append(
                Event(
                    "Warning",
                    "FilesGone",
                    f"The files of {revision.name} are gone; fetching them again.",
                )
            )
            self._enqueue((service.namespace, service.name))


def zygote_of(revision: Kept) -> str:
    """The framework whose zygote a revision's processes are forked from: its own, as a rule.

    Importing skops takes seconds and 200 MB: those who have such files share it, the others are spared it.
    """
    framework = revision.revision.framework
    if framework != "sklearn" or revision.models:
        return framework
    path = Path(revision.path)
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    return "skops" if any(f.suffix.lower() == ".skops" for f in files) else framework
