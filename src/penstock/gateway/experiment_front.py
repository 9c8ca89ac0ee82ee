"""Experiments in the gateway: each request goes to one of several services, or graphs, as if it had named it.

Stands where `graphs.front.GraphFront` stands for a graph, so a request that has nothing to do with
experiments asks for neither. Whoever is chosen gets the request under its own name and with all that is its
own: waiting, retries, deadline, canaries. The answer's `x-seldon-route` says who it was; a client that sends
it back stays there for as long as that candidate has a weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import PenstockError, Unavailable
from penstock.gateway.choosing import choose
from penstock.gateway.components import cannot_answer, reached
from penstock.gateway.grpc.forward import GrpcForward, render_call
from penstock.gateway.own import answer as answer_here
from penstock.gateway.proxy import GATHER_BYTES, Forward, internal, refuse
from penstock.gateway.resolve import Plan, make
from penstock.gateway.shadow import MOST_AT_ONCE, Shadow
from penstock.gateway.table import turns
from penstock.protocols.grpc.wire import reply_error, timeout_s

if TYPE_CHECKING:
    import asyncio

    from penstock.domain.experiment import Candidate, Experiment
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.table import Service, Target
    from penstock.http.head import RequestHead

ROUTE_HEADER: Final = b"x-seldon-route"
#: Tells a model process which model is meant, whatever the message names.
MODEL_HEADER: Final = b"x-penstock-model"
_TOLD: Final = re.compile(rb":([a-z0-9][-a-z0-9]*)(?:_[0-9]+|\.pipeline):")
_MODEL_PATH: Final = re.compile(r"(/v[12]/models/|/v2/pipelines/)([^/:]+)")
#: Calls over gRPC that ask about a model, and ask it nothing.
_ABOUT: Final = frozenset(("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"))
#: One request of a stream is one of these.
_REQUESTS: Final = frozenset(("ModelInfer", "ModelStreamInfer"))
#: Targets remembered with the line that tells of them.
_MOST_TOLD: Final = 256


class ExperimentFront:
    """One experiment's requests."""

    def __init__(
        self, gateway: Gateway, loop: asyncio.AbstractEventLoop, experiment: Experiment
    ) -> None:
        self.gateway = gateway
        self.experiment = experiment
        #: Who could answer the last time, and whose turn it is of those.
        self._present: list[Candidate] = []
        self._turn: Iterator[Candidate] = iter(())
        self._told: dict[tuple[Target, str], Target] = {}
        #: Copies that run as graphs, and copies of graphs' steps under way.
        self._copies: set[_Quiet] = set()
        self._steps = 0
        self._mirror: Shadow | None = None
        if experiment.mirror:
            self._mirror = Shadow(
                (experiment.namespace, experiment.name),
                None,  # chosen for each copy
                experiment.mirror_percent,
                gateway.shadow_metrics,
                loop,
            )

    # -- requests over HTTP -----------------------------------------------------------------------

    def handle(self, exchange: Any, plan: Plan, service: Service) -> None:
        """Take a request for this experiment; its body may be here."""
        if exchange.body is None and (
            self._mirror is not None or 0 <= exchange.head.content_length <= GATHER_BYTES
        ):
            exchange.gather(lambda whole: self._whole(whole, plan))
        else:
            self._whole(exchange, plan)

    def _whole(self, exchange: Any, plan: Plan) -> None:
        try:
            head: RequestHead = exchange.head
            member, name = self._member(head) if head.method == "POST" else self._asked_about()
            own = self._plan_for(head, member, plan.own or head.path)
            gateway = self.gateway
            if own.verb:  # what the gateway answers by itself of any service
                answer_here(exchange, own, gateway)
                return
            reached = own.service or member
            if reached.graph is not None:
                reached.graph.handle(exchange, own, reached, _told_graph(name))
                self._copy(exchange, head, plan.own or head.path)
                return
            forward = _HttpForward(gateway, exchange, own, reached, gateway.now())
            forward.front, forward.candidate = self, name
            gateway.admit(forward)
            self._copy(exchange, head, plan.own or head.path)
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            refuse(exchange, exc if isinstance(exc, PenstockError) else internal(exc))

    def _plan_for(self, head: RequestHead, member: Service, path: str) -> Plan:
        key = ("experiment", member.key, path)
        plan: Plan | None = head.memo.get(key)
        if plan is None or plan.service is None or not plan.service.current:
            named = _MODEL_PATH.sub(lambda m: m[1] + member.name, path, count=1)
            plan = head.memo[key] = make(head, member, named, self.gateway.table)
        return plan

    # -- calls over gRPC --------------------------------------------------------------------------

    def handle_grpc(self, exchange: Any, plan: Plan, service: Service, method: str) -> None:
        """Take a gRPC call about this experiment, its message all here."""
        try:
            head: RequestHead = exchange.head
            asks = method not in _ABOUT
            member, name = self._member(head) if asks else self._asked_about()
            own = self._grpc_plan(head, member, len(exchange.body))
            gateway = self.gateway
            reached = own.service or member
            if reached.graph is not None:
                reached.graph.handle_grpc(exchange, own, reached, method, _told_graph(name))
                if method in _REQUESTS:
                    self._copy_grpc(exchange, head)
                return
            now = gateway.now()
            forward = _CallForward(gateway, exchange, own, reached, now)
            forward.front, forward.candidate = self, name
            asked = timeout_s(exchange.timeout) if exchange.timeout is not None else None
            if asked is not None and asked < own.timeout_s:
                forward.deadline = now + asked
            gateway.admit(forward)
            if asks:
                self._copy_grpc(exchange, head)
        except Exception as exc:  # noqa: BLE001 - the call's border: one call fails, not the process
            reply_error(exchange, exc if isinstance(exc, PenstockError) else internal(exc))

    def _grpc_plan(self, head: RequestHead, member: Service, size: int) -> Plan:
        key = ("experiment-grpc", member.key, size)
        plan: Plan | None = head.memo.get(key)
        if plan is None or plan.service is None or not plan.service.current:
            service = reached(head, member, self.gateway.table)
            choice = choose(head, service, member, self.gateway.table)
            # The message names whom the client named; the header says who is meant.
            meant = (MODEL_HEADER, member.name.encode())
            plan = head.memo[key] = Plan(
                service,
                render_call(head, service, size, meant),
                "grpc",
                service.route.timeout_s,
                wanted=choice.wanted,
                soft=choice.soft,
            )
        return plan

    # -- choosing ---------------------------------------------------------------------------------

    def _member(self, head: RequestHead) -> tuple[Service, str]:
        """Who gets this request. Unavailable when nobody can."""
        candidates = self.experiment.candidates
        told = head.get(ROUTE_HEADER)
        if told is not None:
            known = {c.name for c in candidates if c.weight}
            for match in _TOLD.finditer(told):
                name = match[1].decode()
                if name in known:
                    found = self._found(name)
                    if found is not None and _may_answer(found):
                        return found, name
        name = self._next(candidates)
        return self._service(name), name

    def _asked_about(self) -> tuple[Service, str]:
        """Who is told of when somebody asks what this is, and takes no turn."""
        name = self.experiment.default or self.experiment.candidates[0].name
        return self._service(name), name

    def _next(self, candidates: tuple[Candidate, ...]) -> str:
        """Smooth weighted round-robin over the candidates that can answer; where none can, over all."""
        there = [(c, found) for c in candidates if (found := self._found(c.name)) is not None]
        # One that has a weight of 0 is asked when nobody else can answer.
        present = [c for c, found in there if c.weight and _may_answer(found)]
        present = present or [c for c, found in there if _may_answer(found)]
        present = present or [c for c, _ in there] or list(candidates)
        if present != self._present:
            self._present, self._turn = present, turns(present)
        return next(self._turn).name

    def _found(self, name: str) -> Service | None:
        return self.gateway.table.by_key(f"{self.experiment.namespace}/{name}")

    def _service(self, name: str) -> Service:
        found = self._found(name)
        if found is None:
            raise Unavailable(f"The experiment {self.experiment.key} has no service {name}.")
        if found.route.experiment is not None:
            raise Unavailable(f"{found.key} is an experiment, which cannot be a candidate.")
        return found

    def member(self) -> Service:
        """Who gets the call of a graph's step. Unavailable when nobody can."""
        return self._service(self._next(self.experiment.candidates))

    def told(self, target: Target, candidate: str) -> Target:
        """`target`, whose answers say which candidate they are of."""
        key = (target, candidate)
        known = self._told.get(key)
        if known is None:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            known = self._told[key] = target.with_lines(
                b"x-seldon-route: :%b_1:\r\n" % candidate.encode()
            )
        return known

    # -- copies -----------------------------------------------------------------------------------

    def copy_to(self) -> str:
        """The mirror, if a graph's step that comes here is to be copied now; `copied` follows."""
        mirror = self._mirror
        if mirror is None or not mirror.due():
            return ""
        if self._steps >= MOST_AT_ONCE:
            mirror.count_for(self.experiment.mirror, "dropped")
            return ""
        self._steps += 1
        return self.experiment.mirror

    def copied(self, status: int) -> None:
        """A copy of a step is over."""
        self._steps -= 1
        if self._mirror is not None:
            self._mirror.count_for(self.experiment.mirror, str(status))

    def _copy(self, exchange: Any, head: RequestHead, path: str) -> None:
        mirror = self._mirror
        if mirror is None or head.method != "POST" or exchange.body is None:
            return
        member = self._found(self.experiment.mirror)
        if member is not None and member.graph is not None:
            if mirror.due():
                copy = _Quiet(self, mirror, exchange)
                self._run_copy(copy, member, self._plan_for(head, member, path), "")
            return
        target = member.pick_target() if member is not None else None
        if member is None or target is None:
            mirror.count_for(self.experiment.mirror, "no replica")
            return
        self._send_copy(mirror, target, self._plan_for(head, member, path), exchange)

    def _copy_grpc(self, exchange: Any, head: RequestHead) -> None:
        mirror = self._mirror
        if mirror is None or exchange.body is None:
            return
        member = self._found(self.experiment.mirror)
        plan = None if member is None else self._grpc_plan(head, member, len(exchange.body))
        if member is not None and member.graph is not None and plan is not None:
            if mirror.due():
                self._run_copy(_Quiet(self, mirror, exchange), member, plan, "ModelInfer")
            return
        target = member.pick_target() if member is not None else None
        if plan is None or target is None:
            mirror.count_for(self.experiment.mirror, "no replica")
            return
        self._send_copy(mirror, target, plan, exchange)

    def _run_copy(self, copy: _Quiet, member: Service, plan: Plan, method: str) -> None:
        """Run a graph on a copy of a request; nobody waits for its answer."""
        if len(self._copies) >= MOST_AT_ONCE:
            copy.mirror.count_for(self.experiment.mirror, "dropped")
            return
        self._copies.add(copy)
        if method:
            member.graph.handle_grpc(copy, plan, member, method)
        else:
            member.graph.handle(copy, plan, member)

    @staticmethod
    def _send_copy(mirror: Shadow, target: Target, plan: Plan, exchange: Any) -> None:
        mirror.aim(target)
        mirror.copy(SimpleNamespace(plan=plan, exchange=exchange))  # type: ignore[arg-type]


def _may_answer(service: Service) -> bool:
    """False for a service of which it is known why it has no replica, and a graph that lacks a step's."""
    if service.graph is not None and service.route.graph is not None:
        return not service.graph.missing()
    return not cannot_answer(service)


def _told_graph(name: str) -> bytes:
    """What a graph's answer says of the candidate that it is."""
    return b"x-seldon-route: :%b.pipeline:\r\n" % name.encode()


class _Quiet:
    """A copy of a request that a graph runs on: there is no client, and its answer is counted and dropped."""

    __slots__ = ("_front", "body", "head", "mirror", "on_abort", "on_drain", "timeout")

    def __init__(self, front: ExperimentFront, mirror: Shadow, exchange: Any) -> None:
        self._front = front
        self.mirror = mirror
        self.head = exchange.head
        # The original's buffer is its connection's.
        self.body = bytes(exchange.body)
        self.timeout: bytes | None = None
        self.on_abort: Any = None
        self.on_drain: Any = None

    def send(self, status: int, headers: bytes, body: Any = b"", trailers: bytes = b"") -> None:
        self._front._copies.discard(self)
        self.mirror.count_for(self._front.experiment.mirror, str(status))

    def abort(self) -> None:
        self._front._copies.discard(self)


class _Told:
    """What both kinds of request do beyond a plain one: their answers tell the candidate."""

    __slots__ = ()

    front: ExperimentFront
    candidate: str
    target: Any

    def dispatch(self) -> bool:
        sent: bool = super().dispatch()  # type: ignore[misc]
        if sent and self.target is not None:
            self.target = self.front.told(self.target, self.candidate)
        return sent


class _HttpForward(_Told, Forward):
    __slots__ = ("candidate", "front")


class _CallForward(_Told, GrpcForward):
    __slots__ = ("candidate", "front")


__all__ = ["MODEL_HEADER", "ROUTE_HEADER", "ExperimentFront"]
