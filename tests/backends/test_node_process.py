"""The whole node as a process: what is left when it ends, in every way it can end."""

import asyncio
import os
import signal
import time

import pytest
from backend_harness import DEADLINE_S, dead, descendants, gone, spec, tell, until
from contract import is_phase, wait_for

from penstock.backends.base import Phase
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.lock import find_layout, read_holder


async def populate(node, n=3):
    """Start replicas on a node; its backend and all pids below it, with an orphan-to-be among them."""
    backend = LocalBackend(node.data_dir)
    for i in range(n):
        await backend.start(f"r{i}", "", spec())
    for i in range(n):
        status = await wait_for(backend, f"r{i}", is_phase(Phase.READY))
    await tell(status.address, "child")
    # Control plane, gateway, zygote, replicas, the model's own child; those of an earlier round may be
    # on their way out.
    await until(lambda: len(descendants(node.pid)) == 4 + n, "the family")
    return backend, descendants(node.pid)


async def test_nothing_is_left_after_kill_9(start_node):
    """`kill -9` of the node ends every descendant; the next start finds a clean house."""
    node = await start_node().ready()
    backend, pids = await populate(node)
    await backend.aclose()
    os.kill(node.pid, signal.SIGKILL)
    await until(lambda: all(dead(p) for p in pids), "the end of all")
    await node.ended()

    # The stale lock and sockets hold nobody up.
    again = await start_node().ready()
    backend = LocalBackend(again.data_dir)
    assert await backend.list() == []
    await backend.start("r0", "", spec())
    await wait_for(backend, "r0", is_phase(Phase.READY))
    await backend.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(start_node, number):
    """SIGTERM and Ctrl-C: all drained, exit 0, nothing left, logs show the drain."""
    node = await start_node().ready()
    backend, pids = await populate(node)
    await backend.aclose()
    os.kill(node.pid, number)
    code, err = await node.ended()
    assert code == 0, err
    assert all(gone(p) for p in pids)
    layout = find_layout(node.data_dir)
    assert layout.replica_log("r0").read_text().endswith("toy ends\n")
    assert "Traceback" not in err


async def test_a_second_signal_ends_it_at_once(start_node):
    """A replica that would take its whole grace period is not waited for; exit 130."""
    node = await start_node().ready()
    backend, pids = await populate(node)
    await backend.start("s", "", spec("stubborn", grace_s=60.0))
    ready = await wait_for(backend, "s", is_phase(Phase.READY))
    begun = time.monotonic()
    os.kill(node.pid, signal.SIGINT)
    await wait_for(backend, "s", is_phase(Phase.DRAINING))
    os.kill(node.pid, signal.SIGINT)
    code, err = await node.ended()
    assert code == 130, err
    assert time.monotonic() - begun < 30
    assert all(gone(p) for p in pids | {ready.pid})
    await backend.aclose()


async def test_ctrl_c_during_the_start(start_node):
    """Before anything is ready: exit 0 and nothing left."""
    node = start_node("slow")
    await until(lambda: len(descendants(node.pid)) >= 3, "children")
    pids = descendants(node.pid)
    os.kill(node.pid, signal.SIGINT)
    code, err = await node.ended()
    assert code == 0, err
    assert all(gone(p) for p in pids)


async def test_a_second_node_is_refused_with_the_first_ones_pid(start_node, data_dir):
    """One node per data folder."""
    first = await start_node().ready()
    second = start_node()
    line = (await second.line()).decode()
    assert line.startswith("AlreadyRunning:")
    assert f"process {first.pid}" in line
    assert (await second.ended())[0] == 3
    assert read_holder(data_dir).pid == first.pid
    assert await LocalBackend(data_dir).list() == []


async def test_serving_goes_on_without_the_control_plane(start_node, data_dir):
    """A killed control plane or gateway is started again; replicas notice nothing."""
    node = await start_node().ready()
    backend, _ = await populate(node, 1)
    (replica,) = await backend.list()
    before = {c.name: c.pid for c in (await backend.status()).children}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            children = (await backend.status()).children
            if all(c.ready and c.restarts == 1 for c in children):
                break
            await asyncio.sleep(0.01)
    assert {c.name for c in children} == {"control", "gateway-0"}
    assert all(c.pid != before[c.name] for c in children)
    (after,) = await backend.list()
    assert (after.pid, after.restarts) == (replica.pid, 0)
    await backend.aclose()


async def test_gives_up_when_a_child_cannot_be_started(start_node, data_dir):
    """Three failures in a row before it was ever up: exit 1, its last words, nothing left."""
    node = start_node("fail")
    code, err = await node.ended()
    assert code == 1
    assert "cannot be started: exit code 1: address already in use" in err
    assert "control.log" in err or "gateway-0.log" in err


async def test_no_zombie_and_no_descriptor_is_left_in_the_node(start_node):
    """After a zygote was killed with everything on it, the node is as before."""
    node = await start_node().ready()
    backend, _ = await populate(node)
    for i in range(3):
        await backend.stop(f"r{i}")
    fds = len(os.listdir(f"/proc/{node.pid}/fd"))
    other, _ = await populate(node)
    await other.aclose()
    (zygote,) = (await backend.status()).zygotes
    os.kill(zygote.pid, signal.SIGKILL)
    for i in range(3):
        await wait_for(backend, f"r{i}", lambda s: s.restarts == 1 and s.phase is Phase.READY)
        await backend.stop(f"r{i}")
    await until(lambda: len(descendants(node.pid)) == 3, "control, gateway, zygote alone")
    await until(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) == fds, "descriptors as before")
    await backend.aclose()


async def test_a_warm_zygote_is_replaced_before_it_is_wanted(start_node):
    """One of the warm list that dies is started again without anybody asking."""
    node = await start_node().ready()
    backend = LocalBackend(node.data_dir)

    async def ready_zygote(starts):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                (zygote,) = (await backend.status()).zygotes
                if zygote.ready and zygote.starts == starts:
                    return zygote
                await asyncio.sleep(0.01)

    os.kill((await ready_zygote(1)).pid, signal.SIGKILL)
    await ready_zygote(2)
    await backend.aclose()
