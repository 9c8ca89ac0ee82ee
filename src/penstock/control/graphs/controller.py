"""The graph controller: looks at one graph, publishes its route, and says whether all that it names is Ready.

A graph has no replicas and no revisions; what a look has to do is small. It is looked at when its manifest
changes, and when that of a service or graph changes that it names (their status is part of it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from penstock import dialects
from penstock.control.bandits import Arms
from penstock.control.clock import Clock
from penstock.control.graphs.assemblies import Assemblies
from penstock.control.graphs.circles import circle, circles, told
from penstock.control.manifests import ManifestCache, ServiceKey
from penstock.control.models.declared_tensors import DeclaredTensors
from penstock.control.plan import Event, one_line
from penstock.control.records import Records
from penstock.control.routes import RoutePublisher
from penstock.dialects.schema import path
from penstock.domain import routes
from penstock.domain.assembly import Assembly
from penstock.domain.experiment import Experiment
from penstock.domain.graph import Graph
from penstock.domain.graph_reliance import answers_without
from penstock.domain.graph_tensors import mismatches
from penstock.domain.routes import Route
from penstock.domain.status import (
    ANSWERS_WITHOUT,
    STOPPED,
    ArmStatus,
    Condition,
    ServiceStatus,
    Truth,
    conditions_of,
    with_conditions,
)
from penstock.errors import FieldProblem, InvalidManifest
from penstock.store.base import Kind, Object, Store

#: Steps that are not Ready and are named in a message.
NAMED = 5
#: Reasons of Ready. What is behind serves, but not what it was asked for last.
MISSING, STARTING, BEHIND = "ServiceMissing", "Starting", "ServicesNotUpToDate"


class _Lack(NamedTuple):
    """What is not as it should be of a service that a graph names: why, and a sentence."""

    reason: str
    said: str


def _several(said: list[str]) -> str:
    more = f"; and {len(said) - NAMED} more" if len(said) > NAMED else ""
    return "; ".join(said[:NAMED]) + more


class GraphController:
    """Reconciles graphs. `look` is run by the control plane's loop."""

    def __init__(
        self,
        store: Store,
        *,
        manifests: ManifestCache,
        assemblies: Assemblies,
        routes: RoutePublisher,
        inference_url: str,
        tensors: DeclaredTensors | None = None,
        clock: Clock,
        arms: Arms = lambda *graph: (),
    ) -> None:
        self._arms = arms
        self._store = store
        self._manifests = manifests
        self._routes = routes
        self._inference_url = inference_url
        self._tensors = tensors
        self._clock = clock
        self._records = Records(store, manifests)
        self._assemblies = assemblies
        #: What each graph names, and who names a service.
        self._names: dict[ServiceKey, frozenset[ServiceKey]] = {}
        self._users: dict[ServiceKey, set[ServiceKey]] = {}
        self._calls: dict[ServiceKey, tuple[ServiceKey, ...]] = {}

    def is_graph(self, key: ServiceKey) -> bool:
        """Whether the name is a graph's."""
        found = self._manifests.get(key)
        return found is not None and _dialect(found[1]).means_graph(found[1])

    def users(self, key: ServiceKey) -> Iterable[ServiceKey]:
        """Graphs that name this service or graph."""
        return tuple(self._users.get(key, ()))

    def forget(self, key: ServiceKey) -> None:
        """The name is a graph's no more; whoever has it now sees to route and parts. No-op when unknown."""
        self._calls.pop(key, None)
        for name in self._names.pop(key, ()):
            users = self._users[name]
            users.discard(key)
            if not users:
                del self._users[name]

    async def look(self, key: ServiceKey) -> float | None:
        """Publish the graph and write its status."""
        found = self._manifests.get(key)
        if found is None or found[1]["metadata"].get("deletionTimestamp"):
            self.forget(key)
            self._routes.remove(f"{key[0]}/{key[1]}")
            return None
        kind, manifest = found
        dialect = _dialect(manifest)
        try:
            translation = dialect.translate(manifest)
        except InvalidManifest as exc:
            # Admission has refused what is invalid; this one was stored by another release.
            event = Event("Warning", "InvalidSpec", one_line(str(exc)))
            await self._records.event(kind, manifest, event)
            return None
        means: Graph | Experiment | Assembly = translation.object
        troubles: list[str] = []
        if isinstance(means, Assembly):
            troubles = await self._assemblies.make(manifest, means)
        graph = means.graph if isinstance(means, Assembly) else means
        self._follow(key, graph)
        ready, reason, message = self._judge(graph)
        if way := self._circle(key):
            ready, reason, message = Truth.FALSE, "Circle", told(way, key[0])
        elif ready is Truth.TRUE and (unfit := self._unfit(graph)):
            ready, reason, message = Truth.FALSE, "TensorMismatch", unfit
        if troubles:
            ready, reason, message = Truth.FALSE, "NameTaken", "; ".join(troubles)
        if graph.stopped:
            ready, reason, message = Truth.FALSE, STOPPED.reason, STOPPED.message
        conditions = (
            Condition("Ready", ready, reason, message),
            *((STOPPED,) if graph.stopped else ()),
        )
        self._routes.put(_route(graph, manifest["metadata"]))
        before = conditions_of(manifest.get("status") or {})
        url = f"{self._inference_url}/serving/{graph.namespace}/{graph.name}"
        status = with_conditions(
            ServiceStatus(
                observed_generation=int(manifest["metadata"].get("generation", 0)),
                conditions=conditions,
                components={},
                url=url,
                address=url,
                warnings=(*(str(w) for w in translation.warnings), *self._unheard(graph)),
                arms=self._learned(graph, manifest),
            ),
            before,
            self._clock.now(),
        )
        await self._say(kind, manifest, before, status)
        rendered = dialect.render_status(manifest, status)
        if rendered != manifest.get("status"):
            written = await self._store.update_status({**manifest, "status": rendered})
            self._manifests.wrote(kind, written)
        return None

    def _learned(self, graph: Graph | Experiment, manifest: Object) -> tuple[ArmStatus, ...]:
        if isinstance(graph, Experiment) or not graph.bandits():
            return ()
        return self._arms(graph.namespace, graph.name, manifest["metadata"]["uid"], graph.bandits())

    def _follow(self, key: ServiceKey, graph: Graph | Experiment) -> None:
        calls = (*graph.services(), *graph.graphs())
        names = frozenset((*calls, *_heard(graph), *_explaining(graph)))
        if self._names.get(key) == names:
            self._calls[key] = calls
            return
        self.forget(key)
        self._calls[key] = calls
        self._names[key] = names
        for name in names:
            self._users.setdefault(name, set()).add(key)

    def _judge(self, graph: Graph | Experiment) -> tuple[Truth, str, str]:
        """Ready, and which of the services it names is not."""
        named = (*graph.services(), *graph.graphs(), *_explaining(graph))
        found = {key: lack for key in named if (lack := self._lack(graph, key)) is not None}
        gone = {key: lack for key, lack in found.items() if lack.reason != BEHIND}
        if not gone:
            said = _several([lack.said for lack in found.values() if lack.said])
            return Truth.TRUE, BEHIND if said else "", said
        message = _several([lack.said for lack in gone.values()])
        if (
            isinstance(graph, Graph)
            and not gone.keys() & set(_explaining(graph))
            and answers_without(graph, gone)
        ):
            return Truth.TRUE, ANSWERS_WITHOUT, f"Requests are answered without: {message}"
        reasons = {lack.reason for lack in gone.values()}
        if MISSING in reasons:
            return Truth.FALSE, MISSING, message
        ready = Truth.UNKNOWN if reasons == {STARTING} else Truth.FALSE
        return ready, "ServicesNotReady", message

    def _lack(self, graph: Graph | Experiment, key: ServiceKey) -> _Lack | None:
        """What is not as it should be of a service or graph that is named; None when it is Ready."""
        shown = key[1] if key[0] == graph.namespace else f"{key[0]}/{key[1]}"
        found = self._manifests.get(key)
        if found is None:
            return _Lack(MISSING, f"{shown} does not exist")
        if isinstance(graph, Experiment) and _dialect(found[1]).is_graph != graph.of_graphs:
            one, other = ("model", "pipeline") if graph.of_graphs else ("pipeline", "model")
            return _Lack("", f"{shown} is a {one}; resourceType says {other}")
        conditions = conditions_of(found[1].get("status") or {})
        ready = next((c for c in conditions if c.type == "Ready"), None)
        if ready is not None and ready.status is Truth.TRUE:
            return None
        serves = self._serves(key)
        if ready is None or ready.status is Truth.UNKNOWN:
            return _Lack(BEHIND, "") if serves else _Lack(STARTING, f"{shown} is not ready yet")
        why = one_line(ready.message or ready.reason).removesuffix(".")
        said = "is not as it was asked for" if serves else "is not ready"
        return _Lack(BEHIND if serves else "", f"{shown} {said}{': ' if why else ''}{why}")

    def _serves(self, key: ServiceKey) -> bool:
        """Whether a service answers for all that it is not Ready: its revision before has replicas."""
        route = self._routes.get(f"{key[0]}/{key[1]}")
        if route is None or route.graph is not None or route.experiment is not None:
            return False
        entry = self._routes.get(f"{route.key}/{route.entry}") if route.entry else route
        return all(
            r is not None
            and not r.message
            and any(t.weight for t in r.targets)
            and all(t.replicas for t in r.targets if t.weight)
            for r in (route, entry)
        )

    def _unfit(self, graph: Graph | Experiment) -> str:
        """Which steps cannot work with the models that they name; asks those that are not known yet."""
        if self._tensors is None or isinstance(graph, Experiment):
            return ""
        self._tensors.ask(graph.services())
        found = mismatches(graph, self._tensors.of(graph.services()))
        return _several([f"{p.step or 'output'}: {p.message}" for p in found])

    async def problems(self, manifest: Object) -> list[FieldProblem]:
        """What is wrong with a new manifest of a graph, by the models that run now."""
        translation = _dialect(manifest).translate(manifest)
        graph = translation.object
        if self._tensors is None or translation.locate is None or not isinstance(graph, Graph):
            return []
        found = list(circles(graph, self._called))
        if not found:
            found = mismatches(graph, await self._tensors.wait(graph.services()))
        return [FieldProblem(path(translation.locate(p)), p.message) for p in found]

    def _called(self, key: ServiceKey) -> Iterable[ServiceKey]:
        """What a graph calls; nothing of a service."""
        return self._calls.get(key, ())

    def _circle(self, key: ServiceKey) -> tuple[ServiceKey, ...]:
        return circle(key, self._called(key), self._called)

    def _unheard(self, graph: Graph | Experiment) -> list[str]:
        """What it listens to and that is not there. Its own requests do not need it."""
        said = []
        for key in _heard(graph):
            found = self._manifests.get(key)
            if found is None or not _dialect(found[1]).is_graph:
                what = "is no graph" if found is not None else "does not exist"
                said.append(f"input: {key[1]} {what}: it is not run for its requests")
                continue
            try:
                other = _dialect(found[1]).translate(found[1]).object
            except InvalidManifest:
                continue
            steps = {s.name for s in other.flows[0].steps} if isinstance(other, Graph) else set()
            said += [
                f"input: {key[1]} has no step {step}"
                for step in _heard_steps(graph, key[1])
                if step not in steps
            ]
        return said

    async def _say(
        self, kind: Kind, manifest: Object, before: tuple[Condition, ...], status: ServiceStatus
    ) -> None:
        """An event when Ready has changed, or says another thing; one for each new warning."""
        old = next((c for c in before if c.type == "Ready"), None)
        new = status.conditions[0]
        if new.status is Truth.TRUE:
            if old is None or old.status is not Truth.TRUE:
                said = new.message or "All services that the graph names are ready."
                await self._records.event(kind, manifest, Event("Normal", "Ready", said))
            elif new.message and new.message != old.message:
                event = Event("Warning", new.reason, new.message)
                await self._records.event(kind, manifest, event)
        elif old is None or (old.status, old.message) != (new.status, new.message):
            type_ = "Warning" if new.status is Truth.FALSE else "Normal"
            await self._records.event(kind, manifest, Event(type_, new.reason, new.message))
        told: Any = ((manifest.get("status") or {}).get("penstock") or {}).get("warnings") or ()
        for warning in status.warnings:
            if warning not in told:
                await self._records.event(kind, manifest, Event("Warning", "NoEffect", warning))


def _route(graph: Graph | Experiment, meta: Mapping[str, Any]) -> Route:
    labels = tuple(sorted((meta.get("labels") or {}).items()))
    if graph.stopped:
        return Route(graph.namespace, graph.name, message=routes.STOPPED, labels=labels)
    if isinstance(graph, Experiment):
        return Route(graph.namespace, graph.name, experiment=graph, labels=labels)
    return Route(
        graph.namespace,
        graph.name,
        timeout_s=graph.timeout_s,
        graph=graph,
        labels=labels,
        uid=str(meta.get("uid", "")) if graph.bandits() else "",
    )


def _explaining(graph: Graph | Experiment) -> tuple[ServiceKey, ...]:
    """The services that explain it; they ask it, so that it does not call them."""
    return graph.explaining() if isinstance(graph, Graph) else ()


def _heard(graph: Graph | Experiment) -> tuple[ServiceKey, ...]:
    """The graphs whose requests it is run for."""
    if isinstance(graph, Experiment) or graph.external is None:
        return ()
    return tuple((graph.namespace, name) for name in graph.external.graphs())


def _heard_steps(graph: Graph | Experiment, name: str) -> list[str]:
    """The steps of the graph `name` that it listens to."""
    external = graph.external if isinstance(graph, Graph) else None
    if external is None:
        return []
    triggers = external.triggers.sources if external.triggers is not None else ()
    named = (s.step.partition(".") for s in (*external.inputs.sources, *triggers))
    return list(dict.fromkeys(step for graph_, _, step in named if graph_ == name and step))


def _dialect(manifest: Object) -> dialects.Dialect:
    return dialects.find(manifest["apiVersion"], manifest["kind"])
