"""The control-plane process: store, controllers, route publisher and API, in one event loop.

Started by the node (`python -m penstock.api`), which starts it again when it dies; serving goes on
meanwhile. It says on its status descriptor when it is ready, and ends cleanly on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
import uvloop

from penstock import storage
from penstock.api import pauses
from penstock.api.app import build
from penstock.api.security import check_bind, is_loopback, read_token
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.cores import cores
from penstock.backends.local.lock import find_layout
from penstock.backends.local.paths import Layout
from penstock.control.clock import Clock
from penstock.control.models.model_files import CachedFiles
from penstock.control.plane import ControlPlane
from penstock.control.scaling.budget import DEFAULT_SHARE, machine_bytes
from penstock.control.settings import ControlSettings
from penstock.errors import PenstockError
from penstock.store.learned import LearnedStore
from penstock.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

#: Exit code of what will fail again the same way: wrong arguments, a damaged store, a port that is taken.
EXIT_CANNOT = 78
GIB = 1024**3
#: Most seconds that looking at every service once counts as the start.
_BEGUN_S = 60.0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.api", description="Serve the control API."
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--listen", default="127.0.0.1:8090", help="HOST:PORT of the API")
    parser.add_argument(
        "--model-dir", type=Path, default=Path.cwd(), help="for relative storageUri"
    )
    parser.add_argument("--cache-gib", type=float, default=50.0, help="most that models may take")
    parser.add_argument("--inference-url", default="http://127.0.0.1:8080")
    parser.add_argument("--inference-scheme", choices=("http", "https"), help="of that address")
    parser.add_argument("--gateways", type=int, default=0, help="how many should be connected")
    parser.add_argument("--scale-to-zero-grace", type=float, default=300.0, help="seconds")
    parser.add_argument(
        "--memory-budget", type=int, help="bytes that model processes may hold; 0.8 of the machine"
    )
    parser.add_argument("--pvc-root", type=Path, help="folder that pvc://CLAIM/PATH is below")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--allow-host", action="append", default=[], help="further Host names")
    parser.add_argument(
        "--no-environment-credentials",
        action="store_true",
        help="services never use this process's own credentials",
    )
    parser.add_argument("--status-fd", type=int)
    parser.add_argument("--log-level", default="INFO")
    return parser


class ApiServer(uvicorn.Server):
    """uvicorn's server, but signals are this process's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT. Raises PenstockError when it cannot start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    host, _, port = options.listen.rpartition(":")
    host = host.strip("[]")
    token = read_token(options.token_file) if options.token_file is not None else None
    check_bind(host, token=token, insecure=options.insecure)
    layout = find_layout(options.data_dir)
    sock = _bind(host, int(port))
    store = await SqliteStore.open(options.data_dir / "store.db")
    try:
        await _run(options, store, layout, sock, token, is_loopback(host), stop)
    finally:
        await store.close()
        sock.close()


def _file_roots(model_dir: Path, pvc_root: Path | None) -> tuple[Path, ...]:
    """Folders that manifests from other machines may name: never just any file of this process's user."""
    return tuple(folder.resolve() for folder in (model_dir, pvc_root) if folder is not None)


async def _run(
    options: argparse.Namespace,
    store: SqliteStore,
    layout: Layout,
    sock: socket.socket,
    token: str | None,
    loopback: bool,
    stop: asyncio.Event,
) -> None:
    backend = LocalBackend(options.data_dir)
    roots = None if loopback else _file_roots(options.model_dir, options.pvc_root)
    files = CachedFiles(
        store,
        storage.Cache(options.data_dir / "models", int(options.cache_gib * GIB)),
        base_dir=options.model_dir,
        settings=storage.Settings(pvc_root=options.pvc_root, file_roots=roots),
        environment=loopback and not options.no_environment_credentials,
    )
    plane = ControlPlane(
        store,
        backend,
        files,
        settings=ControlSettings(
            inference_url=_inference_url(options.inference_url, options.inference_scheme),
            cores=cores(),
            scale_to_zero_grace_s=options.scale_to_zero_grace,
            memory_budget_bytes=int(DEFAULT_SHARE * machine_bytes())
            if options.memory_budget is None
            else options.memory_budget,
            gateways=tuple(f"unix:{layout.gateway_socket(n)}" for n in range(options.gateways)),
        ),
        local_files=files,
        learned=await LearnedStore.open(options.data_dir / "learned.db"),
        routes_socket=layout.routes_socket,
        routes_file=layout.routes_file,
        gateways=lambda: gateway_sockets(layout),
        expected_gateways=options.gateways,
    )
    ending = asyncio.Event()
    app = build(plane, stop=ending, token=token, loopback=loopback, hosts=options.allow_host)
    server = ApiServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="httptools",
            ws="none",
            loop="none",
            server_header=False,
            proxy_headers=False,  # nobody asks whence a request came
            limit_concurrency=2000,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]), name="api")
    begun = asyncio.Event()
    starting = asyncio.create_task(_start(plane, options.status_fd, begun), name="start")
    collecting = asyncio.create_task(pauses.keep_short(Clock(), begun), name="garbage")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not serving.done():
            starting.result()
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.set()
        server.should_exit = True
        for task in (starting, stopping, collecting):
            task.cancel()
        await asyncio.gather(serving, starting, stopping, collecting, return_exceptions=True)
        await plane.close()
        await backend.aclose()


async def _start(plane: ControlPlane, status_fd: int | None, begun: asyncio.Event) -> None:
    await plane.start()
    say(status_fd, {"event": "ready"})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BEGUN_S):
            await plane.loop.settled()
    begun.set()


def _inference_url(url: str, scheme: str | None) -> str:
    """Without a slash at its end, and with another scheme if one is given."""
    url = url.rstrip("/")
    return f"{scheme}://{url.partition('://')[2]}" if scheme else url


def say(status_fd: int | None, event: dict[str, object]) -> None:
    """One line on the status descriptor."""
    if status_fd is not None:
        os.write(status_fd, json.dumps(event).encode() + b"\n")


def gateway_sockets(layout: Layout) -> dict[str, str]:
    """Gateways' private sockets, by name."""
    return {p.stem: f"unix:{p}" for p in layout.run.glob("gateway-*.sock")}


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as exc:
        sock.close()
        raise PortTaken(f"{host}:{port} cannot be listened on: {exc.strerror}.") from exc
    sock.setblocking(False)
    return sock


class PortTaken(PenstockError):
    """The API's address is in use."""

    reason = "PortTaken"


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # What is fetched is logged by who fetches it, without the signatures and tokens that these would show;
    # and a line per metrics reading is no news.
    for library in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        uvloop.run(serve(options))
    except PenstockError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_CANNOT
    return 0
