"""What a forked child does between the fork and its model: it stops being the zygote.

Runs in the child only, in this order: its life is tied to the zygote's, everything of the zygote's is let go,
its own limits, environment and random numbers are set, then the entry point runs and the process ends with
its answer. It never returns to the zygote's loop.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from penstock.backends.local.prctl import die_with_parent, name_process
from penstock.domain.process import ProcessSpec, decode

Entry = Callable[[ProcessSpec, int], int | None]

#: The kernel ends replicas before the node and the gateways when the machine runs out of memory.
_OOM_SCORE_ADJ: Final = 500
_OPEN_FILES: Final = 1 << 20
#: BSD's EX_SOFTWARE: the fork itself went wrong before the entry point was reached.
_EXIT_BEFORE_ENTRY: Final = 70


@dataclass(frozen=True, slots=True)
class Birth:
    """One fork request, as the child gets it. The descriptors are open in the child only."""

    name: str
    spec_fd: int
    log_fd: int
    status_fd: int
    #: As `limits.ForkLimits.fields`.
    limits: Mapping[str, Any]
    #: Environment variables the zygote held while it imported; None means it was not set before.
    held: Mapping[str, str | None]


def run(birth: Birth, zygote_pid: int, entry: Entry) -> NoReturn:
    """Become the replica and end the process with the entry point's exit code (1 if it raised)."""
    code = _EXIT_BEFORE_ENTRY
    try:
        die_with_parent(zygote_pid)
        _let_go(birth)
        spec = _read_spec(birth.spec_fd)
        _take_limits(birth.limits)
        _take_environment(birth.held, spec.env)
        _new_randomness()
        name_process(birth.name)
        faulthandler.enable()
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


def _let_go(birth: Birth) -> None:
    """Drop the zygote's signal handlers and terminal; take the log as stdout and stderr."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    os.umask(0o077)
    os.dup2(birth.log_fd, 1)
    os.dup2(birth.log_fd, 2)
    os.close(birth.log_fd)
    # A pipe is block-buffered: what a model prints would be lost if it crashed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [birth.name]
    # The entry point sets up logging, as it does when it is started by hand.
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)


def _read_spec(fd: int) -> ProcessSpec:
    with os.fdopen(fd, "rb") as f:
        f.seek(0)
        return decode(f.read())


def _take_limits(limits: Mapping[str, Any]) -> None:
    for file in limits.get("cgroups") or ():
        with open(file, "w") as f:
            f.write("0")  # the writer itself
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write(str(_OOM_SCORE_ADJ))
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


def _take_environment(held: Mapping[str, str | None], env: Mapping[str, str]) -> None:
    for name, value in held.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.environ.update(env)
    # What the interpreter would have done with it, had it been there at its start.
    for path in reversed(env.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)


def _new_randomness() -> None:
    """Siblings must not draw the same numbers. `random` reseeds itself at a fork, others do not."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
