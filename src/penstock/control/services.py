"""The service controller: looks at one service, asks `plan` what is wanted, and carries it out.

On the way of a look: the manifest (from `manifests`) is translated by its dialect; `observing` gathers what
is so, and `workloads` brings each workload towards a revision meanwhile; `plan` decides; then routes are
published, replicas started (`starts`), surplus ones drained (out of the routes first, stopped when the
gateways have confirmed), the status written and events recorded (`records`). Each step is safe to repeat, and
a crash between any two of them leaves a state from which the next look goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock import dialects
from penstock.backends.base import WAITING_FOR_TURN, Backend, Phase, ReplicaStatus
from penstock.control.bandits import Arms
from penstock.control.clock import Clock
from penstock.control.drains import Drains
from penstock.control.graphs.assemblies import Assemblies
from penstock.control.manifests import ManifestCache
from penstock.control.models.fetches import Fetches, ModelFiles
from penstock.control.observing import Observer, component_of, route_keys
from penstock.control.placement.priorities import Priorities
from penstock.control.plan import Event, Wanted, one_line, plan, rollout_event
from penstock.control.plan.observed import Explaining
from penstock.control.records import Records, replica_event
from penstock.control.replicas import ReplicaCache
from penstock.control.revision_keeper import RevisionKeeper
from penstock.control.revisions import Kept, Stage
from penstock.control.rollouts.progressing import Progressing
from penstock.control.rollouts.rollout import latest_of
from penstock.control.routes import RoutePublisher
from penstock.control.scaling.scaler import Scaler
from penstock.control.service_state import ServiceState
from penstock.control.settings import ControlSettings
from penstock.control.starts import Starts
from penstock.control.workloads import Workloads
from penstock.domain.service import Role, Service
from penstock.domain.status import STOPPED, Truth, conditions_of
from penstock.domain.workload import service_key
from penstock.errors import InvalidManifest, Unavailable
from penstock.store.base import Kind, Object, Store

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

#: Gateways say each second that requests wait for a service; seconds that they are believed after that.
WAITED_S = 3.0


async def _nothing_counted() -> Mapping[str, Any]:
    return {}


class ServiceController:
    """Reconciles services. `look` is what `control.loop` runs."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        *,
        manifests: ManifestCache,
        assemblies: Assemblies,
        replicas: ReplicaCache,
        routes: RoutePublisher,
        files: ModelFiles,
        fetches: Fetches,
        scaler: Scaler,
        enqueue: Callable[[ServiceKey], None],
        hurry: Callable[[ServiceKey], None] | None = None,
        settings: ControlSettings,
        clock: Clock,
        on_gone: Callable[[ServiceKey], None] = lambda key: None,
        total: Callable[[], Awaitable[Mapping[str, Any]]] = _nothing_counted,
        arms: Arms = lambda *service: (),
    ) -> None:
        self._backend = backend
        self._manifests = manifests
        self._assemblies = assemblies
        self._replicas = replicas
        self._routes = routes
        self._fetches = fetches
        self._scaler = scaler
        self._enqueue = enqueue
        #: The same, before all others.
        self._hurry = hurry or enqueue
        self._settings = settings
        self._clock = clock
        self._on_gone = on_gone
        self._states: dict[ServiceKey, ServiceState] = {}
        #: Services that requests wait for, as far as is known, until when that is believed.
        self._waited: dict[ServiceKey, float] = {}
        #: Replicas without a process that the node was told to hurry.
        self._hurried: set[str] = set()
        self.progressing = Progressing(total, self._advance, tell=self.tell, clock=clock)
        self.revisions = RevisionKeeper(store, files)
        self.priorities = Priorities(store)
        self._starts = Starts(store, backend, files, replicas, settings=settings, enqueue=enqueue)
        self._records = Records(store, manifests)
        self._drains = Drains(
            backend,
            routes,
            enqueue,
            applied_s=settings.routes_applied_s,
            grace_s=settings.drain_grace_s,
            clock=clock,
        )
        self._observer = Observer(
            Workloads(
                store,
                backend,
                files,
                fetches,
                self.revisions,
                clock=clock,
                try_again=self._try_again,
            ),
            revisions=self.revisions,
            replicas=replicas,
            routes=routes,
            drains=self._drains,
            scaler=scaler,
            priorities=self.priorities,
            inference_url=settings.inference_url,
            arms=arms,
        )

    # -- what others tell --------------------------------------------------------------------------

    def wake(self, namespace: str, name: str, waiting: int = 1) -> None:
        """Requests wait for a service, or for one component of it, that may be asleep."""
        key = (namespace, name)
        service = service_key(key)
        if self._manifests.get(service) is None:
            return
        self._waited[service] = self._clock.monotonic() + WAITED_S
        woken = self._scaler.wake(key, waiting)
        if key != service:
            # A transformer's first request will ask the predictor: both come up at once.
            woken |= self._scaler.wake(service, waiting)
        if woken or not self._replicas.of(service) or self._coming(service):
            self._hurry(service)

    def _coming(self, key: ServiceKey) -> list[str]:
        """Replicas that were asked for, have no process yet, and of which the node was not told to hurry."""
        return [
            r.id
            for r in self._replicas.of(key)
            if r.phase in (Phase.STARTING, Phase.WAITING)
            and r.pid is None
            and r.id not in self._drains
            and r.id not in self._hurried
        ]

    def knows(self, key: ServiceKey) -> bool:
        """Whether it was looked at already, or has replicas."""
        return key in self._states or bool(self._replicas.of(key))

    def sleep(self, service: ServiceKey) -> None:
        """Somebody asked that a service's replicas go; those go that may, and have nothing to do."""
        for key in self._scaler.sleepers():
            if service_key(key) == service and self._scaler.put_to_sleep(key):
                self.tell(
                    service, Event("Normal", "Unloaded", "Put to sleep on a client's request.")
                )

    def refresh(self, key: ServiceKey) -> None:
        """Look whether the models' files changed; if so, they become new revisions."""
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
        if new is None or new.pid is not None:
            self._hurried.discard(about.id)
        if old is not None and new is not None and old.memory_bytes != new.memory_bytes:
            old = replace(old, memory_bytes=new.memory_bytes)
            if old == new:
                return  # nothing is decided by it, and it changes all the time
        if _only_on_its_way(old, new) and not self._is_waited_for(key):
            return  # nothing is decided by it, and thousands may be on theirs
        state = self._states.get(key)
        if state is not None and new is not None and about.id not in self._drains:
            event = replica_event(old, new)
            if event is not None:
                state.pending.append(event)
        if self._is_waited_for(key):
            self._hurry(key)  # what it waits for may be this
        else:
            self._enqueue(key)

    def _is_waited_for(self, key: ServiceKey) -> bool:
        until = self._waited.get(key)
        if until is None:
            return False
        if self._clock.monotonic() < until:
            return True
        del self._waited[key]
        return False

    def tell(self, key: ServiceKey, event: Event) -> None:
        """Put an event about a service (or a component of it) into its log, at its next look."""
        service = service_key(key)
        state = self._states.get(service)
        if state is not None:
            state.pending.append(event)
            self._enqueue(service)

    async def close(self) -> None:
        """Cancel drains under way; the next start finds the replicas and drains them again."""
        await self._drains.close()

    async def leave(self, key: ServiceKey) -> None:
        """The name is not a service's (any more): nothing of one stays. No-op when there was none."""
        if key in self._states or self._replicas.of(key):
            await self._gone(key)

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
            event = Event("Warning", "InvalidSpec", one_line(str(exc)))
            await self._records.event(kind, manifest, event)
            return None

        troubles: tuple[str, ...] = ()
        if service.parts or dialect.graph_if is not None:
            troubles = tuple(await self._assemblies.make(manifest, service))
        observed = await self._observer.observe(key, manifest, service, warnings, state)
        if service.explainers:
            explaining = tuple(self._explaining(service, troubles))
            observed = replace(observed, explaining=explaining)
        wanted = plan(observed, uid=state.uid, now=self._clock.now())
        await self._carry_out(key, kind, manifest, service, state, wanted, dialect)
        self._follow(key, service, wanted)
        return None

    def _explaining(self, service: Service, troubles: Sequence[str]) -> Iterator[Explaining]:
        """How the services are that explain single predictors of this one."""
        for predictor, name in service.explainers:
            if not name:
                continue  # it is a component
            taken = next((t for t in troubles if t.startswith(f"{name} ")), "")
            if taken:
                yield Explaining(predictor, Truth.FALSE, "NameTaken", taken)
                continue
            found = self._manifests.get((service.namespace, name))
            conditions = conditions_of(found[1].get("status") or {}) if found is not None else ()
            if any(c.type == STOPPED.type and c.status is Truth.TRUE for c in conditions):
                continue  # nobody wants it to run
            ready = next((c for c in conditions if c.type == "Ready"), None)
            if ready is None:
                yield Explaining(predictor, Truth.UNKNOWN, "Starting", f"{name} is not ready yet")
            else:
                yield Explaining(predictor, ready.status, ready.reason, ready.message)

    def _follow(self, key: ServiceKey, service: Service, wanted: Wanted) -> None:
        """Have the steps of the newest revision looked at, if it goes up in steps."""
        policy = service.traffic.rollout
        if policy is None or len(wanted.shares) < 2 or not wanted.shares[0].percent:
            self.progressing.forget(key)
            return
        new, stable = wanted.shares
        restarts = sum(r.restarts for r in self._replicas.of(key) if r.revision == new.name)
        route = wanted.routes[-1]  # the predictor's
        arms = [t.revision for t in route.targets if t.weight] if route.trial else []
        beside = tuple(name for name in arms if name not in (new.name, stable.name))
        self.progressing.follow(key, policy, new.revision, stable.name, restarts, beside)

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
        self, dialect: Any, manifest: Object, state: ServiceState
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

    async def _state(self, key: ServiceKey, manifest: Object) -> ServiceState:
        uid = manifest["metadata"]["uid"]
        state = self._states.get(key)
        if state is not None and state.uid == uid:
            return state
        if state is not None:
            self._forget(key)
        await self.revisions.delete_others(key, uid)  # of a service of this name that was deleted
        state = self._states[key] = ServiceState(uid)
        return state

    # -- carrying out ------------------------------------------------------------------------------

    async def _carry_out(
        self,
        key: ServiceKey,
        kind: Kind,
        manifest: Object,
        service: Service,
        state: ServiceState,
        wanted: Wanted,
        dialect: Any,
    ) -> None:
        await self._record_rollout(key, state, wanted)
        sequence = self._publish(key, wanted)
        for replica_id in wanted.drain:
            self._drains.begin(key, replica_id, sequence)
        try:
            await self._starts.start(
                service,
                state,
                wanted.start,
                priority=lambda role: self._scaler.rank(component_of(key, role)).value,
            )
            if self._is_waited_for(key):
                for replica_id in self._coming(key):
                    await self._backend.hurry(replica_id)
                    self._hurried.add(replica_id)
        finally:
            # Events first: said twice after a crash in between is better than not at all.
            await self._records.events(kind, manifest, state, wanted)
            status = self._records.changed_status(manifest, dialect, wanted)
            if status is not None:
                if wanted.status.ready:
                    # Ready means that a request is answered: gateways have to know it by then.
                    await self._routes.applied(sequence, timeout_s=self._settings.ready_applied_s)
                await self._records.status(kind, manifest, status)
        await self.revisions.prune(key, state.uid, wanted.in_use)

    def _publish(self, key: ServiceKey, wanted: Wanted) -> int:
        """Tell gateways; the number of the table that says all of it."""
        sequences = [self._routes.put(route) for route in wanted.routes]
        present = {route.key for route in wanted.routes}
        sequences += [self._routes.remove(name) for name in route_keys(key) if name not in present]
        return max(sequences)

    async def _record_rollout(self, key: ServiceKey, state: ServiceState, wanted: Wanted) -> None:
        """Write down which revisions were ready for the first time, or took all requests."""
        revisions = self.revisions.of(key, state.uid)
        changed: dict[str, Kept] = {}
        for kept in wanted.rolled_out:
            line = tuple(k for k in revisions if k.workload == kept.workload)
            state.pending.append(rollout_event(latest_of(line), kept, wanted.status))
            changed[kept.name] = replace(kept, ready_at=self._clock.now())
        for kept in wanted.took_all:
            role = kept.workload.role
            last = max((k.rollout for k in revisions if k.workload.role is role), default=0)
            changed[kept.name] = replace(changed.get(kept.name, kept), rollout=last + 1)
        for kept in changed.values():
            await self.revisions.change(key, kept)

    def _try_again(self, key: ServiceKey, revision: str) -> None:
        """Somebody applied the same again: replicas that gave up get another chance."""
        for r in self._replicas.of(key):
            if r.phase is Phase.FAILED and r.revision == revision:
                self._drains.begin(key, r.id, self._routes.sequence)

    async def _gone(self, key: ServiceKey) -> None:
        """The service was deleted: nothing of it stays."""
        sequence = max(self._routes.remove(name) for name in route_keys(key))
        for r in self._replicas.of(key):
            if r.phase not in (Phase.DRAINING, Phase.STOPPED):
                self._drains.begin(key, r.id, sequence)
        await self.revisions.delete_others(key, None)
        if self._states.get(key) is not None:
            self._forget(key)
            self._on_gone(key)

    def _forget(self, key: ServiceKey) -> None:
        self._states.pop(key, None)
        self._waited.pop(key, None)
        self._fetches.cancel_all(key)
        for role in Role:
            self._scaler.forget(component_of(key, role))
        self.progressing.forget(key)

    async def _refuse_name(self, kind: Kind, manifest: Object) -> None:
        """Tell an object that an older one of another dialect has its name."""
        said = "Another service of this name exists in another dialect."
        await self._records.event(kind, manifest, Event("Warning", "NameTaken", said))


def _only_on_its_way(old: ReplicaStatus | None, new: ReplicaStatus | None) -> bool:
    """All that happened is that a start waits for its turn, or has its process."""
    if old is None or new is None:
        return False
    return (
        _comes_up(old)
        and _comes_up(new)
        and (old.restarts, old.devices) == (new.restarts, new.devices)
    )


def _comes_up(r: ReplicaStatus) -> bool:
    return r.phase is Phase.STARTING or (r.phase is Phase.WAITING and r.reason == WAITING_FOR_TURN)


__all__ = ["ControlSettings", "ServiceController"]
