"""A request for a graph, from its arrival to its answer: parsed once, written once.

It stands in the gateway's list of requests under way like any `Forward`, so its deadline, its count and the
client's hanging up are seen to in the same places.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.domain.graph import Answers
from penstock.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    PenstockError,
    Unsupported,
)
from penstock.gateway.graphs.answers import (
    TRACE_PARAMETER,
    error_of,
    failure_answer,
    of_step,
    trace_line,
    trace_of,
    wants_trace,
)
from penstock.gateway.graphs.calls import failure_of
from penstock.gateway.inspected import wants_values
from penstock.gateway.proxy import Forward, refuse
from penstock.gateway.resolve import Plan
from penstock.graphs.calls import Context
from penstock.graphs.encoding import message_in
from penstock.graphs.execution import Execution
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
from penstock.http.head import JSON_TYPE
from penstock.protocols import v1, v2
from penstock.protocols.classification import LABELS_HEADER
from penstock.protocols.content_coding import plain_body
from penstock.protocols.grpc import infer as grpc_infer
from penstock.protocols.grpc.wire import (
    OK,
    UNKNOWN,
    error_lines,
    reply,
    status_lines,
    unframe,
)
from penstock.protocols.infer import InferRequest, InferResponse

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.graphs.front import GraphFront
    from penstock.gateway.table import Service
    from penstock.graphs.inspection import Inspector

#: Ids of requests that came without one: where this process began to count.
_NUMBERS: Final = count(int.from_bytes(os.urandom(12), "big"))


def new_id() -> str:
    """An id for a request that has none, of as many characters as Seldon's."""
    return f"{next(_NUMBERS):024x}"[-24:]


class GraphRequest(Forward):
    """A request for a graph between its arrival and the end of its answer."""

    __slots__ = (
        "_asked", "_context", "_execution", "_front", "_given", "_inspector", "_own_id", "_request_id",
        "_trace", "more",
    )  # fmt: skip

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
        #: Writes down what passes the steps, where the client asked for it, and what it wrote of the request.
        self._inspector: Inspector | None = None
        self._given: Any = None
        self._context: Context | None = None
        self._own_id = ""
        #: What the answer's `x-request-id` says, where the dialect's users know one.
        self._request_id = ""
        #: Header lines that the answer has besides its own.
        self.more = b""

    def begin(self) -> None:
        """Read the body and start the graph."""
        self._look()
        self._start(self.read())

    def _look(self) -> None:
        """See whether the client wants to be told more than the answer. Forbidden."""
        head = self.exchange.head
        self._trace = wants_trace(head)
        asked = wants_values(head)
        if asked:
            self._inspector = self._inspecting().inspector_for(asked, self._front.graph)

    @staticmethod
    def _inspecting() -> Any:
        from penstock.gateway.graphs import inspecting

        return inspecting

    def _start(self, value: Value) -> None:
        front = self._front
        head = self.exchange.head
        headers = front.headers(head)
        asked_id = head.get(b"x-request-id")
        request_id = asked_id.decode("latin-1") if asked_id is not None else ""
        if front.tells_ids:
            if not request_id:
                request_id = new_id()
                headers += b"x-request-id: %b\r\n" % request_id.encode()
            self._request_id = request_id
        if self._classes():
            headers += b"%b: 1\r\n" % LABELS_HEADER
        context = Context(self.service.namespace, self.deadline, headers, request_id)
        context.client = self.exchange
        self._context = context
        # A graph that asks nobody ends before `run` is back.
        inspector = self._inspector
        if inspector is not None:
            self._given = inspector.look(value)
        execution = front.run(value, context, self._ended, trace=self._trace, inspector=inspector)
        self._execution = execution
        if self.done and not execution.over and not execution.answered:
            execution.cancel()

    def read(self) -> Value:
        """The request's value. InvalidInput."""
        head = self.exchange.head
        body = self.exchange.body
        data = body if type(body) is bytes else bytes(body or b"")
        if head.get(b"content-encoding") is not None:
            data = bytes(plain_body(head, data))
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
        if self._inspector is not None and self._execution is None:
            # It asked nobody, and ended before it was known here.
            self._front.graphs.loop.call_soon(self._ended, result)
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
        self._send(status, headers, body)
        self._finish(status)

    def _send(self, status: int, headers: bytes, body: Any) -> None:
        execution = self._execution
        if self._inspector is not None and execution is not None:
            made = self._inspecting().answer(execution, self._given, status, headers, body)
            headers, body = made
        headers = self._with_id(headers + self.more)
        self.exchange.send(status, headers + self._traced(), body)

    def _with_id(self, headers: bytes) -> bytes:
        # Where a bandit had a part in the answer, there is the id that it is rewarded by.
        if not self._request_id or b"x-request-id: " in headers:
            return headers
        return headers + b"x-request-id: %b\r\n" % self._request_id.encode("latin-1")

    @staticmethod
    def _learned() -> Any:
        from penstock.gateway.learning import graphs as learned_graphs

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

    def _show(self, parameters: dict[str, Any]) -> bytes:
        """Put what the client asked to be told into a gRPC answer's parameters; trailer lines with the trace.

        Parameters, because Triton's clients show no metadata, nor has a stream's request any.
        """
        execution = self._execution
        trace = b""
        if self._trace and execution is not None:
            text = parameters[TRACE_PARAMETER] = trace_of(execution)
            trace = trace_line(text)
        if self._inspector is not None and execution is not None:
            inspecting = self._inspecting()
            told = inspecting.document_of(execution, self._given, {})
            parameters[inspecting.INSPECT_PARAMETER] = told.decode()
        return trace

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
            return 200, JSON_TYPE, msgspec.json.encode(json_of(value))
        if asked is None and self.plan.protocol == "v1":
            return 200, JSON_TYPE, v1.encode_predictions(value.arrays)
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
            # What is asked for as classes takes their names from there.
            {n: dict(s) for n, s in value.said.items()} if self._classes() else said_of(value),
        )

    def _classes(self) -> bool:
        """Whether the client wants classes of an output."""
        asked = self._asked
        return (
            asked is not None
            and asked.outputs is not None
            and any(o.classes for o in asked.outputs)
        )

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        failure = failure_of(exc)
        failure.step = ""
        if isinstance(exc, InvalidInput | Forbidden):
            # The client's own body or wish, whatever the dialect: it never came to a step.
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
        # Where the caller set a shorter one, the graph's is of no use to it.
        own = limit_s > self.service.route.timeout_s * 0.999
        self.fail(
            DeadlineExceeded(
                f"The graph {self.service.key} did not answer within {limit_s:g} s.{where}",
                hint="spec.timeout raises the limit." if own else None,
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
        self._look()
        body = self.exchange.body
        message = unframe(body if type(body) is bytes else bytes(body or b""), None, 1 << 31)
        asked = self._asked = grpc_infer.decode_infer(message, self.service.name)
        self._start(of_request(asked))

    def _ended(self, result: Result) -> None:
        if self.done:
            return
        if result.value is None:
            failure = result.failure
            if failure is not None and self._front.graph.answers is Answers.SELDON_V2:
                text = of_step(failure)
                if text:
                    self._refuse(status_lines(UNKNOWN, text), 400)
                    return
            self.fail(error_of(self.service.key, result))
            return
        asked = self._asked
        assert asked is not None  # noqa: S101 - set by `begin`
        try:
            if isinstance(result.value, Body) and result.value.status >= 300:
                why = message_in(result.value, result.value.status)
                failure = Failure(result.value.status, f"The last step failed: {why}")
                self.fail(error_of(self.service.key, Result(failure=failure)))
                return
            response = self.response(self._tensors(result.value))
            trace = self._show(response.parameters)
            pieces = grpc_infer.encode_infer(response, asked)
        except PenstockError as exc:
            self.fail(exc)
            return
        reply(self.exchange, pieces, self._with_id(self.more + self.rewardable()), OK + trace)
        self._finish(200)

    def _tensors(self, value: Value) -> Tensors:
        """The answer's tensors. Unsupported: what has none is no mistake of the caller's."""
        try:
            return tensors_of(value)
        except InvalidInput:
            raise Unsupported(
                f"The graph {self.service.key} answered no tensors.",
                hint="Ask it over HTTP, or let its output merge tensors.",
            ) from None

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        self._refuse(error_lines(exc), exc.status)

    def _refuse(self, lines: bytes, status: int) -> None:
        reply(self.exchange, b"", b"", lines + self._traced())
        self._finish(status)
