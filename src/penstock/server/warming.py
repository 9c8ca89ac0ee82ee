"""A model process's whole life, lived once over in a zygote before it forks.

Code that has run has its caches filled and its bytecode specialised. Done before the fork that is shared by
all children; done after it, each child writes to those pages and so has its own copy of them. The rehearsal
serves a model of two lines on a socket in a folder of its own, to itself, and ends as a process that is told
to end does. What is left of it is warm code: its threads have ended before it returns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.domain.process import ProcessSpec, ServedModel, decode, encode
from penstock.runtimes.base import Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.server.memory import release_free_memory
from penstock.server.threads import find_libraries

log = logging.getLogger(__name__)

#: Requests of each kind in one life.
ROUNDS: Final = 2
#: A thread of the rehearsal that has not ended by then is somebody else's, seconds.
_THREADS_END_S: Final = 5.0
_BODY_V2: Final = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP64","data":[1.5,2]}]}'
_BODY_V1: Final = b'{"instances":[[1.5,2]]}'
_REQUESTS: Final = tuple(
    b"%b HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%b" % (line, len(body), body)
    for line, body in (
        (b"POST /v2/models/m/infer", _BODY_V2),
        (b"POST /v1/models/m:predict", _BODY_V1),
        (b"GET /v2/health/ready", b""),
        (b"GET /metrics.json", b""),
    )
)


class _Sum(Runtime):
    inputs = (TensorSpec("x", "FP64", (-1, 2)),)
    outputs = (TensorSpec("y", "FP64", (-1,)),)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        return {"y": inputs["x"].sum(axis=1)}

    def example(self) -> Arrays | None:
        return {"x": np.zeros((1, 2))}


def warm() -> None:
    """Run a model process's code once over, in the main thread. Closes what it opens."""
    from penstock.server import process  # which names this function, for zygotes

    find_libraries()
    threads = _threads()
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with tempfile.TemporaryDirectory(prefix="pen-") as folder, open(os.devnull, "wb") as status:
            listen = f"unix:{folder}/s"
            spec = ProcessSpec(
                listen=listen, models=(ServedModel("m", "sum", os.devnull),), threads=1
            )
            visits: list[asyncio.Task[None]] = []
            process.main(
                decode(encode(spec)),
                status.fileno(),
                find=_find,
                at_rest=release_free_memory,
                on_ready=lambda: visits.append(asyncio.ensure_future(_visit(f"{folder}/s"))),
            )
            visits[0].result()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logging.disable(level)
        # What the first line in a log goes through; the rehearsal itself writes none.
        logging.getLogger("penstock.server.repository").isEnabledFor(logging.INFO)
        time.strftime("%Y-%m-%d %H:%M:%S")
        _wait_for_threads(threads)


async def _visit(path: str) -> None:
    """Be the process's client, then tell it to end."""
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, path)
            for _ in range(ROUNDS):
                for request in _REQUESTS:
                    await loop.sock_sendall(client, request)
                    async with asyncio.timeout(5):
                        while b"}" not in await loop.sock_recv(client, 65536):
                            pass
    finally:
        signal.raise_signal(signal.SIGTERM)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _wait_for_threads(most: int) -> None:
    """A fork carries no thread over but the one that makes it, and what others held stays held."""
    deadline = time.monotonic() + _THREADS_END_S
    while _threads() > most and time.monotonic() < deadline:
        time.sleep(0.0005)  # joined or not: the kernel has its own end of a thread


def _find(name: str) -> Framework:
    return Framework(name=name, extra="", preload=(), load=_load)


def _load(path: Path, options: LoadOptions) -> Runtime:
    return _Sum()
