"""The zygote: a process that has imported a framework, never touched a model, and forks replicas.

`zygote_main` starts it. It has one thread and one loop:
requests of the node in, pids and endings out. Everything costly happens before it says `ready`; a fork after
that costs a copy of the page tables. Replicas get SIGKILL when it ends, however it ends; when the node ends
it also ends what the replicas themselves have started, then itself.
"""

from __future__ import annotations

import argparse
import array
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from penstock.backends.local import forked
from penstock.backends.local.prctl import (
    adopt_orphans,
    children_of,
    die_with_parent,
    name_process,
)
from penstock.backends.local.settling import settle
from penstock.backends.local.zygote_messages import (
    MAX_MESSAGE,
    EndedMessage,
    FailedMessage,
    ForkedMessage,
    ForkMessage,
    FromZygote,
    ReadyMessage,
    SignalMessage,
    ToZygote,
)
from penstock.domain.process import ProcessSpec, ServedModel, decode, encode
from penstock.domain.service import Batching
from penstock.errors import LoadError, PenstockError

logger = logging.getLogger(__name__)

DEFAULT_ENTRY: Final = "penstock.server.process:main"
#: Exit code of a zygote whose framework cannot be imported.
EXIT_FAILED: Final = 78
#: Numeric libraries make their pools at import or at first use; a fork would lose the threads and keep the
#: locks. One thread here means no pool; the replica sets its own share.
_ONE_THREAD: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
#: Orphans of a replica are looked for this long after it ended, milliseconds.
_SWEEP_AFTER_MS: Final = 200
#: How long the zygote tries to end everything before it goes itself, seconds.
_LAST_EFFORT_S: Final = 1.5

_EXAMPLE: Final = ProcessSpec(
    listen="", models=(ServedModel("", "", "", batching=Batching()),), env={"": ""}
)

_decode = msgspec.json.Decoder(ToZygote).decode
_encode = msgspec.json.encode


def hold_threads() -> dict[str, str | None]:
    """Hold numeric libraries to one thread; what was set before, for the children."""
    held = {name: os.environ.get(name) for name in _ONE_THREAD}
    for name in _ONE_THREAD:
        os.environ[name] = "1"
    return held


def let_threads_go(held: dict[str, str | None]) -> None:
    """Undo `hold_threads` in the environment: it is what the children see."""
    for name, value in held.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def preload(framework: str, modules: Sequence[str], entry: str) -> forked.Entry:
    """Import the entry point and all that `framework` (names joined by commas) wants; LoadError."""
    module, _, function = entry.partition(":")
    main: forked.Entry = getattr(importlib.import_module(module), function)
    for name in modules:
        importlib.import_module(name)
    again: list[Callable[[], None]] = []
    for name in filter(None, framework.split(",")):
        # By name: backends import nothing of the data plane.
        found: Any = importlib.import_module("penstock.runtimes").find(name)
        for variable, value in found.env.items():
            os.environ.setdefault(variable, value)
        for wanted in found.preload:
            try:
                importlib.import_module(wanted)
            except ModuleNotFoundError as e:
                raise LoadError(
                    f"{name} needs the package {e.name}, which is not installed.",
                    hint=f"pip install 'penstock[{found.extra}]'",
                ) from e
        if found.warm is not None:
            found.warm()
        if found.rehearse is not None:
            again.append(found.rehearse)
    own: Callable[[], None] | None = getattr(sys.modules[module], "warm", None)
    if own is not None:
        again.append(own)

    def rehearse() -> None:
        for call in again:
            call()
        # What msgspec learns about the type is then learnt once, and shared: 0.5 MB a replica.
        decode(encode(_EXAMPLE))
        forked.rehearse()

    forked.prepare()
    settle(rehearse)
    return main


class Zygote:
    """The loop. `run` returns when the node is gone or says so by closing its end."""

    def __init__(self, link: socket.socket, entry: forked.Entry) -> None:
        self._link = link
        self._entry = entry
        self._pid = os.getpid()
        self._replicas: set[int] = set()
        self._ending = False
        self._sweep_at: float | None = None
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._wake_r, select.POLLIN)

    def run(self) -> None:
        """Serve until the node is gone, then end every descendant."""
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        try:
            while not self._ending:
                for fd, _ in self._poll.poll(self._timeout_ms()):
                    if fd == self._wake_r:
                        self._woken()
                    elif not self._receive():
                        return
                self._reap()
                self._sweep()
        except (BrokenPipeError, ConnectionResetError):
            return  # the node is gone
        finally:
            self._end_all()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _timeout_ms(self) -> int | None:
        if self._sweep_at is None:
            return None
        return max(0, int((self._sweep_at - time.monotonic()) * 1000) + 1)

    def _woken(self) -> None:
        try:
            while len(os.read(self._wake_r, 4096)) == 4096:
                continue
        except BlockingIOError:
            pass

    def _receive(self) -> bool:
        """Act on one message of the node; False when it has closed its end."""
        data, fds = _receive(self._link)
        if not data:
            return False
        try:
            message = _decode(data)
            if isinstance(message, ForkMessage):
                self._fork(message, fds)
            elif isinstance(message, SignalMessage):
                self._signal(message)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, message: ForkMessage, fds: Sequence[int]) -> None:
        spec_fd, log_fd, status_fd = fds
        try:
            pid = os.fork()
        except OSError as e:
            self._send(ForkedMessage(message.id, -1, f"fork: {e.strerror}"))
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._link.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
            forked.run(
                forked.Birth(message.name, spec_fd, log_fd, status_fd, message.limits),
                self._pid,
                self._entry,
            )
        self._replicas.add(pid)
        self._send(ForkedMessage(message.id, pid))

    def _signal(self, message: SignalMessage) -> None:
        # Only this process reaps its children, so a pid in the set cannot be another's.
        if message.pid not in self._replicas:
            return
        try:
            os.kill(message.pid, message.number)
        except ProcessLookupError:
            pass

    def _send(self, message: FromZygote) -> None:
        self._link.send(_encode(message))

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            if pid in self._replicas:
                _kill_group(pid)  # while its pid is still its own
            _, status = os.waitpid(pid, 0)
            if pid in self._replicas:
                self._replicas.remove(pid)
                self._sweep_at = time.monotonic() + _SWEEP_AFTER_MS / 1000
                self._send(EndedMessage(pid, status))

    def _sweep(self) -> None:
        """End what ended replicas have left behind outside their process groups."""
        if self._sweep_at is None or time.monotonic() < self._sweep_at:
            return
        self._sweep_at = None
        for pid in children_of(self._pid) - self._replicas:
            _kill(pid)

    def _end_all(self) -> None:
        """Kill and reap until no descendant is left: orphans become children only one by one."""
        deadline = time.monotonic() + _LAST_EFFORT_S
        for pid in self._replicas:
            _kill(pid)
        while time.monotonic() < deadline and (left := children_of(self._pid)):
            for pid in left:
                if pid in self._replicas:
                    _kill_group(pid)
                _kill(pid)
            for pid in left:
                try:
                    ended, _ = os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue
                self._replicas.discard(ended)
            time.sleep(0.002)  # killed, and not yet gone


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended before it had a group of its own


def _receive(link: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = link.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(3 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m penstock.backends.local.zygote_main")
    parser.add_argument("framework", help="names of runtimes, joined by commas; may be empty")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the node")
    parser.add_argument("--parent", type=int, required=True, help="pid of the node")
    parser.add_argument("--entry", default=DEFAULT_ENTRY, help="module:function to run in replicas")
    parser.add_argument("--preload", default="", help="more modules to import, joined by commas")
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args(argv)
    logging.basicConfig(
        # As a model process does it: its children keep this.
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    os.environ.setdefault("PENSTOCK_LOG_LEVEL", options.log_level)  # for the replicas
    die_with_parent(options.parent)
    link = socket.socket(fileno=options.fd)
    link.set_inheritable(False)
    held = hold_threads()
    started = time.monotonic()
    modules = [m for m in options.preload.split(",") if m]
    try:
        entry = preload(options.framework, modules, options.entry)
    except Exception as e:  # whatever an import can raise; the node is told and the log has it all
        logger.exception("%s cannot be loaded", options.framework)
        reason = e.reason if isinstance(e, PenstockError) else LoadError.reason
        text = str(e) if isinstance(e, PenstockError) else f"{type(e).__name__}: {e}"
        link.send(_encode(FailedMessage(reason, " ".join(text.split())[:1000])))
        return EXIT_FAILED
    let_threads_go(held)
    name_process(f"zygote {options.framework}")
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        logger.warning(
            "%s started %d threads on import; a fork does not carry them over",
            options.framework,
            threads - 1,
        )
    adopt_orphans()
    gc.disable()  # `settle` has collected: nothing may be freed after it, that leaves holes
    gc.freeze()  # a collection in a child must not touch, and so copy, the pages they share
    zygote = Zygote(link, entry)
    # From here on the end of the node is seen by this loop, which ends all descendants first.
    die_with_parent(options.parent, signal.SIGTERM)
    link.send(_encode(ReadyMessage(time.monotonic() - started, threads)))
    zygote.run()
    return 0
