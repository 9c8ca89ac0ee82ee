"""The gRPC port: where HTTP/2 ends.

A call becomes the same framed message in an HTTP/1.1 POST to the model process, so a `Forward` carries it
like any other request: waiting for a sleeping service, retries, deadlines and metrics are not written
twice. What is different is here: the model's name is in the message, the status in trailers, and a
ModelStreamInfer is served request by request. Server-level calls, health and reflection are answered by
the gateway itself. What is no gRPC on this port goes to the gateway's plain handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import (
    PenstockError,
    Unsupported,
)
from penstock.gateway.grpc.calls import (
    MODEL_CALLS,
    ModelCall,
    OwnCall,
    RepositoryCall,
    StatisticsCall,
)
from penstock.gateway.resolve import (
    by_host,
    namespace_of,
)
from penstock.protocols.grpc import side
from penstock.protocols.grpc.schema import METHODS, SERVICE
from penstock.protocols.grpc.stream_infer import StreamedCall, serve_stream_infer
from penstock.protocols.grpc.wire import (
    check_head,
    error_lines,
    is_grpc,
    reply,
)
from penstock.protocols.triton import CALLS

if TYPE_CHECKING:
    from penstock.gateway.gateway import Gateway
    from penstock.http.head import RequestHead


_ROUTE: Final = "grpc-route"
_PREFIX: Final = f"/{SERVICE}/"
#: What paths of Seldon V1's services begin with.
SELDON: Final = "/seldon.protos."


class GrpcFront:
    """The handler of the gRPC port."""

    def __init__(self, gateway: Gateway, *, time: Callable[[], float], most: int) -> None:
        self.gateway = gateway
        self.time = time
        #: Bytes of a message.
        self.most = most
        #: True from the drain on.
        self.draining = False

    def handle(self, exchange: Any) -> None:
        """Take a call whose head is here; its body may be."""
        memo = exchange.head.memo
        route = memo.get(_ROUTE)
        if route is None:
            route = memo[_ROUTE] = self._route(exchange.head)
        route(exchange)

    def _route(self, head: RequestHead) -> Callable[[Any], None]:
        if not is_grpc(head):
            return self.gateway.handle
        try:
            check_head(head)
        except PenstockError as error:
            return _refusing(error)
        path = head.path
        method = path[len(_PREFIX) :] if path.startswith(_PREFIX) else ""
        if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            return RepositoryCall(self, head, method)
        if method == "ModelStatistics":
            return StatisticsCall(self, head, method)
        if method == "ModelStreamInfer":
            return self._stream(head, method)
        if method in MODEL_CALLS:
            return ModelCall(self, head, method)
        if method in CALLS:
            return OwnCall(self, method)
        if method in METHODS:
            own_call = OwnCall(self, method)
            elsewhere = ModelCall(self, head, method)

            def server_call(exchange: Any) -> None:
                # Under a service's own name its process answers for itself.
                named = by_host(head, self.gateway.table)[0] is not None
                (elsewhere if named else own_call)(exchange)

            return server_call
        if path.startswith(SELDON):
            # Whoever does not speak it need not read what it is.
            from penstock.gateway.seldon.grpc import SeldonCall
            from penstock.protocols.grpc.seldon import verb_of

            if verb_of(path):
                return SeldonCall(self, head)
        return self._side(path, head)

    def _stream(self, head: RequestHead, method: str) -> Callable[[Any], None]:
        """A stream comes apart into its requests, which come here one by one."""
        one = ModelCall(self, head, method)

        def stream(exchange: Any) -> None:
            if isinstance(exchange, StreamedCall):
                one(exchange)
            else:
                serve_stream_infer(exchange, self.handle, self.most)

        return stream

    def _side(self, path: str, head: RequestHead) -> Callable[[Any], None]:
        """Health and reflection, or what says that there is no such method."""
        table = self.gateway.table
        namespace = namespace_of(head)

        def state(name: str) -> bool | None:
            if self.draining or not table.filled:
                return False
            if not name:
                return True
            found = table.get(namespace, name)
            # A service that is asleep serves: a call wakes it.
            return None if found is None else not found.route.message

        found = side.find(path, state, lambda: [s.name for s in table.services(namespace)])
        return found or _refusing(Unsupported(f"There is no method {path[:200]} here."))


def _refusing(error: PenstockError) -> Callable[[Any], None]:
    lines = error_lines(error)
    return lambda exchange: reply(exchange, b"", b"", lines)
