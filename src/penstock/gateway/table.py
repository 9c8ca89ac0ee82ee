"""Services as the control plane last described them, with their live replicas and waiting lines.

A change swaps one entry of a dictionary; requests already planned keep the service object they have until
they look again (`Service.current` turns false). Replicas that stay in a changed route keep their
connections and their count of outstanding requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import cycle, islice
from math import gcd
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from penstock.domain.headers import REVISION
from penstock.domain.routes import (
    EXPLAINER,
    PREDICTOR,
    ROLES,
    Put,
    Remove,
    Route,
    Snapshot,
    TableMessage,
)
from penstock.domain.routes import Target as TargetRoute
from penstock.errors import NotFound, PenstockError, Unavailable
from penstock.gateway.choosing import Matcher
from penstock.gateway.proxy import Forward
from penstock.gateway.replicas import Replica, least_busy
from penstock.gateway.shadow import Shadow, ShadowMetrics
from penstock.gateway.sticky import answer_lines

if TYPE_CHECKING:
    from penstock.domain.experiment import Experiment

#: Requests after which the turns of weighted targets repeat, up to which they are kept.
LONGEST_ROUND: Final = 1000


class _Weighted(Protocol):
    @property
    def weight(self) -> int: ...


W = TypeVar("W", bound=_Weighted)


class Target:
    """One revision of a service and its replicas."""

    __slots__ = (
        "concurrency",
        "lines",
        "replicas",
        "revision",
        "series",
        "tags",
        "weight",
    )

    def __init__(self, route: TargetRoute, replicas: list[Replica]) -> None:
        self.revision = route.revision
        self.weight = route.weight
        self.tags = route.tags
        #: What answers say of the target that made them, as header lines.
        self.lines = f"{REVISION}: {route.revision}\r\n".encode()
        self.concurrency = route.concurrency
        self.replicas = replicas
        #: Metric children by (protocol, status), so that a request costs one look-up.
        self.series: dict[tuple[str, int], Any] = {}

    def with_lines(self, more: bytes) -> Target:
        """The same target, whose answers say `more`, too."""
        other = copy(self)
        other.lines = self.lines + more
        return other

    def pick(self) -> Replica | None:
        """A replica that may take a request now, or None."""
        replicas = self.replicas
        if len(replicas) == 1 and not self.concurrency:
            only = replicas[0]
            return only if only.up else None
        return least_busy(replicas, self.concurrency)


class Service:
    """A route and what this process knows beyond it."""

    __slots__ = (
        "_turn", "call", "current", "entries", "forward", "graph", "key", "learner", "matcher", "name",
        "namespace", "route", "shadow", "targets", "trial", "waiting", "waiting_bytes", "weighted",
    )  # fmt: skip

    def __init__(self, route: Route, targets: list[Target]) -> None:
        self.route = route
        self.key = route.key
        self.namespace = route.namespace
        self.name = route.name
        self.targets = targets
        self.weighted = [t for t in targets if t.weight > 0]
        #: Whose turn it is of those, once there was one.
        self._turn: Callable[[], Target] | None = None
        #: The route's rules, if there are any.
        self.matcher = Matcher(route.rules) if route.rules else None
        #: False once a newer description has taken this one's place.
        self.current = True
        self.waiting: deque[Forward] = deque()
        self.waiting_bytes = 0
        self.shadow: Shadow | None = None
        #: By path, what steps of graphs that call this service there share (see `graphs.calls`).
        self.entries: dict[str, Any] = {}
        #: A `graphs.front.GraphFront` where the service is a graph.
        self.graph: Any = None
        #: What a request becomes here, and a gRPC call (None: as any).
        self.forward: type[Forward] = Forward
        self.call: Any = None
        #: A `learning.bandits.Learner` where the service has a bandit.
        self.learner: Any = None
        #: A `learning.trial.Trial` where a revision is rolled out beside the bandit's arms.
        self.trial: Any = None

    def named(self, name: str) -> Target | None:
        """The target with that tag, or of that revision, whatever its share."""
        for target in self.targets:
            if name == target.revision or name in target.tags:
                return target
        return None

    def pick_target(self) -> Target | None:
        """A target by smooth weighted round-robin: every window of requests has the shares asked for."""
        weighted = self.weighted
        if len(weighted) == 1:
            return weighted[0]
        if not weighted:
            return None
        turn = self._turn
        if turn is None:
            turn = self._turn = turns(weighted).__next__
        return turn()


def turns(weighted: Sequence[W]) -> Iterator[W]:
    """Each in its turn, without end: nginx's smooth weighted round-robin, kept if it is short.

    Where nobody has a weight, the first one.
    """
    total = sum(target.weight for target in weighted)
    period = total // gcd(*(target.weight for target in weighted)) if total else 1
    endless = _smooth(weighted, total)
    return cycle([*islice(endless, period)]) if period <= LONGEST_ROUND else endless


def _smooth(weighted: Sequence[W], total: int) -> Iterator[W]:
    credits = [0] * len(weighted)
    while True:
        best = 0
        for i, target in enumerate(weighted):
            credits[i] += target.weight
            if credits[i] > credits[best]:
                best = i
        credits[best] -= total
        yield weighted[best]


class Table:
    """All services of this gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_capacity: Callable[[Service], None],
        shadow_metrics: ShadowMetrics | None = None,
        graphs: Callable[[], Any] | None = None,
        experiments: Callable[[Experiment], Any] | None = None,
        bandits: Callable[[Service], None] | None = None,
        on_gone: Callable[[str, str], None] | None = None,
    ) -> None:
        self._loop = loop
        #: Makes, the first time, what all graphs share (`graphs.front.Graphs`).
        self._graphs = graphs
        #: Makes what takes an experiment's requests (`experiment_front.ExperimentFront`).
        self._experiments = experiments
        #: Gives a service whose route has a bandit its learner.
        self._bandits = bandits
        #: Is told the namespace and name of a service that has no predictor here any more.
        self._on_gone = on_gone
        #: (namespace, parent, service) -> the service that is reached under its parent's address.
        self._children: dict[tuple[str, str, str], Service] = {}
        #: (namespace, service) -> the experiment that has its requests.
        self._taken: dict[tuple[str, str], Service] = {}
        self._shadow_metrics = shadow_metrics
        self._on_capacity = on_capacity
        self._services: dict[str, Service] = {}
        #: (namespace, model name) -> service, for models that are not named like their service.
        self._models: dict[tuple[str, str], Service] = {}
        #: Grows with every change, so that "no such service" may be remembered too.
        self.generation = 0
        self.sequence = -1
        self.filled: bool = False
        #: The control plane has said it. Until then it is what a file kept, which may be seconds old, or
        #: nothing: what is not in it may be there all the same (see `unknown`).
        self.confirmed: bool = False

    def get(self, namespace: str, name: str) -> Service | None:
        """A service by its name, or by the name of a model it serves; an experiment that has its requests."""
        if self._taken:
            taken = self._taken.get((namespace, name))
            if taken is not None:
                return taken
        service = self._services.get(f"{namespace}/{name}")
        if service is not None and service.name == name:
            return service
        return self._models.get((namespace, name))

    def child(self, service: Service, name: str) -> Service | None:
        """What is reached by this name under the service's address, besides itself."""
        if not self._children:
            return None
        return self._children.get((service.namespace, service.name, name))

    def by_key(self, key: str) -> Service | None:
        """A component of a service by its route's key."""
        return self._services.get(key)

    def component(self, service: Service, role: str, flow: str = "") -> Service | None:
        """Another component of the service that `service` is one of.

        A graph's explainer is a service of its own; `flow` says whose, where there may be several. So are
        those of a service's predictors beside the first one. Unavailable where such a one is not here yet.
        """
        key = f"{service.namespace}/{service.name}"
        graph = service.route.graph
        if graph is not None and role == EXPLAINER:
            explainer = graph.explainer(flow)
            return self._services.get(f"{service.namespace}/{explainer}") if explainer else None
        if role == EXPLAINER and service.route.explainers:
            first = service.route.explainers[0][1]
            explainer = dict(service.route.explainers).get(flow, "") if flow else first
            if explainer:
                return self._explainer(service, explainer, flow)
        return self._services.get(key if role == PREDICTOR else f"{key}/{role}")

    def _explainer(self, service: Service, name: str, predictor: str) -> Service | None:
        found = self._services.get(f"{service.namespace}/{name}")
        if found is None and predictor:
            raise Unavailable(
                f"The explainer of {service.key}'s predictor {predictor} is not known here yet.",
                retry_after_s=1,
            )
        return found

    def services(self, namespace: str | None = None) -> list[Service]:
        """Services, each by its predictor."""
        return [
            s
            for s in self._services.values()
            if (namespace is None or s.namespace == namespace) and s.route.component == PREDICTOR
        ]

    def unknown(self, what: NotFound) -> PenstockError:
        """What to answer for something that is not here."""
        if self.confirmed:
            return what
        return Unavailable(
            f"{what.message} It may be there all the same: since it began, this gateway has not heard from"
            " the control plane.",
            hint="Send it again.",
            retry_after_s=1,
        )

    def apply(self, message: TableMessage, *, kept: bool = False) -> None:
        """Take a message of the control plane, or (`kept`) the table that a file has."""
        self.confirmed = not kept
        if isinstance(message, Snapshot):
            gone = set(self._services) - {r.key for r in message.routes}
            for key in gone:
                self._remove(key)
            for route in message.routes:
                self._put(route)
            self.filled = True
        elif isinstance(message, Put):
            self._put(message.route)
        elif isinstance(message, Remove):
            self._remove(message.key)
        self.sequence = message.sequence

    def _put(self, route: Route) -> None:
        old = self._services.get(route.key)
        if old is not None and old.route == route:
            return
        service = self._describe(route, old)
        if old is None or route.component == PREDICTOR:
            self._describe_siblings(service)

    def _describe_siblings(self, service: Service) -> None:
        """What is known of one component of a service depends on the others: plans are to be made anew."""
        for role in ROLES:
            sibling = self.component(service, role) if role != service.route.component else None
            if sibling is not None and sibling.name == service.name:
                self._describe(sibling.route, sibling)

    def _describe(self, route: Route, old: Service | None) -> Service:
        """Put a new description in the place of `old`, with its line and its connections."""
        kept = {r.address: r for t in old.targets for r in t.replicas} if old is not None else {}
        previous = {t.revision: t for t in old.targets} if old is not None else {}
        targets: list[Target] = []
        service: Service
        for t in route.targets:
            replicas = []
            for r in t.replicas:
                replica = kept.pop(r.address, None)
                if replica is None or replica.id != r.id:
                    if replica is not None:
                        kept[r.address] = replica
                    replica = Replica(r, self._loop, lambda key=route.key: self._up(key))  # type: ignore[misc]
                replicas.append(replica)
            target = Target(t, replicas)
            if route.sticky is not None and not route.sticky.header:
                target.lines += answer_lines(t.revision, route.name)
            if t.revision in previous:
                target.series = previous[t.revision].series
            targets.append(target)
        service = Service(route, targets)
        if route.graph is not None and self._graphs is not None:
            service.graph = self._graphs().front(route.graph)
            if service.graph.learns and self._bandits is not None:
                self._bandits(service)
        elif old is not None and old.route.graph is not None and self._graphs is not None:
            # It is stopped, or something of another kind has its name.
            self._graphs().forget(old.route.graph)
        if route.experiment is not None and self._experiments is not None:
            service.graph = self._experiments(route.experiment)
        if route.bandit is not None and self._bandits is not None:
            self._bandits(service)
        if route.component != PREDICTOR:
            self._equip_front(service)
        if route.shadow is not None and self._shadow_metrics is not None:
            copied = service.named(route.shadow.revision)
            if copied is not None:
                service.shadow = Shadow(
                    (route.namespace, route.name),
                    copied,
                    route.shadow.percent,
                    self._shadow_metrics,
                    self._loop,
                )
        self._services[route.key] = service
        self.generation += 1
        if route.experiment is not None or (old is not None and old.route.experiment is not None):
            self._take_over(old, service)
        if old is not None:
            self._forget_models(old)
            old.current = False
            service.waiting = old.waiting
            service.waiting_bytes = old.waiting_bytes
            for forward in service.waiting:
                forward.service = service
                forward.target = None  # it belonged to the old description
        for model in route.models:
            self._models[(route.namespace, model)] = service
        if route.parent:
            self._children[(route.namespace, route.parent, route.name)] = service
        for replica in kept.values():
            replica.close()
        if service.waiting:
            self._on_capacity(service)
        return service

    def _equip_front(self, service: Service) -> None:
        """A component before the predictor takes part in what is not plain about the predictor's requests."""
        predictor = self.component(service, PREDICTOR)
        if predictor is None or predictor.route.entry != service.route.component:
            return
        if predictor.learner is not None and self._bandits is not None:
            service.learner = predictor.learner
            self._bandits(service)
        elif predictor.route.sticky is not None:
            from penstock.gateway import through

            through.equip(service, predictor)

    def _take_over(self, old: Service | None, new: Service | None) -> None:
        """Give an experiment the requests of its default; whose it was until now gets them back."""
        names = []
        for service in (old, new):
            experiment = service.route.experiment if service is not None else None
            if service is None or experiment is None or not experiment.default:
                continue
            key = (experiment.namespace, experiment.default)
            names.append(key)
            if service is old and self._taken.get(key) is old:
                del self._taken[key]
            elif service is new:
                # Where two experiments want the same, the first has it.
                self._taken.setdefault(key, service)
        for namespace, name in dict.fromkeys(names):
            member = self._services.get(f"{namespace}/{name}")
            if member is not None:  # plans for it are to be made anew
                self._describe(member.route, member)

    def _up(self, key: str) -> None:
        service = self._services.get(key)
        if service is not None and service.waiting:
            self._on_capacity(service)

    def _remove(self, key: str) -> None:
        old = self._services.pop(key, None)
        if old is None:
            return
        self.generation += 1
        old.current = False
        self._forget_models(old)
        if self._on_gone is not None and old.route.component == PREDICTOR:
            self._on_gone(old.namespace, old.name)
        if old.route.graph is not None and self._graphs is not None:
            self._graphs().forget(old.route.graph)
        if old.route.experiment is not None:
            self._take_over(old, None)
        for target in old.targets:
            for replica in target.replicas:
                replica.close()
        old.targets = []
        old.weighted = []
        waiting, old.waiting = old.waiting, deque()
        old.waiting_bytes = 0
        for forward in waiting:
            forward.service_gone()

    def _forget_models(self, service: Service) -> None:
        child = (service.namespace, service.route.parent, service.name)
        if self._children.get(child) is service:
            del self._children[child]
        for model in service.route.models:
            if self._models.get((service.namespace, model)) is service:
                del self._models[(service.namespace, model)]

    def __len__(self) -> int:
        return len(self.services())

    def close(self) -> None:
        """Forget every service and close its connections."""
        for key in list(self._services):
            self._remove(key)
