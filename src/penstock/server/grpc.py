"""The gRPC calls of a model process, over HTTP/1.1 from a gateway or over HTTP/2 on a port of its own.

ModelInfer goes the way of a V2 request: the same targets, batchers and counters, with messages instead of
JSON. The model's name is in the message, so a head leads to a `_Infer` that keeps a target per name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock import __version__
from penstock.errors import InvalidInput, PenstockError, Unavailable, Unsupported
from penstock.http.h2.exchange import H2Exchange
from penstock.http.server import Exchange, RequestHead
from penstock.protocols import triton
from penstock.protocols.grpc import side
from penstock.protocols.grpc.infer import decode_infer, encode_infer, parameters_of
from penstock.protocols.grpc.schema import METHODS, SERVICE, parse
from penstock.protocols.grpc.stream_infer import PATH as STREAM_PATH
from penstock.protocols.grpc.stream_infer import (
    STREAMED,
    serve_stream_infer,
    trailers_frame,
)
from penstock.protocols.grpc.wire import (
    CONTENT_TYPE,
    OK,
    check_head,
    error_lines,
    peek_strings,
    reply,
    reply_error,
    reply_message,
    timeout_s,
    unframe,
)
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.server.inference import V2Infer
from penstock.server.model_config import model_config
from penstock.server.repository import refuse_parameters

if TYPE_CHECKING:
    from penstock.server.application import Application

log = logging.getLogger(__name__)

#: Model names remembered per head; a server has few, so this is hardly ever full.
_MAX_TARGETS: Final = 64
_PREFIX: Final = f"/{SERVICE}/"


class GrpcInfer(V2Infer):
    """ModelInfer for one model, perhaps a version of it."""

    protocol = "grpc"

    def decode(self, exchange: Exchange) -> InferRequest:
        most = self.app.spec.max_body_bytes
        body = unframe(exchange.body or b"", self.head.get(b"grpc-encoding"), most)
        return decode_infer(body, self.name, self.model_version, self.app.calls.memory)

    # -- payload models

    def requested_s(self, exchange: Exchange) -> float | None:
        asked = getattr(exchange, "timeout", None)
        return self.timeout_s if asked is None else timeout_s(asked)

    def encode(self, request: InferRequest, response: InferResponse) -> tuple[bytes, Any]:
        return b"", encode_infer(response, request, self.classes)

    def send(self, exchange: Exchange, headers: bytes, body: Any) -> None:
        reply(exchange, body, headers)

    def send_error(self, exchange: Exchange, error: PenstockError) -> None:
        reply_error(exchange, error)

    @property
    def takes_streams(self) -> bool:
        return self.head.path == STREAM_PATH

    def stream_headers(self) -> bytes:
        return CONTENT_TYPE + OK + STREAMED

    def stream_piece(self, request: InferRequest, response: InferResponse) -> bytes:
        return b"".join(self.written(request, response)[1])

    def stream_end(self, error: PenstockError | None) -> bytes:
        return trailers_frame(OK if error is None else error_lines(error))


class GrpcCalls:
    """Routes of gRPC calls; `route(head)` leads to what answers."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def route(self, head: RequestHead) -> Callable[[Exchange], None]:
        """What answers calls with this head."""
        try:
            check_head(head)
        except PenstockError as error:
            return _refusing(error)
        path = head.path
        if path == f"{_PREFIX}ModelInfer":
            return _Infer(self._app, head)
        if path == STREAM_PATH:
            return self._stream(head)
        if path.startswith(_PREFIX) and path[len(_PREFIX) :] in METHODS:
            method = path[len(_PREFIX) :]
            if method in triton.CALLS:
                return _Method(method, partial(self._server_call, method))
            return _Method(method, getattr(self, method), self.run)
        if path.startswith("/seldon.protos."):
            # Its messages are a schema of their own, which most processes never need.
            from penstock.server.seldon_grpc import seldon_call

            return seldon_call(self._app, head) or self._side(path)
        return self._side(path)

    def _stream(self, head: RequestHead) -> Callable[[Exchange], None]:
        one = _Infer(self._app, head)

        def stream(exchange: Any) -> None:
            if isinstance(exchange, H2Exchange):
                serve_stream_infer(exchange, self._app, self._app.spec.max_body_bytes)
            else:  # one request of it, from here or from a gateway
                one(exchange)

        return stream

    def _side(self, path: str) -> Callable[[Exchange], None]:
        """Health and reflection, or what says that there is no such method."""
        app = self._app

        def state(name: str) -> bool | None:
            if app.draining:
                return False
            if not name:
                return app.repository.ready
            if name not in app.repository:
                return None
            try:
                app.repository.get(name)
            except PenstockError:
                return False
            return True

        found = side.find(path, state, app.repository.names)
        return found or _refusing(Unsupported(f"There is no method {path[:200]} here."))

    # -- the other methods of the inference service: request message in, response message out

    def _server_call(self, method: str, request: Any) -> Any:
        """Shared memory, logging, tracing."""
        if method == "TraceSetting" and request.model_name:
            self._app.repository.get(request.model_name)
        return self._app.calls.call(method, request)

    def ServerLive(self, request: Any) -> Any:
        return METHODS["ServerLive"][1](live=True)

    def ServerReady(self, request: Any) -> Any:
        ready = self._app.repository.ready and not self._app.draining
        return METHODS["ServerReady"][1](ready=ready)

    def ModelReady(self, request: Any) -> Any:
        try:
            self._app.repository.get(request.name, request.version or None)
        except Unavailable:
            return METHODS["ModelReady"][1](ready=False)
        return METHODS["ModelReady"][1](ready=True)

    def ServerMetadata(self, request: Any) -> Any:
        return METHODS["ServerMetadata"][1](
            name="penstock", version=__version__, extensions=self._app.extensions
        )

    def ModelMetadata(self, request: Any) -> Any:
        repository = self._app.repository
        runtime = repository.get(request.name, request.version or None).runtime
        answer = METHODS["ModelMetadata"][1](
            name=request.name,
            versions=[v for v in repository.versions(request.name) if v],
            platform=runtime.platform,
        )
        for into, specs in ((answer.inputs, runtime.inputs), (answer.outputs, runtime.outputs)):
            for spec in specs:
                into.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return answer

    def ModelConfig(self, request: Any) -> Any:
        loaded = self._app.repository.get(request.name, request.version or None)
        config = model_config(loaded)
        answer = METHODS["ModelConfig"][1]()
        into = answer.config
        into.name, into.platform, into.backend = config.name, config.platform, config.backend
        into.max_batch_size = config.max_batch_size
        if config.dynamic_batching is not msgspec.UNSET:
            batching = into.dynamic_batching
            batching.SetInParent()
            batching.max_queue_delay_microseconds = (
                config.dynamic_batching.max_queue_delay_microseconds
            )
        into.model_transaction_policy.decoupled = config.model_transaction_policy.decoupled
        for entries, tensors in ((into.input, config.input), (into.output, config.output)):
            for tensor in tensors:
                entries.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        return answer

    def ModelStatistics(self, request: Any) -> Any:
        repository = self._app.repository
        if not request.name:
            chosen = repository.loaded()
        elif request.version:
            chosen = [repository.get(request.name, request.version)]
        else:
            repository.get(request.name)
            chosen = list(repository.versions(request.name).values())
        answer = METHODS["ModelStatistics"][1]()
        for loaded in chosen:
            stats = loaded.statistics.document()
            line = answer.model_stats.add(
                name=stats.name,
                version=stats.version,
                last_inference=stats.last_inference,
                inference_count=stats.inference_count,
                execution_count=stats.execution_count,
            )
            for part in _PARTS:
                duration = getattr(stats.inference_stats, part)
                into = getattr(line.inference_stats, part)
                into.count, into.ns = duration.count, duration.ns
            for batch in stats.batch_stats:
                entry = line.batch_stats.add(batch_size=batch.batch_size)
                for part in _PARTS[3:]:
                    duration = getattr(batch, part)
                    into = getattr(entry, part)
                    into.count, into.ns = duration.count, duration.ns
        return answer

    def RepositoryIndex(self, request: Any) -> Any:
        answer = METHODS["RepositoryIndex"][1]()
        for entry in self._app.repository.index(ready_only=request.ready):
            answer.models.add(
                name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
            )
        return answer

    async def RepositoryModelLoad(self, request: Any) -> Any:
        name = changed_model(request)
        refuse_parameters(parameters_of(request.parameters))
        await self._app.repository.load(name)
        return METHODS["RepositoryModelLoad"][1](model_name=name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any) -> Any:
        # `unload_dependents` is what Triton's clients send; nothing depends on another model here.
        name = changed_model(request)
        await self._app.repository.unload(name)
        return METHODS["RepositoryModelUnload"][1](model_name=name, isUnloaded=True)

    def run(self, exchange: Any, change: Coroutine[Any, Any, Any]) -> None:
        """Answer when `change` is made. A client that hangs up does not undo it."""

        async def wait() -> None:
            try:
                reply_message(exchange, await change)
            except PenstockError as error:
                reply_error(exchange, error)
            except Exception:
                log.exception("a change of the repository failed")
                exchange.fault()

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_PARTS: Final = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def changed_model(request: Any) -> str:
    """The model a load or unload names: KServe has its name in the first field, Triton in the second."""
    name: str = request.model_name or request.repository_name
    if not name:
        raise InvalidInput("The call names no model.")
    return name


class _Method:
    """A unary method other than ModelInfer: request message in, response message out."""

    __slots__ = ("_answer", "_kind", "_run")

    def __init__(
        self,
        name: str,
        answer: Callable[[Any], Any],
        run: Callable[[Exchange, Coroutine[Any, Any, Any]], None] | None = None,
    ) -> None:
        self._kind = METHODS[name][0]
        self._answer = answer
        self._run = run

    def __call__(self, exchange: Exchange) -> None:
        exchange.gather(self._whole)

    def _whole(self, exchange: Exchange) -> None:
        encoding = exchange.head.get(b"grpc-encoding")
        try:
            body = unframe(exchange.body or b"", encoding, side.MOST_BYTES)
            answer = self._answer(parse(self._kind, body))
        except PenstockError as error:
            reply_error(exchange, error)
            return
        if self._run is not None and isinstance(answer, Coroutine):
            self._run(exchange, answer)
        else:
            reply_message(exchange, answer)


class _Infer:
    """ModelInfer calls with one head: a target for each model they name."""

    __slots__ = ("_app", "_encoding", "_head", "_meant", "_targets")

    def __init__(self, app: Application, head: RequestHead) -> None:
        self._app = app
        self._head = head
        self._encoding = head.get(b"grpc-encoding")
        #: The model that a gateway means, whatever the message names (an experiment's candidate).
        meant = head.get(b"x-penstock-model")
        self._meant = meant.decode("latin-1") if meant is not None else ""
        self._targets: dict[tuple[str, str], GrpcInfer] = {}

    def __call__(self, exchange: Exchange) -> None:
        if exchange.body is None:
            exchange.gather(self._whole)
        else:
            self._whole(exchange)

    def _whole(self, exchange: Exchange) -> None:
        body = exchange.body or b""
        try:
            if body[:1] == b"\0" and len(body) > 4:
                inner = memoryview(body)[5:]
            else:
                inner = memoryview(unframe(body, self._encoding, self._app.spec.max_body_bytes))
            names = peek_strings(inner, (1, 2))
            key = (names.get(1, ""), names.get(2, ""))
            if not key[0]:
                raise InvalidInput("The request names no model.")
        except PenstockError as error:
            reply_error(exchange, error)
            return
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            target = GrpcInfer(self._app, self._head, self._meant or key[0], key[1] or None)
            self._targets[key] = target
        target(exchange)


def _refusing(error: PenstockError) -> Callable[[Exchange], None]:
    lines = error_lines(error)
    return lambda exchange: reply(exchange, b"", b"", lines)
