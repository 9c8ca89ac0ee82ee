"""The service controller: looks at one service, asks `plan` what is wanted, and carries it out.

On the way of a look: the manifest (from `manifests`) is translated by its dialect; the runtime is selected
and the files are fetched if the manifest asks for something that is no revision yet; `plan` decides; then
routes are published, replicas started, surplus ones drained (out of the routes first, stopped when the
gateways have confirmed), the status written and events recorded. Each step is safe to repeat, and a crash
between any two of them leaves a state from which the next look goes on.

What is kept in memory of a service (`_State`) could be thrown away at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penstock import dialects
from penstock.backends.base import Backend, Phase, ReplicaStatus
from penstock.control.clock import Clock
from penstock.control.drains import Drains
from penstock.control.fetches import Fetches, Files, ModelFiles
from penstock.control.manifests import ManifestCache
from penstock.control.plan import (
    LIVE,
    Event,
    FetchPhase,
    FetchState,
    Observed,
    Problem,
    Wanted,
    one_line,
    plan,
    rollout_event,
)
from penstock.control.process_spec import process_spec
from penstock.control.progressing import Progressing
from penstock.control.replicas import ReplicaCache
from penstock.control.revision_keeper import RevisionKeeper, owner_of
from penstock.control.revisions import (
    Kept,
    Stage,
    asked_digest,
    next_number,
)
from penstock.control.rollout import latest_of
from penstock.control.routes import RoutePublisher
from penstock.control.runtimes import runtimes_for
from penstock.control.scaler import Scaler
from penstock.control.secrets import environment
from penstock.domain.revision import Revision, digest, revision_name
from penstock.domain.runtime_selection import RuntimeNotSelected, Selection, select
from penstock.domain.service import Service
from penstock.domain.status import FailureReason, Transition, conditions_of
from penstock.errors import (
    Conflict,
    InvalidManifest,
    NotFound,
    PenstockError,
    Unavailable,
)
from penstock.store.base import Key, Kind, Object, Store

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the controllers behave."""

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


async def _nothing_counted() -> Mapping[str, Any]:
    return {}


@dataclass
class _State:
    """What is remembered of a service between two looks."""

    uid: str
    #: Counts requests to look at the files again.
    refresh: int = 0
    refreshed: int = 0
    #: Files of a revision that should run are gone and are being fetched again.
    missing: bool = False
    translated: tuple[str, Service, tuple[str, ...]] | None = None
    pending: deque[Event] = field(default_factory=lambda: deque(maxlen=50))
    warned: tuple[str, ...] = ()


class ServiceController:
    """Reconciles services. `look` is what `control.loop` runs."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        *,
        manifests: ManifestCache,
        replicas: ReplicaCache,
        routes: RoutePublisher,
        files: ModelFiles,
        fetches: Fetches,
        scaler: Scaler,
        enqueue: Callable[[ServiceKey], None],
        settings: ControlSettings,
        clock: Clock,
        on_gone: Callable[[ServiceKey], None] = lambda key: None,
        total: Callable[[], Awaitable[Mapping[str, Any]]] = _nothing_counted,
    ) -> None:
        self._store = store
        self._backend = backend
        self._manifests = manifests
        self._replicas = replicas
        self._routes = routes
        self._files = files
        self._fetches = fetches
        self._scaler = scaler
        self._enqueue = enqueue
        self._settings = settings
        self._clock = clock
        self._on_gone = on_gone
        self._states: dict[ServiceKey, _State] = {}
        self.progressing = Progressing(total, self._advance, clock=clock)
        self.revisions = RevisionKeeper(store, files)
        self._drains = Drains(
            backend,
            routes,
            enqueue,
            applied_s=settings.routes_applied_s,
            grace_s=settings.drain_grace_s,
            clock=clock,
        )

    # -- what others tell --------------------------------------------------------------------------

    def wake(self, namespace: str, name: str, waiting: int = 1) -> None:
        """Requests wait for a service that may be asleep."""
        key = (namespace, name)
        if self._manifests.get(key) is not None and (
            self._scaler.wake(key, waiting) or not self._replicas.of(key)
        ):
            self._enqueue(key)

    def refresh(self, key: ServiceKey) -> None:
        """Look whether the model's files changed; if so, they become a new revision."""
        state = self._states.get(key)
        if state is not None:
            state.refresh += 1
        self._fetches.hurry(key)
        self._enqueue(key)

    def replica_changed(self, old: ReplicaStatus | None, new: ReplicaStatus | None) -> None:
        """The backend reported something about a replica."""
        about = new or old
        assert about is not None  # noqa: S101 - the cache never reports nothing about nothing
        key = (about.namespace, about.service)
        if old is not None and new is not None and old.memory_bytes != new.memory_bytes:
            old = replace(old, memory_bytes=new.memory_bytes)
            if old == new:
                return  # nothing is decided by it, and it changes all the time
        state = self._states.get(key)
        if state is not None and new is not None and about.id not in self._drains:
            event = _replica_event(old, new)
            if event is not None:
                state.pending.append(event)
        self._enqueue(key)

    def tell(self, key: ServiceKey, event: Event) -> None:
        """Put an event about a service into its log, at its next look."""
        state = self._states.get(key)
        if state is not None:
            state.pending.append(event)
            self._enqueue(key)

    async def close(self) -> None:
        """Cancel drains under way; the next start finds the replicas and drains them again."""
        await self._drains.close()

    # -- a look ------------------------------------------------------------------------------------

    async def look(self, key: ServiceKey) -> float | None:
        """Bring a service nearer to what its manifest says. Returns when to look again, seconds."""
        if not self._replicas.synced:
            raise Unavailable("The backend was not heard yet.")
        found = self._manifests.get(key)
        for kind, loser in self._manifests.losers(key):
            await self._refuse_name(kind, loser)
        if found is None:
            await self._gone(key)
            return None
        kind, manifest = found
        if manifest["metadata"].get("deletionTimestamp"):
            await self._gone(key)
            return None
        state = await self._state(key, manifest)
        dialect = dialects.find(manifest["apiVersion"], manifest["kind"])
        try:
            service, warnings = self._translate(dialect, manifest, state)
        except InvalidManifest as exc:
            # Admission has refused what is invalid; this one was stored by another release.
            await self._event(kind, manifest, Event("Warning", "InvalidSpec", one_line(str(exc))))
            return None

        observed = await self._observe(key, manifest, service, warnings, state)
        wanted = plan(observed, uid=state.uid, now=self._clock.now())
        await self._carry_out(key, kind, manifest, service, state, wanted, dialect)
        self._follow(key, service, wanted)
        return None

    def _follow(self, key: ServiceKey, service: Service, wanted: Wanted) -> None:
        """Have the steps of the newest revision looked at, if it goes up in steps."""
        policy = service.traffic.rollout
        if policy is None or len(wanted.shares) < 2 or not wanted.shares[0].percent:
            self.progressing.forget(key)
            return
        new, stable = wanted.shares
        restarts = sum(r.restarts for r in self._replicas.of(key) if r.revision == new.name)
        self.progressing.follow(key, policy, new.revision, stable.name, restarts)

    async def _advance(self, key: ServiceKey, name: str, stage: Stage, event: Event) -> None:
        """A revision is at another step, or is given up."""
        state = self._states.get(key)
        if state is None:
            return
        kept = next((k for k in self.revisions.of(key, state.uid) if k.name == name), None)
        if kept is None:
            return
        await self.revisions.change(key, replace(kept, stage=stage))
        state.pending.append(event)
        self._enqueue(key)

    def _translate(
        self, dialect: Any, manifest: Object, state: _State
    ) -> tuple[Service, tuple[str, ...]]:
        meta = manifest["metadata"]
        # Labels and annotations change without a new generation; status writes change neither.
        mark = f"{meta.get('generation')}|{meta.get('annotations')}|{meta.get('labels')}"
        if state.translated is None or state.translated[0] != mark:
            translation = dialect.translate(manifest, runs_containers=self._backend.runs_containers)
            state.translated = (
                mark,
                translation.object,
                tuple(str(w) for w in translation.warnings),
            )
        return state.translated[1], state.translated[2]

    async def _state(self, key: ServiceKey, manifest: Object) -> _State:
        uid = manifest["metadata"]["uid"]
        state = self._states.get(key)
        if state is not None and state.uid == uid:
            return state
        if state is not None:
            self._forget(key)
        await self.revisions.delete_others(key, uid)  # of a service of this name that was deleted
        state = self._states[key] = _State(uid)
        return state

    async def _observe(
        self,
        key: ServiceKey,
        manifest: Object,
        service: Service,
        warnings: tuple[str, ...],
        state: _State,
    ) -> Observed:
        asked = asked_digest(service)
        revisions = self.revisions.of(key, state.uid)
        current = bool(revisions) and revisions[-1].asked == asked
        fetch: FetchState | None = None
        problem: Problem | None = None
        selection: Selection | None = None
        if service.predictor.container is not None and not self._backend.runs_containers:
            problem = Problem(
                FailureReason.INVALID_PREDICTOR_SPEC,
                f"The container {service.predictor.container.image} cannot be run on this machine: "
                "replicas are processes here. Use a model format, or a cluster.",
            )
        elif service.stopped and not current:
            pass  # nothing is fetched for what shall not run
        elif not current or state.refresh != state.refreshed:
            try:
                selection = await self._select(service)
                await environment(self._store, service.namespace, self._env(service, selection))
                fetch, current = await self._fetch(
                    key, manifest, service, state, asked, selection, current
                )
            except RuntimeNotSelected as exc:
                problem = Problem(exc.failure, str(exc))
            except (NotFound, InvalidManifest) as exc:
                problem = Problem(FailureReason.INVALID_PREDICTOR_SPEC, str(exc))
            if problem is not None and current:
                state.refreshed = state.refresh
                problem = None
        else:
            self._fetches.forget(key)
        return Observed(
            service=service,
            generation=int(manifest["metadata"].get("generation", 0)),
            revisions=self.revisions.of(key, state.uid),
            current=current,
            fetch=fetch,
            problem=problem,
            replicas=self._replicas.of(key),
            draining=self._drains.ids,
            scale=self._scale(key, service, revisions),
            weights=self._weights(key),
            previous=conditions_of(manifest.get("status") or {}),
            warnings=warnings,
            url=self._url(service),
            address=self._url(service),
            runtime=selection.runtime.name if selection is not None else "",
            runtime_is_cluster=selection is None or not selection.runtime.namespace,
            framework=selection.framework if selection is not None else "",
        )

    async def _select(self, service: Service) -> Selection:
        model = service.predictor.model
        assert model is not None  # noqa: S101 - containers were sorted out before
        runtimes = await runtimes_for(self._store, service.namespace)
        return select(model, runtimes, runs_containers=self._backend.runs_containers)

    def _env(self, service: Service, selection: Selection) -> tuple[Any, ...]:
        return (*selection.runtime.env, *service.predictor.env)

    async def _fetch(
        self,
        key: ServiceKey,
        manifest: Object,
        service: Service,
        state: _State,
        asked: str,
        selection: Selection,
        current: bool,
    ) -> tuple[FetchState | None, bool]:
        """How the fetch stands, and whether there is a revision of the present manifest now."""
        uri = self._files.uri(service)
        number = next_number(self.revisions.of(key, state.uid))
        owner = owner_of(key, revision_name(service.name, number), state.uid)

        async def job(progress: Callable[[int, int | None], None]) -> Files:
            return await self._files.fetch(service, progress, revision=owner)

        got = self._fetches.want(key, f"{asked}#{state.refresh}", uri, job)
        if isinstance(got, FetchState):
            if current and got.phase is FetchPhase.FAILED and not state.missing:
                # The revision that runs is not touched by files that cannot be looked at again.
                state.pending.append(Event("Warning", "RefreshFailed", one_line(got.message)))
                state.refreshed = state.refresh
                self._fetches.forget(key)
            return (None if current else got), current
        revisions = self.revisions.of(key, state.uid)
        if not current or revisions[-1].revision.files != got.digest:
            await self._add_revision(key, manifest, service, state, asked, selection, got, uri)
        else:
            await self._files.release(owner)
            self._try_again(key)
        state.refreshed = state.refresh
        state.missing = False
        self._fetches.forget(key)
        return None, True

    async def _add_revision(
        self,
        key: ServiceKey,
        manifest: Object,
        service: Service,
        state: _State,
        asked: str,
        selection: Selection,
        files: Files,
        uri: str,
    ) -> None:
        number = next_number(self.revisions.of(key, state.uid))
        model = service.predictor.model
        assert model is not None  # noqa: S101 - only models are fetched
        kept = Kept(
            Revision(
                name=revision_name(service.name, number),
                number=number,
                digest=digest(
                    service.predictor, files=files.digest, runtime=selection.runtime.name
                ),
                created=self._clock.now(),
                component=service.predictor,
                files=files.digest,
                runtime=selection.runtime.name,
                framework=selection.framework,
            ),
            asked=asked,
            path=str(files.path),
            uri=uri,
            size_bytes=files.size_bytes,
            options={**selection.runtime.options, **model.options},
            env=self._env(service, selection),
        )
        await self.revisions.add(key, kept, service, manifest)
        state.pending.append(
            Event("Normal", "RevisionCreated", f"{kept.name}: {uri} with {selection.runtime.name}.")
        )

    # -- carrying out ------------------------------------------------------------------------------

    async def _carry_out(
        self,
        key: ServiceKey,
        kind: Kind,
        manifest: Object,
        service: Service,
        state: _State,
        wanted: Wanted,
        dialect: Any,
    ) -> None:
        await self._record_rollout(key, state, wanted)
        if wanted.route is not None:
            sequence = self._routes.put(wanted.route)
        else:
            sequence = self._routes.remove(f"{key[0]}/{key[1]}")
        for replica_id in wanted.drain:
            self._drains.begin(key, replica_id, sequence)
        try:
            await self._start_replicas(service, state, wanted)
        finally:
            # Events first: said twice after a crash in between is better than not at all.
            await self._record(kind, manifest, state, wanted)
            if wanted.status.ready:
                # Ready means that a request is answered: gateways have to know it by then.
                await self._routes.applied(sequence, timeout_s=self._settings.ready_applied_s)
            await self._write_status(kind, manifest, dialect, wanted)
        await self.revisions.prune(key, state.uid, wanted.in_use)

    async def _record_rollout(self, key: ServiceKey, state: _State, wanted: Wanted) -> None:
        """Write down that a revision was ready for the first time, or took all requests."""
        revisions = self.revisions.of(key, state.uid)
        changed = {k.name: k for k in (wanted.rolled_out, wanted.took_all) if k is not None}
        if wanted.rolled_out is not None:
            kept = wanted.rolled_out
            state.pending.append(rollout_event(latest_of(revisions), kept, wanted.status))
            changed[kept.name] = replace(kept, ready_at=self._clock.now())
        if wanted.took_all is not None:
            kept = changed[wanted.took_all.name]
            last = max((k.rollout for k in revisions), default=0)
            changed[kept.name] = replace(kept, rollout=last + 1)
        for kept in changed.values():
            await self.revisions.change(key, kept)

    async def _start_replicas(self, service: Service, state: _State, wanted: Wanted) -> None:
        if not wanted.start:
            return
        per_revision: dict[str, int] = {}
        for start in wanted.start:
            name = start.revision.name
            per_revision[name] = per_revision.get(name, 0) + 1
        env: dict[str, Mapping[str, str]] = {}
        for start in wanted.start:
            name = start.revision.name
            if name not in env:
                if not self._files.present(start.revision.path):
                    self._fetch_again(service, state, name)
                    continue
                try:
                    env[name] = await environment(
                        self._store, service.namespace, start.revision.env
                    )
                except PenstockError as exc:
                    state.pending.append(Event("Warning", "StartFailed", one_line(str(exc))))
                    raise
        share = max(per_revision.values())

        async def start_one(replica_id: str, kept: Kept) -> None:
            spec = process_spec(
                kept,
                service,
                replica_id,
                env=env[kept.name],
                cores=self._settings.cores,
                replicas=share,
            )
            self._replicas.put(await self._backend.start(replica_id, kept.revision.framework, spec))

        results = await asyncio.gather(
            *(start_one(s.replica_id, s.revision) for s in wanted.start if s.revision.name in env),
            return_exceptions=True,
        )
        failed = [r for r in results if isinstance(r, BaseException)]
        if failed:
            raise failed[0]

    def _fetch_again(self, service: Service, state: _State, revision: str) -> None:
        """The files of a revision are gone from the cache: nothing of it starts until they are back."""
        if not state.missing:
            state.missing = True
            state.refresh += 1
            state.pending.append(
                Event(
                    "Warning",
                    "FilesGone",
                    f"The files of {revision} are gone; fetching them again.",
                )
            )
            self._enqueue((service.namespace, service.name))

    def _try_again(self, key: ServiceKey) -> None:
        """Somebody applied the same again: replicas that gave up get another chance."""
        for r in self._replicas.of(key):
            if r.phase is Phase.FAILED:
                self._drains.begin(key, r.id, self._routes.sequence)

    async def _write_status(
        self, kind: Kind, manifest: Object, dialect: Any, wanted: Wanted
    ) -> None:
        status = dialect.render_status(manifest, wanted.status)
        if status == manifest.get("status"):
            return
        written = await self._store.update_status({**manifest, "status": status})
        self._manifests.put(kind, written)

    async def _record(self, kind: Kind, manifest: Object, state: _State, wanted: Wanted) -> None:
        while state.pending:
            await self._event(kind, manifest, state.pending.popleft())
        for event in wanted.events:
            await self._event(kind, manifest, event)
        if wanted.status.warnings != state.warned:
            for warning in wanted.status.warnings:
                await self._event(kind, manifest, Event("Warning", "NoEffect", warning))
            state.warned = wanted.status.warnings

    async def _event(self, kind: Kind, manifest: Object, event: Event) -> None:
        meta = manifest["metadata"]
        await self._store.record_event(
            Key(kind, meta.get("namespace", ""), meta["name"]),
            type_=event.type,
            reason=event.reason,
            message=event.message,
            uid=meta.get("uid", ""),
        )

    async def _gone(self, key: ServiceKey) -> None:
        """The service was deleted: nothing of it stays."""
        sequence = self._routes.remove(f"{key[0]}/{key[1]}")
        for r in self._replicas.of(key):
            if r.phase not in (Phase.DRAINING, Phase.STOPPED):
                self._drains.begin(key, r.id, sequence)
        await self.revisions.delete_others(key, None)
        if self._states.get(key) is not None:
            self._forget(key)
            self._on_gone(key)

    def _forget(self, key: ServiceKey) -> None:
        self._states.pop(key, None)
        self._fetches.cancel(key)
        self._scaler.forget(key)
        self.progressing.forget(key)

    async def _refuse_name(self, kind: Kind, manifest: Object) -> None:
        """Tell an object that an older one of another dialect has its name."""
        await self._event(
            kind,
            manifest,
            Event(
                "Warning", "NameTaken", "Another service of this name exists in another dialect."
            ),
        )

    def _scale(self, key: ServiceKey, service: Service, revisions: tuple[Kept, ...]) -> int:
        return self._scaler.want(
            key,
            service.predictor.scaling,
            running=sum(r.phase in LIVE for r in self._replicas.of(key)),
            proven=latest_of(revisions) is not None,
        )

    # -- small questions ---------------------------------------------------------------------------

    def _weights(self, key: ServiceKey) -> dict[str, int]:
        route = self._routes.get(f"{key[0]}/{key[1]}")
        return {t.revision: t.weight for t in route.targets} if route is not None else {}

    def _url(self, service: Service) -> str:
        return f"{self._settings.inference_url}/serving/{service.namespace}/{service.name}"


def _replica_event(old: ReplicaStatus | None, new: ReplicaStatus) -> Event | None:
    """What is worth an entry in the event log."""
    why = f"{new.reason}: {one_line(new.message)}" if new.message else new.reason
    if new.phase is Phase.FAILED and (old is None or old.phase is not Phase.FAILED):
        return Event("Warning", new.reason or "ReplicaFailed", f"{new.id}: {why}")
    if old is not None and new.restarts > old.restarts:
        return Event(
            "Warning", "ReplicaEnded", f"{new.id} ended and is started again. {why}".strip()
        )
    return None


__all__ = ["Conflict", "ControlSettings", "ModelFiles", "ServiceController", "Transition"]
