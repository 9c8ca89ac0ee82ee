"""What a forked replica is: alone, unlimited where it should be, tied to its zygote, and cheap."""

import asyncio
import json
import os
import signal
import time

from backend_harness import DEADLINE_S, gone, tell, until

from penstock.backends.base import Phase
from penstock.backends.local.memory import anonymous_bytes, private_bytes


async def facts(status):
    return json.loads(await tell(status.address, "facts"))


async def test_has_a_session_limits_and_a_name_of_its_own(rig):
    """Session leader, /dev/null as input, raised descriptor limit, first to go when memory is out, and one
    that pushes no gateway off its core."""
    status = await rig.ready(service="iris")
    found = await facts(status)
    (zygote,) = rig.zygotes.all()
    assert found["sid"] == found["pid"]
    assert found["ppid"] == zygote.pid
    assert found["stdin"] == "/dev/null"
    assert found["nofile"] > 1024 or found["nofile"] == os.sysconf("SC_OPEN_MAX")
    assert found["oom_score_adj"] == 500
    assert found["scheduled_in_batch"]
    assert found["comm"] == "iris"
    assert found["umask"] == 0o077
    assert found["sigint_default"]


async def test_holds_no_descriptor_of_the_zygote_or_its_siblings(rig):
    """Its log, its status pipe, and what it opened itself: a sibling's pipe would never see its end."""
    first, second = await asyncio.gather(rig.ready("a"), rig.ready("b"))
    one, other = await facts(first), await facts(second)
    for found in (one, other):
        assert len([x for x in found["fds"].values() if x.startswith("pipe:")]) == 5
        # Its listener and this connection; none to the node.
        assert len([x for x in found["fds"].values() if x.startswith("socket:")]) == 2
    pipes = [{x for x in f["fds"].values() if x.startswith("pipe:")} for f in (one, other)]
    assert not pipes[0] & pipes[1]


async def test_gets_its_own_environment(rig, monkeypatch):
    """The spec's variables; and the thread limits of the zygote's imports are taken back."""
    status = await rig.ready(env={"MINE": "1"})
    assert json.loads(await tell(status.address, "env MINE")) == "1"
    assert json.loads(await tell(status.address, "env OMP_NUM_THREADS")) is None


async def test_a_thread_limit_of_the_users_own_is_kept(monkeypatch, make_rig):
    """What the user had set before the zygote held it to one is what the replica sees."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    rig = make_rig()
    status = await rig.ready()
    assert json.loads(await tell(status.address, "env OMP_NUM_THREADS")) == "7"


async def test_siblings_draw_different_random_numbers(rig):
    """A fork copies the generator's state; each replica starts its own."""
    statuses = await asyncio.gather(*(rig.ready(f"r{n}") for n in range(3)))
    assert len({await tell(s.address, "random") for s in statuses}) == 3


async def test_leaves_nothing_behind_when_it_ends(rig):
    """A process that the model started, in a session of its own, ends with the model."""
    status = await rig.ready()
    child = int(await tell(status.address, "child"))
    assert not gone(child)
    os.kill(status.pid, signal.SIGKILL)
    await until(lambda: gone(child), "the orphan's end")


async def test_leaves_nothing_behind_when_the_zygotes_are_closed(rig):
    """The same when the node stops."""
    status = await rig.ready()
    child = int(await tell(status.address, "child"))
    (zygote,) = rig.zygotes.all()
    await rig.zygotes.close()
    assert gone(zygote.pid)
    assert gone(status.pid)
    assert gone(child)


async def test_fifty_at_once_and_no_zombie_no_descriptor_left(rig):
    """Fork requests are pipelined; afterwards everything is given back."""
    await rig.ready("warm")
    await rig.replicas.stop("warm")
    fds = len(os.listdir("/proc/self/fd"))
    (zygote,) = rig.zygotes.all()
    zygote_fds = len(os.listdir(f"/proc/{zygote.pid}/fd"))

    statuses = await asyncio.gather(*(rig.ready(f"r{n}") for n in range(50)))
    assert len({s.pid for s in statuses}) == 50
    assert zygote.replicas == 50
    assert rig.zygotes.starts == {"": 1}
    # A child may be ready before the zygote has closed what was the child's.
    await until(lambda: len(os.listdir(f"/proc/{zygote.pid}/fd")) == zygote_fds, "closed files")

    await asyncio.gather(*(rig.replicas.stop(f"r{n}") for n in range(50)))
    assert all(gone(s.pid) for s in statuses)
    assert len(os.listdir("/proc/self/fd")) == fds
    # It may have one open for a moment.
    await until(lambda: len(os.listdir(f"/proc/{zygote.pid}/fd")) == zygote_fds, "closed files")


async def test_fork_costs_little(rig):
    """From asking to Ready in tens of milliseconds, and little memory of its own (figures, generous)."""
    await rig.ready("warm")
    took = []
    for n in range(10):
        begun = time.perf_counter()
        status = await rig.ready(f"r{n}")
        took.append(time.perf_counter() - begun)
    private = private_bytes(status.pid)
    print(
        f"\nfork to ready: median {sorted(took)[5] * 1e3:.1f} ms, private {private / 2**20:.1f} MiB"
    )
    assert sorted(took)[5] < 10
    assert 0 < private < 20 * 2**20
    assert anonymous_bytes(status.pid) > 0
    assert private_bytes(2**22 + 1) is None
    assert anonymous_bytes(2**22 + 1) is None


async def test_a_hundred_fork_requests_in_one_go_are_answered(make_rig):
    """More than the socket to the zygote holds at a time, each ending at once."""
    rig = make_rig()
    await rig.ready("warm")
    for n in range(100):
        rig.start(f"r{n}", toy="failed")
    async with asyncio.timeout(DEADLINE_S):
        for n in range(100):
            await rig.until_phase(Phase.FAILED, f"r{n}")
    assert rig.zygotes.starts == {"": 1}
