"""The control plane put together: caches, controllers, routes, metrics, over one store and one backend.

Started and closed as one thing by the process that serves the API (`penstock.api.process`) and by tests.
Starting looks at every service that runs, or has no kept route, before gateways are let in, so that they
never see a table that is only half known. Then come those that ran before the node ended, and last of all
those that sleep, which of ten thousand are the most; a request that waits for one of them goes before all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from penstock import dialects
from penstock.backends.base import Backend, Phase, ReplicaStatus
from penstock.control.bandits import BanditKeeper
from penstock.control.clock import Clock
from penstock.control.feeds import follow
from penstock.control.graphs.assemblies import Assemblies
from penstock.control.graphs.controller import GraphController
from penstock.control.loop import Backoff, Loop
from penstock.control.manifests import ManifestCache
from penstock.control.metrics import MetricsCollector, Process
from penstock.control.models.declared_tensors import DeclaredTensors
from penstock.control.models.fetches import Fetches, ModelFiles
from penstock.control.models.local_models import LocalFiles, LocalModels
from penstock.control.observing import route_keys
from penstock.control.own_metrics import OwnMetrics
from penstock.control.placement.placing import Placing
from penstock.control.placement.priorities import PRIORITY_CLASS
from penstock.control.placement.quotas import QuotaKeeper
from penstock.control.plan import Event
from penstock.control.replicas import OnChange, ReplicaCache
from penstock.control.revisions import REVISION
from penstock.control.routes import RoutePublisher
from penstock.control.runtimes import KINDS as RUNTIME_KINDS
from penstock.control.scaling.budget import MemoryBudget
from penstock.control.scaling.scaler import Scaler
from penstock.control.secrets import SECRET, SERVICE_ACCOUNT
from penstock.control.services import ServiceController
from penstock.control.settings import ControlSettings
from penstock.domain.workload import service_key
from penstock.errors import Unavailable
from penstock.observe.metrics import Registry
from penstock.store.base import Change, ChangeType, Kind, Store
from penstock.store.garbage import GarbageCollector
from penstock.store.learned import LearnedStore

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

#: Most seconds the first look at services may hold up the start.
FIRST_LOOK_S = 5.0


def service_kinds() -> tuple[Kind, ...]:
    """Kinds, of every dialect, that mean a service."""
    return tuple(
        dict.fromkeys(
            Kind(d.group, d.kind) for d in dialects.all_dialects() if d.renderer is not None
        )
    )


class ControlPlane:
    """Everything that decides. `start` once, `close` once."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        files: ModelFiles,
        *,
        settings: ControlSettings,
        clock: Clock | None = None,
        routes_socket: Path | None = None,
        routes_file: Path | None = None,
        gateways: Callable[[], Mapping[str, str]] = dict,
        expected_gateways: int = 0,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
        local_files: LocalFiles | None = None,
        learned: LearnedStore | None = None,
    ) -> None:
        self.store = store
        self.backend = backend
        self.settings = settings
        self._clock = clock or Clock()
        self._routes_socket = routes_socket
        self._gateways = gateways
        self.loop: Loop[ServiceKey] = Loop(self._look, clock=self._clock, backoff=backoff)
        self.manifests = ManifestCache(service_kinds())
        self.replicas = ReplicaCache(backend, self._replica_changed, clock=self._clock)
        self.scaler = Scaler(
            self._enqueue,
            clock=self._clock,
            zero_grace_s=settings.scale_to_zero_grace_s,
            gateways=lambda: (expected_gateways, self.routes.gateways),
        )
        self.fetches = Fetches(self._enqueue, clock=self._clock)
        self.routes = self._publisher(routes_file, expected_gateways)
        self.bandits = BanditKeeper(
            learned,
            say=self.routes.say,
            clock=self._clock,
            on_change=self._learned,
            uid_of=self._uid_of,
        )
        self._assemblies = Assemblies(store, self.manifests)
        self.services = self._controller(files)
        self.tensors = DeclaredTensors(self.replicas, self._tensors_learned)
        self.graphs = self._graph_controller()
        self.local_models: LocalModels | None = None
        if local_files is not None:
            self.local_models = LocalModels(store, local_files, clock=self._clock)
        self.budget = self._memory_budget()
        self.placing = Placing(
            backend, self.replicas, self.scaler, clock=self._clock, tell=self._put_to_sleep
        )
        self.quotas = QuotaKeeper(
            store, self.manifests, clock=self._clock, runs_containers=backend.runs_containers
        )
        # Revisions go with their service's last look, when their replicas have been seen to.
        self.garbage = GarbageCollector(store, skip={REVISION}, sleep=self._clock.sleep)
        self.registry = Registry()
        self.metrics = MetricsCollector(
            self._processes,
            self.registry,
            clock=self._clock,
            refresh_own=self._refresh_gauges,
            busy=lambda key: self.scaler.loads.busy(*key),
        )
        self._own = OwnMetrics(
            self.registry,
            manifests=self.manifests,
            replicas=self.replicas,
            routes=self.routes,
            loop=self.loop,
        )
        self._refresh_bandits = self.bandits.metrics(self.registry)
        self._tasks: list[asyncio.Task[None]] = []
        #: Who else wants to hear of every change of a replica.
        self.replica_listeners: list[OnChange] = []
        self.started = asyncio.Event()

    def _graph_controller(self) -> GraphController:
        return GraphController(
            self.store,
            tensors=self.tensors,
            manifests=self.manifests,
            assemblies=self._assemblies,
            routes=self.routes,
            inference_url=self.settings.inference_url,
            clock=self._clock,
            arms=self.bandits.status,
        )

    def _memory_budget(self) -> MemoryBudget | None:
        most = self.settings.memory_budget_bytes
        if most is None:
            return None
        return MemoryBudget(
            most, self.replicas, self.scaler, clock=self._clock, tell=self._put_to_sleep
        )

    def _publisher(self, file: Path | None, expected_gateways: int) -> RoutePublisher:
        return RoutePublisher(
            file=file,
            on_wake=lambda *waiting: self.services.wake(*waiting),
            on_sleep=lambda namespace, name: self.services.sleep((namespace, name)),
            on_load=self.scaler.heard,
            on_hung_up=self.scaler.loads.hung_up,
            on_feedback=lambda *rewards: self.bandits.rewarded(*rewards),
            on_pulls=lambda pulls: self.bandits.pulled(pulls),
            learned=lambda: self.bandits.all(),
            expected_gateways=expected_gateways,
        )

    def _controller(self, files: ModelFiles) -> ServiceController:
        return ServiceController(
            self.store,
            self.backend,
            manifests=self.manifests,
            assemblies=self._assemblies,
            replicas=self.replicas,
            routes=self.routes,
            files=files,
            fetches=self.fetches,
            scaler=self.scaler,
            enqueue=self.loop.enqueue,
            hurry=self.loop.hurry,
            settings=self.settings,
            clock=self._clock,
            on_gone=self._service_gone,
            total=lambda: self.metrics.total(),
            arms=self.bandits.status,
        )

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read everything, look at the services that run, let gateways in."""
        self.routes.load()
        version = await self.manifests.load(self.store)
        await self.services.revisions.load()
        await self._first_sync()
        await self.bandits.load()
        await self.quotas.load(version)
        await self._load_owners()
        if self.local_models is not None:
            await self.local_models.load()
        self._tasks = [
            asyncio.create_task(self._follow_store(version), name="store-watch"),
            asyncio.create_task(self.replicas.run(), name="replica-watch"),
            asyncio.create_task(self.metrics.run(), name="metrics"),
            asyncio.create_task(self.scaler.run(), name="autoscaler"),
            asyncio.create_task(self.services.progressing.run(), name="rollouts"),
            asyncio.create_task(self.placing.run(), name="placing"),
            asyncio.create_task(self.bandits.run(), name="bandits"),
            asyncio.create_task(self.garbage.run(), name="garbage collector"),
            *(
                [asyncio.create_task(self.budget.run(), name="memory budget")]
                if self.budget is not None
                else []
            ),
        ]
        for task in self._tasks:
            task.add_done_callback(_say_failure)
        everything = (
            self.manifests.names() | self.replicas.services() | self.services.revisions.services()
        )
        # Of ten thousand services most sleep, and have the route that was kept: theirs are looked at later.
        first = {
            key
            for key in everything
            if self.replicas.of(key) or self.routes.get("/".join(key)) is None
        }
        for key in first:
            self.loop.enqueue(key)
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self.loop.settled()
        except TimeoutError:
            log.warning("not every service could be looked at within %.0f s", FIRST_LOOK_S)
        self.routes.retain(self.manifests.names())
        if self._routes_socket is not None:
            await self.routes.serve(self._routes_socket)
        later = everything - first
        served = {key for key in later if self._was_served(key)}
        for key in served:
            self.loop.enqueue(key)
        self.loop.sweep(later - served)
        self.started.set()

    async def close(self) -> None:
        """Stop deciding. Replicas and gateways go on with what they have."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fetches.close()
        if self.local_models is not None:
            await self.local_models.close()
        await self.tensors.close()
        await self.loop.close()
        await self.quotas.close()
        await self.services.close()
        await self.metrics.close()
        await self.routes.close()
        await self.bandits.close()

    def _was_served(self, key: ServiceKey) -> bool:
        """Whether it had replicas when the routes were kept: after the node's end they have to come back."""
        kept = (self.routes.get(name) for name in route_keys(key))
        return any(t.replicas for route in kept if route is not None for t in route.targets)

    async def _load_owners(self) -> None:
        await self.garbage.load((obj for _, obj in self.manifests.all()), self.manifests.kinds)

    async def _first_sync(self) -> None:
        delay = Backoff(0.05, 2.0)
        failures = 0
        while True:
            try:
                await self.replicas.resync()
            except Unavailable as exc:
                failures += 1
                log.log(
                    logging.WARNING if failures == 5 else logging.DEBUG,
                    "the backend does not answer yet: %s",
                    exc,
                )
                await self._clock.sleep(delay.delay_s(failures))
            else:
                return

    async def _follow_store(self, version: int) -> None:
        since: int | None = version

        def handle(change: Change) -> None:
            nonlocal since
            since = change.version
            self._changed(change)

        def reopened() -> None:
            nonlocal since
            since = None  # all that exists, as ADDED
            self.quotas.lost()
            self._resync_soon()

        await follow(
            "the store",
            lambda: self.store.watch(since=since),
            handle,
            clock=self._clock,
            on_open=reopened,
        )

    def _resync_soon(self) -> None:
        """A watch broke: what was deleted meanwhile is only seen by a list."""
        task = asyncio.create_task(self._reload())
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        task.add_done_callback(_say_failure)

    async def _reload(self) -> None:
        before = self.manifests.names()
        version = await self.manifests.load(self.store)
        await self.quotas.load(version)
        await self._load_owners()
        for key in before | self.manifests.names():
            self.loop.enqueue(key)

    # -- what happens ------------------------------------------------------------------------------

    def _enqueue(self, key: ServiceKey) -> None:
        """Look at a service; the key may be one of its components'."""
        self.loop.enqueue(service_key(key))

    def _uid_of(self, key: ServiceKey) -> str | None:
        found = self.manifests.get(key)
        return str(found[1]["metadata"]["uid"]) if found is not None else None

    async def _look(self, key: ServiceKey) -> float | None:
        if self.manifests.get(key) is None:
            self.bandits.forget_soon(key)
            self.metrics.forget(*key)
        if self.graphs.is_graph(key):
            await self.services.leave(key)
            return await self.graphs.look(key)
        self.graphs.forget(key)
        return await self.services.look(key)

    def _changed(self, change: Change) -> None:
        key = self.manifests.take(change)
        self.quotas.take(change)
        self.garbage.take(change)
        if self.local_models is not None:
            self.local_models.changed(change)
        if key is not None:
            new = change.type is ChangeType.ADDED and not self.services.knows(key)
            (self.loop.begin if new else self.loop.enqueue)(key)
            for user in (*self.graphs.users(key), *self._owners(change)):
                self.loop.enqueue(user)
        elif change.key.kind in (SECRET, SERVICE_ACCOUNT):
            self._sweep_namespace(change.key.namespace)
        elif change.key.kind in RUNTIME_KINDS:
            self._sweep_namespace(change.key.namespace or None)
        elif change.key.kind == PRIORITY_CLASS:
            self.services.priorities.changed()
            self._sweep_namespace(None)

    def _owners(self, change: Change) -> Iterator[ServiceKey]:
        """The services that a service was made for: how it is, is a part of their status."""
        metadata = change.object["metadata"]
        for reference in metadata.get("ownerReferences") or ():
            if reference.get("controller"):
                key = metadata.get("namespace", ""), reference["name"]
                if self.manifests.get(key) is not None:
                    yield key

    def _tensors_learned(self, key: ServiceKey) -> None:
        for user in self.graphs.users(key):
            self.loop.enqueue(user)

    def _sweep_namespace(self, namespace: str | None) -> None:
        keys = [k for k in self.manifests.names() if namespace is None or k[0] == namespace]
        for key in keys:
            self.fetches.hurry(key)
        self.loop.sweep(keys)

    def _replica_changed(self, old: ReplicaStatus | None, new: ReplicaStatus | None) -> None:
        self._own.replica_changed(old, new)
        for listen in self.replica_listeners:
            listen(old, new)
        self.services.replica_changed(old, new)

    def _learned(self, key: ServiceKey) -> None:
        """A bandit learned: its service's status, and the file for gateways that start, say it."""
        self._enqueue(key)
        self.routes.refresh_file()

    def _service_gone(self, key: ServiceKey) -> None:
        self.tensors.forget(key)
        self.metrics.forget(*key)
        self._own.forget(key)

    def _put_to_sleep(self, key: ServiceKey, why: str) -> None:
        self.services.tell(key, Event("Normal", "PutToSleep", why))

    # -- metrics -----------------------------------------------------------------------------------

    def _processes(self) -> dict[str, Process]:
        found = {name: Process(address) for name, address in self._gateways().items()}
        for r in self.replicas.all():
            if r.phase in (Phase.READY, Phase.DRAINING) and r.address:
                service = (r.namespace, r.service)
                found[f"{r.id}#{r.restarts}#{r.pid}"] = Process(r.address, service)
        return found

    def _refresh_gauges(self) -> None:
        self._own.refresh()
        self._refresh_bandits()


def _say_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        log.critical("%s ended: %s", task.get_name(), exc, exc_info=exc)
