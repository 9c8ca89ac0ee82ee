"""The threads that talk to SQLite, so that the event loop never waits for a disk.

The writer takes whatever has queued up while it was committing and runs it in one transaction: under load
one fsync pays for hundreds of writes, and a single write waits for nobody. A caller hears of its write after
the commit. The reader runs queries on a connection of its own; in WAL mode it never waits for the writer.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from penstock.errors import PenstockError, Unavailable

T = TypeVar("T")

#: Writes in one transaction; bounds what a failed commit takes down with it.
MAX_GROUP = 256
#: Operations that may wait for a thread; beyond it a caller is told at once.
MAX_QUEUE = 20_000


class _Operation(NamedTuple):
    run: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: BaseException | None


class DatabaseThread(Generic[T]):
    """One thread and its connection. `submit` is for the loop that the thread was started on."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        *,
        begin: str,
        map_error: Callable[[sqlite3.Error], PenstockError],
        after_commit: Callable[[], T] | None = None,
        after_rollback: Callable[[], None] | None = None,
        publish: Callable[[T], None] | None = None,
    ) -> None:
        self._connection = connection
        self._begin = begin
        self._map_error = map_error
        self._after_commit = after_commit
        self._after_rollback = after_rollback
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def submit(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        """`run`'s result after the commit. What is queued runs even if the caller is cancelled."""
        if self._closed:
            raise Unavailable("The store is closed.")
        if self._queue.qsize() >= MAX_QUEUE:
            raise Unavailable("Too many requests wait for the store.", retry_after_s=1.0)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Operation(run, future))
        return await future

    async def close(self) -> None:
        """Run what is queued, then end the thread and close its connection."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                group = [first]
                last = False
                while len(group) < MAX_GROUP:
                    try:
                        more = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        last = True
                        break
                    group.append(more)
                self._run(group)
                if last:
                    break
        finally:
            self._connection.close()

    def _run(self, group: list[_Operation]) -> None:
        outcomes: list[_Outcome] = []
        news: T | None = None
        connection = self._connection
        try:
            connection.execute(self._begin)
            for operation in group:
                try:
                    outcomes.append(_Outcome(operation.future, operation.run(connection), None))
                except sqlite3.Error:
                    raise
                except Exception as e:  # noqa: BLE001 - handed to the caller, whose operation it is
                    # Operations look before they write, so one that refuses has written nothing.
                    outcomes.append(_Outcome(operation.future, None, e))
            connection.execute("COMMIT")
            if self._after_commit is not None:
                news = self._after_commit()
        except sqlite3.Error as e:
            error = self._map_error(e)
            error.__cause__ = e
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                # SQLite has rolled back by itself, or will when the connection is closed.
                pass
            if self._after_rollback is not None:
                self._after_rollback()
            outcomes = [_Outcome(operation.future, None, error) for operation in group]
        try:
            self._loop.call_soon_threadsafe(self._report, outcomes, news)
        except RuntimeError:
            # The loop is closed, and with it everybody who wanted to know.
            pass

    def _report(self, outcomes: list[_Outcome], news: T | None) -> None:
        if self._publish is not None and news is not None:
            self._publish(news)
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
