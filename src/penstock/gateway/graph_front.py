"""Graphs in the gateway: a request for one is parsed once and runs here, its steps are forwarded from here.

A graph has no process of its own. Its route carries it; the first one that a gateway gets imports this
module. A `GraphRequest` stands in the gateway's list of requests under way like any
`Forward`, so its deadline, its count and the client's hanging up are seen to in the same places.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.graph import Answers, Graph, Splitter, Tensor
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock.gateway.graph_answers import (
    TRACE_HEADER,
    TRACE_PARAMETER,
    error_of,
    failure_answer,
    trace_line,
    trace_of,
    wants_trace,
)
from penstock.gateway.graph_calls import GatewayCaller, failure_of
from penstock.gateway.graph_metrics import GraphMetrics
from penstock.gateway.proxy import Forward, internal, refuse
from penstock.gateway.resolve import HOP_BY_HOP, Plan
from penstock.graphs.batches import Batches
from penstock.graphs.calls import Context, Done, Under
from penstock.graphs.execution import Execution
from penstock.graphs.program import Program
from penstock.graphs.results import Result
from penstock.graphs.values import (
    JSON,
    Body,
    Failure,
    Several,
    Tensors,
    Value,
    is_v2,
    json_of,
    of_request,
    said_of,
    tensors_of,
)
from penstock.protocols import documents, v1, v2
from penstock.protocols.grpc import infer as grpc_infer
from penstock.protocols.grpc.schema import METHODS
from penstock.protocols.grpc.wire import OK, error_lines, reply, reply_message, unframe
from penstock.protocols.infer import InferRequest, InferResponse

if TYPE_CHECKING:
    import asyncio

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.graph_external import Externals, Lineage, Listening
    from penstock.gateway.learned_graphs import SplitterBandits
    from penstock.gateway.table import Service
    from penstock.http.head import RequestHead

logger = logging.getLogger(__name__)

_JSON_LINE: Final = b"content-type: application/json\r\n"
#: V2's platform of every graph.
PLATFORM: Final = "penstock_graph"
#: How deep graphs may call each other as services.
MOST_DEPTH: Final = 16
#: Headers that go along to every step whatever the graph says: they tell which request this is.
_ALWAYS: Final = frozenset(
    (b"x-request-id", b"traceparent", b"tracestate", b"baggage", b"x-b3-traceid", b"x-b3-spanid",
     b"x-b3-sampled", b"x-b3-parentspanid", b"b3")
)  # fmt: skip
#: Headers that describe the client's own body or connection, never a step's.
_NEVER: Final = HOP_BY_HOP | {
    b"content-type", b"content-encoding", b"inference-header-content-length", b"accept-encoding",
    b"x-request-timeout-ms", b"seldon-model", TRACE_HEADER,
}  # fmt: skip

_HEADERS: Final = "graph-headers"


class Graphs:
    """What all graphs of a gateway share. Made with the first one."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.loop = loop
        self.metrics = GraphMetrics(gateway.registry)
        self.caller = GatewayCaller(gateway, loop, self._run_inside)
        #: Made with the first graph that is run for others' requests.
        self.externals: Externals | None = None
        #: Made with the first graph that has a splitter with a bandit.
        self.bandits: SplitterBandits | None = None

    def front(self, graph: Graph) -> GraphFront:
        """What takes requests for a graph."""
        front = self._make(graph)
        if graph.external is not None and self.externals is None:
            from penstock.gateway.graph_external import Externals

            self.externals = Externals(self)
        if self.externals is not None:
            self.externals.listen(front)
        return front

    def _make(self, graph: Graph) -> GraphFront:
        if graph.answers is Answers.SELDON_V1:
            from penstock.gateway.seldon_front import SeldonFront

            return SeldonFront(self, graph)
        return GraphFront(self, graph)

    def forget(self, graph: Graph) -> None:
        """A graph's route is gone."""
        self.metrics.forget(graph.namespace, graph.name)
        if self.externals is not None:
            self.externals.gone(graph.namespace, graph.name)

    def program(self, key: str) -> Program | None:
        """A graph by key, to be run inside of another."""
        service = self.gateway.table.by_key(key)
        if service is None or service.route.graph is None:
            return None
        program: Program = service.graph.program
        return program

    def _run_inside(self, service: Service, value: Value, context: Context, done: Done) -> Under:
        """A step names a graph as if it were a service."""
        front: GraphFront = service.graph
        if context.depth >= MOST_DEPTH:
            raise Unavailable(f"The graphs call each other more than {MOST_DEPTH} deep.")
        deadline = min(context.deadline, self.loop.time() + front.program.graph.timeout_s)
        inner = Context(
            service.namespace, deadline, context.headers, context.request_id, context.depth + 1
        )
        inner.client = context.client

        def ended(result: Result) -> None:
            for choice in inner.choices or ():
                context.chose(choice)
            if result.value is not None:
                done(result.value)
            else:
                done(result.failure or failure_of(error_of(service.key, result)))

        return front.run(value, inner, lambda result: self.loop.call_soon(ended, result))

    def close(self) -> None:
        if self.externals is not None:
            self.externals.close()
        self.caller.close()


class GraphFront:
    """One graph: takes its requests, and answers what is asked about it."""

    def __init__(self, graphs: Graphs, graph: Graph) -> None:
        self.graphs = graphs
        self.graph = graph
        self.program = Program(graph)
        batches = any(s.batch is not None for f in graph.flows for s in f.steps)
        self._batches = Batches(graphs.caller, graphs.loop) if batches else None
        #: It has a splitter with a bandit.
        self.learns = any(
            isinstance(s.action, Splitter) and s.action.bandit is not None
            for f in graph.flows
            for s in f.steps
        )
        #: The other graphs' values that it is run for.
        self.listening: Listening | None = None
        if graph.external is not None:
            from penstock.gateway.graph_external import Listening

            self.listening = Listening(graph.external)
        #: Values are tensors where the client's are; otherwise bodies go on as they come.
        self.typed = graph.answers in (Answers.PENSTOCK, Answers.SELDON_V2)

    # -- running ----------------------------------------------------------------------------------

    def run(
        self,
        value: Value,
        context: Context,
        done: Any,
        *,
        trace: bool = False,
        lineage: Lineage | None = None,
    ) -> Execution:
        """Start the graph on a value. `lineage` is the request that it is run beside, if it is."""
        externals = self.graphs.externals
        if externals is not None:
            lineage = lineage or externals.lineage(self, context)
        execution = Execution(
            self.program,
            value,
            self.graphs.caller,
            context,
            done,
            loop=self.graphs.loop,
            observer=self.graphs.metrics,
            batches=self._batches,
            programs=self.graphs.program,
            bandits=self.graphs.bandits,
            trace=trace,
        )
        if lineage is not None:
            lineage.follow(execution)
        execution.start()
        return execution

    def headers(self, head: RequestHead) -> bytes:
        """The client's header lines that go along to steps."""
        known: dict[str, bytes] = head.memo.setdefault(_HEADERS, {})
        lines = known.get(self.graph.key)
        if lines is None:
            wanted = self.program.propagated
            lines = known[self.graph.key] = b"".join(
                b"%b: %b\r\n" % (name, value)
                for name, value in head.headers
                if name in _ALWAYS or (name not in _NEVER and wanted(name.decode("latin-1")))
            )
        return lines

    # -- requests over HTTP -----------------------------------------------------------------------

    def handle(self, exchange: Any, plan: Plan, service: Service, more: bytes = b"") -> None:
        """Take a request for this graph; its body may be here. The answer has `more` header lines."""
        if exchange.head.method != "POST":
            self._about(exchange, plan, service)
        elif exchange.body is None:
            exchange.gather(lambda whole: self._whole(whole, plan, service, more))
        else:
            self._whole(exchange, plan, service, more)

    def request(
        self, gateway: Gateway, exchange: Any, plan: Plan, service: Service
    ) -> GraphRequest:
        """What carries a request from its arrival to its answer."""
        return GraphRequest(self, gateway, exchange, plan, service, gateway.now())

    def _whole(self, exchange: Any, plan: Plan, service: Service, more: bytes) -> None:
        request: GraphRequest | None = None
        gateway = self.graphs.gateway
        try:
            request = self.request(gateway, exchange, plan, service)
            request.more = more
            gateway.active[request] = None
            request.begin()
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            error = exc if isinstance(exc, PenstockError) else internal(exc)
            if request is None:
                refuse(exchange, error)
            else:
                request.fail(error)

    def handle_grpc(
        self, exchange: Any, plan: Plan, service: Service, method: str, more: bytes = b""
    ) -> None:
        """Take a gRPC call about this graph, its message all here. The answer has `more` header lines."""
        gateway = self.graphs.gateway
        if method in ("ModelInfer", "ModelStreamInfer"):  # one request of a stream is one of these
            call = GrpcGraphRequest(self, gateway, exchange, plan, service, gateway.now())
            call.more = more
            gateway.active[call] = None
            try:
                call.begin()
            except Exception as exc:  # noqa: BLE001 - the call's border
                call.fail(exc if isinstance(exc, PenstockError) else internal(exc))
            return
        if method == "ModelReady":
            reply_message(exchange, METHODS[method][1](ready=not self.missing()))
        elif method == "ModelMetadata":
            answer = METHODS[method][1](name=service.name, platform=PLATFORM)
            for tensor in self.graph.flows[0].inputs or ():
                answer.inputs.add(**_declared(tensor))
            reply_message(exchange, answer)
        else:
            raise Unsupported(f"{service.name} is a graph; {method} is not possible for one.")

    # -- what is asked about it -------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Services and graphs that this one needs and that are not here or cannot answer."""
        table = self.graphs.gateway.table
        found = []
        for namespace, name in (*self.graph.services(), *self.graph.graphs()):
            service = table.get(namespace, name)
            if service is None:
                found.append(f"{namespace}/{name} does not exist")
            elif service.route.message:
                found.append(f"{namespace}/{name} cannot answer: {service.route.message}")
        return found

    def _about(self, exchange: Any, plan: Plan, service: Service) -> None:
        path = plan.own.rstrip("/")
        missing = self.missing()
        ready = not missing
        name = service.name
        status = 200 if ready else 503
        if path.startswith("/v2/models/") and path.endswith("/ready"):
            exchange.send(status, _JSON_LINE, documents.model_ready(name, ready))
        elif path.startswith("/v2/pipelines/") and path.endswith("/ready"):
            # Seldon's word for what a pipeline needs and is not there.
            exchange.send(200 if ready else 424, _JSON_LINE, documents.model_ready(name, ready))
        elif path.startswith(("/v2/models/", "/v2/pipelines/")) and path.count("/") == 3:
            exchange.send(200, _JSON_LINE, self.metadata(name))
        elif path.startswith("/v1/models/") and path.count("/") == 3:
            exchange.send(status, _JSON_LINE, msgspec.json.encode({"name": name, "ready": ready}))
        elif path in ("", "/v2/health/ready", "/v2/health/live", "/readyz", "/healthz"):
            document: dict[str, Any] = {"name": name, "ready": ready}
            if missing:
                document["missing"] = missing
            live = path in ("/v2/health/live", "/healthz")
            exchange.send(200 if live else status, _JSON_LINE, msgspec.json.encode(document))
        else:
            refuse(exchange, NotFound("No such path.", hint="A graph takes POST requests."))

    def metadata(self, name: str) -> bytes:
        """V2's model metadata."""
        entry = self.graph.flows[0]
        return msgspec.json.encode(
            {
                "name": name,
                "versions": [],
                "platform": PLATFORM,
                "inputs": [_declared(t) for t in entry.inputs or ()],
                "outputs": [],
            }
        )


def _declared(tensor: Tensor) -> dict[str, Any]:
    shape = [-1] if tensor.shape is None else list(tensor.shape)
    return {"name": tensor.name, "datatype": tensor.datatype or "FP32", "shape": shape}


class GraphRequest(Forward):
    """A request for a graph between its arrival and the end of its answer."""

    __slots__ = ("_asked", "_context", "_execution", "_front", "_own_id", "_trace", "more")

    def __init__(
        self,
        front: GraphFront,
        gateway: Gateway,
        exchange: Any,
        plan: Plan,
        service: Service,
        now: float,
    ) -> None:
        super().__init__(gateway, exchange, plan, service, now)
        self._front = front
        self._execution: Execution | None = None
        #: The request in V2's terms, where the client spoke so.
        self._asked: InferRequest | None = None
        self._trace = False
        self._context: Context | None = None
        self._own_id = ""
        #: Header lines that the answer has besides its own.
        self.more = b""

    def begin(self) -> None:
        """Read the body and start the graph."""
        self._trace = wants_trace(self.exchange.head)
        self._start(self.read())

    def _start(self, value: Value) -> None:
        front = self._front
        head = self.exchange.head
        asked_id = head.get(b"x-request-id")
        context = Context(
            self.service.namespace,
            self.deadline,
            front.headers(head),
            asked_id.decode("latin-1") if asked_id is not None else "",
        )
        context.client = self.exchange
        self._context = context
        # A graph that asks nobody ends before `run` is back.
        execution = front.run(value, context, self._ended, trace=self._trace)
        self._execution = execution
        if self.done and not execution.over and not execution.answered:
            execution.cancel()

    def read(self) -> Value:
        """The request's value. InvalidInput."""
        head = self.exchange.head
        body = self.exchange.body
        data = body if type(body) is bytes else bytes(body or b"")
        length = v2.parse_header_length(head.get(b"inference-header-content-length"), len(data))
        content_type = head.get(b"content-type") or JSON
        whole = Body(data, JSON if v1.is_json(content_type) else content_type)
        if length is not None or (self._front.typed and (self._to_infer() or is_v2(whole))):
            asked = self._asked = v2.decode_infer(data, length, self.service.name)
            return of_request(asked)
        return whole

    def _to_infer(self) -> bool:
        path = self.plan.own
        return path.startswith("/v2/") and path.rstrip("/").endswith("/infer")

    # -- ends -------------------------------------------------------------------------------------

    def _ended(self, result: Result) -> None:
        if self.done:
            return
        try:
            if result.value is None:
                status, headers, body = failure_answer(
                    self.service.key, self._front.graph.answers, result
                )
                self._answer(status, headers, body)
            else:
                self._answer(*self.write(result.value))
        except PenstockError as exc:
            self.fail(exc)

    def _answer(self, status: int, headers: bytes, body: Any) -> None:
        if status < 300 and self._context is not None and self._context.choices:
            if self.plan.protocol == "v2" and not isinstance(body, list):
                headers, body = self._learned().identified(
                    self._gateway, self.service.key, headers, body, self._id()
                )
            headers += self.rewardable()
        self.exchange.send(status, headers + self.more + self._traced(), body)
        self._finish(status)

    @staticmethod
    def _learned() -> Any:
        from penstock.gateway import learned_graphs

        return learned_graphs

    def _id(self) -> str:
        """The id by which this request's bandits can be rewarded; empty where there was none."""
        context = self._context
        if not self._own_id and context is not None and context.choices:
            self._own_id = self._learned().new_id(self._gateway, context.choices)
        return self._own_id

    def rewardable(self) -> bytes:
        """Header lines that tell the arms and the id, where there are any."""
        own = self._id()
        context = self._context
        if not own or context is None:
            return b""
        asked = self._asked.id if self._asked is not None else None
        lines: bytes = self._learned().told(
            self._gateway, self.service.key, self.exchange.head, context.choices, own, asked
        )
        return lines

    def _traced(self) -> bytes:
        execution = self._execution
        if not self._trace or execution is None:
            return b""
        return trace_line(trace_of(execution))

    def write(self, value: Value) -> tuple[int, bytes, Any]:
        """Status, header lines and body of an answer."""
        asked = self._asked
        if isinstance(value, Body):
            if asked is not None and not is_v2(value) and self._front.typed and value.status < 300:
                try:
                    value = tensors_of(value)
                except PenstockError:
                    pass  # what has no tensors goes as it is
            if isinstance(value, Body):
                return value.status, b"content-type: %b\r\n" % value.content_type, value.data
        if isinstance(value, Several):
            return 200, _JSON_LINE, msgspec.json.encode(json_of(value))
        if asked is None and self.plan.protocol == "v1":
            return 200, _JSON_LINE, v1.encode_predictions(value.arrays)
        headers, pieces = v2.encode_infer(self.response(value), asked or InferRequest({}))
        return 200, headers, pieces

    def response(self, value: Tensors) -> InferResponse:
        asked = self._asked
        identity = asked.id if asked is not None and asked.id is not None else value.id
        if identity is None:
            identity = self._id() or None
        return InferResponse(
            dict(value.arrays),
            dict(value.datatypes),
            self.service.name,
            "",
            identity,
            dict(value.parameters),
            said_of(value),
        )

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        failure = failure_of(exc)
        failure.step = ""
        if isinstance(exc, InvalidInput):
            # The client's own body, whatever the dialect: it never came to a step.
            refuse(self.exchange, exc)
            self._finish(exc.status)
            return
        result = Result(failure=failure)
        self._answer(*failure_answer(self.service.key, self._front.graph.answers, result))

    def expire(self) -> None:
        execution = self._execution
        steps = execution.running() if execution is not None else []
        where = f" Under way: {', '.join(steps[:8])}." if steps else ""
        limit_s = self.deadline - self.since
        self.fail(
            DeadlineExceeded(
                f"The graph {self.service.key} did not answer within {limit_s:g} s.{where}",
                hint="spec.timeout raises the limit.",
            )
        )

    def service_gone(self) -> None:
        """The graph was deleted: what is under way goes on."""

    def _finish(self, status: int) -> None:
        super()._finish(status)
        execution = self._execution
        # Once it has answered, steps beside the output may go on.
        if execution is not None and not execution.answered:
            execution.cancel()


class GrpcGraphRequest(GraphRequest):
    """The same for a gRPC call."""

    __slots__ = ()

    def begin(self) -> None:
        exchange = self.exchange
        self._trace = wants_trace(exchange.head)
        body = exchange.body
        message = unframe(body if type(body) is bytes else bytes(body or b""), None, 1 << 31)
        asked = self._asked = grpc_infer.decode_infer(message, self.service.name)
        self._start(of_request(asked))

    def _ended(self, result: Result) -> None:
        if self.done:
            return
        if result.value is None:
            self.fail(error_of(self.service.key, result))
            return
        asked = self._asked
        assert asked is not None  # noqa: S101 - set by `begin`
        try:
            if isinstance(result.value, Body) and result.value.status >= 300:
                failure = Failure(result.value.status, "The last step failed.")
                self.fail(error_of(self.service.key, Result(failure=failure)))
                return
            response = self.response(tensors_of(result.value))
            trace = b""
            if self._trace and self._execution is not None:
                # A parameter, because Triton's clients show no metadata, nor has a stream's request any.
                text = response.parameters[TRACE_PARAMETER] = trace_of(self._execution)
                trace = trace_line(text)
            pieces = grpc_infer.encode_infer(response, asked)
        except PenstockError as exc:
            self.fail(exc)
            return
        reply(self.exchange, pieces, self.more + self.rewardable(), OK + trace)
        self._finish(200)

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        reply(self.exchange, b"", b"", error_lines(exc) + self._traced())
        self._finish(exc.status)
