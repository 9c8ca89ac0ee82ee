"""What the model process answers, by path: the V1 and V2 endpoints, the repository's, and metrics.

A head's route is found once and kept with the head (heads are cached objects), so routing a repeated
request is one look-up. Predictions go on in `inference`, everything else is answered here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import msgspec

from penstock import __version__
from penstock.domain.process import ProcessSpec
from penstock.errors import InvalidInput, NotFound, PenstockError, Unavailable, Unsupported
from penstock.http.mux import connection as mux
from penstock.http.mux.frames import PATH as MUX_PATH
from penstock.http.server import Exchange, HttpServer, RequestHead
from penstock.observe.log_settings import LogSettings
from penstock.observe.metrics import render
from penstock.protocols import documents, openapi, tfserving
from penstock.protocols.cloudevents import is_event
from penstock.protocols.grpc.wire import is_grpc
from penstock.protocols.json_object import json_object
from penstock.protocols.seldon_forms import may_be_in_query
from penstock.protocols.shared_memory import SharedMemory
from penstock.protocols.triton import ServerCalls, trace_settings
from penstock.runtimes.base import PayloadRuntime, Runtime
from penstock.server import compression
from penstock.server.compression import CompressingTarget
from penstock.server.events import EventTarget
from penstock.server.examples import Classify, Regress, TensorflowPredict
from penstock.server.grpc import GrpcCalls
from penstock.server.inference import TargetType, V1Explain, V2Explain, V2Infer
from penstock.server.memory import PrivateMemory
from penstock.server.model_config import model_config
from penstock.server.other_protocols import MlflowInvocation
from penstock.server.paths import Paths
from penstock.server.payloads import Payloads
from penstock.server.replies import PROMETHEUS, send_error, send_json, send_not_allowed
from penstock.server.repository import Repository, refuse_parameters
from penstock.server.seldon import SeldonPredict, SeldonVerb
from penstock.server.seldon_pages import SeldonPages
from penstock.server.statistics import Metrics
from penstock.server.versions import LABEL

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Exchange], None]
_ROUTE: Final = "route"
_encode = msgspec.json.Encoder().encode

_NAME: Final = r"([^/:]+)"
_MODEL: Final = rf"/v2/models/{_NAME}(?:/versions/([^/]+))?"
#: TensorFlow Serving's other way to say a version.
_LABELLED: Final = re.compile(r"^(/v1/models/[^/:]+)/labels/([^/:]+)")
#: What every path stands for: the target of a prediction, or the methods allowed and the name of the page
#: that answers with the path's parts. Made here, once in a zygote and not in each of its children.
_PATHS: Final = Paths[TargetType | tuple[str, str]](
    (
        (rf"{_MODEL}/infer", V2Infer),
        (rf"{_MODEL}/explain", V2Explain),
        (rf"/v1/models/{_NAME}(?:/versions/([^/:]+))?:predict", TensorflowPredict),
        (rf"/v1/models/{_NAME}:explain", V1Explain),
        (rf"/v1/models/{_NAME}(?:/versions/([^/:]+))?:classify", Classify),
        (rf"/v1/models/{_NAME}(?:/versions/([^/:]+))?:regress", Regress),
        (r"/api/v(?:1\.0|0\.1)/predictions|/predict", SeldonPredict),
        (r"/api/v(?:1\.0|0\.1)/(feedback)", SeldonVerb),
        (r"/(transform-input|transform-output|route|aggregate|send-feedback)", SeldonVerb),
        (r"/invocations", MlflowInvocation),
        (r"/", ("GET", "_alive")),
        (r"/v1/models", ("GET", "_models")),
        (rf"/v1/models/{_NAME}", ("GET", "_v1_model")),
        (rf"/v1/models/{_NAME}/versions/([^/:]+)", ("GET", "_tensorflow_status")),
        (rf"/v1/models/{_NAME}/metadata", ("GET", "_tensorflow_metadata")),
        (rf"/v1/models/{_NAME}/versions/([^/:]+)/metadata", ("GET", "_tensorflow_metadata")),
        (r"(?:/api/v(?:1\.0|0\.1))?/(health/(?:status|ping)|metadata)", ("GET", "_seldon")),
        (r"/api/v(?:1\.0|0\.1)/(metadata|status)/([^/]+)", ("GET", "_seldon")),
        (r"/api/v(?:1\.0|0\.1)/(doc(?:/seldon\.json)?)", ("GET", "_seldon")),
        (r"/live", ("GET", "_live")),
        (r"/ping|/health|/ready", ("GET", "_ready")),
        (r"/version", ("GET", "_version")),
        (r"/v2", ("GET", "_server")),
        (r"/v2/health/live", ("GET", "_live")),
        (r"/v2/health/ready", ("GET", "_ready")),
        (r"/v2/openapi\.json|/v2/docs/dataplane\.json", ("GET", "_openapi")),
        (r"/v2/models", ("GET", "_models")),
        (r"/v2/models/stats", ("GET", "_all_statistics")),
        (_MODEL, ("GET", "_model")),
        (rf"{_MODEL}/ready", ("GET", "_model_ready")),
        (rf"{_MODEL}/stats", ("GET", "_statistics")),
        (rf"{_MODEL}/config", ("GET", "_config")),
        (rf"{_MODEL}/trace/setting", ("GET, POST", "_trace")),
        (r"/v2/repository/index", ("POST", "_index")),
        (rf"/v2/repository/models/{_NAME}/load", ("POST", "_load")),
        (rf"/v2/repository/models/{_NAME}/unload", ("POST", "_unload")),
        (re.escape(MUX_PATH), ("GET", "_mux")),
        (r"/metrics", ("GET", "_metrics_text")),
        (r"/metrics\.json", ("GET", "_metrics_json")),
    )
)


class Application:
    """The handler of a model process's HTTP server."""

    def __init__(self, spec: ProcessSpec, repository: Repository, metrics: Metrics) -> None:
        self.spec = spec
        self.repository = repository
        self.metrics = metrics
        folder = Path(spec.shared_memory) if spec.shared_memory else None
        #: Shared memory, logging, tracing.
        self.calls = ServerCalls(SharedMemory(folder, most=spec.max_body_bytes), LogSettings())
        self.payloads = Payloads(self)
        self.grpc = GrpcCalls(self)
        self.seldon = SeldonPages(self)
        #: Whose connections may be upgraded; None where nobody comes by HTTP/1.
        self.server: HttpServer | None = None
        #: True from SIGTERM on: health says not ready, requests under way are answered.
        self.draining = False
        self._memory = PrivateMemory()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        memo = exchange.head.memo
        route: Handler | None = memo.get(_ROUTE)
        if route is None:
            route = memo[_ROUTE] = self._route(exchange.head)
        route(exchange)

    def streamed(self, exchange: Exchange) -> None:
        """For a server that calls its handler at the head: all but gRPC wants whole bodies."""
        if exchange.body is None and not is_grpc(exchange.head):
            exchange.gather(self)
        else:
            self(exchange)

    def _route(self, head: RequestHead) -> Handler:
        if is_grpc(head):
            return self.grpc.route(head)
        path = head.path
        if len(path) > 1 and path.endswith("/"):
            path = path[:-1]
        path = _LABELLED.sub(rf"\1/versions/{LABEL}\2", path)
        found = _PATHS.find(path)
        if found is not None:
            stands_for, groups = found
            parts = [unquote(g) if g else None for g in groups]
            if isinstance(stands_for, tuple):
                allow, name_of_page = stands_for
                methods = ("GET", "HEAD") if allow == "GET" else allow.split(", ")
                if head.method not in methods:
                    return partial(send_not_allowed, allow=", ".join(methods))
                return partial(self._page, getattr(self, name_of_page), parts)
            return self._target(stands_for, head, parts)
        allowed = self.calls.methods(path)
        if allowed:
            if head.method not in allowed:
                return partial(send_not_allowed, allow=", ".join(allowed))
            return partial(self._page, self._server_call, [path])
        nothing = NotFound("There is nothing at this path.", hint=documents.MODELS_ARE_AT)
        return partial(send_error, error=nothing)

    def _target(self, target: TargetType, head: RequestHead, parts: list[str | None]) -> Handler:
        explains = target in (V1Explain, V2Explain)
        if explains and head.method in ("GET", "HEAD"):
            return partial(self._page, self._explainer, parts[:1])
        # Seldon's wrapper takes a message in the query of a GET.
        asks = target in (SeldonPredict, SeldonVerb) and may_be_in_query(head.path, head.query)
        if head.method != "POST" and not (asks and head.method == "GET"):
            return partial(send_not_allowed, allow="GET, POST" if explains else "POST")
        name, version = (*parts, None, None)[:2]
        found = target(self, head, name or "", version)
        handler: Handler = EventTarget(found) if is_event(head.headers) else found
        coding = compression.wanted(head)
        return handler if coding is None else CompressingTarget(handler, coding)

    def _page(self, page: Callable[..., None], parts: list[Any], exchange: Exchange) -> None:
        try:
            page(exchange, *parts)
        except PenstockError as error:
            send_error(exchange, error)

    # -- the process

    def _alive(self, exchange: Exchange) -> None:
        send_json(exchange, documents.ALIVE)

    def _server(self, exchange: Exchange) -> None:
        send_json(exchange, documents.server_metadata("penstock", __version__, self.extensions))

    def _version(self, exchange: Exchange) -> None:
        """MLflow's, where it runs the model; else the platform's."""
        module = sys.modules.get("mlflow")
        send_json(exchange, str(getattr(module, "__version__", __version__)).encode())

    def _openapi(self, exchange: Exchange) -> None:
        send_json(exchange, _encode(openapi.document()))

    def _live(self, exchange: Exchange) -> None:
        send_json(exchange, documents.live())

    def _ready(self, exchange: Exchange) -> None:
        ready = self.repository.ready and not self.draining
        send_json(exchange, documents.ready(ready), 200 if ready else 503)

    def _server_call(self, exchange: Exchange, path: str) -> None:
        send_json(exchange, self.calls.page(path, exchange.head.method, exchange.body))

    @property
    def extensions(self) -> tuple[str, ...]:
        """What of V2's extensions this process has."""
        return (*documents.EXTENSIONS, *self.calls.extensions)

    def _mux(self, exchange: Exchange) -> None:
        """A gateway asks for a connection that requests share."""
        if self.server is None or not mux.upgrade(exchange, self.server):
            raise NotFound("There is nothing at this path.", hint=documents.MODELS_ARE_AT)

    # -- models

    def _models(self, exchange: Exchange) -> None:
        send_json(exchange, documents.models(self.repository.names()))

    def _v1_model(self, exchange: Exchange, name: str) -> None:
        self.repository.get(name)
        send_json(exchange, documents.model_ready(name, True))

    def _explainer(self, exchange: Exchange, name: str) -> None:
        runtime = self.repository.get(name).runtime
        about = runtime.about if isinstance(runtime, PayloadRuntime) else None
        if about is None:
            raise Unsupported(f"Model {name} has no explainer.")
        send_json(exchange, _encode({"name": name, **about}))

    def _model_ready(self, exchange: Exchange, name: str, version: str | None) -> None:
        try:
            self.repository.get(name, version)
        except Unavailable:
            send_json(exchange, documents.model_ready(name, False), 503)
            return
        send_json(exchange, documents.model_ready(name, True))

    def _model(self, exchange: Exchange, name: str, version: str | None) -> None:
        loaded = self.repository.get(name, version)
        runtime = loaded.runtime
        versions = list(self.repository.versions(name))
        contents = runtime.content_types if isinstance(runtime, Runtime) else None
        document = documents.model_metadata(
            name, versions, runtime.platform, runtime.inputs, runtime.outputs, contents
        )
        send_json(exchange, document)

    def _statistics(self, exchange: Exchange, name: str, version: str | None) -> None:
        if version is not None:
            chosen = [self.repository.get(name, version)]
        else:
            self.repository.get(name)
            chosen = list(self.repository.versions(name).values())
        send_json(exchange, documents.statistics(v.statistics.document() for v in chosen))

    def _config(self, exchange: Exchange, name: str, version: str | None) -> None:
        send_json(exchange, _encode(model_config(self.repository.get(name, version))))

    def _trace(self, exchange: Exchange, name: str, version: str | None) -> None:
        self.repository.get(name, version)
        wanted = json_object(exchange.body) if exchange.head.method == "POST" else {}
        send_json(exchange, _encode(trace_settings(wanted)))

    def _all_statistics(self, exchange: Exchange) -> None:
        if "stats" in self.repository:  # a model of that name comes first
            self._model(exchange, "stats", None)
            return
        found = self.repository.loaded()
        send_json(exchange, documents.statistics(v.statistics.document() for v in found))

    # -- TensorFlow Serving, beyond prediction

    def _tensorflow_status(self, exchange: Exchange, name: str, version: str) -> None:
        send_json(exchange, tfserving.version_status(self.repository.get(name, version).version))

    def _tensorflow_metadata(
        self, exchange: Exchange, name: str, version: str | None = None
    ) -> None:
        loaded = self.repository.get(name, version)
        runtime = loaded.runtime
        signatures = runtime.signatures if isinstance(runtime, Runtime) else {}
        document = tfserving.metadata(
            name, loaded.version, runtime.inputs, runtime.outputs, signatures
        )
        send_json(exchange, document)

    # -- Seldon V1, beyond prediction

    def _seldon(self, exchange: Exchange, what: str, name: str | None = None) -> None:
        self.seldon.answer(exchange, what, name)

    # -- the repository

    def _index(self, exchange: Exchange) -> None:
        ready_only = json_object(exchange.body).get("ready", False)
        if not isinstance(ready_only, bool):
            raise InvalidInput("'ready' is true or false.")
        entries = self.repository.index(ready_only=ready_only)
        send_json(exchange, documents.repository_index(entries))

    def _load(self, exchange: Exchange, name: str) -> None:
        parameters = json_object(exchange.body).get("parameters") or {}
        if not isinstance(parameters, dict):
            raise InvalidInput("'parameters' is an object.")
        refuse_parameters(parameters)
        self._change(exchange, self.repository.load(name), documents.loaded(name))

    def _unload(self, exchange: Exchange, name: str) -> None:
        # `unload_dependents` is what Triton's clients send; nothing depends on another model here.
        json_object(exchange.body)
        self._change(exchange, self.repository.unload(name), documents.unloaded(name))

    def _change(self, exchange: Exchange, change: Coroutine[Any, Any, None], answer: bytes) -> None:
        """Answer when `change` is made. A client that hangs up does not undo it."""

        async def run() -> None:
            try:
                await change
            except PenstockError as error:
                send_error(exchange, error)
            except Exception:
                log.exception("a change of the repository failed")
                exchange.fault()
            else:
                send_json(exchange, answer)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- metrics

    def _metrics_text(self, exchange: Exchange) -> None:
        self._measure()
        exchange.send(200, PROMETHEUS, render(self.metrics.snapshot()))

    def _metrics_json(self, exchange: Exchange) -> None:
        self._measure()
        send_json(exchange, _encode(self.metrics.snapshot()))

    def _measure(self) -> None:
        spec = self.spec
        gauge = self.metrics.memory.labels(
            spec.namespace, spec.service, spec.revision, spec.replica
        )
        gauge.set(self._memory.read())
