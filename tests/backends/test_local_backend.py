"""`LocalBackend` keeps the backend contract, and what is its own: the socket, and losing it."""

import asyncio
import json
import os
import socket
import stat
from contextlib import aclosing

import pytest
import pytest_asyncio
from backend_harness import DEADLINE_S, spec
from contract import BackendContract, is_phase, wait_for

from penstock.backends.base import Phase, ReplicaGone
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.replicas import ReplicasPolicy
from penstock.errors import InvalidInput, NotFound, Unavailable


@pytest_asyncio.fixture
async def backend(rig):
    await rig.endpoint.listen(rig.layout.node_socket)
    backend = LocalBackend(rig.data_dir)
    yield backend
    await backend.aclose()


class TestLocalBackend(BackendContract):
    """The contract."""


async def test_only_this_user_can_talk_to_the_node(rig, backend):
    """Socket and folders are closed to others."""
    await backend.list()
    assert stat.S_IMODE(rig.layout.node_socket.stat().st_mode) == 0o600
    for folder in (rig.layout.run, rig.layout.run / "r", rig.layout.logs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_says_that_there_is_no_node(data_dir):
    """Unavailable, with what to do."""
    backend = LocalBackend(data_dir)
    with pytest.raises(Unavailable, match="penstock serve"):
        await backend.list()
    with pytest.raises(Unavailable):
        await anext(backend.watch())
    with pytest.raises(Unavailable):
        await anext(backend.logs("r1"))


async def test_reconnects_after_the_node_was_away(rig, backend):
    """A lost connection is made again by the next request."""
    await backend.start("r1", "", spec())
    await wait_for(backend, "r1", is_phase(Phase.READY))
    await rig.endpoint.close()
    rig.layout.node_socket.unlink(missing_ok=True)
    with pytest.raises(Unavailable):
        await backend.list()
    await rig.endpoint.listen(rig.layout.node_socket)
    (status,) = await backend.list()
    assert status.phase is Phase.READY


async def test_a_watch_survives_the_loss_of_its_connection(rig, backend):
    """After it, the state is told again, and what vanished meanwhile is told as gone."""
    for name in ("r1", "r2"):
        await backend.start(name, "", spec())
        await wait_for(backend, name, is_phase(Phase.READY))
    async with asyncio.timeout(DEADLINE_S), aclosing(backend.watch()) as changes:
        assert {(await anext(changes)).id for _ in range(2)} == {"r1", "r2"}
        await rig.endpoint.close()
        await rig.replicas.stop("r2")
        del rig.replicas._replicas["r2"]
        rig.layout.node_socket.unlink(missing_ok=True)
        await rig.endpoint.listen(rig.layout.node_socket)
        again = await anext(changes)
        assert (again.id, again.phase) == ("r1", Phase.READY)
        assert await anext(changes) == ReplicaGone("r2")


async def test_a_watcher_that_is_too_slow_starts_over(make_rig):
    """The node's queue for it is bounded; it is cut off rather than fed from memory without end."""
    rig = make_rig(policy=ReplicasPolicy(max_behind=3))
    watch = rig.replicas.watch()
    await rig.ready()
    await rig.replicas.stop("r1")
    got = [c async for c in watch.changes()]
    assert len(got) == 3


async def test_a_cancelled_stop_goes_on(rig, backend):
    """The replica is stopped though the caller lost patience and hung up."""
    await backend.start("r1", "", spec("stubborn"))
    await wait_for(backend, "r1", is_phase(Phase.READY))
    stop = asyncio.ensure_future(backend.stop("r1", grace_s=1.0))
    await wait_for(backend, "r1", is_phase(Phase.DRAINING))
    stop.cancel()
    await backend.aclose()
    await wait_for(backend, "r1", is_phase(Phase.STOPPED))


async def test_the_node_answers_nonsense_with_an_error(rig, backend):
    """Broken JSON, an unknown op, a wrong field: an error with the request's id, and the next is served."""
    reader, writer = await asyncio.open_unix_connection(str(rig.layout.node_socket))
    for sent, answered in (
        (b"{nonsense\n", 0),
        (b'{"id":7,"op":"explode"}\n', 7),
        (b'{"id":8,"op":"start","replica":1}\n', 8),
        (b"[]\n", 0),
    ):
        writer.write(sent)
        answer = json.loads(await reader.readline())
        assert answer["id"] == answered
        assert answer["error"]["kind"] == "InvalidInput"
    writer.write(b'{"id":9,"op":"list"}\n')
    assert json.loads(await reader.readline()) == {"id": 9, "result": []}
    writer.close()


async def test_errors_keep_their_class_on_the_way(backend):
    """What the node raises the client raises."""
    with pytest.raises(InvalidInput, match="no replica id"):
        await backend.start("a/b", "", spec())
    with pytest.raises(NotFound):
        await backend.retry("unknown")
    status = await backend.status()
    assert status.pid == 1


async def test_a_client_that_reads_nothing_holds_up_nobody(rig, backend):
    """One that asks and never reads fills its own connection only."""
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(os.fspath(rig.layout.node_socket))
        rude.settimeout(0.3)
        try:
            while True:
                rude.sendall(b'{"id":1,"op":"list"}\n' * 1000)
        except TimeoutError:
            pass
        assert await backend.list() == []
