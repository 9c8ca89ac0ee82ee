"""A prediction's way through the process: body to arrays, arrays to the batcher, rows to a response.

The hot path. One `Target` per distinct request head remembers everything that does not change from request
to request: the model, its batcher, the counters. A request itself costs a small `Call` object; no task, no
future. Models that take the payload as it is go through `payloads` instead.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput, ModelError, NotFound, PenstockError, Unsupported
from penstock.http.server import Exchange, RequestHead
from penstock.protocols.classification import LABELS_HEADER, told
from penstock.protocols.codecs import Coded, coded
from penstock.protocols.content_coding import coding_of
from penstock.protocols.deadlines import requested_timeout_s
from penstock.protocols.grpc.wire import decompress
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.v1 import (
    JSON_HEADERS,
    decode_arrays,
    decode_predict,
    encode_predictions,
    is_json,
)
from penstock.protocols.v2 import decode_infer, encode_infer, parse_header_length
from penstock.runtimes.base import ASKED, CallContext, PayloadRuntime, Runtime, TensorSpec
from penstock.server.batching import Batcher
from penstock.server.execution import Outputs
from penstock.server.loaded import Loaded
from penstock.server.pending import Pending
from penstock.server.replies import send_error

if TYPE_CHECKING:
    from penstock.server.application import Application

log = logging.getLogger(__name__)

#: Status under which a request is counted whose client went away; nobody gets to see it.
CLIENT_GONE = 499

#: Makes the response (header lines, body) of a model's outputs.
Shape = Callable[[Outputs], tuple[bytes, Any]]


class Target(ABC):
    """Where the requests with one head go: a model, perhaps a version, by one protocol."""

    #: V1 or V2, as metrics name it.
    protocol: str
    verb = "predict"

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        self.app = app
        self.head = head
        self.name = name
        self.version = version
        #: gzip or deflate, where the body is compressed.
        self.coding: bytes | None = None
        self.fault: PenstockError | None = None
        self.timeout_s: float | None = None
        try:
            self.coding = coding_of(head)
            self.timeout_s = requested_timeout_s(head)
        except PenstockError as error:
            self.fault = error
        #: A graph wants to know what classes are called.
        self.tells_labels = head.get(LABELS_HEADER) is not None
        self._generation = -1
        self._loaded: Loaded | None = None
        self._batcher: Batcher | None = None

    def __call__(self, exchange: Exchange) -> None:
        began = perf_counter()
        try:
            if self._generation != self.app.repository.generation or self._loaded is None:
                self._look_up()
            if self.coding is not None:
                most = self.app.spec.max_body_bytes
                exchange.body = decompress(exchange.body or b"", self.coding, most)
            batcher = self._batcher
            if batcher is None:
                self._to_payload_model(exchange, began)
            else:
                self.submit(exchange, batcher, began)
        except PenstockError as error:
            self.refuse(exchange, error, began)

    @abstractmethod
    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        """Decode the body and queue it. Raises PenstockError."""

    def _to_payload_model(self, exchange: Exchange, began: float) -> None:
        loaded = self.loaded
        if loaded.payload is None or self.verb not in loaded.payload.verbs:
            raise Unsupported(f"Model {self.name} has no {self.verb}.")
        self.app.payloads.take(self, loaded, exchange, began)

    @property
    def loaded(self) -> Loaded:
        """What serves. After `_look_up` only."""
        if self._loaded is None:
            raise NotFound(f"Model with name {self.name} does not exist.")
        return self._loaded

    def _look_up(self) -> None:
        if self.fault is not None:
            raise self.fault
        app = self.app
        loaded = app.repository.get(self.name, self.version)
        self._loaded = loaded
        self._batcher = loaded.batcher if self.verb == "predict" else None
        self._generation = app.repository.generation
        runtime = loaded.runtime
        self.model_version = loaded.version
        self.specs: Sequence[TensorSpec] = runtime.inputs
        #: What an array's dtype does not tell.
        learnt = runtime.datatypes if isinstance(runtime, Runtime) else None
        declared = {s.name: "BF16" for s in runtime.outputs if s.datatype == "BF16"}
        self.datatypes = declared if learnt is None else learnt
        self.signatures = runtime.signatures if isinstance(runtime, Runtime) else {}
        self.classes = loaded.classes
        #: What the model's configuration says its tensors stand for.
        self.content_types = runtime.content_types if isinstance(runtime, Runtime) else None
        self.answered = app.metrics.requests(self.name, self.protocol, 200)
        self.seconds = app.metrics.request_seconds(self.name, self.protocol)

    # -- payload models

    def payload(self, exchange: Exchange) -> Any:
        """What a model is given that takes the request as it is. Raises InvalidInput."""
        body = exchange.body
        if body is None:
            raise InvalidInput("The request has no body.")
        kind = getattr(exchange, "content_type", None) or exchange.head.get(b"content-type")
        if is_json(kind):
            return decode_predict(body)
        return bytes(body)

    async def ask(self, model: PayloadRuntime, payload: Any, context: CallContext) -> Any:
        """What that model answers."""
        return await model.call(payload, context)

    def requested_s(self, exchange: Exchange) -> float | None:
        """The caller's own deadline."""
        return self.timeout_s

    def answer(
        self, exchange: Exchange, request: InferRequest, response: InferResponse, extra: bytes
    ) -> None:
        """Send what a payload model answered; `extra` are further header lines."""
        headers, body = self.written(request, response)
        self.send(exchange, headers + extra, body)

    def written(self, request: InferRequest, response: InferResponse) -> tuple[bytes, Any]:
        """What `encode` makes of a model's own response, whatever is in it. PenstockError."""
        try:
            return self.encode(request, response)
        except PenstockError:
            raise
        except Exception:
            log.exception("the answer of model %s could not be encoded", self.name)
            raise unencodable(self.name) from None

    def encode(self, request: InferRequest, response: InferResponse) -> tuple[bytes, Any]:
        """(header lines, body) of an answer with tensors. PenstockError."""
        classes = self.classes
        if classes is not None and self.tells_labels:
            response = told(response, classes)
        headers, body = encode_infer(response, request, classes)
        return headers, body[0] if len(body) == 1 else body

    def send(self, exchange: Exchange, headers: bytes, body: Any) -> None:
        """Send a good answer."""
        exchange.send(200, headers, body)

    def send_error(self, exchange: Exchange, error: PenstockError) -> None:
        """An error in this protocol's shape."""
        send_error(exchange, error)

    @property
    def takes_streams(self) -> bool:
        """Whether a request may have any number of responses. Then the protocol says how they are written."""
        return False

    def stream_headers(self) -> bytes:
        """The header lines of a stream of responses."""
        raise NotImplementedError

    def stream_piece(self, request: InferRequest, response: InferResponse) -> bytes:
        """One response of a stream."""
        raise NotImplementedError

    def stream_end(self, error: PenstockError | None) -> bytes:
        """What ends a stream, well or not."""
        raise NotImplementedError

    # -- counting

    def refuse(self, exchange: Exchange, error: PenstockError, began: float) -> None:
        """Answer with an error, and count it."""
        self.send_error(exchange, error)
        self.count(error.status, began)

    def count(self, status: int, began: float) -> None:
        """Count a request that was not answered by the fast path."""
        # Names come from outside: only those that exist may become labels.
        name = self.name if self.name in self.app.repository else ""
        metrics = self.app.metrics
        metrics.requests(name, self.protocol, status).inc()
        metrics.request_seconds(name, self.protocol).observe(perf_counter() - began)


class Call(ABC):
    """One request between `submit` and its response."""

    __slots__ = ("began", "exchange", "pending", "target")

    #: None once it is answered or given up: nothing may refer to a request that is over.
    pending: Pending | None

    def __init__(self, target: Target, exchange: Exchange, began: float) -> None:
        self.target = target
        self.exchange = exchange
        self.began = began
        self.pending = None

    @abstractmethod
    def encode(self, outputs: Outputs) -> tuple[bytes, Any]:
        """(header lines, body) of the answer. PenstockError; what else is raised cannot be sent."""

    def aborted(self) -> None:
        """The client has gone: leave the queue."""
        pending = self.pending
        if pending is not None:
            self.pending = None
            pending.cancel()
            self.target.count(CLIENT_GONE, self.began)

    def failed(self, error: PenstockError) -> None:
        self.pending = None
        self.exchange.on_abort = None
        self.target.refuse(self.exchange, error, self.began)

    def done(self, outputs: Outputs | None, error: PenstockError | None) -> None:
        """The model has answered: what the batcher calls."""
        target = self.target
        if outputs is None or error is not None:
            self.failed(error or unanswered(target.name))
            return
        try:
            headers, body = self.encode(outputs)
        except PenstockError as fault:
            self.failed(fault)
            return
        except Exception:
            log.exception("the answer of model %s could not be encoded", target.name)
            self.failed(unencodable(target.name))
            return
        self.pending = None
        exchange = self.exchange
        exchange.on_abort = None
        target.send(exchange, headers, body)
        target.answered.value += 1
        target.seconds.observe(perf_counter() - self.began)


class V2Call(Call):
    """A call that is answered with the tensors asked for."""

    __slots__ = ("request",)

    def __init__(
        self, target: Target, exchange: Exchange, request: InferRequest, began: float
    ) -> None:
        super().__init__(target, exchange, began)
        self.request = request

    def encode(self, outputs: Outputs) -> tuple[bytes, Any]:
        target = self.target
        return target.encode(self.request, InferResponse(outputs, target.datatypes))


class V1Call(Call):
    """A call that is answered with predictions."""

    __slots__ = ()

    def encode(self, outputs: Outputs) -> tuple[bytes, Any]:
        return JSON_HEADERS, encode_predictions(outputs)


class ShapedCall(Call):
    """A call whose request says how its answer is written."""

    __slots__ = ("shape",)

    def __init__(self, target: Target, exchange: Exchange, shape: Shape, began: float) -> None:
        super().__init__(target, exchange, began)
        self.shape = shape

    def encode(self, outputs: Outputs) -> tuple[bytes, Any]:
        return self.shape(outputs)


class CodedCall(Call):
    """A call whose tensors have content types."""

    __slots__ = ("coded",)

    def __init__(self, target: V2Infer, exchange: Exchange, coded: Coded, began: float) -> None:
        super().__init__(target, exchange, began)
        self.coded = coded

    def encode(self, outputs: Outputs) -> tuple[bytes, Any]:
        target, coded = self.target, self.coded
        return target.encode(coded.request, coded.response(outputs, target.datatypes))


class V2Infer(Target):
    """POST /v2/models/M[/versions/V]/infer"""

    protocol = "v2"

    def __init__(self, app: Application, head: RequestHead, name: str, version: str | None) -> None:
        super().__init__(app, head, name, version)
        self._json_bytes = head.get(b"inference-header-content-length")

    def payload(self, exchange: Exchange) -> InferRequest:
        return self.decode(exchange)

    def decode(self, exchange: Exchange) -> InferRequest:
        body = exchange.body
        if body is None:
            raise InvalidInput("The request has no body.")
        asked = self._json_bytes
        length = None if asked is None else parse_header_length(asked, len(body))
        return decode_infer(
            body, length, self.name, self.model_version, self.specs, self.app.calls.memory
        )

    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        request = self.decode(exchange)
        limit = self.requested_s(exchange)
        parameters: Mapping[str, Any] = request.parameters
        if (
            request.input_parameters
            or parameters
            or request.outputs is not None
            or self.content_types is not None
        ):
            if self.take_coded(exchange, request, batcher, began, limit):
                return
            parameters = self.asking(request, parameters)
        call = V2Call(self, exchange, request, began)
        call.pending = batcher.submit(request.inputs, parameters, call.done, timeout_s=limit)
        exchange.on_abort = call.aborted

    def asking(self, request: InferRequest, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """`parameters`, and the outputs asked for where the model makes one of them on demand."""
        runtime = self.loaded.runtime
        if request.outputs is None or not isinstance(runtime, Runtime):
            return parameters
        names = tuple(o.name for o in request.outputs)
        declared = {s.name for s in runtime.outputs}
        # A name that is nobody's goes there too: the model alone knows what it could be asked for.
        if declared.issuperset(names) or not runtime.on_demand():
            return parameters
        return {**parameters, ASKED: names}

    def take_coded(
        self,
        exchange: Exchange,
        request: InferRequest,
        batcher: Batcher,
        began: float,
        timeout_s: float | None,
    ) -> bool:
        """Queue a request whose tensors have content types; false when they have none."""
        means = coded(request, self.content_types, self.specs)
        if means is None:
            return False
        call = CodedCall(self, exchange, means, began)
        call.pending = batcher.submit(
            means.inputs,
            self.asking(request, means.parameters),
            call.done,
            timeout_s=timeout_s,
        )
        exchange.on_abort = call.aborted
        return True


class V1Predict(Target):
    """POST /v1/models/M:predict"""

    protocol = "v1"

    def submit(self, exchange: Exchange, batcher: Batcher, began: float) -> None:
        body = exchange.body
        if body is None:
            raise InvalidInput("The request has no body.")
        decoded = decode_arrays(body, self.specs)
        call = V1Call(self, exchange, began)
        call.pending = batcher.submit(
            decoded.named(self.specs),
            decoded.parameters,
            call.done,
            timeout_s=self.timeout_s,
        )
        exchange.on_abort = call.aborted


class V1Explain(V1Predict):
    """POST /v1/models/M:explain"""

    verb = "explain"


class V2Explain(V2Infer):
    """POST /v2/models/M/explain"""

    verb = "explain"


#: Makes the target for a head; what a route's match leads to.
TargetType = Callable[["Application", RequestHead, str, str | None], Target]


def unencodable(name: str) -> ModelError:
    """For an answer that no protocol can carry."""
    return ModelError(
        f"Model {name} answered something that cannot be sent.",
        hint="The traceback is in the replica's log.",
    )


def unanswered(name: str) -> ModelError:
    return ModelError(f"Model {name} answered nothing.")
