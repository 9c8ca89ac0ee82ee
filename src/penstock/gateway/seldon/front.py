"""Graphs of Seldon V1 in the gateway: its protocol in and out, feedback, and what its clients ask about one.

The answer's meta is Seldon's engine's: the request's puid, tags and metrics as the units gave them, `routing`
(the child that each router chose) and `requestPath` (the services that were asked). Feedback goes the same
way (`walk`). V1 and V2 requests are taken too, and answered in their own shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.domain.graph import (
    Call,
    Graph,
    Verb,
    Wire,
)
from penstock.domain.routes import EXPLAINER
from penstock.errors import InvalidInput, NotFound, PenstockError, Unsupported
from penstock.gateway.choosing import TAGS
from penstock.gateway.components import explains
from penstock.gateway.graphs.answers import error_of
from penstock.gateway.graphs.front import GraphFront
from penstock.gateway.graphs.requests import GraphRequest
from penstock.gateway.proxy import internal, refuse
from penstock.gateway.resolve import EXPLAIN_PATHS
from penstock.gateway.seldon.errors import seldon_answer
from penstock.gateway.seldon.walk import Walk
from penstock.graphs import seldon as values
from penstock.graphs.calls import Context
from penstock.graphs.results import Result
from penstock.graphs.values import Body, Failure, Tensors, Value, tensors_of
from penstock.http.head import JSON_TYPE
from penstock.protocols import seldon_openapi
from penstock.protocols.content_coding import plain_body
from penstock.protocols.seldon import checked_puid, new_puid
from penstock.protocols.seldon_forms import decode_body
from penstock.protocols.seldon_message import (
    ARRAY_KINDS,
    Feedback,
    SeldonMessage,
    feedback_of,
    message_of,
)

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.resolve import Plan
    from penstock.gateway.table import Service
    from penstock.graphs.calls import Outcome
    from penstock.graphs.execution import Execution

PREDICTIONS: Final = frozenset(("/api/v1.0/predictions", "/api/v0.1/predictions", "/predict"))
OF_UNITS: Final = frozenset(("/transform-input", "/transform-output", "/route", "/aggregate"))
FEEDBACK: Final = frozenset(("/api/v1.0/feedback", "/api/v0.1/feedback", "/send-feedback"))
_encode = msgspec.json.Encoder().encode


class SeldonFront(GraphFront):
    """A Seldon V1 graph."""

    def __init__(self, graphs: Any, graph: Graph) -> None:
        super().__init__(graphs, graph)
        self.typed = True
        self.walk = Walk(graph)
        #: By name, once somebody has asked one of them.
        self._predictors: dict[str, SeldonFront] = {}

    def run(self, *arguments: Any, **options: Any) -> Execution:
        # What each step did is what the answer's meta is made of.
        return super().run(*arguments, **{**options, "trace": True})

    def request(
        self, gateway: Gateway, exchange: Any, plan: Plan, service: Service
    ) -> GraphRequest:
        return SeldonRequest(self, gateway, exchange, plan, service, gateway.now())

    def of(self, plan: Plan) -> SeldonFront:
        """What takes a plan's requests: the predictor that it names, whatever its share, or all of them."""
        predictor = plan.wanted
        if not predictor or plan.soft:
            return self
        if predictor == TAGS["prev"] and self.graph.flow(predictor) is None:
            predictor = "prev"  # a revision's tag, which may be a predictor's name, too
        found = self._predictors.get(predictor)
        if found is None:
            flow = self.graph.flow(predictor)
            if flow is None or flow.name.startswith(":"):
                known = ", ".join(f.name for f in self.graph.flows if not f.name.startswith(":"))
                raise NotFound(
                    f"{self.graph.key} has no predictor {predictor}.", hint=f"It has {known}."
                )
            alone = msgspec.structs.replace(self.graph, flows=(flow,))
            found = self._predictors[predictor] = SeldonFront(self.graphs, alone)
        return found

    def handle(self, exchange: Any, plan: Plan, service: Service, more: bytes = b"") -> None:
        self.of(plan)._take(exchange, plan, service, more)

    def check(self, path: str) -> None:
        if not explains(path):  # whoever asks for that is told of the explainer
            super().check(path)

    def _take(self, exchange: Any, plan: Plan, service: Service, more: bytes) -> None:
        path = plan.own.rstrip("/")
        if exchange.head.method != "POST":
            super().handle(exchange, plan, service, more)
        elif path in FEEDBACK:
            if exchange.body is None:
                exchange.gather(lambda whole: self.feedback(whole, plan, service))
            else:
                self.feedback(exchange, plan, service)
        elif explains(path) or path in EXPLAIN_PATHS:
            # Where there is an explainer, the request has gone there.
            _refuse(exchange, path, Unsupported(f"{service.name} has no explainer."))
        elif path in OF_UNITS:
            message = f"{service.name} is a graph; {path[1:]} is for one of its units."
            _refuse(exchange, path, Unsupported(message))
        elif path.startswith("/api/") and path not in PREDICTIONS:
            _refuse(exchange, path, NotFound(f"There is no {path}."))
        else:
            super().handle(exchange, plan, service, more)

    def feedback(self, exchange: Any, plan: Plan, service: Service) -> None:
        """Hand a feedback whose body is here on to the units that its answer came from."""
        FeedbackCall(self, exchange, plan, service).start()

    def handle_grpc(
        self, exchange: Any, plan: Plan, service: Service, method: str, more: bytes = b""
    ) -> None:
        from penstock.gateway.seldon.grpc import handle_grpc

        if not handle_grpc(self.of(plan), exchange, plan, service, method, more):
            super().handle_grpc(exchange, plan, service, method, more)

    def _about(self, exchange: Any, plan: Plan, service: Service) -> None:
        path = plan.own.rstrip("/")
        for prefix in ("/api/v1.0", "/api/v0.1"):
            path = path.removeprefix(prefix)
        missing = self.missing()
        status = 503 if missing else 200
        if path == "/live" or path == "/health/ping":
            exchange.send(200, b"content-type: text/plain\r\n", b"pong")
        elif path in ("/ready", "/health/status") or path.startswith("/status/"):
            document: dict[str, Any] = {"name": service.name, "ready": not missing}
            if missing:
                document["missing"] = missing
            exchange.send(status, JSON_TYPE, _encode(document))
        elif path == "/doc":
            exchange.send(200, seldon_openapi.PAGE_HEADERS, seldon_openapi.PAGE)
        elif path == "/doc/seldon.json":
            exchange.send(200, JSON_TYPE, _encode(self._document(plan, service)))
        elif path == "/metadata" or path.startswith("/metadata/"):
            self._metadata(exchange, path.removeprefix("/metadata").strip("/"))
        else:
            super()._about(exchange, plan, service)

    def _document(self, plan: Plan, service: Service) -> dict[str, Any]:
        abilities = {seldon_openapi.GRAPH, seldon_openapi.PREDICT, seldon_openapi.FEEDBACK}
        if self.graphs.gateway.table.component(service, EXPLAINER, plan.wanted) is not None:
            abilities.add(seldon_openapi.EXPLAIN)
        return seldon_openapi.document(service.name, abilities)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What each node is and which service runs it."""
        return {name: {"name": name, **about} for name, about in self.walk.nodes.items()}

    def node(self, name: str) -> dict[str, Any]:
        """What one node is. NotFound."""
        nodes = self.nodes()
        if name not in nodes:
            raise NotFound(f"There is no node {name}; there is {', '.join(nodes)}.")
        return nodes[name]

    def _metadata(self, exchange: Any, node: str) -> None:
        """The graph's nodes, or one of them: what it is and which service runs it."""
        if node:
            try:
                exchange.send(200, JSON_TYPE, _encode(self.node(node)))
            except NotFound as exc:
                exchange.send(*seldon_answer(exc))
            return
        document = {
            "name": self.graph.name,
            "models": self.nodes(),
            "graphinputs": [],
            "graphoutputs": [],
        }
        exchange.send(200, JSON_TYPE, _encode(document))


class SeldonRequest(GraphRequest):
    """A request for a Seldon V1 graph between its arrival and the end of its answer."""

    __slots__ = ("_chosen", "_puid", "_speaks")

    def read(self) -> Value:
        head = self.exchange.head
        self._speaks = self.plan.own.rstrip("/") in PREDICTIONS
        given = head.get(b"seldon-puid")
        self._puid = checked_puid(given.decode("latin-1")) if given else ""
        if self._speaks:
            body = plain_body(head, self.exchange.body)
            if not body:
                raise InvalidInput("The request has no body.")
            return self.taken(message_of(decode_body(body, head.get(b"content-type")), self._puid))
        value = super().read()
        self._chosen = bool(self._puid)
        self._puid = self._puid or new_puid()
        if isinstance(value, Body):
            value = tensors_of(value)
        assert isinstance(value, Tensors)  # noqa: S101 - the base reads one of the two
        return values.of_tensors(value, {"puid": self._puid})

    def taken(self, message: SeldonMessage) -> Value:
        """A client's message as the graph's value: its puid and tags go along."""
        self._speaks = True
        self._chosen = bool(message.meta.get("puid") or self._puid)
        self._puid = checked_puid(message.meta.get("puid") or self._puid or new_puid())
        kept: dict[str, Any] = {"puid": self._puid}
        if message.meta.get("tags"):
            kept["tags"] = message.meta["tags"]
        message.meta = kept
        return values.value_of(message)

    def _identify(self) -> None:
        """The puid by which bandits are rewarded: ours where the client gave none."""
        own = self._id()
        if own and self._chosen:
            self._gateway.bandits.know(self.service.key, self._puid, own)
        elif own:
            self._puid = own

    def message(self, value: Value) -> SeldonMessage:
        """The answer's message with all that is known of its way."""
        made = values.message(value)
        own = made.meta
        meta: dict[str, Any] = {"puid": self._puid}
        for key in ("tags", "metrics"):
            if own.get(key):
                meta[key] = own[key]
        front = self._front
        assert isinstance(front, SeldonFront)  # noqa: S101 - who makes these
        if self._execution is not None:
            meta |= front.walk.meta(self._execution)
        made.meta = meta
        return made

    def write(self, value: Value) -> tuple[int, bytes, Any]:
        if self._speaks:
            self._identify()
            headers = b"%bseldon-puid: %b\r\n" % (JSON_TYPE, self._puid.encode())
            return 200, headers, self.message(value).encoded()
        if not isinstance(value, Tensors):
            made = values.message(value)
            if made.kind in ARRAY_KINDS:
                value = Tensors({values.TENSOR: made.value})
            else:
                held = np.empty(1, dtype=object)
                held[0] = made.value
                value = Tensors({values.TENSOR: held})
        return super().write(Tensors(value.arrays, value.datatypes, value.id))

    def _ended(self, result: Result) -> None:
        if self._execution is None:
            # It asked nobody, and ended before it was known here; what it did is wanted for the answer.
            self._front.graphs.loop.call_soon(self._ended, result)
        elif self._speaks and not self.done and result.value is None:
            self._say(error_of(self.service.key, result))
        else:
            super()._ended(result)

    def fail(self, exc: PenstockError) -> None:
        if getattr(self, "_speaks", False) and not self.done:
            self._say(exc)
        else:
            super().fail(exc)

    def _say(self, error: PenstockError) -> None:
        """An error in Seldon's shape."""
        self._send(*seldon_answer(error))
        self._finish(error.status)


def _refuse(exchange: Any, path: str, error: PenstockError) -> None:
    """An error in the shape of the path's protocol."""
    if path.startswith("/api/") or path in OF_UNITS:
        exchange.send(*seldon_answer(error))
    else:
        refuse(exchange, error)


class FeedbackCall:
    """One feedback on its way to several units."""

    def __init__(self, front: SeldonFront, exchange: Any, plan: Plan, service: Service) -> None:
        self.exchange = exchange
        self._front = front
        self._plan = plan
        self._service = service
        self._over = False
        self._left = 0
        self._failed: list[Failure] = []

    def start(self) -> None:
        """Read it, and hand it on."""
        self.exchange.on_abort = self._forget
        try:
            self._begin(self.read())
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            self._end(exc if isinstance(exc, PenstockError) else internal(exc))

    def _forget(self) -> None:
        """The client is gone; what is under way reaches the units all the same."""
        self._over = True

    def read(self) -> Feedback:
        """What the body says. InvalidInput."""
        head = self.exchange.head
        body = plain_body(head, self.exchange.body)
        return feedback_of(decode_body(body, head.get(b"content-type")))

    def answer(self, error: PenstockError | None) -> None:
        """Tell the client."""
        if error is not None:
            self.exchange.send(*seldon_answer(error))
        else:
            self.exchange.send(200, JSON_TYPE, b'{"meta":{}}')

    def _begin(self, feedback: Feedback) -> None:
        graphs = self._front.graphs
        services = self._front.walk.learners(feedback.meta)
        self._left = len(services)
        if not services:
            self._end(None)
            return
        context = Context(
            self._service.namespace,
            graphs.gateway.now() + self._plan.timeout_s,
            self._front.headers(self.exchange.head),
        )
        value = Body.of(feedback.document)
        for name in services:
            call = Call(name, verb=Verb.SEND_FEEDBACK, wire=Wire.SELDON)
            graphs.caller.call(call, value, context, self._answered)

    def _answered(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failed.append(outcome)
        self._left -= 1
        if self._left:
            return
        if self._failed:
            failure = Failure(self._failed[0].status, "; ".join(f.message for f in self._failed))
            self._end(error_of(self._service.key, Result(failure=failure)))
        else:
            self._end(None)

    def _end(self, error: PenstockError | None) -> None:
        if not self._over:
            self._over = True
            self.answer(error)
