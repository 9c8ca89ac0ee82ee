"""Starting a program, and learning that it ended.

Every process the node starts by exec dies with the node (parent-death signal), reads nothing from the
terminal, and has its own process group, so that Ctrl-C reaches the node alone and a shutdown has an order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.backends.local.prctl import children_of, die_with_parent

logger = logging.getLogger(__name__)

#: Orphans are looked for this long after a child ended: its own children are handed over meanwhile.
_SWEEP_AFTER_S = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: an exit code, or the signal that killed it."""

    exit_code: int | None
    signal: int | None

    @classmethod
    def of(cls, wait_status: int) -> Ending:
        """From the status word that wait(2) gives."""
        if os.WIFSIGNALED(wait_status):
            return cls(None, os.WTERMSIG(wait_status))
        return cls(os.WEXITSTATUS(wait_status), None)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.exit_code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


class Reaper:
    """Collects the ended children of this process, and ends the orphans it inherits.

    Uses SIGCHLD on the running loop, so there is one per process. Children it does not know are orphans (see
    `prctl.adopt_orphans`) when `orphans` is set; else they are somebody else's and left alone.
    """

    def __init__(self, *, orphans: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._orphans = orphans
        self._known: dict[int, tuple[subprocess.Popen[bytes], Callable[[Ending], None]]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self,
        argv: Sequence[str],
        on_end: Callable[[Ending], None],
        *,
        output_fd: int,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start `argv` with stdout and stderr to `output_fd`; its pid. OSError when it cannot be run.

        `on_end` is called once, on the loop, after this has returned.
        """
        parent = os.getpid()
        # preexec_fn is safe here: the node has one thread, and the call was resolved at import.
        process = subprocess.Popen(  # noqa: S603 - argv is ours
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            pass_fds=pass_fds,
            env=dict(env) if env is not None else None,
            process_group=0,
            preexec_fn=lambda: die_with_parent(parent),
        )
        self._known[process.pid] = (process, on_end)
        # It may have ended before the handler could know it.
        self._loop.call_soon(self._reap)
        return process.pid

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a child and its process group. No-op when it has ended: its pid may be another's now."""
        if pid in self._known:
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                pass

    def _reap(self) -> None:
        for pid, (process, on_end) in list(self._known.items()):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if found == 0:
                continue
            del self._known[pid]
            # Popen would wait for it itself and warn when it is collected.
            process.returncode = os.waitstatus_to_exitcode(status)
            on_end(Ending.of(status))
        if self._orphans and self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_AFTER_S, self._end_orphans)

    def _end_orphans(self) -> None:
        self._sweep = None
        for pid in children_of(os.getpid()) - self._known.keys():
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue

    def close(self) -> None:
        """Kill what is left and wait for it."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        if self._sweep is not None:
            self._sweep.cancel()
        for pid, (process, _) in self._known.items():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        self._known.clear()
        if self._orphans:
            # Their own children come to us only after they are gone, hence until there are none.
            while left := children_of(os.getpid()):
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    except (ProcessLookupError, ChildProcessError):
                        continue
