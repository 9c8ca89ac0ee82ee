"""How commands end: exit codes, and errors in one clear line.

| code | meaning |
|---|---|
| 0 | done |
| 1 | it failed |
| 2 | wrong usage |
| 3 | refused: a conflict, or another `penstock serve` has the data folder |
| 4 | not found |
| 5 | the time to wait was over |
| 6 | the server cannot be reached |
| 130 | interrupted |
"""

from __future__ import annotations

from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
REFUSED = 3
NOT_FOUND = 4
TIMED_OUT = 5
UNREACHABLE = 6
INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: `lines` go to stderr, the first after `error: `."""

    def __init__(self, message: str, code: int = FAILED, *, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.lines = tuple(lines)


def code_of_status(http_status: int) -> int:
    """The exit code for an answer of the control API."""
    return {401: FAILED, 403: FAILED, 404: NOT_FOUND, 409: REFUSED}.get(http_status, FAILED)
