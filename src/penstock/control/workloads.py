"""Brings one workload from the manifest to a revision: runtime, files, number.

Called at each look. What takes time (the fetch) runs beside the loop in `fetches`, and the look after its end
makes the revision. What became of that, `plan` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.backends.base import Backend
from penstock.control.clock import Clock
from penstock.control.models.fetches import Fetches, Files, ModelFiles
from penstock.control.models.repository_files import models_of, warnings_of, with_models
from penstock.control.plan import (
    Event,
    FetchPhase,
    FetchState,
    ObservedWorkload,
    Problem,
    one_line,
)
from penstock.control.process_spec import hosts_only, served_name
from penstock.control.revision_keeper import RevisionKeeper, owner_of
from penstock.control.revisions import Kept, asked_digest, next_number
from penstock.control.runtimes import runtimes_for
from penstock.control.secrets import environment
from penstock.control.service_state import ServiceState
from penstock.domain.process import ServedModel
from penstock.domain.revision import Revision, digest, revision_name
from penstock.domain.runtime_selection import RuntimeNotSelected, Selection, select
from penstock.domain.service import Component, Service
from penstock.domain.status import FailureReason
from penstock.domain.workload import PREDICTOR, Workload, WorkloadId, revision_base, workloads_of
from penstock.errors import InvalidManifest, NotFound
from penstock.storage import Progress
from penstock.store.base import Object, Store

ServiceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a manifest asks of one workload, at one look."""

    key: ServiceKey
    manifest: Object
    service: Service
    state: ServiceState
    workload: Workload
    #: Of what decides which revision it is (`asked_digest`).
    digest: str
    selection: Selection

    @property
    def id(self) -> WorkloadId:
        return self.workload.id

    @property
    def component(self) -> Component:
        return self.workload.component


class Workloads:
    """Makes revisions."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        files: ModelFiles,
        fetches: Fetches,
        revisions: RevisionKeeper,
        *,
        clock: Clock,
        try_again: Callable[[ServiceKey, str], None],
    ) -> None:
        self._store = store
        self._backend = backend
        self._files = files
        self._fetches = fetches
        self._revisions = revisions
        self._clock = clock
        #: Told a revision whose manifest was applied again: replicas that gave up get another chance.
        self._try_again = try_again

    async def observe(
        self, key: ServiceKey, manifest: Object, service: Service, state: ServiceState
    ) -> tuple[ObservedWorkload, ...]:
        """Every workload that the manifest asks for, then those that are left of earlier ones."""
        asked = workloads_of(service)
        names = frozenset(w.id for w in asked)
        for gone in state.asked - names:
            self._fetches.forget(fetch_key(key, gone))
            state.refreshed.pop(gone, None)
            state.missing.discard(gone)
        state.asked = names
        found = [await self._observe(key, manifest, service, state, w) for w in asked]
        left: dict[WorkloadId, list[Kept]] = {}
        for kept in self._revisions.of(key, state.uid):
            if kept.workload not in names:
                left.setdefault(kept.workload, []).append(kept)
        for id_, revisions in left.items():
            workload = Workload(id_, revisions[-1].revision.component, 0, wanted=False)
            found.append(ObservedWorkload(workload, tuple(revisions)))
        return tuple(found)

    def _of(self, key: ServiceKey, state: ServiceState, workload: WorkloadId) -> tuple[Kept, ...]:
        return tuple(k for k in self._revisions.of(key, state.uid) if k.workload == workload)

    async def _observe(
        self,
        key: ServiceKey,
        manifest: Object,
        service: Service,
        state: ServiceState,
        workload: Workload,
    ) -> ObservedWorkload:
        component = workload.component
        asked_for = _asked_digest(state, service, workload)
        revisions = self._of(key, state, workload.id)
        current = bool(revisions) and revisions[-1].asked == asked_for
        fetch: FetchState | None = None
        problem: Problem | None = None
        selection: Selection | None = None
        if component.container is not None and not self._backend.runs_containers:
            problem = Problem(
                FailureReason.INVALID_PREDICTOR_SPEC,
                f"The container {component.container.image} cannot be run on this machine: "
                "replicas are processes here. Use a model format, or the block python of "
                "penstock.dev/v1alpha1 with the folder of a class of your own.",
            )
        elif service.stopped and not current:
            pass  # nothing is fetched for what shall not run
        elif not current or state.refresh != state.refreshed.get(workload.id, 0):
            try:
                selection = await self._select(service, component)
                await environment(self._store, service.namespace, _env(component, selection))
                asked = _Asked(key, manifest, service, state, workload, asked_for, selection)
                fetch, current = await self._fetch(asked, current)
            except RuntimeNotSelected as exc:
                problem = Problem(exc.failure, str(exc))
            except (NotFound, InvalidManifest) as exc:
                problem = Problem(FailureReason.INVALID_PREDICTOR_SPEC, str(exc))
            if problem is not None and current:
                state.refreshed[workload.id] = state.refresh
                problem = None
        else:
            self._fetches.forget(fetch_key(key, workload.id))
        return ObservedWorkload(
            workload,
            revisions=self._of(key, state, workload.id),
            current=current,
            fetch=fetch,
            problem=problem,
            runtime=selection.runtime.name if selection is not None else "",
            runtime_is_cluster=selection is None or not selection.runtime.namespace,
            framework=selection.framework if selection is not None else "",
        )

    async def _select(self, service: Service, component: Component) -> Selection:
        model = component.model
        assert model is not None  # noqa: S101 - containers were sorted out before
        runtimes = await runtimes_for(self._store, service.namespace)
        return select(model, runtimes, runs_containers=self._backend.runs_containers)

    def _next(self, key: ServiceKey, state: ServiceState, workload: WorkloadId) -> tuple[int, str]:
        """Number and name of a workload's next revision."""
        number = next_number(self._of(key, state, workload))
        base = revision_base(key[1], workload)
        while self._revisions.taken(key, revision_name(base, number)):
            number += 1
        return number, revision_name(base, number)

    async def _fetch(self, asked: _Asked, current: bool) -> tuple[FetchState | None, bool]:
        """How the fetch stands, and whether there is a revision of the present manifest now."""
        key, service, state, component = asked.key, asked.service, asked.state, asked.component
        uri = self._files.uri(component)
        _, name = self._next(key, state, asked.id)
        owner = owner_of(key, name, state.uid)
        fetching = fetch_key(key, asked.id)

        async def job(progress: Progress) -> Files:
            files = await self._files.fetch(service.namespace, component, progress, revision=owner)
            return await with_models(
                files, component, asked.selection.framework, served_name(component, service)
            )

        got = self._fetches.want(fetching, f"{asked.digest}#{state.refresh}", uri, job)
        missing = asked.id in state.missing
        if isinstance(got, FetchState):
            if current and got.phase is FetchPhase.FAILED and not missing:
                # The revision that runs is not touched by files that cannot be looked at again.
                state.pending.append(Event("Warning", "RefreshFailed", one_line(got.message)))
                state.refreshed[asked.id] = state.refresh
                self._fetches.forget(fetching)
            return (None if current else got), current
        revisions = self._of(key, state, asked.id)
        if not current or revisions[-1].revision.files != got.digest:
            await self._add(asked, got)
        else:
            await self._files.release(owner)
            self._try_again(key, revisions[-1].name)
        state.refreshed[asked.id] = state.refresh
        state.missing.discard(asked.id)
        self._fetches.forget(fetching)
        return None, True

    async def _add(self, asked: _Asked, files: Files) -> None:
        """Make the revision whose files are here."""
        component, selection, state = asked.component, asked.selection, asked.state
        uri = self._files.uri(component)
        number, name = self._next(asked.key, state, asked.id)
        model = component.model
        assert model is not None  # noqa: S101 - only models are fetched
        models = models_of(files)
        kept = Kept(
            Revision(
                name=name,
                number=number,
                digest=digest(component, files=files.digest, runtime=selection.runtime.name),
                created=self._clock.now(),
                component=component,
                files=files.digest,
                runtime=selection.runtime.name,
                framework=_framework(component, models, selection),
            ),
            asked=asked.digest,
            path=str(files.path),
            uri=uri,
            size_bytes=files.size_bytes,
            options={**selection.runtime.options, **model.options},
            env=_env(component, selection),
            models=models,
        )
        await self._revisions.add(asked.key, kept, asked.service, asked.manifest)
        state.pending.append(
            Event("Normal", "RevisionCreated", f"{kept.name}: {uri} with {selection.runtime.name}.")
        )
        for warning in warnings_of(files):
            state.pending.append(Event("Warning", "NoEffect", one_line(warning)))


def _framework(component: Component, models: tuple[ServedModel, ...], selection: Selection) -> str:
    """Whose zygote the processes are forked from."""
    if hosts_only(component):
        return "custom"  # the one that imports nothing
    return models[0].framework if models else selection.framework


def _asked_digest(state: ServiceState, service: Service, workload: Workload) -> str:
    if state.digests is None or state.digests[0] is not service:
        state.digests = (service, {})
    known = state.digests[1]
    if workload.id not in known:
        known[workload.id] = asked_digest(service, workload.component)
    return known[workload.id]


def fetch_key(key: ServiceKey, workload: WorkloadId) -> ServiceKey:
    """What the fetch for a workload is known by."""
    return key if workload == PREDICTOR else (key[0], f"{key[1]}/{workload}")


def _env(component: Component, selection: Selection) -> tuple[Any, ...]:
    return (*selection.runtime.env, *component.env)
