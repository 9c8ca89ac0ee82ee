"""Why a model process ended: what it said itself, what the node decided, what exit code and last words tell.

The nearest to the cause wins. A process that the node killed ended for the node's reason, whatever it said;
one over its memory limit may have called that a failed load; its own message says more than an exit code.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Final

from penstock.backends.local.limits import Limits
from penstock.backends.local.spawn import Ending

#: Exit codes of the model process with a meaning of their own.
EXIT_CANNOT_LOAD: Final = 78
EXIT_HUNG: Final = 79


@dataclass(frozen=True, slots=True)
class Why:
    """Why a process ended; `failed` when starting it again soon is pointless."""

    reason: str
    message: str
    exit_code: int | None = None
    signal: int | None = None
    failed: bool = False


def why_ended(
    ending: Ending | None,
    *,
    said: Why | None,
    verdict: Why | None,
    last: str,
    limits: Limits,
    zygote_failure: str,
) -> Why:
    """Why a process ended.

    `ending` is None where its zygote was lost, for the reason `zygote_failure`. `said` is the process's own
    word, `verdict` the node's, `last` the last line of its log that looks like an error.
    """
    if verdict is not None:
        how = ending or Ending(None, signal.SIGKILL)
        return replace(verdict, exit_code=how.exit_code, signal=how.signal)
    if ending is None:
        return Why("ZygoteLost", zygote_failure)
    words = f"{said.message if said else ''}\n{last}"
    if limits.explains(words):
        limit = mib(limits.memory_limit_bytes or 0)
        text = f"went over its memory limit of {limit}" + (f": {last}" if last else "")
        return Why("OutOfMemory", text, ending.exit_code, ending.signal)
    failed = ending.exit_code == EXIT_CANNOT_LOAD
    if said is not None:
        return replace(said, exit_code=ending.exit_code, signal=ending.signal, failed=failed)
    if ending.exit_code == EXIT_HUNG:
        return Why("Unresponsive", last or "a call hung", ending.exit_code)
    reason = "Signal" if ending.signal is not None else "Exit"
    if failed:
        reason = "ModelLoadFailed"
    # Nobody has a last word about SIGKILL.
    quoted = last and ending.signal != signal.SIGKILL
    text = f"{ending}: {last}" if quoted else str(ending)
    return Why(reason, text, ending.exit_code, ending.signal, failed)


def one_line(text: object) -> str:
    """A message as one line of at most 1,000 characters."""
    return " ".join(str(text or "").split())[:1000]


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
