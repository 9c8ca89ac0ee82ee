"""How many replicas load side by side, who is next, and what those that wait say and cost."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest_asyncio
from backend_harness import DEADLINE_S, FakeClock, gone, until

from penstock.backends.base import Phase
from penstock.backends.local import descriptors
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.policy import ReplicaPolicy
from penstock.backends.local.replicas import LOADING_PER_CORE, ReplicasPolicy


class Starts:
    """A rig whose toys load until `finish`."""

    def __init__(self, rig):
        self.rig = rig
        self.begun = []
        self._forks = rig.replicas.watch()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self):
        pids = {}
        async for s in self._forks.changes():
            pid = getattr(s, "pid", None)
            if pid is not None and pids.get(s.id) != pid:
                pids[s.id] = pid
                self.begun.append(s.id)

    def ask(self, *names, **fields):
        for name in names:
            gate = self.rig.data_dir / name
            if not gate.exists():
                os.mkfifo(gate)
            fields = {"service": name, **fields}
            self.rig.start(name, f"load:{gate}", **fields)

    async def finish(self, name):
        """Let it finish its load, once it loads."""
        await until(lambda: self._open(name), f"{name} loads")
        await self.rig.until_phase(Phase.READY, name)

    def _open(self, name):
        try:
            os.close(os.open(self.rig.data_dir / name, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            return False
        return True

    async def until_begun(self, *names):
        await until(lambda: self.begun == list(names), f"{names}, not {self.begun}")

    def phases(self, *names):
        return [self.rig.status(n).phase for n in names]

    async def close(self):
        self.rig.replicas.unwatch(self._forks)
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)


@pytest_asyncio.fixture
async def make_starts(make_rig):
    found = []

    def make(loading, **more):
        policy = ReplicasPolicy(ReplicaPolicy(), loading=loading)
        found.append(Starts(make_rig(policy=policy, **more)))
        return found[-1]

    yield make
    for starts in found:
        await starts.close()


def test_as_many_load_as_keep_the_cores_busy():
    assert ReplicasPolicy().loading == LOADING_PER_CORE * len(os.sched_getaffinity(0)) >= 8


async def test_only_so_many_load_at_a_time_in_the_order_they_were_asked_for(make_starts):
    starts = make_starts(2)
    names = [f"r{n}" for n in range(6)]
    starts.ask(*names)
    await starts.until_begun("r0", "r1")
    loading = starts.rig.replicas.loading
    await until(lambda: loading.waiting == 4)
    assert starts.phases(*names[2:]) == [Phase.WAITING] * 4
    for at, name in enumerate(names):
        await starts.finish(name)
        expected = names[: at + 3]
        await starts.until_begun(*expected)
        assert loading.running == min(2, 5 - at)
    assert starts.phases(*names) == [Phase.READY] * 6
    assert (loading.running, loading.waiting) == (0, 0)


async def test_one_that_waits_says_so_and_says_no_more_when_it_loads(make_starts):
    starts = make_starts(1)
    starts.ask("a", "b")
    status = await starts.rig.until_phase(Phase.WAITING, "b")
    assert (status.reason, status.message) == ("WaitingForTurn", "Others load their models first.")
    assert (status.pid, status.started_at) == (None, None)
    await starts.finish("a")
    status = await starts.rig.until_status(lambda s: s.pid is not None, "b")
    assert (status.phase, status.reason, status.message) == (Phase.STARTING, "", "")


async def test_what_a_request_waits_for_waits_for_no_other_load(make_starts):
    """Also where the places of its own kind are all taken, it goes before the others."""
    starts = make_starts(1)
    starts.ask("a", "b", "c", "d", "e")
    await starts.until_begun("a")
    await starts.rig.until_phase(Phase.WAITING, "e")
    starts.rig.replicas.hurry("d")
    await starts.until_begun("a", "d")
    starts.rig.replicas.hurry("e")
    starts.rig.replicas.hurry("nobody")
    await starts.finish("a")
    assert starts.phases("b", "c", "e") == [Phase.WAITING] * 3
    await starts.finish("d")
    await starts.until_begun("a", "d", "e")
    for name in ("e", "b", "c"):
        await starts.finish(name)
    assert starts.begun == ["a", "d", "e", "b", "c"]


async def test_one_that_a_request_waits_for_before_it_was_begun_is_hurried_all_the_same(
    make_starts,
):
    starts = make_starts(1)
    starts.ask("a")
    await starts.until_begun("a")
    starts.ask("b", "c")
    starts.rig.replicas.hurry("c")  # before its task has run
    await starts.until_begun("a", "c")


async def test_what_has_served_is_back_before_what_never_did(make_starts):
    starts = make_starts(1)
    starts.ask("old")
    await starts.finish("old")
    starts.ask("a", "b")
    await starts.until_begun("old", "a")
    await starts.rig.until_phase(Phase.WAITING, "b")
    os.kill(starts.rig.status("old").pid, signal.SIGKILL)
    status = await starts.rig.until_phase(Phase.WAITING, "old")
    assert status.restarts == 1
    await starts.finish("a")
    status = await starts.rig.until_status(lambda s: s.pid is not None, "old")
    assert status.reason == "Signal", "why it ended is told again"
    await starts.until_begun("old", "a", "old")
    await starts.finish("old")
    await starts.until_begun("old", "a", "old", "b")


async def test_a_replica_more_of_what_serves_goes_before_first_starts(make_starts):
    """A rollout, or a service under load."""
    starts = make_starts(1)
    starts.ask("s1", service="s")
    await starts.finish("s1")
    starts.ask("a", "b")
    starts.ask("s2", service="s")
    await starts.rig.until_phase(Phase.WAITING, "s2")
    await starts.finish("a")
    await starts.until_begun("s1", "a", "s2")
    await starts.rig.replicas.stop("s1")
    await starts.finish("s2")
    await starts.rig.replicas.stop("s2")
    starts.ask("c")
    starts.ask("s3", service="s")  # nothing of it is left
    await starts.rig.until_phase(Phase.WAITING, "s3")
    await starts.finish("b")
    await starts.until_begun("s1", "a", "s2", "b", "c")


async def test_one_that_is_stopped_while_it_waits_is_never_begun(make_starts):
    starts = make_starts(1)
    starts.ask("a", "b", "c")
    await starts.rig.until_phase(Phase.WAITING, "c")
    await starts.rig.replicas.stop("b")
    status = starts.rig.status("b")
    assert (status.phase, status.reason, status.message) == (Phase.STOPPED, "", "")
    assert starts.rig.replicas.loading.waiting == 1
    await starts.finish("a")
    await starts.until_begun("a", "c")


async def test_one_that_is_stopped_while_it_loads_gives_its_place_back(make_starts):
    starts = make_starts(1)
    starts.ask("a", "b")
    await starts.until_begun("a")
    await starts.rig.replicas.stop("a", 0.0)
    await starts.until_begun("a", "b")


async def test_one_that_loads_for_long_gives_its_place_back(make_starts):
    """And has its whole time to load all the same, as those have that wait."""
    clock = FakeClock()
    starts = make_starts(1, clock=clock)
    starts.ask("a", "b", "c")
    await starts.until_begun("a")
    await starts.rig.until_phase(Phase.WAITING, "c")
    one, two, three = (starts.rig.replicas._replicas[n] for n in "abc")
    clock.time += 5
    for r in (one, two, three):
        r.check(clock.time)
    assert starts.begun == ["a"]
    clock.time += 1
    for r in (three, two, one):
        r.check(clock.time)
    await starts.until_begun("a", "b")
    assert starts.phases("a", "b", "c") == [Phase.STARTING, Phase.STARTING, Phase.WAITING]
    clock.time += 295  # 301 s since the first began
    for r in (three, two, one):
        r.check(clock.time)
    assert (one._verdict.reason, two._verdict, three._verdict) == ("StartTimeout", None, None)
    await starts.until_begun("a", "b", "c")


async def test_those_that_fail_give_their_places_back(make_starts):
    starts = make_starts(2)
    for n in range(20):
        starts.rig.start(f"r{n}", ("failed", "exit:3", "raise")[n % 3])
    ended = (Phase.FAILED, Phase.BACKOFF)
    await until(lambda: all(s.phase in ended for s in starts.rig.replicas.list()))
    assert starts.rig.replicas.loading.running == 0


async def test_all_come_up_when_their_zygote_ends_while_they_load_and_wait(make_starts):
    """Nobody keeps a place in it, and nobody waits for one that is not coming."""
    starts = make_starts(2)
    names = [f"r{n}" for n in range(6)]
    starts.ask(*names)
    await starts.rig.until_phase(Phase.WAITING, "r5")
    (zygote,) = starts.rig.zygotes.all()
    os.kill(zygote.pid, signal.SIGKILL)
    await until(lambda: gone(zygote.pid))
    await asyncio.gather(*(starts.finish(name) for name in names))
    assert starts.rig.zygotes.starts == {"": 2}
    assert starts.rig.replicas.loading.running == 0


async def test_one_that_waits_costs_no_descriptor_and_one_that_runs_three(make_starts):
    starts = make_starts(4)
    starts.ask("first")
    await starts.finish("first")
    before = descriptors.open_now()
    names = [f"r{n}" for n in range(4)]
    starts.ask(*names)
    for name in names:
        await starts.finish(name)
    assert descriptors.open_now() == before + 4 * descriptors.PER_REPLICA
    holders = [f"h{n}" for n in range(4)]
    starts.ask(*holders)
    await until(lambda: starts.begun[-4:] == holders)
    full = descriptors.open_now()
    starts.ask(*(f"w{n}" for n in range(50)))
    await until(lambda: starts.rig.replicas.loading.waiting == 50)
    assert descriptors.open_now() <= full + 4, "logs of those that load are opened when they write"


async def test_the_last_descriptors_are_kept_for_the_node(rig, monkeypatch):
    """The replica too many says what is short; those that run go on, and it comes when there is room."""
    await rig.ready("r1")
    most = 2 * (descriptors.open_now() // 2)
    monkeypatch.setattr(descriptors, "most", lambda: most)
    rig.start("r2")
    status = await rig.until_status(lambda s: s.reason == "CannotStart", "r2")
    assert f"may open {most} files, 3 for each replica" in status.message
    assert rig.status("r1").phase is Phase.READY
    monkeypatch.undo()
    rig.replicas.retry("r2")
    await rig.until_phase(Phase.READY, "r2")


async def test_a_node_that_ends_leaves_neither_who_loads_nor_who_waits(make_starts):
    starts = make_starts(1)
    starts.ask("a", "b", "c")
    await starts.rig.until_phase(Phase.WAITING, "c")
    pid = (await starts.rig.until_status(lambda s: s.pid is not None, "a")).pid
    await starts.rig.replicas.drain(0.0)
    assert starts.phases("a", "b", "c") == [Phase.STOPPED] * 3
    assert gone(pid)
    assert starts.begun == ["a"]
    assert (starts.rig.replicas.loading.running, starts.rig.replicas.loading.waiting) == (0, 0)


async def test_the_node_says_how_many_load_and_what_it_has_open(start_node, data_dir):
    """The soft limit is the hard one from its start on."""
    node = await start_node().ready()
    backend = LocalBackend(data_dir)
    async with asyncio.timeout(DEADLINE_S):
        while not (status := await backend.status()).zygotes[0].ready:
            await asyncio.sleep(0.01)
    assert (status.loading, status.waiting) == (0, 0)
    assert status.descriptors == len(os.listdir(f"/proc/{node.pid}/fd"))
    with open(f"/proc/{node.pid}/limits") as f:
        soft, hard = next(x.split()[3:5] for x in f if x.startswith("Max open files"))
    assert soft == str(status.descriptors_most)
    assert hard == soft or int(soft) == 1 << 20
    await backend.aclose()
