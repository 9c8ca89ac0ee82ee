"""The services beside inference: gRPC's health checking and server reflection (v1 and v1alpha).

Both are answered from what this process knows: `state(name)` says whether a service or model can serve,
None for one that is not known. `find` has the one table of their methods, for gateways and model processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from penstock.errors import NotFound, PenstockError, Unavailable, Unsupported
from penstock.http.exchange import OPEN, Exchange
from penstock.http.h2.exchange import STARTED, H2Exchange
from penstock.protocols.grpc.schema import FILES, SERVICES, message, parse
from penstock.protocols.grpc.stream import MessageStream
from penstock.protocols.grpc.wire import (
    CONTENT_TYPE,
    error_lines,
    frame,
    reply_error,
    reply_message,
    unframe,
)

#: What answers: may a service or model of this name serve? None: there is none of this name.
State = Callable[[str], bool | None]
#: The names of the services or models there are.
Names = Callable[[], Iterable[str]]
#: Takes a call.
Handler = Callable[[Any], None]

#: How often a health watch looks, seconds.
WATCH_S: Final = 0.5
#: Largest message of these services.
MOST_BYTES: Final = 64 * 1024

_HEALTH: Final = "grpc.health.v1"
_Request: Final = message("HealthCheckRequest", _HEALTH)
_Response: Final = message("HealthCheckResponse", _HEALTH)
_List: Final = message("HealthListResponse", _HEALTH)
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3

#: Symbol -> name of the file it is in.
_SYMBOLS: Final[dict[str, str]] = {}
for _name, _file in FILES.items():
    for _service in _file.service:
        _SYMBOLS[f"{_file.package}.{_service.name}"] = _name
        for _method in _service.method:
            _SYMBOLS[f"{_file.package}.{_service.name}.{_method.name}"] = _name
    for _message in _file.message_type:
        _SYMBOLS[f"{_file.package}.{_message.name}"] = _name


def _known(name: str, state: State) -> bool | None:
    return state("") if name == "" or name in SERVICES else state(name)


def find(path: str, state: State, names: Names) -> Handler | None:
    """What answers calls of the method at `path`; None when it is none of these services'."""
    bind = _METHODS.get(path)
    return bind(state, names) if bind is not None else None


def _unary(answer: Callable[[Any, State, Names], None]) -> Callable[[State, Names], Handler]:
    def bind(state: State, names: Names) -> Handler:
        def call(exchange: Any) -> None:
            try:
                answer(exchange, state, names)
            except PenstockError as error:
                reply_error(exchange, error)

        return lambda exchange: exchange.gather(call)

    return bind


def health_check(exchange: Exchange | H2Exchange, state: State, names: Names) -> None:
    """`Check`. Raises NotFound for a name that is not known."""
    request = parse(_Request, _body(exchange))
    serving = _known(request.service, state)
    if serving is None:
        raise NotFound(f"There is no service or model {request.service}.")
    reply_message(exchange, _Response(status=_SERVING if serving else _NOT_SERVING))


def health_list(exchange: Exchange | H2Exchange, state: State, names: Names) -> None:
    """`List`"""
    answer = _List()
    for name in ("", *names()):
        answer.statuses[name].status = _SERVING if state(name) else _NOT_SERVING
    reply_message(exchange, answer)


def health_watch(exchange: Exchange | H2Exchange, state: State, names: Names) -> None:
    """`Watch`: the state now, and again whenever it has changed, until the client goes."""
    if not isinstance(exchange, H2Exchange):
        raise Unsupported("Watch needs HTTP/2.")
    name = parse(_Request, _body(exchange)).service
    loop = asyncio.get_running_loop()
    said: int | None = None
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal said, timer
        if exchange.state not in (OPEN, STARTED):
            return
        serving = _known(name, state)
        now = _SERVICE_UNKNOWN if serving is None else _SERVING if serving else _NOT_SERVING
        if now != said:
            said = now
            if exchange.state == OPEN:
                exchange.start(200, CONTENT_TYPE)
            exchange.write(frame(_Response(status=now).SerializeToString()))
        timer = loop.call_later(WATCH_S, look)

    def gone() -> None:
        if timer is not None:
            timer.cancel()

    def stop() -> None:
        gone()
        look()
        exchange.end(error_lines(Unavailable("The server is being stopped.")))
        gone()

    exchange.on_abort = gone
    exchange.on_goaway = stop
    look()


def _body(exchange: Any) -> Any:
    return unframe(exchange.body or b"", exchange.head.get(b"grpc-encoding"), MOST_BYTES)


def reflect(exchange: Any, package: str) -> None:
    """`ServerReflectionInfo` of `package`, grpc.reflection.v1 or v1alpha."""
    if not isinstance(exchange, H2Exchange):
        reply_error(exchange, Unsupported("Reflection needs HTTP/2."))
        return
    request_kind = message("ServerReflectionRequest", package)
    response_kind = message("ServerReflectionResponse", package)

    def take(stream: MessageStream, data: bytes) -> None:
        request = parse(request_kind, data)
        answer = response_kind(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        name: str | None = None
        if asked == "list_services":
            for service in SERVICES:
                answer.list_services_response.service.add(name=service)
        elif asked == "file_by_filename":
            name = request.file_by_filename
        elif asked == "file_containing_symbol":
            name = _SYMBOLS.get(request.file_containing_symbol, "")
        else:
            answer.error_response.error_code = 12
            answer.error_response.error_message = "There are no extensions here."
        if name is not None:
            file = FILES.get(name)
            if file is None:
                answer.error_response.error_code = 5
                answer.error_response.error_message = "There is no such file or symbol."
            else:
                answer.file_descriptor_response.file_descriptor_proto.append(
                    file.SerializeToString()
                )
        stream.send((answer.SerializeToString(),))
        stream.done()

    try:
        MessageStream(exchange, take, MOST_BYTES)
    except PenstockError as error:  # a deadline that is none
        reply_error(exchange, error)


def _reflection(package: str) -> Callable[[State, Names], Handler]:
    return lambda state, names: lambda exchange: reflect(exchange, package)


_METHODS: Final[dict[str, Callable[[State, Names], Handler]]] = {
    f"/{_HEALTH}.Health/Check": _unary(health_check),
    f"/{_HEALTH}.Health/List": _unary(health_list),
    f"/{_HEALTH}.Health/Watch": _unary(health_watch),
    **{
        f"/{package}.ServerReflection/ServerReflectionInfo": _reflection(package)
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha")
    },
}
