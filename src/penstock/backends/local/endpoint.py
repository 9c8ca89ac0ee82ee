"""node.sock: the node's face to the control plane and to `penstock`'s own tools.

The socket is in a folder only this user can enter. A client that reads slowly holds up itself alone: its
connection's answers wait, its watch is cut when it is too far behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.backends.local.node_protocol import (
    MAX_LINE,
    Change,
    Fault,
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
    decode_request,
    line,
)
from penstock.backends.local.replicas import Replicas
from penstock.errors import Internal, InvalidInput, PenstockError, Unavailable

logger = logging.getLogger(__name__)

#: Requests of one connection that are being worked on; a thousand replicas may be stopped at once.
_MAX_REQUESTS: Final = 4096


class Endpoint:
    """Serves node.sock from `listen` to `close`."""

    def __init__(self, replicas: Replicas, status: Callable[[], NodeStatus]) -> None:
        self._replicas = replicas
        self._status = status
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, path: Path) -> None:
        """Bind the socket, readable and writable for this user only. `path` does not exist yet."""
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._accept, path, limit=MAX_LINE)
        finally:
            os.umask(old)

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        self._connections.add(task)
        try:
            await _Connection(self._replicas, self._status, reader, writer).run()
        except (ConnectionError, asyncio.CancelledError):
            pass  # a cancelled handler would be logged as an error by asyncio
        except Exception:  # the connection's border
            logger.exception("a connection to the node failed")
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    """One client: its requests run side by side, its answers leave in the order they are ready."""

    def __init__(
        self,
        replicas: Replicas,
        status: Callable[[], NodeStatus],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._replicas = replicas
        self._status = status
        self._reader = reader
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while True:
                try:
                    data = await self._reader.readuntil(b"\n")
                except asyncio.IncompleteReadError:
                    return
                except asyncio.LimitOverrunError:
                    error = InvalidInput(f"A request has more than {MAX_LINE} bytes.")
                    await self._answer(0, error=Fault.of(error))
                    return
                try:
                    request = decode_request(data)
                except msgspec.DecodeError as e:
                    error = InvalidInput(f"The request is not understood: {e}.")
                    await self._answer(_id_of(data), error=Fault.of(error))
                    continue
                if len(self._tasks) >= _MAX_REQUESTS:
                    busy = Unavailable("Too many requests on one connection.")
                    await self._answer(request.id, error=Fault.of(busy))
                    continue
                await self._begin(request)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin(self, request: Request) -> None:
        match request:
            case Stop():
                self._spawn(request.id, self._stop(request))
            case Watch():
                self._spawn(request.id, self._watch(request))
            case Logs():
                self._spawn(request.id, self._logs(request))
            case _:
                try:
                    await self._answer(request.id, result=self._result(request))
                except PenstockError as e:
                    await self._answer(request.id, error=Fault.of(e))

    def _result(self, request: Start | Retry | Hurry | List | Status | ListDevices) -> Any:
        match request:
            case Start():
                return self._replicas.start(request.replica, request.framework, request.spec)
            case Retry():
                return self._replicas.retry(request.replica)
            case Hurry():
                return self._replicas.hurry(request.replica)
            case List():
                return self._replicas.list()
            case Status():
                return self._status()
            case ListDevices():
                return self._replicas.devices()

    def _spawn(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(request_id, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            try:
                await work
            except PenstockError as e:
                await self._answer(request_id, error=Fault.of(e))
            except ConnectionError:
                raise
            except Exception:  # the request's border
                logger.exception("a request to the node failed")
                error = Internal("The node failed at this; its log says how.")
                await self._answer(request_id, error=Fault.of(error))
        except ConnectionError:
            pass  # nobody is there to be told

    async def _stop(self, request: Stop) -> None:
        await self._replicas.stop(request.replica, request.grace_s)
        await self._answer(request.id, result=None)

    async def _watch(self, request: Watch) -> None:
        watch = self._replicas.watch()
        try:
            left = watch.present
            if left == 0:
                await self._answer(request.id, item=Change(present=True))
            async for change in watch.changes():
                await self._answer(request.id, item=Change.of(change))
                left -= 1
                if left == 0:
                    await self._answer(request.id, item=Change(present=True))
        finally:
            self._replicas.unwatch(watch)
        await self._answer(request.id, end=True)

    async def _logs(self, request: Logs) -> None:
        log = self._replicas.log(request.replica)
        chunks: AsyncIterator[bytes] = log.read(tail=request.tail, follow=request.follow)
        async for chunk in chunks:
            await self._answer(request.id, item=chunk)
        await self._answer(request.id, end=True)

    async def _answer(self, request_id: int, **fields: Any) -> None:
        self._writer.write(line(request_id, **fields))
        await self._writer.drain()


def _id_of(data: bytes) -> int:
    """The id of a request that is otherwise not understood; 0 when even that is not."""
    try:
        found = msgspec.json.decode(data).get("id")
    except (msgspec.DecodeError, AttributeError):
        return 0
    return found if isinstance(found, int) else 0
