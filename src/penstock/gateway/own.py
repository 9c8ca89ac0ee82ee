"""What the gateway answers by itself: its health, and the lists of what it serves.

These are the server-level calls of V1 and V2 for namespace `default`; with `/serving/NAMESPACE/NAME` or a
service's Host they go to that service's model process instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock._version import __version__
from penstock.errors import NotFound
from penstock.gateway.proxy import refuse
from penstock.gateway.resolve import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from penstock.gateway.table import Service, Table
    from penstock.http.server import Exchange

_JSON: Final = b"content-type: application/json\r\n"


def _send(exchange: Exchange, status: int, document: Any) -> None:
    exchange.send(status, _JSON, msgspec.json.encode(document))


def _names(table: Table) -> list[str]:
    return sorted(s.name for s in table.services(DEFAULT_NAMESPACE))


def _can_answer(service: Service) -> bool:
    return any(r.up for t in service.targets for r in t.replicas)


def index(table: Table, namespace: str = DEFAULT_NAMESPACE) -> list[dict[str, str]]:
    """The repository index: a namespace's services, and whether they can answer."""
    return [
        {
            "name": s.name,
            "version": "",
            "state": "READY" if _can_answer(s) else "UNAVAILABLE",
            "reason": ""
            if _can_answer(s)
            else s.route.message or "asleep; the first request wakes it",
        }
        for s in sorted(table.services(namespace), key=lambda s: s.name)
    ]


#: Path -> (allowed methods, status and document).
_PAGES: Final[dict[str, tuple[tuple[str, ...], Callable[[Table], tuple[int, Any]]]]] = {
    "/": (("GET", "HEAD"), lambda t: (200, {"status": "alive"})),
    "/v1/models": (("GET", "HEAD"), lambda t: (200, {"models": _names(t)})),
    "/v2/models": (("GET", "HEAD"), lambda t: (200, {"models": _names(t)})),
    "/v2": (
        ("GET", "HEAD"),
        lambda t: (
            200,
            {
                "name": "penstock",
                "version": __version__,
                "extensions": EXTENSIONS,
            },
        ),
    ),
    "/v2/health/live": (("GET", "HEAD"), lambda t: (200, {"live": True})),
    "/v2/health/ready": (
        ("GET", "HEAD"),
        lambda t: (200, {"ready": True}) if t.filled else (503, {"ready": False}),
def _names(table: Table, namespace: str) -> list[str]:
    return sorted(s.name for s in table.services(namespace))


#: Path -> status and document, for a namespace. All of them are read.
_PAGES: Final[dict[str, Callable[[Table, str], tuple[int, Any]]]] = {
    "/": lambda t, n: (200, {"status": "alive"}),
    "/v1/models": lambda t, n: (200, {"models": _names(t, n)}),
    "/v2/models": lambda t, n: (200, {"models": _names(t, n)}),
    "/v2/health/live": lambda t, n: (200, {"live": True}),
    "/v2/health/ready": lambda t, n: (
        (200, {"ready": True}) if t.filled else (503, {"ready": False})
    ),
    "/v2/repository/index": (("POST",), lambda t: (200, index(t))),
}


def answer(exchange: Exchange, path: str, table: Table) -> None:
    """Answer a path that belongs to no service."""
    page = _PAGES.get(path if path == "/" else path.rstrip("/"))
    if page is None:
        refuse(
            exchange,
            NotFound(
                "No such path.",
                hint="Models are at /v1/models/NAME:predict and /v2/models/NAME/infer.",
            ),
        )
        return
    methods, make = page
def answer(exchange: Exchange, plan: Plan, gateway: Gateway) -> None:
    """Answer a path that belongs to no service, or a repository call about one."""
    path = plan.own if plan.own == "/" else plan.own.rstrip("/")
    table = gateway.table
    namespace = namespace_of(exchange.head)
    service = plan.service
    if service is not None:
        if plan.verb == STATISTICS:
            if _allowed(exchange, _READS):
                _gather(exchange, gateway, [service], plan.own)
        elif _allowed(exchange, ("POST",)):
            change = _load if plan.verb == LOAD else _unload
            _with_body(exchange, lambda e: change(e, plan, gateway))
    elif path == "/v2/repository/index":
        if _allowed(exchange, ("POST",)):
            _with_body(exchange, lambda e: _index(e, table, namespace))
    elif path == "/v2/models/stats":
        if _allowed(exchange, _READS):
            _gather(exchange, gateway, table.services(namespace), path)
    elif path == "/v2":
        if _allowed(exchange, _READS):
            document = documents.server_metadata("penstock", __version__, extensions(gateway))
            exchange.send(200, _JSON, document)
    elif methods := gateway.calls.methods(path):
        if _allowed(exchange, methods):
            _with_body(exchange, lambda e: _server_call(e, path, gateway))
    else:
        make = _PAGES.get(path)
        if make is None:
            refuse(
                exchange,
                NotFound(
                    "No such path.",
                    hint="Models are at /v1/models/NAME:predict and /v2/models/NAME/infer.",
                ),
            )
        elif _allowed(exchange, _READS):
            status, document = make(table, namespace)
            _send(exchange, status, document)


def extensions(gateway: Gateway) -> tuple[str, ...]:
    """V2's extensions that every service has, and the gateway's own."""
    return (*documents.EXTENSIONS, *gateway.calls.extensions)


def _server_call(exchange: Exchange, path: str, gateway: Gateway) -> None:
    """Shared memory, logging, tracing."""
    exchange.send(200, _JSON, gateway.calls.page(path, exchange.head.method, exchange.body))


def _allowed(exchange: Exchange, methods: Sequence[str]) -> bool:
    """Whether the method is one of these; if not, that is answered."""
    method = exchange.head.method
    if method not in methods:
        exchange.send(
            405,
            b"%ballow: %b\r\n" % (_JSON, ", ".join(methods).encode()),
            msgspec.json.encode({"error": f"{method} is not possible here; use {methods[0]}."}),
        )
        return
    status, document = make(table)
    _send(exchange, status, document)
