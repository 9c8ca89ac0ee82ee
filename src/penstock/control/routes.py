"""Publishes the route table to gateways, and hears what they say back.

Controllers call `put` and `remove`; every gateway that is connected to the Unix socket gets first the
whole table, then what changes (`domain.routes` describes the messages). A gateway that reads slowly costs
bounded memory: what is kept for it is the set of keys it has not been told about, never a queue of
messages. Gateways answer each message with `{"ack": sequence}`, so that a drain can wait until no gateway
sends to a replica any more (`applied`), and say `Wake` when requests wait for a sleeping service.

The newest table is also kept in a file, for gateways that start while this process is away, and for this
process itself: it starts from that table, so a gateway that reconnects to a fresh control plane is never
told that there is nothing. `retain` then drops what no longer exists, once every service was looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from penstock.control.files import write_atomic
from penstock.domain.learning import Credited, Feedback, Learned, Pulls
from penstock.domain.routes import Load, Put, Remove, Route, Snapshot, ToGateway

log = logging.getLogger(__name__)

#: Bytes in one line from a gateway; they send short ones.
MAX_LINE = 64 * 1024
#: Bytes buffered towards one gateway before the writer waits for it to read.
HIGH_WATER = 256 * 1024
#: Bytes of messages that go out in one write, about.
BATCH = 64 * 1024
#: Seconds between two writes of the file under a stream of changes.
FILE_EVERY_S = 0.1
#: Share of the time that writing it may take (ten thousand routes are two megabytes), and the longest wait.
FILE_SHARE = 0.05
FILE_MOST_S = 2.0
#: A gateway that has not read for this long is dropped; it reconnects and gets a snapshot.
STALLED_S = 30.0

#: Messages about bandits that may wait for one gateway.
MOST_LETTERS = 10_000

_encode = msgspec.json.Encoder().encode


class _Gateway:
    """One connected gateway: what it has not been told, and what it has said it applied."""

    def __init__(self, writer: asyncio.StreamWriter, number: int) -> None:
        self.writer = writer
        self.number = number
        #: Keys to tell, in the order of their latest change.
        self.untold: dict[str, None] = {}
        #: What is to be said about bandits.
        self.letters: deque[Learned | Credited] = deque()
        self.snapshot = True
        self.wakeup = asyncio.Event()
        self.wakeup.set()
        self.acked = -1


class RoutePublisher:
    """The table of all routes and the gateways that follow it."""

    def __init__(
        self,
        *,
        file: Path | None = None,
        on_wake: Callable[[str, str, int], None] | None = None,
        on_sleep: Callable[[str, str], None] | None = None,
        on_load: Callable[[int, Load], None] | None = None,
        on_hung_up: Callable[[int], None] | None = None,
        on_feedback: Callable[[int, Feedback], None] | None = None,
        on_pulls: Callable[[Pulls], None] | None = None,
        learned: Callable[[], tuple[Learned, ...]] = tuple,
        expected_gateways: int = 0,
    ) -> None:
        self._file = file
        self._on_wake = on_wake
        self._on_sleep = on_sleep
        #: Called with a number for the gateway's connection, never used again.
        self._on_load = on_load
        self._on_hung_up = on_hung_up
        self._on_feedback = on_feedback
        self._on_pulls = on_pulls
        #: What bandits have learned, for a gateway that connects, and for the file.
        self._learned = learned
        self._connections = itertools.count()
        #: How many gateways should be connected; while fewer are, `applied` waits its whole time.
        self.expected_gateways = expected_gateways
        self._routes: dict[str, Route] = {}
        #: Sequence number of the latest change of a key, removals included while somebody is untold.
        self._changed: dict[str, int] = {}
        self._withdrawn: set[str] = set()
        self.sequence = 0
        self._gateways: set[_Gateway] = set()
        self._acks = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._dirty = asyncio.Event()
        self._file_task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    # -- the table ---------------------------------------------------------------------------------

    def load(self) -> None:
        """Start from the kept file. A missing or unreadable one is an empty table (and is said)."""
        if self._file is None:
            return
        try:
            snapshot = msgspec.json.decode(self._file.read_bytes(), type=Snapshot)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning(
                "the kept routes in %s cannot be read (%s); starting without", self._file, exc
            )
            return
        self._routes = {r.key: r for r in snapshot.routes}
        self.sequence = snapshot.sequence

    def get(self, key: str) -> Route | None:
        """The route as it was last published."""
        return self._routes.get(key)

    def put(self, route: Route) -> int:
        """Publish a route; returns the sequence number that says so. No change, no message."""
        if self._routes.get(route.key) == route:
            return self._changed.get(route.key, self.sequence)
        self._routes[route.key] = route
        self._withdrawn.discard(route.key)
        return self._tell(route.key)

    def remove(self, key: str) -> int:
        """Withdraw a route; no-op when absent."""
        if self._routes.pop(key, None) is None:
            return self._changed.get(key, self.sequence)
        self._withdrawn.add(key)
        return self._tell(key)

    def retain(self, services: Collection[tuple[str, str]]) -> None:
        """Withdraw every route of a service that is not among these (namespace, name)."""
        for key in [k for k, r in self._routes.items() if (r.namespace, r.name) not in services]:
            self.remove(key)

    def _tell(self, key: str) -> int:
        self.sequence += 1
        self._changed[key] = self.sequence
        for gateway in self._gateways:
            gateway.untold.pop(key, None)  # to the end: keys go out in the order of their sequence
            gateway.untold[key] = None
            gateway.wakeup.set()
        if self._withdrawn:
            self._forget()
        self._dirty.set()
        return self.sequence

    def _forget(self) -> None:
        """Drop change numbers of withdrawn routes that nobody need be told about any more."""
        for key in [k for k in self._withdrawn if all(k not in g.untold for g in self._gateways)]:
            self._withdrawn.discard(key)
            del self._changed[key]

    def say(self, gateway: int | None, messages: Iterable[Learned | Credited]) -> None:
        """Tell one gateway, or all (None), about bandits. A gateway that reads too slowly is dropped."""
        said = tuple(messages)
        for g in list(self._gateways):
            if gateway is not None and g.number != gateway:
                continue
            g.letters.extend(said)
            if len(g.letters) > MOST_LETTERS:
                g.writer.transport.abort()  # it comes back for a snapshot, which has all of it
            g.wakeup.set()

    # -- the socket --------------------------------------------------------------------------------

    async def serve(self, path: Path) -> None:
        """Listen for gateways on the Unix socket `path`, readable by this user only."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # noqa: ASYNC240 - one system call, at start
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            old = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(old)
            self._server = await asyncio.start_unix_server(
                self._connected, sock=sock, limit=MAX_LINE
            )
        except BaseException:
            sock.close()
            raise
        self._path = path
        if self._file is not None:
            self._file_task = asyncio.create_task(self._keep_file(self._file))

    def refresh_file(self) -> None:
        """Write the file anew: what bandits have learned is in it, too."""
        self._dirty.set()

    async def close(self) -> None:
        """Hang up on the gateways (they keep what they have) and write the file a last time."""
        if self._server is not None:
            self._server.close()
        for gateway in list(self._gateways):
            gateway.writer.close()
        tasks = [*self._tasks, *([self._file_task] if self._file_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        if self._writing is not None:
            # Its thread goes on: it must not put an older table in the place of the last one.
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._file is not None and self._dirty.is_set():
            self._write_file(self._file)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    @property
    def gateways(self) -> int:
        """How many gateways are connected."""
        return len(self._gateways)

    async def applied(self, sequence: int, *, timeout_s: float) -> bool:
        """Wait until every gateway serves by a table at least as new as `sequence`.

        False when that was not confirmed within `timeout_s`; the caller goes on then, because a gateway
        that is away fails over by itself.
        """

        def confirmed() -> bool:
            return len(self._gateways) >= self.expected_gateways and all(
                g.acked >= sequence for g in self._gateways
            )

        if self._server is None or confirmed():
            return confirmed()  # before they are let in nobody can confirm anything
        try:
            async with asyncio.timeout(timeout_s), self._acks:
                await self._acks.wait_for(confirmed)
        except TimeoutError:
            return False
        return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=HIGH_WATER)
        gateway = _Gateway(writer, next(self._connections))
        self._gateways.add(gateway)
        sender = asyncio.create_task(self._send(gateway))
        self._tasks.add(sender)
        sender.add_done_callback(self._tasks.discard)
        try:
            while line := await reader.readline():
                await self._heard(gateway, line)
        except (OSError, ValueError) as exc:  # ValueError: a line over the limit
            log.warning("a gateway's route channel broke off: %s", exc)
        except asyncio.CancelledError:
            pass  # closing: asyncio's stream server cancels handlers, there is nothing to hand on
        finally:
            self._gateways.discard(gateway)
            if self._on_hung_up is not None:
                self._on_hung_up(gateway.number)
            sender.cancel()
            writer.close()
            async with self._acks:
                self._acks.notify_all()
            self._forget()

    async def _heard(self, gateway: _Gateway, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError:
            log.warning("a gateway said something that is no JSON: %.80r", line)
            return
        if not isinstance(message, dict):
            return
        if isinstance(message.get("ack"), int):
            gateway.acked = max(gateway.acked, message["ack"])
            async with self._acks:
                self._acks.notify_all()
        elif message.get("type") == "wake" and self._on_wake is not None:
            namespace, _, name = str(message.get("key", "")).partition("/")
            waiting = message.get("waiting", 1)
            if namespace and name and isinstance(waiting, int):
                self._on_wake(namespace, name, waiting)
        elif message.get("type") == "sleep" and self._on_sleep is not None:
            namespace, _, name = str(message.get("key", "")).partition("/")
            if namespace and name:
                self._on_sleep(namespace, name)
        elif message.get("type") == "load" and self._on_load is not None:
            try:
                self._on_load(gateway.number, msgspec.convert(message, Load))
            except msgspec.ValidationError as exc:
                log.warning("a gateway's load cannot be read: %s", exc)
        elif message.get("type") in ("feedback", "pulls"):
            self._heard_of_bandits(gateway, message)

    def _heard_of_bandits(self, gateway: _Gateway, message: dict[str, Any]) -> None:
        try:
            if message["type"] == "pulls":
                if self._on_pulls is not None:
                    self._on_pulls(msgspec.convert(message, Pulls))
            elif self._on_feedback is not None:
                self._on_feedback(gateway.number, msgspec.convert(message, Feedback))
        except msgspec.ValidationError as exc:
            log.warning("what a gateway says about bandits cannot be read: %s", exc)

    async def _send(self, gateway: _Gateway) -> None:
        try:
            while True:
                await gateway.wakeup.wait()
                gateway.wakeup.clear()
                batch = bytearray()
                for message in self._news(gateway):
                    batch += _encode(message) + b"\n"
                    if len(batch) >= BATCH:
                        await self._write(gateway, batch)
                        batch = bytearray()
                if batch:
                    await self._write(gateway, batch)
        except (OSError, TimeoutError):
            # Either way the reader ends too and the gateway comes back for a snapshot.
            gateway.writer.transport.abort()

    async def _write(self, gateway: _Gateway, batch: bytes | bytearray) -> None:
        gateway.writer.write(batch)
        if gateway.writer.transport.get_write_buffer_size():
            async with asyncio.timeout(STALLED_S):
                await gateway.writer.drain()

    def _news(self, gateway: _Gateway) -> Iterable[ToGateway]:
        if gateway.snapshot:
            gateway.snapshot = False
            gateway.untold.clear()
            gateway.letters.clear()
            yield self._snapshot()
        while gateway.letters:
            yield gateway.letters.popleft()
        while gateway.untold:
            key = next(iter(gateway.untold))
            del gateway.untold[key]
            route = self._routes.get(key)
            sequence = self._changed.get(key, self.sequence)
            yield Put(sequence, route) if route is not None else Remove(sequence, key)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.sequence, tuple(self._routes.values()), self._learned())

    # -- the file ----------------------------------------------------------------------------------

    async def _keep_file(self, file: Path) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            began = time.monotonic()
            try:
                self._writing = asyncio.ensure_future(
                    asyncio.to_thread(write_atomic, file, _encode(self._snapshot()))
                )
                await asyncio.shield(self._writing)
            except OSError as exc:
                log.error("the routes cannot be kept in %s: %s", file, exc)
                self._dirty.set()
                await asyncio.sleep(5.0)
            took_s = time.monotonic() - began
            await asyncio.sleep(min(FILE_MOST_S, max(FILE_EVERY_S, took_s / FILE_SHARE)))

    def _write_file(self, file: Path) -> None:
        try:
            write_atomic(file, _encode(self._snapshot()))
        except OSError as exc:
            log.error("the routes cannot be kept in %s: %s", file, exc)
