"""What a forked child does between the fork and its model: it stops being the zygote.

Runs in the child only, in this order: its life is tied to the zygote's, everything of the zygote's is let go,
its own limits, environment and random numbers are set, then the entry point runs and the process ends with
its answer. It never returns to the zygote's loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from penstock.backends.local import fork_hooks
from penstock.backends.local.prctl import die_with_parent, name_process
from penstock.domain.process import ProcessSpec, decode, encode

Entry = Callable[[ProcessSpec, int], int | None]

#: The kernel ends replicas before the node and the gateways when the machine runs out of memory.
_OOM_SCORE_ADJ: Final = 500
_OOM: Final = "/proc/self/oom_score_adj"
_OPEN_FILES: Final = 1 << 20
#: The zygote's handlers that a child must not have, and what a terminal would send to both.
_RESET: Final = tuple(
    int(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
)
# Below the layer that makes enumerations of what they take and give: that costs a child 80 kB.
_set_handler: Final[Callable[..., Any]] = getattr(signal.signal, "__wrapped__", signal.signal)
_set_mask: Final[Callable[..., Any]] = getattr(
    signal.pthread_sigmask, "__wrapped__", signal.pthread_sigmask
)
#: BSD's EX_SOFTWARE: the fork itself went wrong before the entry point was reached.
_EXIT_BEFORE_ENTRY: Final = 70
#: The key of a Mersenne twister, 624 words, at the start of numpy's structure.
_MERSENNE_BYTES: Final = 624 * 4
_numpy_state: int | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """One fork request, as the child gets it. The descriptors are open in the child only."""

    name: str
    spec_fd: int
    log_fd: int
    status_fd: int
    #: As `limits.ForkLimits.fields`.
    limits: Mapping[str, Any]


def run(birth: Birth, zygote_pid: int, entry: Entry) -> NoReturn:
    """Become the replica and end the process with the entry point's exit code (1 if it raised)."""
    code = _EXIT_BEFORE_ENTRY
    try:
        die_with_parent(zygote_pid)
        _let_go(birth)
        spec = _read_spec(birth.spec_fd)
        _take_limits(birth.limits)
        _take_environment(spec.env)
        _new_randomness()
        fork_hooks.restore()
        name_process(birth.name)
        gc.enable()
        code = _exit_code(entry, spec, birth.status_fd)
    except BaseException:  # noqa: BLE001 - the process's border: it ends here, and says why in its log
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def _exit_code(entry: Entry, spec: ProcessSpec, status_fd: int) -> int:
    try:
        return int(entry(spec, status_fd) or 0)
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
            return 1
        return int(e.code or 0)
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
        return 1


def prepare() -> None:
    """In the zygote, once: what every child would otherwise do, and pay for in pages of its own."""
    # Shares of the processor stay as they are; but a model that wakes does not push a gateway off its core
    # in the middle of its work, which the requests of all other models would wait for.
    with contextlib.suppress(OSError):  # where a sandbox forbids it, it goes on as it is
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # A pipe is block-buffered: what a model prints would be lost if it crashed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()


def _find_numpy_state() -> int | None:
    """Where numpy's global generator has its key, with nothing but the key to tell siblings apart.

    Seeding it goes through so much code that it costs a forked process 0.3 MB; writing a random key does not.
    """
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is None or not hasattr(numpy_random, "get_bit_generator"):
        return None
    generator = numpy_random.get_bit_generator()
    if type(generator).__name__ != "MT19937":
        return None
    numpy_random.seed()  # no half of a pair of normal deviates is kept from here on
    return int(generator.ctypes.state_address)


def rehearse() -> None:
    """In the zygote: what a child does first, as far as it changes nothing here."""
    global _numpy_state
    _numpy_state = _find_numpy_state()
    _default_signals(_RESET)
    with open("/proc/self/comm", "rb") as f:
        name_process(f.read().decode(errors="replace").strip())
    with open(_OOM, "rb") as f:
        value = f.read()
    _write(_OOM, value)
    fd = os.memfd_create("spec", os.MFD_CLOEXEC)
    os.write(fd, encode(ProcessSpec(listen="", models=())))
    _read_spec(fd)
    _new_randomness()


def _let_go(birth: Birth) -> None:
    """Drop the zygote's signal handlers and terminal; take the log as stdout and stderr."""
    _default_signals(_RESET)
    _set_mask(int(signal.SIG_SETMASK), ())
    os.setsid()
    os.umask(0o077)
    os.dup2(birth.log_fd, 1)
    os.dup2(birth.log_fd, 2)
    os.close(birth.log_fd)
    sys.argv = [birth.name]


def _default_signals(numbers: Iterable[int]) -> None:
    for number in numbers:
        _set_handler(number, int(signal.SIG_DFL))


def _read_spec(fd: int) -> ProcessSpec:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return decode(data)


def _write(path: str, data: bytes) -> None:
    # Not `open`: three objects and a codec, for each of which a child copies pages.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _take_limits(limits: Mapping[str, Any]) -> None:
    for file in limits.get("cgroups") or ():
        _write(file, b"0")  # the writer itself
    _write(_OOM, b"%d" % _OOM_SCORE_ADJ)
    cpus = limits.get("cpus")
    if cpus:
        os.sched_setaffinity(0, cpus)
    raise_open_files()
    # Writing the core of a process with gigabytes of model would delay its successor.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    data = limits.get("data_bytes")
    if data is not None:
        most = _data_size() + int(data)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or most <= hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def raise_open_files() -> None:
    """Raise the soft limit of descriptors; not beyond what programs that visit each of them can bear."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _data_size() -> int:
    """Bytes of data this process has already: the zygote's imports are not the replica's to pay for."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _take_environment(env: Mapping[str, str]) -> None:
    os.environ.update(env)
    # What the interpreter would have done with it, had it been there at its start.
    for path in reversed(env.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)
    if "TMPDIR" in env and "tempfile" in sys.modules:
        setattr(sys.modules["tempfile"], "tempdir", None)  # noqa: B010 - the zygote's, if it has asked
    if "PENSTOCK_LOG_LEVEL" in env:
        # The entry point sets up logging, as it does when it is started by hand.
        root = logging.getLogger()
        for handler in tuple(root.handlers):
            root.removeHandler(handler)


def _new_randomness() -> None:
    """Siblings must not draw the same numbers."""
    random.seed()
    if _numpy_state is not None:
        ctypes.memmove(_numpy_state, os.urandom(_MERSENNE_BYTES), _MERSENNE_BYTES)
    elif "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
