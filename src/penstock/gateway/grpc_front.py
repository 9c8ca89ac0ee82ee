"""The gRPC port: where HTTP/2 ends.

A call becomes the same framed message in an HTTP/1.1 POST to the model process, so a `Forward` carries it
like any other request: waiting for a sleeping service, retries, deadlines and metrics are not written
twice. What is different is here: the model's name is in the message, the status in trailers, and a
ModelStreamInfer is served request by request. Server-level calls, health and reflection are answered by
the gateway itself. What is no gRPC on this port goes to the gateway's plain handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from google.protobuf.json_format import ParseDict

from penstock._version import __version__
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PenstockError,
    Unsupported,
)
from penstock.gateway import own, repository
from penstock.gateway.choosing import REVISION_HEADER, choose
from penstock.gateway.components import reached
from penstock.gateway.proxy import Forward, internal
from penstock.gateway.resolve import (
    DEFAULT_NAMESPACE,
    HOP_BY_HOP,
    Plan,
    by_host,
    namespace_of,
    unknown_service,
)
from penstock.protocols.grpc import side
from penstock.protocols.grpc.infer import parse
from penstock.protocols.grpc.schema import METHODS, SERVICE
from penstock.protocols.grpc.stream_infer import StreamedCall, serve_stream_infer
from penstock.protocols.grpc.wire import (
    CONTENT_TYPE,
    check_head,
    error_lines,
    from_http,
    is_grpc,
    peek_strings,
    read_status,
    reply,
    reply_error,
    reply_message,
    timeout_s,
    unframe,
)
from penstock.protocols.triton import CALLS

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead, ResponseHead

logger = logging.getLogger(__name__)

_ROUTE: Final = "grpc-route"
_PREFIX: Final = f"/{SERVICE}/"
#: Plans remembered per head: one for each model and length of message.
_MAX_PLANS: Final = 64
#: Calls for a model, and the fields of their messages that may hold its name; the first that is set counts.
_MODEL_CALLS: Final[dict[str, tuple[int, ...]]] = {
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
#: Fields that are not for the model process: messages go there uncompressed.
_OWN_FIELDS: Final = frozenset({b"grpc-encoding", b"grpc-accept-encoding"})
#: The HTTP status under which a gRPC status is counted.
_HTTP: Final = {
    0: 200, 1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
    14: 503, 16: 401,
}  # fmt: skip


class GrpcFront:
    """The handler of the gRPC port."""

    def __init__(self, gateway: Gateway, *, time: Callable[[], float], most: int) -> None:
        self.gateway = gateway
        self.time = time
        #: Bytes of a message.
        self.most = most
        #: True from the drain on.
        self.draining = False

    def handle(self, exchange: Any) -> None:
        """Take a call whose head is here; its body may be."""
        memo = exchange.head.memo
        route = memo.get(_ROUTE)
        if route is None:
            route = memo[_ROUTE] = self._route(exchange.head)
        route(exchange)

    def _route(self, head: RequestHead) -> Callable[[Any], None]:
        if not is_grpc(head):
            return self.gateway.handle
        try:
            check_head(head)
        except PenstockError as error:
            return _refusing(error)
        path = head.path
        method = path[len(_PREFIX) :] if path.startswith(_PREFIX) else ""
        if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            return _RepositoryCall(self, head, method)
        if method == "ModelStatistics":
            return _StatisticsCall(self, head, method)
        if method == "ModelStreamInfer":
            return self._stream(head, method)
        if method in _MODEL_CALLS:
            return _ModelCall(self, head, method)
        if method in CALLS:
            return _OwnCall(self, method)
        if method in METHODS:
            own_call = _OwnCall(self, method)
            elsewhere = _ModelCall(self, head, method)

            def server_call(exchange: Any) -> None:
                # Under a service's own name its process answers for itself.
                named = by_host(head, self.gateway.table)[0] is not None
                (elsewhere if named else own_call)(exchange)

            return server_call
        return self._side(path, head)

    def _stream(self, head: RequestHead, method: str) -> Callable[[Any], None]:
        """A stream comes apart into its requests, which come here one by one."""
        one = _ModelCall(self, head, method)

        def stream(exchange: Any) -> None:
            if isinstance(exchange, StreamedCall):
                one(exchange)
            else:
                serve_stream_infer(exchange, self.handle, self.most)

        return stream

    def _side(self, path: str, head: RequestHead) -> Callable[[Any], None]:
        """Health and reflection, or what says that there is no such method."""
        table = self.gateway.table
        namespace = namespace_of(head)

        def state(name: str) -> bool | None:
            if self.draining or not table.filled:
                return False
            if not name:
                return True
            found = table.get(namespace, name)
            # A service that is asleep serves: a call wakes it.
            return None if found is None else not found.route.message

        found = side.find(path, state, lambda: [s.name for s in table.services(namespace)])
        return found or _refusing(Unsupported(f"There is no method {path[:200]} here."))


def _refusing(error: PenstockError) -> Callable[[Any], None]:
    lines = error_lines(error)
    return lambda exchange: reply(exchange, b"", b"", lines)


class _ModelCall:
    """Unary calls for a model, with one head."""

    __slots__ = ("_encoding", "_fields", "_front", "_head", "_method", "_plans", "_wanted")

    def __init__(self, front: GrpcFront, head: RequestHead, method: str) -> None:
        self._front = front
        self._head = head
        self._method = method
        self._fields = _MODEL_CALLS.get(method, ())
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
            forward = GrpcForward(front.gateway, exchange, plan, service, now)
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
            name = seldon.decode("latin-1").strip().removesuffix(".pipeline")
            name = name.removesuffix(".experiment")
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
            service = table.get(namespace, name)
            if service is None:
                if namespace != DEFAULT_NAMESPACE:
                    raise unknown_service(name, namespace)
                raise NotFound(
                    f"Model with name {name} does not exist.",
                    hint="No service in default serves it; `penstock get isvc -A` lists all.",
                )
        named = service
        if not self._method.startswith("Repository"):
            service = reached(head, service, table)
        choice = choose(head, service, named, tag)
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


def render_call(
    head: RequestHead, service: Service, size: int, more: tuple[bytes, bytes] | None = None
) -> bytes:
    """The head to send on; `more` is a field that takes the place of the client's."""
    lines = [
        f"POST {head.path} HTTP/1.1\r\nhost: {service.name}.{service.namespace}\r\n".encode()
    ]
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in head.headers
        if name not in HOP_BY_HOP and name not in _OWN_FIELDS and (more is None or name != more[0])
    ]
    if more is not None:
        lines.append(b"%b: %b\r\n" % more)
    lines.append(b"content-length: %d\r\n\r\n" % size)
    return b"".join(lines)


class _RepositoryCall(_ModelCall):
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
                forward = _GrpcLoad(front.gateway, exchange, plan, service, front.time())
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


class _StatisticsCall(_ModelCall):
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


class GrpcForward(Forward):
    """A call between its arrival and the end of its answer."""

    __slots__ = ("_status", "_trailers")

    def on_response(self, head: ResponseHead, body: Any) -> None:
        target = self.target
        assert target is not None  # noqa: S101 - a response comes from a replica of a target
        key = ("grpc", target.lines)
        known = head.memo.get(key)
        if known is None:
            known = head.memo[key] = _answer_of(head, target.lines)
        fields, trailers, status = known
        if body is not None:
            self.exchange.send(200, fields, body if status == 200 else b"", trailers)  # type: ignore[call-arg]
            self._finish(status)
            return
        self._started = True
        self._trailers = trailers
        self._status = status
        self.exchange.on_drain = self._resume_upstream
        self.exchange.start(200, fields)

    def on_data(self, data: Any) -> None:
        if self._status == 200:
            super().on_data(data)

    def on_end(self) -> None:
        self.exchange.end(self._trailers)  # type: ignore[call-arg]
        self._finish(self._status)

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        if self._started:
            self.exchange.abort()
        else:
            reply_error(self.exchange, exc)
        self._finish(exc.status)

    def expire(self) -> None:
        limit_s = self.deadline - self.since
        what = "was ready" if self.queued else "answered"
        hint = None
        if limit_s >= self.plan.timeout_s:
            hint = "spec.predictor.timeout raises the limit."
        self.fail(
            DeadlineExceeded(
                f"No replica of {self.service.key} {what} in {limit_s:g} s.", hint=hint
            )
        )


class _GrpcLoad(repository.Load, GrpcForward):
    __slots__ = ()

    def say_loaded(self) -> None:
        answer_kind = METHODS["RepositoryModelLoad"][1]
        reply_message(self.exchange, answer_kind(model_name=self.service.name, isLoaded=True))


def _answer_of(head: ResponseHead, own_lines: bytes) -> tuple[bytes, bytes, int]:
    """Header lines (ours among them), trailer lines and the HTTP status to count, for an answer."""
    fields = [CONTENT_TYPE]
    trailers = []
    for name, value in head.headers:
        line = b"%b: %b\r\n" % (name, value)
        if name in (b"grpc-status", b"grpc-message", b"grpc-status-details-bin"):
            trailers.append(line)
        elif name not in HOP_BY_HOP and name not in (
            b"content-type", b"grpc-accept-encoding", REVISION_HEADER,
        ):  # fmt: skip
            fields.append(line)
    fields.append(own_lines)
    status = head.get(b"grpc-status")
    if status is None:
        lines = from_http(head.status)
        return b"".join(fields), lines, _HTTP.get(read_status(lines)[0], 500)
    number = int(status) if status.isdigit() and len(status) < 4 else 2
    return b"".join(fields), b"".join(trailers), _HTTP.get(number, 500)


class _OwnCall:
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
                raise unknown_service(request.model_name, namespace)
        return gateway.calls.call(self._method, request)
