"""Steps of graphs as requests of this gateway's own: the way a client's request takes, without its socket.

A step's call is a `Forward` like any other, so waiting for a sleeping service, shares, retries, limits,
shadows and metrics are the service's own. What is different is its two ends: the request is made of a
`graphs` value, and the answer goes to the executor. Addresses outside of the platform are called through
connection pools of their own, bounded in number, in requests at a time and in the size of answers.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from msgspec import structs

from penstock.domain.graph import Call, CallUrl
from penstock.domain.routes import Address
from penstock.errors import (
    DeadlineExceeded,
    PenstockError,
    TooLarge,
    Unavailable,
)
from penstock.gateway import components
from penstock.gateway.choosing import unknown_revision
from penstock.gateway.proxy import Forward, internal
from penstock.gateway.resolve import Plan, protocol_of
from penstock.graphs.calls import Context, Done, Under
from penstock.graphs.encoding import Encoded, encode, outcome
from penstock.graphs.values import Failure, Value
from penstock.http.client import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.gateway.experiment_front import ExperimentFront
    from penstock.gateway.gateway import Gateway
    from penstock.gateway.table import Service, Table
    from penstock.http.client import ClientExchange, UpstreamError
    from penstock.http.head import ResponseHead

logger = logging.getLogger(__name__)

#: Bytes of one answer that a step may give.
MOST_BYTES: Final = 256 * 1024 * 1024
#: Addresses outside that are kept connections to, and requests to one of them at a time.
MOST_HOSTS: Final = 256
MOST_AT_ONCE: Final = 256
#: Paths of one service that are remembered.
MOST_ENTRIES: Final = 64


def failure_of(exc: PenstockError) -> Failure:
    """An error of ours as a step's failure."""
    retry = exc.retry_after_s if isinstance(exc, Unavailable) else None
    return Failure(exc.status, str(exc), reason=exc.reason, retry_after_s=retry)


class _Head:
    """What of a request's head a `Forward` and what belongs to it look at."""

    __slots__ = ("content_length", "memo")

    method = "POST"
    query = ""
    minor = 1
    keep_alive = True
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, content_length: int) -> None:
        self.content_length = content_length
        self.memo: dict[Any, Any] = {}

    def get(self, name: bytes) -> bytes | None:
        return None


class _Entry:
    """What steps that call a service at one path have in common, until its routes change."""

    __slots__ = ("lines", "protocol", "service")

    def __init__(self, service: Service, table: Table, path: str) -> None:
        self.service = entered = components.reached(_Head(0), service, table, path=path)  # type: ignore[arg-type]
        self.lines = b"POST %b HTTP/1.1\r\nhost: %b.%b\r\n" % (
            path.encode("latin-1"),
            entered.name.encode(),
            entered.namespace.encode(),
        )
        self.protocol = protocol_of(path)


class StepExchange:
    """A request that no client sent: its body is here, and its answer goes elsewhere."""

    __slots__ = ("body", "head", "on_abort", "on_drain")

    def __init__(self, body: Any) -> None:
        self.head = _Head(len(body))
        self.body = body
        self.on_abort: Any = None
        self.on_drain: Any = None

    def abort(self) -> None:
        """Nobody's connection breaks."""


class StepForward(Forward):
    """A step's call between its start and the end of its answer."""

    __slots__ = ("_head", "_pieces", "_request", "_size", "_tell")

    def __init__(
        self,
        gateway: Gateway,
        plan: Plan,
        service: Service,
        request: Encoded,
        context: Context,
        tell: Done,
    ) -> None:
        now = gateway.now()
        super().__init__(gateway, StepExchange(request.body), plan, service, now)  # type: ignore[arg-type]
        self.deadline = min(self.deadline, context.deadline)
        self._request = request
        self._tell = tell
        self._head: ResponseHead | None = None
        self._pieces: list[Any] = []
        self._size = 0

    def on_response(self, head: ResponseHead, body: Any) -> None:
        if body is None:
            self._head = head
            return
        self._finish(head.status)
        name = self.service.name
        self._tell(outcome(self._request, head.status, head.headers, body, name, head.memo))

    def on_data(self, data: Any) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self.fail(TooLarge(f"{self.service.key} answered more than {MOST_BYTES} bytes."))

    def on_end(self) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - an end comes after a head
        self._finish(head.status)
        body = b"".join(self._pieces)
        self._tell(outcome(self._request, head.status, head.headers, body, self.service.name))

    def fail(self, exc: PenstockError) -> None:
        if self.done:
            return
        self._finish(exc.status)
        self._tell(failure_of(exc))

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.done:
            self._finish(499)

    def drop(self) -> None:
        super().drop()
        self._tell(Failure(500, f"The call of {self.service.key} failed.", reason="InternalError"))


class _Nobody:
    """A call that ended before it began."""

    __slots__ = ("_over", "_tell")

    def __init__(self, loop: asyncio.AbstractEventLoop, failure: Failure, done: Done) -> None:
        self._over = False
        loop.call_soon(self._end, failure, done)

    def _end(self, failure: Failure, done: Done) -> None:
        if not self._over:
            done(failure)

    def cancel(self) -> None:
        self._over = True


class GatewayCaller:
    """Calls services through the gateway, and addresses outside (a `penstock.graphs.calls.Caller`)."""

    def __init__(
        self,
        gateway: Gateway,
        loop: asyncio.AbstractEventLoop,
        run_graph: Callable[[Service, Value, Context, Done], Under],
    ) -> None:
        self._gateway = gateway
        self._loop = loop
        self._run_graph = run_graph
        self._outside: dict[str, _Host] = {}

    def call(self, action: Call | CallUrl, value: Value, context: Context, done: Done) -> Under:
        try:
            if isinstance(action, CallUrl):
                return self._host(action.url).call(action, encode(action, value), context, done)
            return self._forward(action, value, context, done)
        except PenstockError as exc:
            return _Nobody(self._loop, failure_of(exc), done)
        except Exception as exc:  # noqa: BLE001 - the step's border: one request fails, not the process
            return _Nobody(self._loop, failure_of(internal(exc)), done)

    def _forward(
        self, action: Call, value: Value, context: Context, done: Done, *, copy: bool = False
    ) -> Under:
        table = self._gateway.table
        namespace = action.namespace or context.namespace
        service = table.get(namespace, action.service)
        if service is None:
            raise Unavailable(f"The service {namespace}/{action.service} does not exist.")
        if service.graph is not None:
            if service.route.experiment is not None:
                front: ExperimentFront = service.graph
                mirror = front.copy_to() if not copy else ""
                if mirror:
                    self._copy(front, structs.replace(action, service=mirror), value, context)
                service = front.member()
                action = structs.replace(action, model=service.name)
            if service.graph is not None:
                return self._run_graph(service, value, context, done)
        request = encode(action, value)
        known = service.entries.get(request.path)
        if known is None or not known.service.current:
            known = _Entry(service, table, request.path)
            if len(service.entries) >= MOST_ENTRIES:
                service.entries.clear()
            service.entries[request.path] = known
        entered = known.service
        wanted = action.revision
        if wanted and entered.targets and entered.named(wanted) is None:
            raise unknown_revision(entered, wanted, table)
        lines = b"%b%b%bcontent-length: %d\r\n\r\n" % (
            known.lines,
            request.headers,
            context.headers,
            len(request.body),
        )
        plan = Plan(entered, lines, known.protocol, entered.route.timeout_s, wanted=wanted)
        kind = StepForward if entered.learner is None else _learned_step()
        forward = kind(self._gateway, plan, entered, request, context, _later(self._loop, done))
        self._gateway.admit(forward)
        return forward

    def _copy(self, front: ExperimentFront, action: Call, value: Value, context: Context) -> None:
        """Call an experiment's mirror; nobody waits for its answer."""

        def ended(result: Value | Failure) -> None:
            front.copied(result.status if isinstance(result, Failure) else 200)

        try:
            self._forward(structs.replace(action, model=""), value, context, ended, copy=True)
        except PenstockError as exc:
            front.copied(exc.status)

    def _host(self, url: str) -> _Host:
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        host = self._outside.get(key)
        if host is None:
            if len(self._outside) >= MOST_HOSTS:
                # The one that was asked longest ago; requests under way there end as they are.
                self._outside.pop(next(iter(self._outside))).close()
            host = self._outside[key] = _Host(
                parts.scheme, parts.hostname or "", parts.port, parts.netloc, self._loop
            )
        return host

    def close(self) -> None:
        """Close connections to addresses outside."""
        for host in self._outside.values():
            host.close()
        self._outside.clear()


def _learned_step() -> type[StepForward]:
    from penstock.gateway.learning.step import LearnedStep

    return LearnedStep


def _later(loop: asyncio.AbstractEventLoop, done: Done) -> Done:
    """`done`, but never from within `call`: `admit` may fail a request at once."""

    def tell(result: Value | Failure) -> None:
        if isinstance(result, Failure):
            loop.call_soon(done, result)
        else:
            done(result)

    return tell


class _Host:
    """Connections to one address outside of the platform."""

    def __init__(
        self, scheme: str, name: str, port: int | None, netloc: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name = netloc
        self.loop = loop
        self.under_way = 0
        tls = ssl.create_default_context() if scheme == "https" else None
        address = Address(host=name, port=port or (443 if tls is not None else 80))
        self.upstream = Upstream(address, loop=loop, max_idle=32, tls=tls)

    def call(self, action: CallUrl, request: Encoded, context: Context, done: Done) -> Under:
        if self.under_way >= MOST_AT_ONCE:
            raise Unavailable(
                f"{self.name} is asked {self.under_way} times at once already.", retry_after_s=1
            )
        parts = urlsplit(action.url)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        lines = b"POST %b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (
            target.encode("ascii"),
            self.name.encode("ascii"),
            request.headers,
            context.headers,
            len(request.body),
        )
        return _UrlCall(self, lines, request, context, done)

    def close(self) -> None:
        self.upstream.close()


class _UrlCall:
    """One call of an address outside (a sink of `penstock.http.client`)."""

    __slots__ = (
        "_done",
        "_head",
        "_host",
        "_over",
        "_pieces",
        "_request",
        "_size",
        "_timer",
        "_under",
    )

    def __init__(
        self, host: _Host, lines: bytes, request: Encoded, context: Context, done: Done
    ) -> None:
        self._host = host
        self._request = request
        self._done = done
        self._over = False
        self._head: ResponseHead | None = None
        self._pieces: list[Any] = []
        self._size = 0
        host.under_way += 1
        self._timer = host.loop.call_at(context.deadline, self._expire)
        self._under: ClientExchange = host.upstream.request(lines, request.body, self)

    def on_response(self, head: ResponseHead, body: Any) -> None:
        self._head = head
        if body is not None:
            self._pieces.append(body)
            self.on_end()

    def on_data(self, data: Any) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES and not self._over:
            self._under.cancel()
            self._end(
                failure_of(TooLarge(f"{self._host.name} answered more than {MOST_BYTES} bytes."))
            )

    def on_end(self) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - an end comes after a head
        body = b"".join(self._pieces)
        self._end(outcome(self._request, head.status, head.headers, body, self._host.name))

    def on_error(self, exc: UpstreamError) -> None:
        self._end(Failure(502, f"{self._host.name}: {exc}", reason="ReplicaLost"))

    def _expire(self) -> None:
        self._under.cancel()
        self._end(failure_of(DeadlineExceeded(f"{self._host.name} did not answer in time.")))

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._leave()
            self._under.cancel()

    def _end(self, result: Value | Failure) -> None:
        if not self._over:
            self._over = True
            self._leave()
            self._done(result)

    def _leave(self) -> None:
        self._timer.cancel()
        self._host.under_way -= 1
