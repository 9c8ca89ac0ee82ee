"""What the gateway answers by itself: its health, and the lists of what it serves.

These are the server-level calls of V1 and V2 for namespace `default`; with `/serving/NAMESPACE/NAME` or a
service's Host they go to that service's model process instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock._version import __version__
from penstock.errors import NotFound
from penstock.gateway.proxy import refuse
from penstock.gateway.resolve import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from penstock.gateway.table import Service, Table
    from penstock.http.server import Exchange

#: V2 extensions that every service has.
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "statistics")

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
