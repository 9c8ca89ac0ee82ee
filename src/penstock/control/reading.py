"""Reads `GET /metrics.json` of many processes at once, in a thread.

A connection of asyncio's costs ten times what the reading does, and a thousand of them would hold up the
control plane's loop. So a thread opens a batch of sockets, asks them all, and polls until they have answered;
what one process says, or does not say, is its own result.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from penstock.domain.routes import Address
from penstock.observe.metrics import Snapshot

#: Bytes of one process's snapshot.
MAX_BYTES = 16 * 1024 * 1024
MAX_HEAD = 64 * 1024

#: A snapshot, or why there is none: OSError (TimeoutError too) or ValueError.
Result: TypeAlias = Snapshot | Exception

_REQUEST = b"GET /metrics.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_decode = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode


def read_snapshots(addresses: Sequence[str], *, deadline_s: float) -> list[Result]:
    """One result for each of `unix:/path` or `tcp:host:port`. Blocks for `deadline_s` seconds at most."""
    results: list[Result] = [TimeoutError("no answer")] * len(addresses)
    asked: dict[int, tuple[int, _Answer]] = {}
    poll = select.poll()
    until = time.monotonic() + deadline_s
    try:
        for i, address in enumerate(addresses):
            try:
                answer = _Answer(address)
            except (OSError, ValueError) as exc:
                results[i] = exc
                continue
            asked[answer.socket.fileno()] = i, answer
            poll.register(answer.socket, select.POLLOUT)
        while asked:
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            for fd, _ in poll.poll(max(1, int(left_s * 1000))):
                i, answer = asked[fd]
                try:
                    if answer.unsent:
                        answer.send()
                        poll.modify(fd, select.POLLOUT if answer.unsent else select.POLLIN)
                        continue
                    found = answer.receive()
                    if found is None:
                        continue
                    results[i] = _decode(found)
                except (OSError, ValueError) as exc:
                    results[i] = exc
                poll.unregister(fd)
                del asked[fd]
                answer.socket.close()
    finally:
        for _, answer in asked.values():
            answer.socket.close()
    return results


class _Answer:
    """A connection to one process."""

    def __init__(self, address: str) -> None:
        """OSError, ValueError."""
        self._address = address
        where = Address.parse(address)
        family = socket.AF_UNIX if where.path is not None else socket.AF_INET
        host = where.host or ""
        if family == socket.AF_INET and ":" in host:
            family = socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.setblocking(False)
        try:
            self.socket.connect(where.path if where.path is not None else (host, where.port))
        except BlockingIOError as exc:
            if family == socket.AF_UNIX:  # its queue is full
                self.socket.close()
                raise OSError(f"{address}: {exc}") from exc
        except OSError as exc:
            self.socket.close()
            raise OSError(f"{address}: {exc}") from exc
        self.unsent = _REQUEST
        self._head = b""
        self._body: bytearray | None = None
        self._length = 0

    def send(self) -> None:
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"{self._address} cannot be reached")
        self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> bytes | None:
        """The body, once it is whole."""
        data = self.socket.recv(256 * 1024)
        if not data:
            raise OSError(f"{self._address} broke off its answer")
        if self._body is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > MAX_HEAD:
                    raise ValueError(f"{self._address}: a head without an end")
                return None
            self._length = self._content_length(self._head[:end])
            self._body = bytearray(self._head[end + 4 :])
        else:
            self._body += data
        return bytes(self._body[: self._length]) if len(self._body) >= self._length else None

    def _content_length(self, head: bytes) -> int:
        line, *fields = head.decode("latin-1").split("\r\n")
        if line.split(" ", 2)[1:2] != ["200"]:
            raise OSError(f"{self._address} answered {line[:100]!r}")
        for field in fields:
            name, _, value = field.partition(":")
            if name.lower() == "content-length" and value.strip().isdigit():
                length = int(value)
                if length > MAX_BYTES:
                    raise ValueError(f"{self._address}: {length} bytes of metrics")
                return length
        raise ValueError(f"{self._address} does not say how long its metrics are")


def well_formed(snapshot: Mapping[str, Any]) -> bool:
    """Whether it has what a sum needs; a process of another kind may answer anything."""
    return all(
        isinstance(f.get("samples"), list) and {"help", "kind", "labels", "bounds"} <= f.keys()
        for f in snapshot.values()
    )
