"""The publisher over its real socket: order, acknowledgements, slow readers, the kept file."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.files import write_atomic
from penstock.control.routes import RoutePublisher
from penstock.domain.routes import Replica, Route, Snapshot, Target


def route(name: str, *replicas: str) -> Route:
    targets = (Target(f"{name}-00001", 100, tuple(Replica(r, f"unix:/{r}") for r in replicas)),)
    return Route("default", name, targets)


Connect = Callable[[], "Awaitable[Gateway]"]


class Gateway:
    """A gateway as the publisher sees one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Gateway:
        return cls(*await asyncio.open_unix_connection(str(path), limit=1 << 24))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            return json.loads(await self.reader.readline())

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    def say(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Gateway]]]:
    gateways: list[Gateway] = []

    async def connect() -> Gateway:
        gateways.append(await Gateway.connect(tmp_path / "routes.sock"))
        return gateways[-1]

    yield connect
    for g in gateways:
        await g.close()


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[RoutePublisher]:
    p = RoutePublisher(file=tmp_path / "routes.json")
    await p.serve(tmp_path / "routes.sock")
    yield p
    await p.close()


async def test_a_gateway_gets_the_table_and_then_only_what_changes(
    publisher: RoutePublisher, connect: Connect
) -> None:
    publisher.put(route("a", "a0"))
    g = await connect()
    snapshot = await g.next()
    assert snapshot["type"] == "snapshot"
    assert [r["name"] for r in snapshot["routes"]] == ["a"]
    publisher.put(route("a", "a0"))  # no change, no message
    publisher.put(route("b", "b0"))
    assert (await g.next())["route"]["name"] == "b"
    last = publisher.remove("default/a")
    assert await g.next() == {"type": "remove", "sequence": last, "key": "default/a"}


async def test_the_socket_is_private(publisher: RoutePublisher, tmp_path: Path) -> None:
    assert (tmp_path / "routes.sock").stat().st_mode & 0o777 == 0o600


async def test_applied_waits_for_every_gateway(publisher: RoutePublisher, connect: Connect) -> None:
    a = await connect()
    b = await connect()
    await a.next()
    await b.next()
    sequence = publisher.put(route("a", "a0"))
    waiting = asyncio.create_task(publisher.applied(sequence, timeout_s=5))
    a.say({"ack": (await a.next())["sequence"]})
    await asyncio.sleep(0.05)
    assert not waiting.done()
    b.say({"ack": (await b.next())["sequence"]})
    assert await waiting is True
    # One that hangs up is not waited for: it will be told everything when it is back.
    sequence = publisher.put(route("a", "a1"))
    waiting = asyncio.create_task(publisher.applied(sequence, timeout_s=5))
    a.say({"ack": (await a.next())["sequence"]})
    b.writer.close()
    assert await waiting is True


async def test_applied_gives_up_after_its_time_and_waits_it_out_for_a_missing_gateway(
    publisher: RoutePublisher,
) -> None:
    assert await publisher.applied(publisher.put(route("a")), timeout_s=1) is True
    publisher.expected_gateways = 1
    assert await publisher.applied(publisher.put(route("b")), timeout_s=0.05) is False


async def test_a_gateway_that_does_not_read_costs_one_entry_per_changed_route(
    publisher: RoutePublisher, connect: Connect
) -> None:
    g = await connect()
    await g.next()
    big = "x" * 2000
    for i in range(3000):  # 6 MB of messages about two routes, more than any socket buffer
        pair = [route("a", f"{big}{i}"), route("b", f"{i}")]
        for changed in pair if i < 100 else reversed(pair):
            publisher.put(changed)
        if i % 100 == 0:
            await asyncio.sleep(0)
    (state,) = publisher._gateways
    assert len(state.untold) <= 2
    last: dict[str, Any] = {}
    sequence = 0
    while sequence < publisher.sequence:
        message = await g.next()
        assert message["sequence"] > sequence  # an acknowledgement covers everything before it
        sequence = message["sequence"]
        last[message["route"]["name"]] = message["route"]
    assert last["a"]["targets"][0]["replicas"][0]["id"] == f"{big}2999"
    assert last["b"]["targets"][0]["replicas"][0]["id"] == "2999"


async def test_a_wake_reaches_the_controllers_and_nonsense_breaks_nothing(
    tmp_path: Path, connect: Connect
) -> None:
    heard: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
    p = RoutePublisher(
        on_wake=lambda ns, name, waiting: heard.put_nowait((ns, name)),
        on_sleep=lambda ns, name: heard.put_nowait(("sleep", ns, name)),
    )
    await p.serve(tmp_path / "routes.sock")
    g = await connect()
    for line in (b"no json\n", b"[1]\n", b'{"type":"wake"}\n', b'{"ack":"x"}\n'):
        g.writer.write(line)
    g.say({"type": "wake", "key": "team/iris", "waiting": 3})
    g.say({"type": "sleep", "key": ""})
    g.say({"type": "sleep", "key": "team/other"})
    async with asyncio.timeout(30):
        assert await heard.get() == ("team", "iris")
        assert await heard.get() == ("sleep", "team", "other")
    await p.close()


async def test_the_file_has_the_newest_table_and_a_restart_starts_from_it(
    tmp_path: Path, connect: Connect
) -> None:
    file = tmp_path / "routes.json"
    p = RoutePublisher(file=file)
    await p.serve(tmp_path / "routes.sock")
    for name in ("a", "b", "gone"):
        p.put(route(name, f"{name}0"))
    await p.close()
    kept = msgspec.json.decode(file.read_bytes(), type=Snapshot)
    assert {r.name for r in kept.routes} == {"a", "b", "gone"}
    assert file.stat().st_mode & 0o777 == 0o600

    again = RoutePublisher(file=file)
    again.load()
    await again.serve(tmp_path / "routes.sock")
    g = await connect()
    assert {r["name"] for r in (await g.next())["routes"]} == {"a", "b", "gone"}
    before = again.sequence
    again.retain({("default", "a"), ("default", "b")})
    assert (await g.next())["key"] == "default/gone"
    assert again.sequence > before >= kept.sequence
    await again.close()


async def test_a_write_under_way_at_the_end_puts_no_older_table_in_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread goes on whatever becomes of who waits for it."""
    file = tmp_path / "routes.json"
    begun, go, over = threading.Event(), threading.Event(), threading.Event()

    def slow(path: Path, data: bytes) -> None:
        if begun.is_set():
            write_atomic(path, data)
            return
        begun.set()
        assert go.wait(30)
        write_atomic(path, data)
        over.set()

    monkeypatch.setattr("penstock.control.routes.write_atomic", slow)
    p = RoutePublisher(file=file)
    await p.serve(tmp_path / "routes.sock")
    p.put(route("a", "a0"))
    assert await asyncio.to_thread(begun.wait, 30)
    p.put(route("b", "b0"))
    closing = asyncio.create_task(p.close())
    for _ in range(10):
        await asyncio.sleep(0)
    go.set()
    await closing
    assert await asyncio.to_thread(over.wait, 30)
    kept = msgspec.json.decode(file.read_bytes(), type=Snapshot)
    assert {r.name for r in kept.routes} == {"a", "b"}


async def test_a_torn_file_is_no_table_and_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "routes.json"
    file.write_bytes(b'{"type":"snapshot","sequ')
    p = RoutePublisher(file=file)
    p.load()
    assert p.sequence == 0
    assert "cannot be read" in caplog.text


async def test_a_burst_of_changes_is_few_writes(
    publisher: RoutePublisher, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = await connect()
    assert (await g.next())["type"] == "snapshot"
    writes: list[int] = []
    write = asyncio.StreamWriter.write

    def counted(writer: asyncio.StreamWriter, data: bytes) -> None:
        writes.append(len(data))
        write(writer, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", counted)
    for i in range(1000):
        publisher.put(route(f"r{i}", f"x{i}"))
    assert [(await g.next())["route"]["name"] for _ in range(1000)] == [
        f"r{i}" for i in range(1000)
    ]
    assert len(writes) < 10
    assert max(writes) < 128 * 1024
