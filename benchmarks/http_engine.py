"""The HTTP engine by itself: requests per second and processor time per request, for profiling.

    python -m benchmarks.http_engine [--seconds 3] [--only NAME]

Each row starts a server in a process of its own on 127.0.0.1 and loads it with wrk. Processor time is the
server process's (user and system), which other load on the machine disturbs less than the rate. For a
profile: `--only NAME --seconds 30`, and `py-spy record -p PID` with the pid that is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import wrk
from penstock.domain.routes import Address
from penstock.http.client import Upstream
from penstock.http.memory import keep_large_blocks
from penstock.http.server import Exchange, HttpServer

JSON = b"content-type: application/json\r\n"
IRIS = (
    b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[5.1,3.5,1.4,0.2]}],'
    b'"parameters":{},"outputs":[{"name":"predict"}]}'
)
ANSWER = b'{"model_name":"iris","outputs":[{"name":"predict","shape":[1],"datatype":"INT64","data":[0]}]}'


def answer(exchange: Exchange) -> None:
    exchange.send(200, JSON, ANSWER)


class Relay:
    """A gateway without routes: what the two halves of the engine cost together."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def handle(self, exchange: Exchange) -> None:
        head = exchange.head
        raw = head.memo.get("raw")
        if raw is None:
            raw = head.memo["raw"] = head.raw
        if exchange.body is not None:
            self.upstream.request(raw, exchange.body, _Passing(exchange), method=head.method)
            return
        sink = _Passing(exchange)
        sink.upstream = self.upstream.request(raw, None, sink, more=True, method=head.method)
        sink.upstream.on_drain = exchange.resume_reading
        exchange.receive(_Body(exchange, sink.upstream))


class _Passing:
    __slots__ = ("exchange", "upstream")

    upstream: Any

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def on_response(self, head: Any, body: Any) -> None:
        if body is None:
            self.exchange.start(head.status, JSON, length=head.content_length)
        else:
            self.exchange.send_raw(head.raw + body)

    def on_data(self, data: Any) -> None:
        self.exchange.write(data)

    def on_end(self) -> None:
        self.exchange.end()

    def on_error(self, exc: Exception) -> None:
        self.exchange.fault()


class _Body:
    __slots__ = ("exchange", "upstream")

    def __init__(self, exchange: Exchange, upstream: Any) -> None:
        self.exchange = exchange
        self.upstream = upstream

    def on_data(self, data: Any) -> None:
        if not self.upstream.write(data):
            self.exchange.pause_reading()

    def on_end(self) -> None:
        self.upstream.end()

    def on_abort(self, exc: Exception) -> None:
        self.upstream.cancel()


def gather(exchange: Exchange) -> None:
    exchange.gather(answer)


@dataclass(frozen=True)
class Row:
    """One measurement."""

    handler: Callable[[Exchange], None] | None
    streaming: bool = False
    body: bytes | None = None
    connections: int = 32


LARGE = b"x" * 600_000

ROWS: dict[str, Row] = {
    "get": Row(answer),
    "iris": Row(answer, body=IRIS),
    "iris, 1 connection": Row(answer, body=IRIS, connections=1),
    "600 kB gathered": Row(answer, body=LARGE),
    "600 kB gathered from streaming": Row(gather, streaming=True, body=LARGE),
    "relay iris": Row(None, streaming=True, body=IRIS),
    "relay 600 kB": Row(None, streaming=True, body=LARGE),
}


async def serve(name: str, folder: str) -> None:
    row = ROWS[name]
    keep_large_blocks()
    handler = row.handler
    if handler is None:
        # The server behind a relay is a process of its own too; it ends with this one.
        arguments = [sys.executable, "-m", "benchmarks.http_engine", "--behind", folder]
        subprocess.Popen(arguments)
        path = f"{folder}/behind"
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        handler = Relay(Upstream(Address(path=path))).handle
    server = HttpServer(handler, streaming=row.streaming)
    address = await server.listen(Address(host="127.0.0.1", port=0))
    print(address.port, flush=True)
    await asyncio.Event().wait()


async def behind(folder: str) -> None:
    keep_large_blocks()
    parent = os.getppid()
    await HttpServer(answer).listen(Address(path=f"{folder}/behind"))
    while os.getppid() == parent:
        await asyncio.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, seconds: int) -> None:
    row = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.http_engine", "--serve", name, "--folder", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v2/models/iris/infer"
            headers = {"content-type": "application/json"} if row.body else None
            wrk(url, connections=row.connections, seconds=1, body=row.body, headers=headers)
            before = cpu_seconds(server.pid)
            load = wrk(
                url, connections=row.connections, seconds=seconds, body=row.body, headers=headers
            )
            cpu = cpu_seconds(server.pid) - before
        finally:
            server.kill()
            server.wait()
    size = len(row.body or b"")
    print(
        f"{name:32} {load.rate:9,.0f}/s  {load.rate * size / 1e9:5.2f} GB/s  "
        f"p50 {load.p50_s * 1e6:7,.0f} us  p99 {load.p99_s * 1e6:7,.0f} us  "
        f"cpu {cpu / load.requests * 1e6:6.1f} us/request  failed {load.failed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=list(ROWS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--behind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        print(f"pid {os.getpid()}", file=sys.stderr)
        uvloop.run(serve(options.serve, options.folder))
    elif options.behind:
        uvloop.run(behind(options.behind))
    else:
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        for name in [options.only] if options.only else ROWS:
            measure(name, options.seconds)


if __name__ == "__main__":
    main()
