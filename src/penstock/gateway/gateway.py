"""The gateway's state and its three moves: take a request, let it wait, give it a replica.

Single-threaded: everything here runs on one event loop, so there are no locks. Requests that find no
replica wait in their service's line, bounded by count, bytes and each request's own deadline; the line
moves when a replica comes up, answers, or is added.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.domain.learning import Credited, Learned
from penstock.domain.routes import FromGateway, Sleep, Snapshot, ToGateway, Wake, route_key
from penstock.errors import PenstockError, Unavailable
from penstock.gateway import own
from penstock.gateway.choosing import unknown_revision
from penstock.gateway.components import cannot_answer
from penstock.gateway.proxy import GATHER_BYTES, Forward, internal, refuse
from penstock.gateway.resolve import plan as make_plan
from penstock.gateway.shadow import ShadowMetrics
from penstock.gateway.table import Service, Table
from penstock.observe.log_settings import LogSettings
from penstock.observe.metrics import START_TIME, Registry
from penstock.protocols.shared_memory import SharedMemory
from penstock.protocols.triton import ServerCalls

if TYPE_CHECKING:
    from penstock.domain.experiment import Experiment
    from penstock.gateway.experiment_front import ExperimentFront
    from penstock.gateway.graphs.front import Graphs
    from penstock.gateway.learning.bandits import Bandits
    from penstock.gateway.resolve import Plan
    from penstock.http.server import Exchange

logger = logging.getLogger(__name__)

#: How often deadlines are looked at, seconds. One sweep costs about 50 ns per request under way.
SWEEP_S: Final = 0.02
#: Bytes of bodies that may wait in all lines together. Beyond it each line has an equal part of that, so that
#: one flooded service takes no room from the others, and all of them hold twice this at most.
MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
#: While requests wait for a sleeping service, the control plane is told again this often, seconds.
WAKE_AGAIN_S: Final = 1.0

_PLAN: Final = "plan"
_GRAPH_PLAN: Final = "graph-plan"


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """What gateways of one platform share to credit each other's answers."""

    #: File with the key that request ids are signed with; None: this process's own.
    key: Path | None = None
    #: Private sockets of the other gateways, which are asked about ids that clients chose.
    siblings: Callable[[], Sequence[Path]] = tuple


class Gateway:
    """Handles exchanges of `penstock.http.server`; fed by `channel`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        wake: Callable[[Any], None],
        registry: Registry | None = None,
        memory: SharedMemory | None = None,
        feedback: FeedbackSettings | None = None,
    ) -> None:
        self._loop = loop
        self._time = loop.time
        self._wake: Callable[[FromGateway], None] = wake
        self._feedback_settings = feedback or FeedbackSettings()
        self._bandits: Bandits | None = None
        #: Requests under way, oldest first.
        self.active: dict[Forward, None] = {}
        self._lines: dict[str, float] = {}
        self._waiting_bytes = 0
        self.registry = registry if registry is not None else Registry()
        labels = ("namespace", "service", "component", "revision", "protocol", "status")
        self.shadow_metrics = ShadowMetrics(self.registry)
        self.table = Table(
            loop,
            self.flush,
            self.shadow_metrics,
            lambda: self.graphs,
            self._experiment,
            self._learn,
            self._gone,
        )
        self._graphs: Graphs | None = None
        self._requests = self.registry.counter(
            "penstock_gateway_requests", "Requests answered by the gateway.", labels
        )
        self._seconds = self.registry.histogram(
            "penstock_gateway_request_seconds",
            "From a request's head to the end of its answer, waiting included.",
            labels[:-1],
        )
        self._in_flight = self.registry.gauge(
            "penstock_gateway_requests_in_flight", "Requests under way in the gateway."
        )
        self._waiting = self.registry.gauge(
            "penstock_gateway_requests_waiting",
            "Requests that wait for a replica.",
            ("namespace", "service"),
        )
        started = self.registry.gauge(START_TIME, "When the gateway started, Unix time.", ("pid",))
        started.labels(str(os.getpid())).set(time.time())
        #: Triton's calls about the server itself. One gateway of several answers, so it changes nothing.
        self.calls = ServerCalls(
            memory or SharedMemory(None, most=0),
            LogSettings("`penstock serve --log-level` sets it for every process of the platform."),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep()

    def tell(self, message: Wake | Sleep) -> None:
        """Send the control plane a message; lost when it is away."""
        self._wake(message)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this gateway's, for what is rare; cancelled by `close`."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def now(self) -> float:
        """The loop's time, seconds."""
        return self._time()

    # -- requests ---------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Take a request whose head is here; its body may be."""
        head = exchange.head
        forward: Forward | None = None
        try:
            plan: Plan | None = head.memo.get(_PLAN)
            service = plan.service if plan is not None else None
            if plan is None or service is None or not service.current:
                known: Plan | None = head.memo.get(_GRAPH_PLAN)
                if known is not None and known.service is not None and known.service.current:
                    known.service.graph.handle(exchange, known, known.service)
                    return
                plan = make_plan(head, self.table)
                service = plan.service
                if service is None or plan.verb:
                    own.answer(exchange, plan, self)
                    return
                if service.graph is not None:
                    # Not under the same name, so that requests without a graph need not ask.
                    head.memo[_GRAPH_PLAN] = plan
                    service.graph.handle(exchange, plan, service)
                    return
                head.memo[_PLAN] = plan
            forward = service.forward(self, exchange, plan, service, self._time())
            self.active[forward] = None
            if exchange.body is None and 0 <= head.content_length <= GATHER_BYTES:
                exchange.gather(lambda _: self._gathered(forward))
            elif service.waiting or not forward.dispatch():
                self._queue(forward)
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            error = exc if isinstance(exc, PenstockError) else internal(exc)
            if forward is None:
                refuse(exchange, error)
            else:
                self._give_up(forward, error)

    def _give_up(self, forward: Forward, error: PenstockError) -> None:
        """Answer a request that could not be handled; whatever happens, it is under way no more."""
        if forward.done:
            return
        try:
            forward.fail(error)
        except Exception:
            logger.exception("a request that failed could not be answered")
            forward.exchange.abort()
            if forward in self.active:
                forward.drop()

    def admit(self, forward: Forward) -> None:
        """Take a request that another front made, its body all here."""
        self.active[forward] = None
        self.place(forward)

    def _gathered(self, forward: Forward) -> None:
        if not forward.done:
            self.place(forward)

    def place(self, forward: Forward) -> None:
        """Dispatch, or let wait. Fails the request, and nothing else, when that goes wrong."""
        try:
            self._place(forward)
        except Exception as exc:  # noqa: BLE001 - the request's border, as in `handle`
            self._give_up(forward, exc if isinstance(exc, PenstockError) else internal(exc))

    def _place(self, forward: Forward) -> None:
        service = forward.service
        if not service.current:
            # The route changed while the body came in, or while a replica was tried: what is known of
            # the old one ends here, or the line would wait for replicas that are gone.
            newest = self.table.by_key(service.key)
            if newest is None:
                forward.service_gone()
                return
            forward.service = newest
            forward.target = None
            wanted = forward.plan.wanted
            if wanted and not forward.plan.soft and newest.named(wanted) is None:
                forward.fail(unknown_revision(newest, wanted, self.table))
                return
        if forward.service.waiting or not forward.dispatch():
            self._queue(forward)

    # -- waiting ----------------------------------------------------------------------------------

    def _queue(self, forward: Forward) -> None:
        service = forward.service
        route = service.route
        if cannot_answer(service):
            forward.fail(Unavailable(f"{service.key} cannot answer: {route.message}"))
            return
        wanted = forward.plan.wanted
        if wanted and not forward.plan.soft and any(t.replicas for t in service.targets):
            named = service.named(wanted)
            if named is None or not named.replicas:
                # The service is awake: the others' requests shall not wait in a line with this one.
                forward.fail(Unavailable(f"{service.key}: no replica of {wanted} is ready."))
                return
        body = forward.exchange.body
        forward.body_bytes = len(body) if body is not None else 0
        if len(
            service.waiting
        ) >= route.max_waiting or service.waiting_bytes + forward.body_bytes > self._room(
            service, forward.body_bytes
        ):
            forward.fail(
                Unavailable(
                    f"{service.key} is overloaded: {len(service.waiting)} requests are waiting.",
                    hint="Try again later.",
                    retry_after_s=1,
                )
            )
            return
        forward.queued = True
        service.waiting.append(forward)
        service.waiting_bytes += forward.body_bytes
        self._waiting_bytes += forward.body_bytes
        if service.key not in self._lines:
            self._lines[service.key] = 0.0
            self._call(service, self._time())
        self.flush(service)

    def _room(self, service: Service, size: int) -> int:
        """Bytes that may wait for a service when one more request of `size` comes."""
        own = service.route.max_waiting_bytes
        if self._waiting_bytes + size <= MAX_WAITING_BYTES:
            return own
        lines = len(self._lines) + (service.key not in self._lines)
        return min(own, MAX_WAITING_BYTES // lines)

    def unqueue(self, forward: Forward) -> None:
        """Take a request out of its line because it ended while waiting."""
        forward.queued = False
        self._waiting_bytes -= forward.body_bytes
        service = forward.service
        try:
            service.waiting.remove(forward)
        except ValueError:
            return
        service.waiting_bytes -= forward.body_bytes

    def flush(self, service: Service) -> None:
        """Give replicas to requests that wait, in order."""
        waiting = service.waiting
        broken: list[tuple[Forward, Exception]] = []
        for _ in range(len(waiting)):
            forward = waiting[0]
            error: Exception | None = None
            try:
                if not forward.dispatch():
                    if len(service.weighted) <= 1 and not forward.plan.wanted:
                        break
                    forward.target = None  # another revision may have room
                    if not forward.dispatch():
                        waiting.rotate(-1)
                        continue
            except Exception as exc:  # noqa: BLE001 - the request's border: the line goes on
                error = exc
            waiting.popleft()
            forward.queued = False
            self._waiting_bytes -= forward.body_bytes
            forward.sent_at = self._time()
            # The line outlives descriptions of its service; the bytes are counted in the newest.
            forward.service.waiting_bytes -= forward.body_bytes
            if error is not None:
                broken.append((forward, error))
        for forward, error in broken:  # now, because the end of a request comes back to this line
            self._give_up(forward, error if isinstance(error, PenstockError) else internal(error))

    def _call(self, service: Service, now: float) -> None:
        self._lines[service.key] = now
        if not any(r.up for t in service.targets for r in t.replicas):
            self._wake(Wake(service.key, len(service.waiting)))

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now = self._time()
        late = [f for f in self.active if f.deadline <= now]
        for forward in late:
            if not forward.done:
                try:
                    forward.expire()
                except Exception as exc:  # noqa: BLE001 - one request's; the others have deadlines too
                    self._give_up(forward, internal(exc))
        for key in list(self._lines):
            service = self.table.by_key(key)
            if service is None or not service.waiting:
                del self._lines[key]
            elif now - self._lines[key] >= WAKE_AGAIN_S:
                self._call(service, now)

    # -- the table ----------------------------------------------------------------------------------

    def apply(self, message: ToGateway) -> None:
        """Take a message of the control plane."""
        if isinstance(message, Learned):
            self.bandits.learned(message)
        elif isinstance(message, Credited):
            self.bandits.credited(message)
        else:
            self.table.apply(message)
            if isinstance(message, Snapshot):
                self._hear_learned(message)

    def restore(self, message: Snapshot) -> None:
        """Take the table that was kept in a file, until the control plane says what is so."""
        self.table.apply(message, kept=True)
        self._hear_learned(message)

    def _hear_learned(self, message: Snapshot) -> None:
        if message.learned or self._bandits is not None:
            self.bandits.connected(message.learned)

    @property
    def bandits(self) -> Bandits:
        """What bandits share, made with the first one: most gateways have none."""
        if self._bandits is None:
            from penstock.gateway.learning.bandits import Bandits
            from penstock.gateway.learning.request_ids import read_key

            self._bandits = Bandits(
                self._loop,
                self._wake,
                key=read_key(self._feedback_settings.key),
                siblings=self._feedback_settings.siblings,
                registry=self.registry,
            )
        return self._bandits

    @property
    def learns(self) -> bool:
        """Whether there was ever a bandit here."""
        return self._bandits is not None

    def _learn(self, service: Service) -> None:
        if service.route.graph is None:
            from penstock.gateway.learning import forward as learned_forward

            learned_forward.equip(service, self.bandits)
            return
        from penstock.gateway.learning import graphs as learned_graphs

        learned_graphs.equip(self, service.route)

    def _gone(self, namespace: str, name: str) -> None:
        if self._bandits is not None:
            self._bandits.forget(namespace, name)

    @property
    def graphs(self) -> Graphs:
        """What graphs share, made with the first one: most gateways have none."""
        if self._graphs is None:
            from penstock.gateway.graphs.front import Graphs

            self._graphs = Graphs(self, self._loop)
        return self._graphs

    def _experiment(self, experiment: Experiment) -> ExperimentFront:
        """What takes an experiment's requests; most gateways have none."""
        from penstock.gateway.experiment_front import ExperimentFront

        return ExperimentFront(self, self._loop, experiment)

    # -- what is counted ------------------------------------------------------------------------------

    def count(self, forward: Forward, status: int) -> None:
        target = forward.target
        protocol = forward.plan.protocol
        if target is not None:
            series = target.series.get((protocol, status))
            if series is None:
                series = target.series[(protocol, status)] = self._series(
                    forward.service, target.revision, protocol, status
                )
        else:
            series = self._series(forward.service, "", protocol, status)
        series[0].value += 1
        series[1].observe(self._time() - forward.since)

    def _series(
        self, service: Service, revision: str, protocol: str, status: int
    ) -> tuple[Any, Any]:
        names = (service.namespace, service.name, service.route.component, revision, protocol)
        return (
            self._requests.labels(*names, "canceled" if status == 499 else str(status)),
            self._seconds.labels(*names),
        )

    def ended(self) -> dict[str, tuple[float, float]]:
        """By key of a route that ever had a request here: requests that ended, and the seconds they took."""
        sums: dict[str, tuple[float, float]] = {}
        # Counters and sums are single numbers; a histogram's count would be nineteen.
        for labels, counter in self._requests.children.items():
            key = route_key(*labels[:3])
            count, seconds = sums.get(key, (0.0, 0.0))
            sums[key] = (count + counter.value, seconds)
        for labels, histogram in self._seconds.children.items():
            key = route_key(*labels[:3])
            count, seconds = sums.get(key, (0.0, 0.0))
            sums[key] = (count, seconds + histogram.sum)
        return sums

    def snapshot(self) -> dict[str, Any]:
        """The registry's snapshot with the gauges brought up to date."""
        self._in_flight.labels().set(len(self.active))
        self._waiting.children.clear()
        for key in self._lines:
            service = self.table.by_key(key)
            if service is not None:
                self._waiting.labels(service.namespace, service.name).inc(len(service.waiting))
        return self.registry.snapshot()

    def close(self) -> None:
        """Stop the sweep and close every connection to replicas."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        self.table.close()
        if self._graphs is not None:
            self._graphs.close()
        if self._bandits is not None:
            self._bandits.close()
