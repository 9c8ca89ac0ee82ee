"""What Seldon V1's clients and its orchestrator ask about a model process: health and metadata."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import NotFound, PenstockError
from penstock.protocols.seldon import seldon_error
from penstock.protocols.seldon_message import SeldonMessage
from penstock.runtimes.base import CallContext, PayloadRuntime, UnitRuntime
from penstock.server.other_protocols import only_model
from penstock.server.replies import send_error, send_json
from penstock.server.seldon import NODE, metadata_of

if TYPE_CHECKING:
    from penstock.http.server import Exchange
    from penstock.server.application import Application

log = logging.getLogger(__name__)


class SeldonPages:
    """Answers `health/...`, `metadata`, `status` and `doc`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, exchange: Exchange, what: str, name: str | None) -> None:
        """`what` is the path's end; `name` a model's, where the path has one."""
        try:
            if what == "health/ping":
                exchange.send(200, b"content-type: text/plain\r\n", b"pong")
            elif what == "health/status":
                self._health(exchange)
            elif what.startswith("doc"):
                self._document(exchange, what)
            elif what == "status":
                self._status(exchange, self._model(name))
            else:
                send_json(exchange, msgspec.json.encode(self.metadata(name)))
        except PenstockError as error:
            send_error(exchange, error, seldon_error(error))

    def _model(self, name: str | None) -> str:
        only = only_model(self._app)
        spec = self._app.spec
        if name is not None and name not in (only, spec.service, spec.env.get(NODE)):
            raise NotFound(f"There is no model {name} here.")
        return only

    def _document(self, exchange: Exchange, what: str) -> None:
        # Most processes are never asked for it.
        from penstock.protocols import seldon_openapi

        if what == "doc":
            exchange.send(200, seldon_openapi.PAGE_HEADERS, seldon_openapi.PAGE)
            return
        name = self._model(None)
        loaded = self._app.repository.get(name).runtime
        abilities = {seldon_openapi.PROCESS}
        if isinstance(loaded, UnitRuntime):
            # A reward is counted whether it learns or not.
            abilities |= {*loaded.verbs, seldon_openapi.FEEDBACK}
        elif not isinstance(loaded, PayloadRuntime):
            abilities |= {seldon_openapi.PREDICT, seldon_openapi.FEEDBACK}
        found = seldon_openapi.document(self._app.spec.service or name, abilities)
        send_json(exchange, msgspec.json.encode(found))

    def metadata(self, name: str | None) -> dict[str, Any]:
        """What a model is, or the only one. NotFound for a name that it does not have."""
        name = self._model(name)
        loaded = self._app.repository.get(name)
        runtime = loaded.runtime
        if isinstance(runtime, UnitRuntime):
            return dict(runtime.metadata())
        versions = list(self._app.repository.versions(name))
        return metadata_of(name, versions, runtime.platform, runtime.inputs, runtime.outputs)

    def _status(self, exchange: Exchange, name: str) -> None:
        app = self._app
        ready = app.repository.ready and not app.draining
        send_json(
            exchange, msgspec.json.encode({"name": name, "ready": ready}), 200 if ready else 503
        )

    def _health(self, exchange: Exchange) -> None:
        app = self._app
        ready = app.repository.ready and not app.draining
        runtime = app.repository.get(only_model(app)).runtime if ready else None
        if isinstance(runtime, UnitRuntime):
            self._run(exchange, self._own_health(exchange, runtime))
        else:
            self._plain(exchange, ready)

    def _plain(self, exchange: Exchange, ready: bool) -> None:
        send_json(exchange, msgspec.json.encode({"ready": ready}), 200 if ready else 503)

    async def _own_health(self, exchange: Exchange, runtime: UnitRuntime) -> None:
        workers = self._app.repository.get(only_model(self._app)).workers
        context = CallContext(run=workers.call if workers is not None else None)
        async with asyncio.timeout(self._app.spec.timeout_s):
            message = await runtime.health(context)
        # What Seldon's wrapper says of a class that does not know.
        message = message or SeldonMessage("healthy", "strData")
        send_json(exchange, message.encoded())

    def _run(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except PenstockError as error:
                send_error(exchange, error, seldon_error(error))
            except TimeoutError:
                self._plain(exchange, False)
            except Exception:
                log.exception("a look at the model's health failed")
                exchange.fault()

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
