"""Seldon V1's explain call: a message in, the explanation of its rows out.

Seldon runs an explainer as a deployment of its own, `NAME-explainer`; here it is a component of the service,
or, where the deployment is a graph, a service that asks the graph.
The message becomes the request that `:explain` takes, and the explainer's answer goes back as it is, in
Alibi's shape. Errors are Seldon's.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import InvalidInput, ModelError, PenstockError
from penstock.gateway import components, resolve
from penstock.gateway.graphs.answers import error_of
from penstock.gateway.graphs.calls import StepForward
from penstock.gateway.proxy import internal
from penstock.gateway.seldon.errors import seldon_answer
from penstock.graphs.calls import Context
from penstock.graphs.encoding import Encoded
from penstock.graphs.results import Result
from penstock.graphs.values import Body, Failure
from penstock.http.head import JSON_TYPE
from penstock.protocols import seldon_openapi
from penstock.protocols.content_coding import plain_body
from penstock.protocols.seldon_forms import decode_body
from penstock.protocols.seldon_message import ARRAY_KINDS, SeldonMessage, message_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.gateway.gateway import Gateway
    from penstock.gateway.resolve import Plan
    from penstock.gateway.table import Service
    from penstock.http.incoming import Buffer
    from penstock.http.server import Exchange

#: Lines of the client's own body.
_OF_BODY: Final = (
    b"content-type:", b"content-length:", b"transfer-encoding:", b"content-encoding:",
)  # fmt: skip


def handle(exchange: Exchange, gateway: Gateway, plan: Plan) -> None:
    """Take a call whose head is here, for a service that may have an explainer."""
    if exchange.head.method != "POST":
        exchange.send(405, JSON_TYPE + b"allow: POST\r\n", b'{"error":"Use POST."}')
    elif exchange.body is None:
        exchange.gather(lambda whole: _begin(whole, gateway, plan))
    else:
        _begin(exchange, gateway, plan)


def _begin(exchange: Exchange, gateway: Gateway, plan: Plan) -> None:
    try:
        head = exchange.head
        document = decode_body(plain_body(head, exchange.body), head.get(b"content-type"))
        _ask(exchange, gateway, plan, request_of(message_of(document)))
    except Exception as exc:  # noqa: BLE001 - the request's border: one request fails, not the process
        _refuse(exchange, exc if isinstance(exc, PenstockError) else internal(exc))


def request_of(message: SeldonMessage) -> dict[str, Any]:
    """What `:explain` takes for a message: its rows, or its text, as instances. InvalidInput."""
    value = message.value
    if message.kind in ARRAY_KINDS:
        rows: dict[str, Any] = {"instances": value.tolist()}
        return {**rows, "names": list(message.names)} if message.names else rows
    if message.kind == "strData":
        return {"instances": [value]}
    if message.kind == "jsonData":
        if isinstance(value, dict) and ("instances" in value or "inputs" in value):
            return value
        return {"instances": value if isinstance(value, list) else [value]}
    raise InvalidInput(f"{message.kind} cannot be explained; data, strData and jsonData can.")


def _ask(exchange: Exchange, gateway: Gateway, call: Plan, request: dict[str, Any]) -> None:
    service = call.service
    assert service is not None  # noqa: S101 - the path is one of a service
    path = f"/v1/models/{service.name}:explain"
    plan = copy(resolve.make(exchange.head, service, path, gateway.table, call.wanted))
    data = msgspec.json.encode(request)
    kept = [line for line in plan.head.split(b"\r\n") if line and not line.startswith(_OF_BODY)]
    kept.append(b"content-type: application/json")
    plan.head = b"\r\n".join(kept) + b"\r\ncontent-length: %d\r\n\r\n" % len(data)
    _forward(exchange, gateway, service, plan, Encoded(path, b"", data, False), _as_it_is)


def describe(exchange: Exchange, gateway: Gateway, call: Plan) -> None:
    """The OpenAPI document of a service that has an explainer: its process's, and the explain call."""
    service = call.service
    assert service is not None  # noqa: S101 - the path is one of a service
    role, path = components.split(call.own)
    plan = resolve.make(exchange.head, service, path, gateway.table, call.wanted, role, plain=True)
    _forward(exchange, gateway, service, plan, Encoded(path, b"", b"", False), _with_explain)


def _as_it_is(answer: Body) -> Buffer:
    return answer.data


def _with_explain(answer: Body) -> Buffer:
    """The document with the explain call; as it is where it is none, of a container of the user's own."""
    try:
        found = msgspec.json.decode(answer.data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return answer.data
    if not isinstance(found, dict) or not isinstance(found.get("paths"), dict):
        return answer.data
    return msgspec.json.encode(seldon_openapi.with_explain(found))


def _forward(
    exchange: Exchange,
    gateway: Gateway,
    service: Service,
    plan: Plan,
    request: Encoded,
    written: Callable[[Body], Buffer],
) -> None:
    """Have a process of the service asked. Its answer goes back as `written`."""
    asked = plan.service
    assert asked is not None  # noqa: S101 - the path is one of the service's

    def told(outcome: Any) -> None:
        if isinstance(outcome, Failure):
            _refuse(exchange, error_of(service.key, Result(failure=outcome)))
        elif isinstance(outcome, Body):
            fields = b"content-type: %b\r\n" % outcome.content_type
            exchange.send(outcome.status, fields, written(outcome))
        else:
            what = (
                f"{service.key} answered with binary tensors, where a JSON document is asked for."
            )
            _refuse(exchange, ModelError(what))

    context = Context(service.namespace, gateway.now() + plan.timeout_s)
    forward = StepForward(gateway, plan, asked, request, context, told)
    exchange.on_abort = forward.cancel
    gateway.admit(forward)


def _refuse(exchange: Exchange, error: PenstockError) -> None:
    exchange.send(*seldon_answer(error))
