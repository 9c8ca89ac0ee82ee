"""Graphs in the gateway: a request for one runs here, its steps are forwarded from here.

A graph has no process of its own. Its route carries it; the first one that a gateway gets imports this
module. `requests` are the requests under way.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.graph import Answers, Graph, Splitter, Tensor
from penstock.domain.graph_reliance import answers_without
from penstock.errors import (
    NotFound,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock.gateway.graphs.answers import TRACE_HEADER, error_of
from penstock.gateway.graphs.calls import GatewayCaller, failure_of
from penstock.gateway.graphs.metrics import GraphMetrics
from penstock.gateway.graphs.requests import GraphRequest, GrpcGraphRequest
from penstock.gateway.inspected import INSPECT_HEADER
from penstock.gateway.proxy import internal, refuse
from penstock.gateway.resolve import HOP_BY_HOP, Plan
from penstock.graphs.batches import Batches
from penstock.graphs.calls import Context, Done, Under
from penstock.graphs.execution import Execution
from penstock.graphs.program import Program
from penstock.graphs.results import Result
from penstock.graphs.values import (
    Value,
)
from penstock.http.head import JSON_TYPE
from penstock.protocols import documents
from penstock.protocols.grpc.schema import METHODS
from penstock.protocols.grpc.wire import reply_message

if TYPE_CHECKING:
    import asyncio

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.graphs.external import Externals, Lineage, Listening
    from penstock.gateway.learning.graphs import SplitterBandits
    from penstock.gateway.table import Service
    from penstock.graphs.inspection import Inspector
    from penstock.http.head import RequestHead

logger = logging.getLogger(__name__)

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
    b"x-request-timeout-ms", b"seldon-model", TRACE_HEADER, INSPECT_HEADER,
}  # fmt: skip

_HEADERS: Final = "graph-headers"
_OF_MODELS: Final = ("/v1/models/", "/v2/models/", "/v2/pipelines/")
_PREDICTS: Final = re.compile(
    r"/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?:predict/?"
    r"|/v2/models/infer/?|/v2/(models|pipelines)/[^/]+(/versions/[^/]+)?/infer/?"
)
_METADATA: Final = re.compile(r"/v2/(models|pipelines)/[^/]+(/versions/[^/]+)?")


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
            from penstock.gateway.graphs.external import Externals

            self.externals = Externals(self)
        if self.externals is not None:
            self.externals.listen(front)
        return front

    def _make(self, graph: Graph) -> GraphFront:
        if graph.answers is Answers.SELDON_V1:
            from penstock.gateway.seldon.front import SeldonFront

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
        #: Answers have an `x-request-id`, and so do steps: the client's, or a new one.
        self.tells_ids = graph.answers is Answers.SELDON_V2
        #: The other graphs' values that it is run for.
        self.listening: Listening | None = None
        if graph.external is not None:
            from penstock.gateway.graphs.external import Listening

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
        inspector: Inspector | None = None,
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
            inspector=inspector,
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

    def check(self, path: str) -> None:
        """NotFound for a call of a model's that no graph has: a prediction would not be its answer."""
        if self.typed and path.startswith(_OF_MODELS) and not _PREDICTS.fullmatch(path):
            raise NotFound(
                f"A graph has no {path[:200]}.",
                hint="It is asked at /v2/models/NAME/infer and /v1/models/NAME:predict.",
            )

    # -- requests over HTTP -----------------------------------------------------------------------

    def handle(self, exchange: Any, plan: Plan, service: Service, more: bytes = b"") -> None:
        """Take a request for this graph; its body may be here. The answer has `more` header lines."""
        if exchange.head.method != "POST":
            if exchange.head.method in ("GET", "HEAD"):
                self._about(exchange, plan, service)
            else:
                allow = JSON_TYPE + b"allow: GET, HEAD, POST\r\n"
                exchange.send(405, allow, b'{"error":"A graph takes POST requests."}')
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
        """Services and graphs that are not here or cannot answer; none where it answers without them."""
        table = self.graphs.gateway.table
        found = {}
        for namespace, name in (*self.graph.services(), *self.graph.graphs()):
            service = table.get(namespace, name)
            if service is None:
                found[namespace, name] = f"{namespace}/{name} does not exist"
            elif service.route.message:
                message = f"{namespace}/{name} cannot answer: {service.route.message}"
                found[namespace, name] = message
        if not found or answers_without(self.graph, found):
            return []
        return list(found.values())

    def _about(self, exchange: Any, plan: Plan, service: Service) -> None:
        path = plan.own.rstrip("/")
        missing = self.missing()
        ready = not missing
        name = service.name
        status = 200 if ready else 503
        if path.startswith("/v2/models/") and path.endswith("/ready"):
            exchange.send(status, JSON_TYPE, documents.model_ready(name, ready))
        elif path.startswith("/v2/pipelines/") and path.endswith("/ready"):
            # Seldon's word for what a pipeline needs and is not there.
            exchange.send(200 if ready else 424, JSON_TYPE, documents.model_ready(name, ready))
        elif _METADATA.fullmatch(path):
            exchange.send(200, JSON_TYPE, self.metadata(name))
        elif path.startswith("/v1/models/") and path.count("/") == 3:
            exchange.send(status, JSON_TYPE, msgspec.json.encode({"name": name, "ready": ready}))
        elif path in ("", "/v2/health/ready", "/v2/health/live", "/readyz", "/healthz"):
            document: dict[str, Any] = {"name": name, "ready": ready}
            if missing:
                document["missing"] = missing
            live = path in ("/v2/health/live", "/healthz")
            exchange.send(200 if live else status, JSON_TYPE, msgspec.json.encode(document))
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
