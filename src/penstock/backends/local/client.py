"""`LocalBackend`: the control plane's way to the node.

One connection carries requests; each watch and each log has its own, so that a slow reader of one holds up
no other. A connection that is lost is made again at the next request; requests are idempotent and are sent
once more when it was lost under them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.backends.base import Backend, ReplicaGone, ReplicaList, ReplicaStatus
from penstock.backends.local.lock import find_layout
from penstock.backends.local.node_protocol import (
    MAX_LINE,
    Answer,
    Change,
    Hurry,
    List,
    ListDevices,
    Logs,
    NodeStatus,
    Request,
    Retry,
    Start,
    Status,
    Stop,
    Watch,
    decode_answer,
)
from penstock.domain.devices import DeviceStatus
from penstock.domain.process import ProcessSpec
from penstock.errors import Unavailable

#: Seconds for an answer that needs no replica to end.
_ANSWER_S: Final = 10.0
#: Seconds a watch tries to reach a node that went away before it gives up.
_AWAY_S: Final = 5.0
#: Listings of thousands of replicas fit into a line.
_MAX_ANSWER: Final = 8 * MAX_LINE


class _Lost(Exception):
    """The connection broke before the answer came."""


class LocalBackend(Backend):
    """The node of `data_dir`, reached through its socket."""

    runs_containers = False

    def __init__(self, data_dir: Path, *, timeout_s: float = _ANSWER_S) -> None:
        self._data_dir = Path(data_dir)
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._ids = itertools.count(1)

    async def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        """As the contract says. A spec with an empty `listen` gets a socket of the node's."""
        request = Start(next(self._ids), replica_id, framework, spec)
        status: ReplicaStatus = await self._call(request, ReplicaStatus)
        return status

    async def retry(self, replica_id: str) -> ReplicaStatus:
        """Start a replica that is Failed or BackOff now, instead of at its `retry_at`. NotFound."""
        request = Retry(next(self._ids), replica_id)
        status: ReplicaStatus = await self._call(request, ReplicaStatus)
        return status

    async def stop(self, replica_id: str, *, grace_s: float | None = None) -> None:
        """As the contract says; returns once the process is gone. Cancelling the call stops no stop."""
        await self._call(Stop(next(self._ids), replica_id, grace_s), type(None), timeout_s=None)

    async def hurry(self, replica_id: str) -> None:
        await self._call(Hurry(next(self._ids), replica_id), type(None))

    async def list(self) -> ReplicaList:
        replicas: ReplicaList = await self._call(List(next(self._ids)), ReplicaList)
        return replicas

    async def devices(self) -> tuple[DeviceStatus, ...]:
        devices: tuple[DeviceStatus, ...] = await self._call(
            ListDevices(next(self._ids)), tuple[DeviceStatus, ...]
        )
        return devices

    async def status(self) -> NodeStatus:
        """What the node says of itself: zygotes, control plane, gateways."""
        status: NodeStatus = await self._call(Status(next(self._ids)), NodeStatus)
        return status

    async def watch(self) -> AsyncIterator[ReplicaStatus | ReplicaGone]:
        """As the contract says. Reconnects by itself, and then tells the present state of each again."""
        known: set[str] = set()
        loop = asyncio.get_running_loop()
        reached = False
        lost_at = 0.0
        while True:
            request = Watch(next(self._ids))
            try:
                # What is there comes first; what was known and is not among it has gone meanwhile.
                stale = set(known)
                async for item in self._stream(request):
                    reached = True
                    lost_at = 0.0
                    change = msgspec.json.decode(item, type=Change)
                    if change.put is not None:
                        known.add(change.put.id)
                        stale.discard(change.put.id)
                        yield change.put
                    elif change.gone is not None:
                        known.discard(change.gone)
                        stale.discard(change.gone)
                        yield ReplicaGone(change.gone)
                    elif change.present:
                        for gone in sorted(stale):
                            known.discard(gone)
                            yield ReplicaGone(gone)
                        stale.clear()
            except (_Lost, Unavailable) as e:
                lost_at = lost_at or loop.time()
                if not reached or loop.time() - lost_at > _AWAY_S:
                    raise Unavailable("The node cannot be reached.", retry_after_s=1.0) from e
                await asyncio.sleep(0.1)

    async def logs(
        self, replica_id: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        request = Logs(next(self._ids), replica_id, tail, follow)
        try:
            async for item in self._stream(request):
                yield msgspec.json.decode(item, type=bytes)
        except _Lost as e:
            raise Unavailable("The node went away.", retry_after_s=1.0) from e

    async def aclose(self) -> None:
        """Hang up. Watches and logs in progress keep their own connections."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _call(self, request: Request, kind: Any, timeout_s: float | None = -1.0) -> Any:
        limit = self._timeout_s if timeout_s == -1.0 else timeout_s
        try:
            async with asyncio.timeout(limit):
                try:
                    answer = await (await self._connected()).ask(request)
                except _Lost:
                    answer = await (await self._connected()).ask(request)
        except TimeoutError as e:
            raise Unavailable(f"The node did not answer within {limit:g} s.") from e
        except _Lost as e:
            raise Unavailable("The node went away.", retry_after_s=1.0) from e
        if answer.error is not None:
            raise answer.error.error()
        return msgspec.json.decode(answer.result, type=kind)

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost:
                self._connection = _Connection(*await self._open())
            return self._connection

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = find_layout(self._data_dir).node_socket
        try:
            return await asyncio.open_unix_connection(os.fspath(path), limit=_MAX_ANSWER)
        except OSError as e:
            raise Unavailable(
                f"No node serves {self._data_dir}.", hint="Start one with `penstock serve`."
            ) from e

    async def _stream(self, request: Watch | Logs) -> AsyncIterator[msgspec.Raw]:
        """Items of one request on a connection of its own. _Lost, and what the node answers."""
        reader, writer = await self._open()
        try:
            writer.write(msgspec.json.encode(request) + b"\n")
            while True:
                answer = await _read(reader)
                if answer.error is not None:
                    raise answer.error.error()
                if answer.end:
                    if isinstance(request, Watch):
                        raise _Lost  # cut off: the node stops, or we were too slow
                    return
                yield answer.item
        finally:
            writer.close()


class _Connection:
    """Requests and their answers, by id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self.lost = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="node.sock")

    async def ask(self, request: Request) -> Answer:
        if self.lost:
            raise _Lost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        try:
            self._writer.write(msgspec.json.encode(request) + b"\n")
            await self._writer.drain()
            return await future
        except ConnectionError as e:
            raise _Lost from e
        finally:
            self._waiting.pop(request.id, None)

    async def _run(self) -> None:
        try:
            while True:
                answer = await _read(self._reader)
                future = self._waiting.get(answer.id)
                if future is not None and not future.done():
                    future.set_result(answer)
        except _Lost:
            pass
        finally:
            self.lost = True
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_Lost())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Answer:
    try:
        return decode_answer(await reader.readuntil(b"\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as e:
        raise _Lost from e
