"""The channel to the control plane: whatever comes over it, a gateway goes on listening."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from gateway_stand_in import route

from penstock.domain.routes import Load, Put, Snapshot, ToGateway, Wake
from penstock.gateway.channel import FRESH_S, Channel


class ControlPlane:
    """Sends each connection the messages of its turn, and counts connections."""

    def __init__(self, path: Path, *turns: list[ToGateway | bytes]) -> None:
        self.path = path
        self.turns = list(turns)
        self.acked: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for message in self.turns.pop(0) if self.turns else []:
            line = message if isinstance(message, bytes) else msgspec.json.encode(message)
            writer.write(line + b"\n")
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.acked.append(line)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self, channel: Channel) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self.serve, str(self.path))
        task = asyncio.create_task(channel.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()


GOOD = Snapshot(7, (route("iris"),))


@pytest.mark.parametrize(
    "bad",
    [Put(2, route("broken")), b"no json", b'{"type":"put"}', b'{"type":"later","sequence":1}'],
    ids=["cannot be applied", "no JSON", "incomplete", "unknown"],
)
async def test_a_message_that_cannot_be_taken_is_followed_by_the_whole_table(
    tmp_path: Path, bad: ToGateway | bytes
) -> None:
    seen: asyncio.Queue[ToGateway] = asyncio.Queue()

    def apply(message: ToGateway) -> None:
        if isinstance(message, Put):
            raise AttributeError("injected")
        seen.put_nowait(message)

    path = tmp_path / "control.sock"
    plane = ControlPlane(path, [Snapshot(1, ()), bad], [GOOD])
    channel = Channel(str(path), apply)
    async with plane.running(channel), asyncio.timeout(30):
        assert (await seen.get()).sequence == 1
        assert await seen.get() == GOOD
        while b'{"ack":7}\n' not in plane.acked:
            await asyncio.sleep(0.001)
    assert plane.connections == 2


async def test_requests_that_wait_are_told_of_as_soon_as_the_control_plane_is_back(
    tmp_path: Path,
) -> None:
    """Not when the gateway would say so again; and of what is long past nothing is said."""
    path = tmp_path / "control.sock"
    plane = ControlPlane(path, [GOOD])
    channel = Channel(str(path), lambda message: None)
    channel.say(Wake("default/old", 1))
    channel._unsaid = {key: (wake, at - FRESH_S - 1) for key, (wake, at) in channel._unsaid.items()}
    channel.say(Wake("default/iris", 1))
    channel.say(Wake("default/iris", 3))
    channel.say(Wake("default/digits", 1))
    channel.say(Load(1.0, ()))
    said = [
        b'{"ack":7}\n',
        b'{"type":"wake","key":"default/iris","waiting":3}\n',
        b'{"type":"wake","key":"default/digits","waiting":1}\n',
    ]
    async with plane.running(channel), asyncio.timeout(30):
        while len(plane.acked) < 3:
            await asyncio.sleep(0.001)
        assert plane.acked == said
        channel.say(Load(2.0, ()))
        while len(plane.acked) < 4:
            await asyncio.sleep(0.001)
    assert b'"load"' in plane.acked[3]
    assert not channel._unsaid


async def test_a_control_plane_that_is_away_is_known_to_be_at_once(tmp_path: Path) -> None:
    """A gateway that starts need not wait for it, then: the kept table stands in."""
    channel = Channel(str(tmp_path / "control.sock"), lambda message: None)
    assert not channel.away.is_set()
    task = asyncio.create_task(channel.run())
    async with asyncio.timeout(30):
        await channel.away.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
