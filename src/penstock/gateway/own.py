"""What the gateway answers by itself: its health, the lists of what it serves, and the repository API.

These are the server-level calls of V1 and V2, for the namespace that the header `penstock-namespace` names
(`default` without it); with `/serving/NAMESPACE/NAME` or a service's Host, all but load and unload go to
that service's model process instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock._version import __version__
from penstock.errors import NotFound, PenstockError
from penstock.gateway import repository
from penstock.gateway.proxy import internal, refuse
from penstock.gateway.resolve import (
    DOCUMENT,
    EXPLAIN,
    FEEDBACK,
    LOAD,
    STATISTICS,
    Plan,
    namespace_of,
)
from penstock.http.head import JSON_TYPE
from penstock.protocols import documents
from penstock.protocols.json_object import json_object

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.table import Service, Table
    from penstock.http.server import Exchange

_READS: Final = ("GET", "HEAD")

#: What users of servers of one model, or of others' metrics, ask for.
_ELSEWHERE: Final = {
    "/metrics": "Metrics of all processes are at the control API's port (8090): /metrics.",
    "/invocations": "A model's are at /serving/NAMESPACE/NAME/invocations.",
}


def _send(exchange: Exchange, status: int, document: Any) -> None:
    exchange.send(status, JSON_TYPE, msgspec.json.encode(document))


def _names(table: Table, namespace: str) -> list[str]:
    return sorted(s.name for s in table.services(namespace))


def _openapi() -> dict[str, Any]:
    # It names datatypes, and those know numpy, which a gateway else has no use for.
    from penstock.protocols import openapi

    return openapi.document(gateway=True)


#: Path -> status and document, for a namespace. All of them are read.
_PAGES: Final[dict[str, Callable[[Table, str], tuple[int, Any]]]] = {
    "/": lambda t, n: (200, {"status": "alive"}),
    "/v1/models": lambda t, n: (200, {"models": _names(t, n)}),
    "/v2/models": lambda t, n: (200, {"models": _names(t, n)}),
    **dict.fromkeys(documents.OPENAPI_PATHS, lambda t, n: (200, _openapi())),
    "/v2/health/live": lambda t, n: (200, {"live": True}),
    "/v2/health/ready": lambda t, n: (
        (200, {"ready": True}) if t.filled else (503, {"ready": False})
    ),
}


def answer(exchange: Exchange, plan: Plan, gateway: Gateway) -> None:
    """Answer a path that belongs to no service, or a repository call about one."""
    path = plan.own if plan.own == "/" else plan.own.rstrip("/")
    table = gateway.table
    namespace = namespace_of(exchange.head)
    service = plan.service
    if service is not None:
        if plan.verb == FEEDBACK:
            _feedback(exchange, gateway, plan)
        elif plan.verb == EXPLAIN:
            _explain(exchange, gateway, plan)
        elif plan.verb == DOCUMENT:
            if _allowed(exchange, ("GET",)):
                _describe(exchange, gateway, plan)
        elif plan.verb == STATISTICS:
            if _allowed(exchange, _READS):
                _gather(exchange, gateway, [service], plan.own)
        elif _allowed(exchange, ("POST",)):
            change = _load if plan.verb == LOAD else _unload
            _with_body(exchange, lambda e: change(e, plan, gateway))
    elif path == "/v2/query" or (plan.protocol == "v2" and path.endswith("/v2/query")):
        _query(exchange, gateway, path)
    elif path.endswith("/feedback"):
        _feedback(exchange, gateway, plan)
    elif path == "/v2/repository/index":
        if _allowed(exchange, ("POST",)):
            _with_body(exchange, lambda e: _index(e, table, namespace))
    elif path == "/v2/models/stats":
        if _allowed(exchange, _READS):
            _gather(exchange, gateway, table.services(namespace), path)
    elif path == "/v2":
        if _allowed(exchange, _READS):
            document = documents.server_metadata("penstock", __version__, extensions(gateway))
            exchange.send(200, JSON_TYPE, document)
    elif methods := gateway.calls.methods(path):
        if _allowed(exchange, methods):
            _with_body(exchange, lambda e: _server_call(e, path, gateway))
    else:
        make = _PAGES.get(path)
        if make is None:
            refuse(
                exchange,
                NotFound("No such path.", hint=_ELSEWHERE.get(path, documents.MODELS_ARE_AT)),
            )
        elif _allowed(exchange, _READS):
            status, document = make(table, namespace)
            _send(exchange, status, document)


def _explain(exchange: Exchange, gateway: Gateway, plan: Plan) -> None:
    # Seldon's messages know numpy.
    from penstock.gateway.seldon import explain as seldon_explain

    seldon_explain.handle(exchange, gateway, plan)


def _describe(exchange: Exchange, gateway: Gateway, plan: Plan) -> None:
    from penstock.gateway.seldon import explain as seldon_explain

    seldon_explain.describe(exchange, gateway, plan)


def extensions(gateway: Gateway) -> tuple[str, ...]:
    """V2's extensions that every service has, and the gateway's own."""
    return (*documents.EXTENSIONS, *gateway.calls.extensions)


def _server_call(exchange: Exchange, path: str, gateway: Gateway) -> None:
    """Shared memory, logging, tracing."""
    exchange.send(200, JSON_TYPE, gateway.calls.page(path, exchange.head.method, exchange.body))


def _allowed(exchange: Exchange, methods: Sequence[str]) -> bool:
    """Whether the method is one of these; if not, that is answered."""
    method = exchange.head.method
    if method in methods:
        return True
    exchange.send(
        405,
        b"%ballow: %b\r\n" % (JSON_TYPE, ", ".join(methods).encode()),
        msgspec.json.encode({"error": f"{method} is not possible here; use {methods[0]}."}),
    )
    return False


def _with_body(exchange: Exchange, then: Callable[[Exchange], None]) -> None:
    """Call `then` once the body is here. What it raises is answered."""

    def whole(exchange: Exchange) -> None:
        try:
            then(exchange)
        except PenstockError as exc:
            refuse(exchange, exc)
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            refuse(exchange, internal(exc))

    if exchange.body is None:
        exchange.gather(whole)
    else:
        whole(exchange)


def _index(exchange: Exchange, table: Table, namespace: str) -> None:
    only = repository.ready_only(exchange.body)
    _send(exchange, 200, repository.index(table, namespace, ready_only=only))


def _query(exchange: Exchange, gateway: Gateway, path: str) -> None:
    from penstock.gateway.queries import asking  # few gateways are asked so

    if _allowed(exchange, ("POST",)):
        _with_body(exchange, lambda e: asking.handle(e, gateway, path))


def _feedback(exchange: Exchange, gateway: Gateway, plan: Plan) -> None:
    from penstock.gateway.learning import feedback

    if not feedback.is_feedback(plan.own.rstrip("/")):
        refuse(exchange, NotFound("No such path.", hint="Rewards go to /v2/models/NAME/feedback."))
    elif _allowed(exchange, ("POST",)):
        _with_body(exchange, lambda e: feedback.handle(e, gateway, plan))


def _load(exchange: Exchange, plan: Plan, gateway: Gateway) -> None:
    service = plan.service
    assert service is not None  # noqa: S101 - `answer` has looked
    repository.refuse_parameters(json_object(exchange.body).get("parameters") or {})
    gateway.admit(repository.Load(gateway, exchange, plan, service, gateway.now()))


def _unload(exchange: Exchange, plan: Plan, gateway: Gateway) -> None:
    service = plan.service
    assert service is not None  # noqa: S101 - `answer` has looked
    json_object(exchange.body)  # Triton's clients send `unload_dependents`; there are none

    def say(error: PenstockError | None) -> None:
        if error is None:
            exchange.send(200, JSON_TYPE, documents.unloaded(service.name))
        else:
            refuse(exchange, error)

    unload = repository.Unload(gateway, service, say)
    exchange.on_abort = unload.forget
    unload.look()


def _gather(exchange: Exchange, gateway: Gateway, services: Any, path: str) -> None:
    """Answer with the statistics of all replicas of `services`."""

    async def run(services: list[Service]) -> None:
        try:
            _send(exchange, 200, await repository.statistics(services, path))
        except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
            refuse(exchange, internal(exc))

    task = gateway.spawn(run(list(services)))

    def gone() -> None:
        task.cancel()

    exchange.on_abort = gone
