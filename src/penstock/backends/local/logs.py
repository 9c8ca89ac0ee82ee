"""What a process wrote to stdout and stderr: kept across its restarts, bounded, and readable while it grows.

The node reads each process's pipe and writes the file itself, so rotation needs no help from the writer. A
reader that follows reads the files, not a queue: however slow it is, it costs no memory, and it falls
behind by at most what rotation keeps.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

#: Size at which a file is set aside. Two are kept, so a replica's log takes at most twice this.
MAX_BYTES: Final = 10 * 1024 * 1024
#: Bytes given to a reader at a time.
CHUNK: Final = 64 * 1024
#: The end of the log that is kept in memory to explain an ending.
_LAST: Final = 8 * 1024
#: A logger's line has its level near the beginning.
_LOGGED: Final = re.compile(r"^.{0,60}?\b(DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b")
_TRACEBACK: Final = re.compile(r"\s*(?:\| )?Traceback \(most recent call last\):")
_LIKE_AN_ERROR: Final = re.compile(
    r"error|exception|fatal|fail|abort|terminate|what\(\)|assert|panic|fault|bad_alloc"
    r"|in use|cannot|can't|no such|not found|denied|refused",
    re.IGNORECASE,
)


class ProcessLog:
    """The log of one process, by name, whichever incarnation of it writes."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.rotated = path.with_name(path.name + ".1")
        self._max_bytes = max_bytes
        self._fd = -1
        self._size = 0
        #: Counts rotations, so that a follower knows which file it holds.
        self._generation = 0
        self._last = b""
        self._grown: set[asyncio.Event] = set()
        self._broken = False
        self._closed = False

    def write(self, data: bytes) -> None:
        """Append. A full disk loses log lines, never the replica; it is said once."""
        if not data:
            return
        self._last = (self._last + data)[-_LAST:]
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            os.write(self._fd, data)
            self._size += len(data)
            self._broken = False
        except OSError as e:
            if not self._broken:
                self._broken = True
                logger.error("%s: %s; lines are lost", self.path, e.strerror)
        for event in self._grown:
            event.set()

    def note(self, text: str) -> None:
        """Append a line of the node's own."""
        self.write(b"penstock: " + text.encode() + b"\n")

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        os.replace(self.path, self.rotated)
        os.close(self._fd)
        self._fd = -1
        self._generation += 1
        self._open()

    def last_error(self) -> str:
        """The line that explains an ending, if the process's last words are an error; else empty.

        The interpreter's fatal error, the exception under a traceback, or the last line when it reads
        like an error. What a process said while all was well explains nothing.
        """
        text = self._last.decode("utf-8", "replace")
        lines = [x for x in text.splitlines() if x.strip() and not x.startswith("penstock: ")]
        for line in reversed(lines):
            if line.startswith("Fatal Python error:"):
                return line.strip()
        # The last words begin with the last line that a logger wrote.
        first = next((i for i in reversed(range(len(lines))) if _LOGGED.search(lines[i])), 0)
        words = lines[first:]
        headers = [i for i, line in enumerate(words) if _TRACEBACK.match(line)]
        if headers:
            under = words[headers[-1] + 1 :]
            return next((x.strip() for x in under if not x[0].isspace()), "")
        last = words[-1].strip() if words else ""
        if len(words) == 1 and (level := _LOGGED.search(last)) is not None:
            return last if level[1] in ("ERROR", "CRITICAL", "FATAL") else ""
        return last if _LIKE_AN_ERROR.search(last) else ""

    def last_line(self) -> str:
        """Its very last line, for a process that ends by saying why."""
        lines = self._last.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def forget_last(self) -> None:
        """A new incarnation begins: what an earlier one said does not explain how this one ends."""
        self._last = b""

    async def read(self, *, tail: int | None = None, follow: bool = False) -> AsyncIterator[bytes]:
        """Chunks of the log, the last `tail` lines or all that is kept; then, with `follow`, what comes.

        Following ends when the log is closed. A reader that two rotations overtake misses what they dropped.
        """
        grown = asyncio.Event()
        self._grown.add(grown)
        files: list[int] = []
        try:
            # Nothing is awaited between these lines, so the files are those of this generation.
            generation = self._generation
            for path in (self.rotated, self.path):
                try:
                    files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                except FileNotFoundError:
                    continue
            first, offset = (0, 0) if tail is None else tail_start(files, tail)
            for fd in files[:first]:
                os.close(fd)
            del files[:first]
            if files:
                os.lseek(files[0], offset, os.SEEK_SET)
            while True:
                grown.clear()
                data = os.read(files[0], CHUNK) if files else b""
                if data:
                    yield data
                elif len(files) > 1:
                    os.close(files.pop(0))
                elif generation < self._generation or (not files and self._size):
                    if files:
                        os.close(files.pop())
                        generation = max(generation + 1, self._generation - 1)
                    else:
                        generation = self._generation
                    newest = generation == self._generation
                    files.append(os.open(self.path if newest else self.rotated, os.O_RDONLY))
                elif not follow or self._closed:
                    return
                else:
                    await grown.wait()
        finally:
            self._grown.discard(grown)
            for fd in files:
                os.close(fd)

    def close(self) -> None:
        """End the followers once they have read all. `write` may open it again."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for event in self._grown:
            event.set()

    def reopen(self) -> None:
        self._closed = False


def tail_start(files: Sequence[int], lines: int) -> tuple[int, int]:
    """Index of the file and the offset in it where the last `lines` lines of all of them begin.

    `files` are descriptors, oldest first, read as one text: a line may go over from one to the next.
    """
    ends = [os.fstat(fd).st_size for fd in files]
    if lines <= 0:
        return (len(files) - 1, ends[-1]) if files else (0, 0)
    at_end = True
    for index in reversed(range(len(files))):
        position = ends[index]
        while position > 0:
            n = min(CHUNK, position)
            block = os.pread(files[index], n, position - n)
            at = len(block)
            if at_end and block:
                at_end = False
                at -= block.endswith(b"\n")  # it ends the last line and begins none
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                lines -= 1
                if lines == 0:
                    return index, position - n + at + 1
            position -= n
    return 0, 0
