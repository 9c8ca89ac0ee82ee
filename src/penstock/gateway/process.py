"""A gateway process: arguments, sockets, signals.

Several run side by side on one port (SO_REUSEPORT). Each also serves a private Unix socket: with its metrics,
because a scrape of the shared port would reach any one of them, and with inference for the model processes of
this machine that call another component of their service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from penstock.domain.routes import Address
from penstock.gateway.channel import Channel
from penstock.gateway.gateway import FeedbackSettings, Gateway
from penstock.gateway.grpc.front import GrpcFront
from penstock.gateway.load import LoadMeter
from penstock.http.h2.server import Http2Server
from penstock.http.memory import keep_large_blocks
from penstock.http.server import HttpServer, Limits
from penstock.observe.metrics import render
from penstock.protocols.grpc.wire import refusal
from penstock.protocols.shared_memory import SharedMemory

if TYPE_CHECKING:
    from penstock.http.server import Exchange

logger = logging.getLogger(__name__)

#: How long a starting gateway waits for the control plane's table before it takes the file's, seconds.
TABLE_WAIT_S = 0.5


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.gateway", description="Serve the inference port."
    )
    parser.add_argument("--control", required=True, help="Unix socket of the control plane")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT for inference")
    parser.add_argument("--listen-grpc", help="HOST:PORT for gRPC; none if not given")
    parser.add_argument(
        "--admin", help="Unix socket for metrics of this process, and for components"
    )
    parser.add_argument("--snapshot", help="file with the newest route table")
    parser.add_argument("--status-fd", type=int, help="file descriptor for status lines")
    parser.add_argument("--tls-cert", help="certificate chain, PEM")
    parser.add_argument("--tls-key", help="private key, PEM")
    parser.add_argument(
        "--shared-memory", type=Path, help="folder with the registered regions; none: not allowed"
    )
    parser.add_argument(
        "--feedback-key",
        type=Path,
        help="file with the key of request ids; made if it is not there",
    )
    parser.add_argument("--max-body", type=int, default=Limits.max_body, help="bytes")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds to drain after SIGTERM")
    parser.add_argument("--log-level", default="INFO")
    return parser


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    channel: Channel
    memory = SharedMemory(options.shared_memory, most=options.max_body)
    settings = FeedbackSettings(options.feedback_key, lambda: _siblings(options.admin))
    gateway = Gateway(
        loop, wake=lambda message: channel.say(message), memory=memory, feedback=settings
    )
    channel = Channel(
        options.control,
        gateway.apply,
        restore=gateway.restore,
        snapshot_path=Path(options.snapshot) if options.snapshot else None,
    )
    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
        tls.set_alpn_protocols(["h2", "http/1.1"])
    limits = Limits(max_body=options.max_body)
    # Without TLS only HTTP/1.1 is spoken there; with it a client chooses.
    kind = HttpServer if tls is None else Http2Server
    server = kind(gateway.handle, limits=limits, streaming=True, ssl=tls)
    front = GrpcFront(gateway, time=loop.time, most=limits.max_body)
    calls = Http2Server(
        front.handle, limits=limits, streaming=True, ssl=tls, http1=False, refusal=refusal
    )
    admin = HttpServer(lambda exchange: _admin(exchange, gateway), limits=limits, streaming=True)
    reader = loop.create_task(channel.run())
    meter = LoadMeter(gateway, channel.say)
    meter.begin()
    try:
        waits = [loop.create_task(e.wait()) for e in (channel.filled, channel.away)]
        await asyncio.wait(waits, timeout=TABLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        if not channel.filled.is_set():
            channel.load_snapshot()
        if options.admin:
            await admin.listen(Address(path=options.admin), mode=0o600)
        host, _, port = options.listen.rpartition(":")
        await server.listen(Address(host=host.strip("[]"), port=int(port)), reuse_port=True)
        if options.listen_grpc:
            host, _, port = options.listen_grpc.rpartition(":")
            await calls.listen(Address(host=host.strip("[]"), port=int(port)), reuse_port=True)
        _say(options.status_fd, {"event": "ready", "listen": options.listen})
        await stop.wait()
        front.draining = True
        ends = loop.time() + options.grace
        await asyncio.gather(server.drain(options.grace), calls.drain(options.grace))
        # Components' calls last: requests that were under way here may have needed them until now.
        await admin.drain(max(0.0, ends - loop.time()))
    finally:
        meter.close()
        reader.cancel()
        server.close()
        calls.close()
        admin.close()
        gateway.close()


def _admin(exchange: Exchange, gateway: Gateway) -> None:
    path = exchange.head.path
    if path == "/metrics.json":
        body = msgspec.json.encode(gateway.snapshot())
        exchange.send(200, b"content-type: application/json\r\n", body)
    elif path == "/metrics":
        body = render(gateway.snapshot())
        exchange.send(200, b"content-type: text/plain; version=0.0.4\r\n", body)
    elif path == "/feedback/known":
        from penstock.gateway.learning import feedback  # most gateways have no bandit

        feedback.answer_sibling(exchange, gateway)
    elif path == "/healthz":
        document = {"sequence": gateway.table.sequence, "services": len(gateway.table)}
        exchange.send(200, b"content-type: application/json\r\n", msgspec.json.encode(document))
    else:
        # Components of a service reach each other here: requests like any others.
        gateway.handle(exchange)


def _siblings(admin: str | None) -> list[Path]:
    """The private sockets of the other gateways, which are named alike."""
    if admin is None:
        return []
    own = Path(admin)
    return [p for p in own.parent.glob("gateway-*.sock") if p != own]


def _say(fd: int | None, event: dict[str, Any]) -> None:
    if fd is not None:
        os.write(fd, json.dumps(event).encode() + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    keep_large_blocks()
    uvloop.run(serve(options))
    return 0
