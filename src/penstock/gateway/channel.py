"""The way the control plane's descriptions come in, and wake-ups go out.

Connects to the control plane's Unix socket and reads newline-delimited messages of `domain.routes`; when
the connection is lost, keeps what it has and tries again. Each message is acknowledged with its sequence
number after it is applied, so the control plane knows when nobody sends to a replica any more. At start,
the file with the newest snapshot stands in until the control plane answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from penstock.domain.learning import Credited, Learned
from penstock.domain.routes import FromGateway, Snapshot, ToGateway, Wake

logger = logging.getLogger(__name__)

#: Pause before the next attempt to connect, seconds: first, and most.
RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 0.2
#: A connection that lasted so long, seconds, makes the next pause a first one again.
STEADY_S: Final = 5.0
#: Wake-ups are said again each second while requests wait; one that is older, seconds, is of the past.
FRESH_S: Final = 1.5
#: Longest message. A snapshot of 10,000 services is about 3 MB.
MESSAGE_BYTES: Final = 256 * 1024 * 1024
#: What the control plane may leave unread before it is told no more.
UNREAD_BYTES: Final = 4 * 1024 * 1024

_decode = msgspec.json.Decoder(ToGateway).decode
_encode = msgspec.json.encode


class Channel:
    """Keeps one connection to the control plane."""

    def __init__(
        self,
        socket_path: str,
        apply: Callable[[ToGateway], None],
        *,
        restore: Callable[[Snapshot], None] | None = None,
        snapshot_path: Path | None = None,
    ) -> None:
        self._path = socket_path
        self._apply = apply
        #: Takes the file's table.
        self._restore = restore
        self._snapshot_path = snapshot_path
        self._writer: asyncio.StreamWriter | None = None
        #: Set once a table was taken, from the control plane or from the file.
        self.filled = asyncio.Event()
        #: Set once the control plane was found to be away.
        self.away = asyncio.Event()
        #: Wake-ups by service that nobody could be told of, and when that was.
        self._unsaid: dict[str, tuple[Wake, float]] = {}

    def load_snapshot(self) -> bool:
        """Take the file's table; False when there is none or it cannot be read."""
        if self._snapshot_path is None or self._restore is None:
            return False
        try:
            message = _decode(self._snapshot_path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, msgspec.DecodeError) as exc:
            logger.warning("the route table in %s cannot be used: %s", self._snapshot_path, exc)
            return False
        if isinstance(message, Snapshot):
            self._restore(message)
            self.filled.set()
        return True

    async def run(self) -> None:
        """Stay connected until cancelled."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=MESSAGE_BYTES)
            except OSError:
                self.away.set()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MOST_S)
                continue
            loop = asyncio.get_running_loop()
            since = loop.time()
            self._writer = writer
            try:
                await self._read(reader, writer)
            except (OSError, ValueError, msgspec.DecodeError) as exc:
                logger.warning("the control channel broke: %s", exc)
            except Exception:
                # The task's border: a gateway that hears nothing any more would serve an old table for ever.
                logger.exception(
                    "a message of the control plane could not be applied; asking again"
                )
            finally:
                self._writer = None
                writer.close()
            if loop.time() - since > STEADY_S:
                pause_s = RETRY_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MOST_S)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = _decode(line)
            self._apply(message)
            if isinstance(message, Learned | Credited):
                continue
            self.filled.set()
            writer.write(b'{"ack":%d}\n' % message.sequence)
            if self._unsaid:
                self._say_late()

    def _say_late(self) -> None:
        """Requests that wait since before the control plane was here need not wait to be told of again."""
        unsaid, self._unsaid = self._unsaid, {}
        since = asyncio.get_running_loop().time() - FRESH_S
        for wake, at in unsaid.values():
            if at >= since:
                self.say(wake)

    def say(self, message: FromGateway) -> None:
        """Tell the control plane. When it is away or does not read, all but a wake-up is dropped."""
        writer = self._writer
        if (
            writer is not None
            and not writer.is_closing()
            and writer.transport.get_write_buffer_size() < UNREAD_BYTES
        ):
            writer.write(_encode(message) + b"\n")
        elif isinstance(message, Wake):
            self._unsaid[message.key] = (message, asyncio.get_running_loop().time())
