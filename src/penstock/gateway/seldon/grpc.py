"""Seldon V1's gRPC at the gateway: whom a call means, and calls for graphs.

Seldon's clients name the deployment in the metadata `seldon` and `namespace`; a service's own host name will
do as well. A call for a service goes to its process as it came. One for a graph is read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import InvalidInput, PenstockError, Unsupported
from penstock.gateway.graphs.answers import error_of
from penstock.gateway.grpc.calls import ModelCall
from penstock.gateway.learning import feedback
from penstock.gateway.proxy import internal
from penstock.gateway.resolve import Plan, by_header, by_host, namespace_of, unknown_service
from penstock.gateway.seldon.front import SeldonFront, SeldonRequest
from penstock.graphs import seldon as values
from penstock.graphs.values import Tensors, Value, tensors_of
from penstock.protocols.grpc import infer as grpc_infer
from penstock.protocols.grpc.seldon import (
    GRAPH_METADATA,
    METADATA,
    about_graph,
    about_model,
    asked_about,
    parse,
    to_proto,
    verb_of,
)
from penstock.protocols.grpc.wire import (
    INTERNAL,
    OK,
    error_lines,
    frame,
    reply,
    reply_error,
    reply_message,
    status_lines,
    unframe,
)
from penstock.protocols.seldon import new_puid
from penstock.protocols.seldon_message import ARRAY_KINDS, Feedback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.grpc.front import GrpcFront
    from penstock.gateway.table import Service
    from penstock.graphs.results import Result
    from penstock.http.head import RequestHead


class SeldonCall(ModelCall):
    """Calls of Seldon's services, with one head."""

    __slots__ = ()

    def __init__(self, front: GrpcFront, head: RequestHead) -> None:
        super().__init__(front, head, head.path)

    def _whole(self, exchange: Any) -> None:
        if self._method.endswith("/SendFeedback"):
            try:
                plan = self._plan("", len(exchange.body))
                service = plan.service
                if service is not None and service.graph is None and service.learner is not None:
                    message = unframe(exchange.body, self._encoding, self._front.most)
                    _reward(self._front.gateway, exchange, plan, service, message)
                    return
            except PenstockError as error:
                reply_error(exchange, error)
                return
        super()._whole(exchange)

    def _named(self) -> tuple[Service | None, str]:
        head, table = self._head, self._front.gateway.table
        model = head.get(b"seldon-model")
        if model is not None:
            return by_header(model, table, namespace_of(head)), ""
        deployment = head.get(b"seldon")
        if deployment is None:
            return by_host(head, table)
        name = deployment.decode("latin-1").strip()
        namespace = (head.get(b"namespace") or b"default").decode("latin-1").strip()
        service = table.get(namespace, name)
        if service is None:
            raise unknown_service(name, namespace, table)
        return service, ""

    def _plan(self, name: str, size: int) -> Plan:
        service, tag = self._named()
        if service is None:
            raise InvalidInput(
                "The call names no deployment.",
                hint="Set the metadata seldon and namespace, or call NAME.NAMESPACE as the authority.",
            )
        return self._plan_for(service, tag, size)


def handle_grpc(
    front: SeldonFront, exchange: Any, plan: Plan, service: Service, method: str, more: bytes
) -> bool:
    """Take a call for a graph; False for one that is as for any graph."""
    if method in ("ModelInfer", "ModelStreamInfer"):
        _begin(_InferCall(front, front.graphs.gateway, exchange, plan, service), more)
        return True
    verb = verb_of(method)
    if not verb:
        return False
    if verb == "send-feedback":
        _reward(front.graphs.gateway, exchange, plan, service, _message(exchange))
    elif verb in (METADATA, GRAPH_METADATA):
        _tell(front, exchange, verb)
    elif verb == "predict":
        _begin(_PredictCall(front, front.graphs.gateway, exchange, plan, service), more)
    else:
        raise Unsupported(f"{service.name} is a graph; {method} is for one of its units.")
    return True


def _tell(front: SeldonFront, exchange: Any, verb: str) -> None:
    """What the graph is, or one node of it. NotFound."""
    if verb == GRAPH_METADATA:
        made = about_graph(front.graph.name, front.nodes())
    else:
        made = about_model(front.node(asked_about(_message(exchange))))
    reply_message(exchange, made)


def _message(exchange: Any) -> Any:
    """The call's message, which is plain by now."""
    body = exchange.body
    return unframe(body if type(body) is bytes else bytes(body or b""), None, 1 << 31)


def _begin(call: _GraphCall, more: bytes) -> None:
    call.more = more
    call.gateway.active[call] = None
    try:
        call.begin()
    except Exception as exc:  # noqa: BLE001 - the call's border
        call.fail(exc if isinstance(exc, PenstockError) else internal(exc))


class _GraphCall(SeldonRequest):
    """A call for a graph between its arrival and the end of its answer."""

    __slots__ = ("gateway",)

    def __init__(
        self, front: SeldonFront, gateway: Gateway, exchange: Any, plan: Plan, service: Service
    ) -> None:
        super().__init__(front, gateway, exchange, plan, service, gateway.now())
        self.gateway = gateway
        self._speaks = False
        self._chosen = True
        self._puid = ""

    def begin(self) -> None:
        self._look()
        self._start(self.read())

    def _ended(self, result: Result) -> None:
        if self._execution is None:
            self._front.graphs.loop.call_soon(self._ended, result)
            return
        if self.done:
            return
        if result.value is None:
            self.fail(error_of(self.service.key, result))
            return
        try:
            shown: dict[str, str] = {}
            trace = self._show(shown)
            pieces = self.pieces(result.value, shown)
        except PenstockError as exc:
            self.fail(exc)
            return
        reply(self.exchange, pieces, self.more + self.rewardable(), OK + trace)
        self._finish(200)

    def pieces(self, value: Value, shown: Mapping[str, str]) -> Any:
        """The answer's message, framed; it has what is `shown`, too."""
        raise NotImplementedError

    def fail(self, exc: PenstockError) -> None:
        if not self.done:
            reply(self.exchange, b"", b"", error_lines(exc) + self._traced())
            self._finish(exc.status)


class _PredictCall(_GraphCall):
    """seldon.protos.Seldon/Predict"""

    __slots__ = ()

    def read(self) -> Value:
        given = parse("predict", _message(self.exchange))
        assert not isinstance(given, Feedback)  # noqa: S101 - by the verb
        return self.taken(given[0])

    def pieces(self, value: Value, shown: Mapping[str, str]) -> Any:
        self._identify()
        made = self.message(value)
        if shown:
            made.meta = {**made.meta, "tags": {**(made.meta.get("tags") or {}), **shown}}
        return frame(to_proto(made).SerializeToString())


class _InferCall(_GraphCall):
    """ModelInfer, which knows nothing of messages."""

    __slots__ = ()

    def read(self) -> Value:
        asked = self._asked = grpc_infer.decode_infer(_message(self.exchange), self.service.name)
        self._puid = new_puid()
        given = Tensors(asked.inputs, asked.datatypes, asked.id, asked.parameters)
        return values.of_tensors(given, {"puid": self._puid})

    def pieces(self, value: Value, shown: Mapping[str, str]) -> Any:
        asked = self._asked
        assert asked is not None  # noqa: S101 - set by `read`
        if not isinstance(value, Tensors):
            made = values.message(value)
            value = (
                Tensors({values.TENSOR: made.value})
                if made.kind in ARRAY_KINDS
                else tensors_of(value)
            )
        bare = Tensors(value.arrays, value.datatypes, value.id)
        response = self.response(bare)
        response.parameters.update(shown)
        return grpc_infer.encode_infer(response, asked)


class _AsRest:
    """A feedback's call as the REST request that it means, which is answered in JSON."""

    def __init__(self, exchange: Any, feedback: Feedback) -> None:
        self._exchange = exchange
        self.head = exchange.head
        self.body = msgspec.json.encode(feedback.document)

    @property
    def on_abort(self) -> Any:
        return self._exchange.on_abort

    @on_abort.setter
    def on_abort(self, callback: Any) -> None:
        self._exchange.on_abort = callback

    def send(self, status: int, headers: bytes, body: Any = b"") -> None:
        if status == 200:
            reply(self._exchange, frame(b""))
            return
        told = msgspec.json.decode(body)
        info = told["status"]["info"] if "status" in told else told.get("error", "")
        lines = status_lines(_FROM_HTTP.get(status, INTERNAL), info)
        reply(self._exchange, b"", b"", lines)


#: gRPC's status for a feedback that REST would have answered with one of HTTP.
_FROM_HTTP: Final = {400: 3, 404: 5, 409: 10, 501: 12, 502: 14, 503: 14, 504: 4}


def _reward(gateway: Gateway, exchange: Any, plan: Plan, service: Service, message: Any) -> None:
    """Take a feedback for a graph, or for whoever learns from it at the gateway."""
    found = parse("send-feedback", message)
    assert isinstance(found, Feedback)  # noqa: S101 - by the verb
    asked: Any = _AsRest(exchange, found)
    meant = Plan(service, b"", "grpc", plan.timeout_s, own="/api/v1.0/feedback")
    if gateway.learns:
        feedback.handle(asked, gateway, meant)
    else:
        service.graph.feedback(asked, meant, service)


__all__ = ["SeldonCall", "handle_grpc"]
