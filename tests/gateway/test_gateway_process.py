"""A gateway as a process: its own socket serves metrics and components, and is drained last."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from gateway_stand_in import Seen, StandIn, reply, route
from tests.ports import spare_port

from penstock.domain.routes import Snapshot, Target


class Process:
    """`python -m penstock.gateway` with a table from a file, and clients for both of its sockets."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.own = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(folder / "own.sock")),
            base_url="http://gateway",
            timeout=20,
        )
        self.public = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)


@pytest.fixture
async def started(
    tmp_path: Path, stand_in
) -> AsyncIterator[tuple[Process, StandIn, asyncio.Event]]:
    go = asyncio.Event()

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if "slow" in seen.headers:
            await go.wait()
        writer.write(reply())

    replica = await stand_in("a", answer)
    table = Snapshot(1, (route("iris", targets=(Target("iris-00001", 100, (replica.route,)),)),))
    (tmp_path / "routes.json").write_bytes(msgspec.json.encode(table))
    port = spare_port()
    says, said = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock.gateway", "--control", str(tmp_path / "none.sock"),
        "--snapshot", str(tmp_path / "routes.json"), "--admin", str(tmp_path / "own.sock"),
        "--listen", f"127.0.0.1:{port}", "--grace", "20", "--status-fd", str(said),
        pass_fds=(said,),
    )  # fmt: skip
    os.close(said)
    with open(says, "rb") as status:
        line = await asyncio.wait_for(asyncio.to_thread(status.readline), 60)
        assert b"ready" in line
        gateway = Process(tmp_path, process, port)
        async with gateway.own, gateway.public:
            yield gateway, replica, go
        go.set()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_own_socket_has_metrics_health_and_components(started) -> None:
    gateway, replica, _ = started
    path = "/serving/default/iris/components/predictor/v2/models/iris/infer"
    for size in (2, 500_000):
        assert (await gateway.own.post(path, content=b"x" * size)).status_code == 200
        assert len(replica.seen[-1].body) == size
    assert (await gateway.own.get("/healthz")).json()["services"] == 1
    assert b'component="predictor"' in (await gateway.own.get("/metrics")).content
    assert "penstock_gateway_requests" in (await gateway.own.get("/metrics.json")).json()
    assert (await gateway.own.get("/no/such")).status_code == 404
    # The public port has none of the process's own pages.
    assert (await gateway.public.get("/metrics.json")).status_code == 404


async def test_components_calls_under_way_are_answered_before_the_process_ends(started) -> None:
    """A request that another gateway has under way may wait for one here."""
    gateway, replica, go = started
    path = "/serving/default/iris/components/predictor/v2/models/iris/infer"
    call = asyncio.create_task(gateway.own.post(path, content=b"{}", headers={"slow": "1"}))
    await replica.until_seen(1)
    gateway.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        while True:  # it takes no connection on its public port any more
            try:
                _, writer = await asyncio.open_connection(*_place(gateway.public))
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                continue  # it stood in the listener's line when that was closed
            writer.close()
    go.set()
    assert (await call).status_code == 200
    assert await asyncio.wait_for(gateway.process.wait(), 60) == 0


def _place(client: httpx.AsyncClient) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port
