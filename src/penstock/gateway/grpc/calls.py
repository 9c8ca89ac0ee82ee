"""What answers gRPC calls at the gateway, by kind of call.

`ModelCall` sends a call for a model on to a replica; `RepositoryCall` and `StatisticsCall` are about a model
and answered here, because one replica cannot answer for all; `OwnCall` is about the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from google.protobuf.json_format import ParseDict

from penstock._version import __version__
from penstock.errors import (
    InvalidInput,
    PenstockError,
)
from penstock.gateway import own, repository
from penstock.gateway.choosing import choose
from penstock.gateway.components import cannot_answer, reached
from penstock.gateway.grpc.forward import GrpcForward, render_call
from penstock.gateway.proxy import internal
from penstock.gateway.resolve import (
    DEFAULT_NAMESPACE,
    Plan,
    by_host,
    namespace_of,
    suffixed,
    unknown_model,
    unknown_service,
)
from penstock.protocols.grpc import side
from penstock.protocols.grpc.schema import METHODS, parse
from penstock.protocols.grpc.wire import (
    peek_strings,
    reply_error,
    reply_message,
    timeout_s,
    unframe,
)
from penstock.protocols.triton import CALLS

if TYPE_CHECKING:
    from penstock.gateway.grpc.front import GrpcFront
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead


#: Plans remembered per head: one for each model and length of message.
_MAX_PLANS: Final = 64
#: Calls for a model, and the fields of their messages that may hold its name; the first that is set counts.
MODEL_CALLS: Final[dict[str, tuple[int, ...]]] = {
    "ModelInfer": (1,),
    "ModelStreamInfer": (1,),
    "ModelReady": (1,),
    "ModelMetadata": (1,),
    "ModelConfig": (1,),
    "ModelStatistics": (1,),
    # Triton has the model second, behind the repository; KServe first.
    "RepositoryModelLoad": (2, 1),
    "RepositoryModelUnload": (2, 1),
}


class ModelCall:
    """Unary calls for a model, with one head."""

    __slots__ = ("_encoding", "_fields", "_front", "_head", "_method", "_plans", "_wanted")

    def __init__(self, front: GrpcFront, head: RequestHead, method: str) -> None:
        self._front = front
        self._head = head
        self._method = method
        self._fields = MODEL_CALLS.get(method, ())
        self._wanted = tuple(sorted(self._fields))
        self._encoding = head.get(b"grpc-encoding")
        self._plans: dict[tuple[str, int], Plan] = {}

    def __call__(self, exchange: Any) -> None:
        if exchange.body is None:
            exchange.gather(self._whole)
        else:
            self._whole(exchange)

    def _whole(self, exchange: Any) -> None:
        front = self._front
        try:
            body = exchange.body
            if body[:1] != b"\0" or int.from_bytes(body[1:5], "big") != len(body) - 5:
                # Compressed, or no message at all: from here on it is plain.
                plain = bytes(unframe(body, self._encoding, front.most))
                body = exchange.body = b"\0%b%b" % (len(plain).to_bytes(4, "big"), plain)
            name = ""
            if self._wanted:
                found = peek_strings(memoryview(body)[5:], self._wanted)
                for number in self._fields:
                    name = name or found.get(number, "")
            key = (name, len(body))
            plan = self._plans.get(key)
            service = plan.service if plan is not None else None
            if plan is None or service is None or not service.current:
                plan = self._plan(name, len(body))
                service = plan.service
                assert service is not None  # noqa: S101 - this plan always has one
                if service.graph is not None:
                    service.graph.handle_grpc(exchange, plan, service, self._method)
                    return
                if len(self._plans) >= _MAX_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
            now = front.time()
            kind = service.call or GrpcForward
            forward = kind(front.gateway, exchange, plan, service, now)
            asked = timeout_s(exchange.timeout) if exchange.timeout is not None else None
            if asked is not None and asked < plan.timeout_s:
                forward.deadline = now + asked
            front.gateway.admit(forward)
        except PenstockError as error:
            reply_error(exchange, error)
        except Exception as exc:  # noqa: BLE001 - the call's border: one call fails, not the process
            reply_error(exchange, internal(exc))

    def _plan(self, name: str, size: int) -> Plan:
        head = self._head
        table = self._front.gateway.table
        seldon = head.get(b"seldon-model")
        if seldon is not None:
            name = seldon.decode("latin-1").strip()
            service, tag = None, ""
        else:
            service, tag = by_host(head, table)
        if service is None:
            if not name:
                raise InvalidInput(
                    "The call names no model.",
                    hint="Set its name in the message, or call NAME.NAMESPACE as the authority.",
                )
            namespace = namespace_of(head)
            service = table.get(namespace, name) or suffixed(name, namespace, table)
            if service is None:
                unknown = unknown_model if namespace == DEFAULT_NAMESPACE else unknown_service
                raise unknown(name, namespace, table)
        return self._plan_for(service, tag, size)

    def _plan_for(self, service: Service, tag: str, size: int) -> Plan:
        """The plan for a service that the call means."""
        head = self._head
        table = self._front.gateway.table
        named = service
        if not self._method.startswith("Repository"):
            service = reached(head, service, table)
            if self._method == "ModelReady" and cannot_answer(named):
                service = named  # what stands before it may be ready for all that
        choice = choose(head, service, named, table, tag)
        return Plan(
            service,
            self._render(service, size, choice.passed_on),
            "grpc",
            service.route.timeout_s,
            wanted=choice.wanted,
            soft=choice.soft,
        )

    def _render(
        self, service: Service, size: int, more: tuple[bytes, bytes] | None = None
    ) -> bytes:
        return render_call(self._head, service, size, more)


class RepositoryCall(ModelCall):
    """A load or an unload, answered by the gateway (see `repository`)."""

    __slots__ = ()

    def _whole(self, exchange: Any) -> None:
        front = self._front
        kind, answer_kind = METHODS[self._method]
        try:
            body = unframe(exchange.body, self._encoding, side.MOST_BYTES)
            found = peek_strings(body, self._wanted)
            name = next((found[n] for n in self._fields if found.get(n)), "")
            plan = self._plan(name, 0)
            service = plan.service
            assert service is not None  # noqa: S101 - this plan always has one
            if self._method == "RepositoryModelLoad":
                repository.refuse_parameters(parse(kind, body).parameters)
                forward = _Load(front.gateway, exchange, plan, service, front.time())
                asked = timeout_s(exchange.timeout) if exchange.timeout is not None else None
                if asked is not None and asked < plan.timeout_s:
                    forward.deadline = forward.since + asked
                front.gateway.admit(forward)
                return
        except PenstockError as error:
            reply_error(exchange, error)
            return

        def say(error: PenstockError | None) -> None:
            if error is None:
                reply_message(exchange, answer_kind(model_name=service.name, isUnloaded=True))
            else:
                reply_error(exchange, error)

        unload = repository.Unload(front.gateway, service, say)
        exchange.on_abort = unload.forget
        unload.look()


class StatisticsCall(ModelCall):
    """Statistics: of one replica its own answer, of several or of all services what they add up to."""

    __slots__ = ()

    def _whole(self, exchange: Any) -> None:
        front = self._front
        table = front.gateway.table
        kind, answer_kind = METHODS[self._method]
        services: list[Service]
        try:
            asked = parse(kind, unframe(exchange.body, self._encoding, side.MOST_BYTES))
            path = "/v2/models/stats"
            if not asked.name and by_host(self._head, table)[0] is None:
                services = list(table.services(namespace_of(self._head)))
            else:
                service = self._plan(asked.name, 0).service
                assert service is not None  # noqa: S101 - this plan always has one
                if sum(len(t.replicas) for t in service.targets) < 2:
                    super()._whole(exchange)
                    return
                services = [service]
                if asked.name:
                    version = f"/versions/{quote(asked.version, safe='')}" if asked.version else ""
                    path = f"/v2/models/{quote(asked.name, safe='')}{version}/stats"
        except PenstockError as error:
            reply_error(exchange, error)
            return

        async def run() -> None:
            try:
                found = await repository.statistics(services, path)
                reply_message(exchange, ParseDict(found, answer_kind(), ignore_unknown_fields=True))
            except Exception as exc:  # noqa: BLE001 - the call's border: one call fails, not the process
                reply_error(exchange, internal(exc))

        task = front.gateway.spawn(run())

        def gone() -> None:
            task.cancel()

        exchange.on_abort = gone


class _Load(repository.Load, GrpcForward):
    __slots__ = ()

    def say_loaded(self) -> None:
        answer_kind = METHODS["RepositoryModelLoad"][1]
        reply_message(self.exchange, answer_kind(model_name=self.service.name, isLoaded=True))


class OwnCall:
    """A server-level method, answered by the gateway."""

    __slots__ = ("_front", "_method")

    def __init__(self, front: GrpcFront, method: str) -> None:
        self._front = front
        self._method = method

    def __call__(self, exchange: Any) -> None:
        exchange.gather(self._whole)

    def _whole(self, exchange: Any) -> None:
        request_kind, answer_kind = METHODS[self._method]
        table = self._front.gateway.table
        try:
            encoding = exchange.head.get(b"grpc-encoding")
            request = parse(request_kind, unframe(exchange.body, encoding, side.MOST_BYTES))
            if self._method in CALLS:
                reply_message(exchange, self._about_server(exchange, request))
                return
        except PenstockError as error:
            reply_error(exchange, error)
            return
        if self._method == "ServerLive":
            answer = answer_kind(live=True)
        elif self._method == "ServerReady":
            answer = answer_kind(ready=table.filled and not self._front.draining)
        elif self._method == "ServerMetadata":
            extensions = own.extensions(self._front.gateway)
            answer = answer_kind(name="penstock", version=__version__, extensions=extensions)
        else:
            answer = answer_kind()
            namespace = namespace_of(exchange.head)
            for entry in repository.index(table, namespace, ready_only=request.ready):
                answer.models.add(**entry)
        reply_message(exchange, answer)

    def _about_server(self, exchange: Any, request: Any) -> Any:
        """Shared memory, logging, tracing."""
        gateway = self._front.gateway
        if self._method == "TraceSetting" and request.model_name:
            namespace = namespace_of(exchange.head)
            if gateway.table.get(namespace, request.model_name) is None:
                raise unknown_service(request.model_name, namespace, gateway.table)
        return gateway.calls.call(self._method, request)
