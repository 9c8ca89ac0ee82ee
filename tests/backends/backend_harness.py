"""A node in the test's own process (`rig`), and a whole one as a process of its own (`start_node`)."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.backends.base import Phase
from penstock.backends.local.clock import Clock
from penstock.backends.local.endpoint import Endpoint
from penstock.backends.local.limits import Limiter
from penstock.backends.local.lock import NodeLock
from penstock.backends.local.node_protocol import NodeStatus
from penstock.backends.local.prctl import children_of
from penstock.backends.local.replicas import Replicas, ReplicasPolicy
from penstock.backends.local.spawn import Reaper
from penstock.backends.local.zygotes import ZygotePolicy, Zygotes
from penstock.domain.process import ProcessSpec

HERE = Path(__file__).parent
#: Long enough for a machine that is busy with other things; no test waits for it in vain.
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _toys_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def data_dir():
    """Short, so that sockets fit below it; pytest's own folders are too deep."""
    path = Path(tempfile.mkdtemp(prefix="pst"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def spec(toy="serve", service="toy", **fields):
    env = {"TOY": toy, **fields.pop("env", {})}
    fields.setdefault("grace_s", 5.0)
    return ProcessSpec(listen="", models=(), service=service, env=env, **fields)


async def until(condition, what="the condition"):
    """Wait for something only the kernel or another process can tell, with a deadline."""
    end = time.monotonic() + DEADLINE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not come true; last: {found!r}"
        await asyncio.sleep(0.005)


def gone(pid):
    """True when there is no such process; a zombie is not gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def dead(pid):
    """True when it is gone or a zombie: for orphans, whose reaping is up to the machine's init."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def descendants(pid):
    found, todo = set(), [pid]
    while todo:
        for child in children_of(todo.pop()):
            found.add(child)
            todo.append(child)
    return found


async def tell(address, word):
    """Say a word to a toy replica; its answer, empty when it ended instead."""
    reader, writer = await asyncio.open_unix_connection(address.partition(":")[2])
    try:
        writer.write(word.encode())
        return (await asyncio.wait_for(reader.read(), DEADLINE_S)).decode()
    except ConnectionError:
        return ""
    finally:
        writer.close()


class FakeClock(Clock):
    """Time that moves only when a test says so."""

    def __init__(self):
        self.time = 1000.0
        self.sleepers = []

    def now(self):
        return self.time

    def monotonic(self):
        return self.time

    async def sleep(self, delay_s):
        if delay_s <= 0:
            return
        wake = asyncio.get_running_loop().create_future()
        entry = (self.time + delay_s, wake)
        self.sleepers.append(entry)
        try:
            await wake
        finally:
            if entry in self.sleepers:
                self.sleepers.remove(entry)

    def advance(self, seconds):
        self.time += seconds
        for when, wake in tuple(self.sleepers):
            if when <= self.time and not wake.done():
                wake.set_result(None)


class Rig:
    """The parts of a node that look after replicas, with toys in them."""

    def __init__(self, data_dir, clock, policy, arguments, cgroup="off", devices=None):
        self.lock = NodeLock.acquire(data_dir)
        self.layout = self.lock.layout
        self.data_dir = data_dir
        self.reaper = Reaper()
        self.zygotes = Zygotes(
            self.layout,
            reaper=self.reaper,
            clock=clock,
            policy=ZygotePolicy(arguments=arguments),
        )
        self.replicas = Replicas(
            self.layout,
            zygotes=self.zygotes,
            limiter=Limiter(cgroup),
            clock=clock,
            policy=policy,
            devices=devices,
        )
        self.clock = clock
        self.endpoint = Endpoint(self.replicas, lambda: NodeStatus(1, "rlimit", 0, (), ()))
        self.looking = asyncio.get_running_loop().create_task(self.replicas.look_after())

    def start(self, replica_id="r1", toy="serve", framework="", **fields):
        return self.replicas.start(replica_id, framework, spec(toy, **fields))

    def status(self, replica_id="r1"):
        return next(s for s in self.replicas.list() if s.id == replica_id)

    async def until_status(self, condition, replica_id="r1"):
        """The first status in the replica's watch that fulfils `condition`."""
        watch = self.replicas.watch()
        seen = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for s in watch.changes():
                    if s.id == replica_id:
                        seen.append(s)
                        if condition(s):
                            return s
        except TimeoutError:
            raise AssertionError(f"never so: {seen}") from None
        finally:
            self.replicas.unwatch(watch)
        raise AssertionError("the watch was cut")

    async def until_phase(self, phase, replica_id="r1"):
        return await self.until_status(lambda s: s.phase is phase, replica_id)

    async def ready(self, replica_id="r1", toy="serve", **fields):
        self.start(replica_id, toy, **fields)
        return await self.until_phase(Phase.READY, replica_id)

    async def close(self):
        self.looking.cancel()
        self.replicas.kill()
        await self.endpoint.close()
        await self.zygotes.close()
        self.replicas.close()
        self.reaper.close()
        await asyncio.gather(self.looking, return_exceptions=True)
        self.lock.release()


@pytest_asyncio.fixture
async def make_rig(data_dir):
    rigs = []

    def make(clock=None, policy=None, arguments=("--entry=toy_replica:main",), **more):
        rig = Rig(data_dir, clock or Clock(), policy or ReplicasPolicy(), arguments, **more)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        await rig.close()


@pytest_asyncio.fixture
async def rig(make_rig):
    return make_rig()


class NodeProcess:
    """`toy_node.py` as a process."""

    def __init__(self, data_dir, *arguments):
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "toy_node.py"), str(data_dir), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self.process.pid

    async def line(self):
        return await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), DEADLINE_S)

    async def ready(self):
        line = await self.line()
        if not line.startswith(b"ready"):
            raise AssertionError((line, self.process.stderr.read()))
        return self

    async def ended(self):
        """Exit code and the whole of stderr."""
        _, err = await asyncio.wait_for(asyncio.to_thread(self.process.communicate), DEADLINE_S)
        return self.process.returncode, err.decode()


@pytest.fixture
def start_node(data_dir):
    nodes = []

    def start(*arguments):
        node = NodeProcess(data_dir, *arguments)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        if node.process.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.process.wait()
        node.process.stdout.close()
        node.process.stderr.close()


@pytest.fixture
def unix_pair():
    a, b = socket.socketpair()
    yield a, b
    a.close()
    b.close()
