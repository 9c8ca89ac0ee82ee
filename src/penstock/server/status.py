"""What a model process tells its supervisor: one JSON object a line, on a descriptor it was born with.

`listening`, then `ready` or `failed`; `beat` from the event loop, so that a loop that stands still is
noticed, or `rest` when the next sign will take longer (`pulse`); `hung` before the process ends because a
call never returned.
"""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec

_encode = msgspec.json.Encoder().encode
_BEAT: Final = b'{"event":"beat"}\n'


class Status:
    """Writes status lines; does nothing without a descriptor. `say` may be called from any thread."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            # A supervisor that does not read must not hold up the loop: its pipe takes 64 KiB.
            os.set_blocking(fd, False)

    def say(self, event: str, **fields: Any) -> None:
        self._write(_encode({"event": event, **fields}) + b"\n")

    def beat(self) -> None:
        self._write(_BEAT)

    def rest(self, for_s: float) -> None:
        """A beat, and the next sign comes within `for_s` seconds."""
        self._write(b'{"event":"rest","for_s":%g}\n' % for_s)

    def _write(self, line: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, line)
        except BlockingIOError:
            return  # nobody reads; a later line may get through
        except OSError:
            self._fd = None  # the supervisor is gone, and this process is about to be
