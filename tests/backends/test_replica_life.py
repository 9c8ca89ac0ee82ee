"""What happens to a replica: it comes up, ends in all the ways there are, and comes back."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from backend_harness import FakeClock, gone, spec, tell, until

from penstock.backends.base import Phase, ReplicaGone
from penstock.backends.local.memory import private_bytes
from penstock.backends.local.policy import ReplicaPolicy
from penstock.backends.local.replicas import ReplicasPolicy
from penstock.errors import Conflict, InvalidInput, NotFound


async def test_becomes_ready_and_says_where_it_is(rig):
    """A started replica is Ready with its pid, its address, and its own identity."""
    status = await rig.ready("iris-1", service="iris", namespace="ns", revision="iris-00001")
    assert (status.namespace, status.service, status.revision) == ("ns", "iris", "iris-00001")
    assert status.component == "predictor"
    assert status.pid
    assert status.restarts == 0
    assert await tell(status.address, "hello") == "ok"
    assert json.loads(await tell(status.address, "facts"))["pid"] == status.pid


async def test_comes_back_at_once_after_a_kill(make_rig):
    """`kill -9` of a replica: a new process at the same address, and the reason in the status."""
    rig = make_rig(clock=FakeClock())  # what waits for time to pass would never happen
    before = await rig.ready()
    os.kill(before.pid, signal.SIGKILL)
    after = await rig.until_status(lambda s: s.phase is Phase.READY and s.restarts == 1)
    assert after.address == before.address
    assert after.pid != before.pid
    assert (after.reason, after.signal) == ("Signal", signal.SIGKILL)
    assert after.message == "killed by SIGKILL"
    assert await tell(after.address, "hello") == "ok"


@pytest.mark.parametrize(
    ("toy", "reason", "message", "code"),
    [
        ("exit:3", "Exit", "exit code 3", 3),
        ("raise", "Exit", "exit code 1: RuntimeError: the toy raised", 1),
        ("exit:0", "Exit", "exit code 0", 0),
        ("segv", "Signal", "killed by SIGSEGV: Fatal Python error: Segmentation fault", None),
    ],
)
async def test_says_why_it_ended(make_rig, toy, reason, message, code):
    """Exit code or signal, and the last words of its log if they are an error."""
    rig = make_rig(clock=FakeClock())
    rig.start(toy=toy)
    status = await rig.until_phase(Phase.BACKOFF)
    assert (status.reason, status.message, status.exit_code) == (reason, message, code)
    assert status.pid is None


async def test_restarts_at_once_then_with_growing_delays(make_rig):
    """A crash loop waits 0, 1, 2, 4 ... seconds, and says when it goes on."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    rig.start(toy="exit:1")
    for n, delay in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
        status = await rig.until_status(lambda s, n=n: s.phase is Phase.BACKOFF and s.restarts == n)
        assert status.retry_at == clock.now() + delay
        await until(lambda d=status.retry_at: any(when == d for when, _ in clock.sleepers))
        clock.advance(delay)


async def test_counts_anew_after_a_healthy_time(make_rig):
    """Five minutes of health make the next ending a first one: restarted at once."""
    clock = FakeClock()
    rig = make_rig(clock=clock, policy=ReplicasPolicy(ReplicaPolicy(heartbeat_s=1e9)))
    status = await rig.ready()
    for n in range(1, 4):
        clock.advance(300)
        os.kill(status.pid, signal.SIGKILL)
        status = await rig.until_status(lambda s, n=n: s.phase is Phase.READY and s.restarts == n)
    os.kill(status.pid, signal.SIGKILL)
    await rig.until_phase(Phase.BACKOFF)


async def test_fails_when_it_says_it_cannot_load(make_rig):
    """Exit 78: Failed with the reason and message of the process, tried again after a minute."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    rig.start(toy="failed")
    for n, delay in enumerate((60, 120, 240, 480, 600, 600)):
        status = await rig.until_status(lambda s, n=n: s.phase is Phase.FAILED and s.restarts == n)
        assert (status.reason, status.exit_code) == ("ModelLoadFailed", 78)
        assert status.message == "no file model.joblib in it"
        assert status.retry_at == clock.now() + delay
        await until(lambda d=status.retry_at: any(when == d for when, _ in clock.sleepers))
        clock.advance(delay)


async def test_is_tried_again_when_asked(make_rig, data_dir):
    """`retry` does not wait for the delay."""
    rig = make_rig(clock=FakeClock())
    rig.start(toy="failed")
    await rig.until_phase(Phase.FAILED)
    rig.replicas.retry("r1")
    await rig.until_status(lambda s: s.phase is Phase.FAILED and s.restarts == 1)
    with pytest.raises(NotFound):
        rig.replicas.retry("unknown")


async def test_is_killed_when_it_hangs(make_rig):
    """No heartbeat for ten seconds: killed, Unresponsive, and started again."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    status = await rig.ready()
    await tell(status.address, "silent")
    replica = rig.replicas._replicas["r1"]
    replica.check(clock.monotonic() + 9)
    assert rig.status().pid == status.pid
    replica.check(clock.monotonic() + 11)
    status = await rig.until_status(lambda s: s.restarts == 1 and s.phase is Phase.READY)
    assert (status.reason, status.signal) == ("Unresponsive", signal.SIGKILL)
    assert status.message == "gave no sign of life for 10 s"


async def test_may_be_silent_for_as_long_as_it_says(make_rig):
    """A process at rest has ten seconds after the end of its rest, and no rest is longer than a minute."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    status = await rig.ready()
    replica = rig.replicas._replicas["r1"]
    await tell(status.address, "rest 20")
    await until(lambda: (replica._last_beat or 0) > clock.time)
    replica.forgive(clock.time)  # takes nothing from the rest
    replica.check(clock.monotonic() + 29)
    assert replica._verdict is None
    await tell(status.address, "rest 9999")
    await until(lambda: replica._last_beat == clock.time + 60)
    replica.check(clock.monotonic() + 69)
    assert replica._verdict is None
    replica.check(clock.monotonic() + 71)
    status = await rig.until_status(lambda s: s.restarts == 1 and s.phase is Phase.READY)
    assert status.reason == "Unresponsive"


async def test_memory_is_read_again_only_when_it_may_have_changed(make_rig, monkeypatch):
    """Reading it walks the page tables; a process at rest has not changed since."""
    rig = make_rig()
    status = await rig.ready()
    replica = rig.replicas._replicas["r1"]
    read = []
    monkeypatch.setattr(
        "penstock.backends.local.replica.private_bytes",
        lambda pid: read.append(pid) or private_bytes(pid),
    )
    os.kill(status.pid, signal.SIGSTOP)  # at rest, and so for sure
    stat = Path(f"/proc/{status.pid}/stat")
    await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    replica.measure()
    before = replica.status.memory_bytes
    # What is private is another's doing too: a page is shared for as long as the zygote has it as well.
    assert abs(before - private_bytes(status.pid)) < 512 * 1024
    seen = len(read)
    replica.measure()
    replica.measure()
    assert len(read) == seen
    os.kill(status.pid, signal.SIGCONT)
    await tell(status.address, "keep 5000000")
    replica.measure()
    assert replica.status.memory_bytes >= before + 4_500_000


async def test_a_model_that_grows_is_told_to_those_who_watch(make_rig):
    """A memory budget that hears of it half a minute later is none."""
    rig = make_rig()
    status = await rig.ready()
    replica = rig.replicas._replicas["r1"]
    replica.measure()
    watch = rig.replicas.watch()
    await tell(status.address, "keep 50000")
    replica.measure()
    await tell(status.address, "keep 9000000")
    replica.measure()
    async with asyncio.timeout(5):
        async for change in watch.changes():
            if change.memory_bytes >= 9_000_000:
                break
    rig.replicas.unwatch(watch)
    assert change == replica.status


async def test_is_spared_when_the_node_itself_was_away(make_rig):
    """After the node was suspended nobody is blamed for the silence."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    status = await rig.ready()
    await tell(status.address, "silent")
    await until(lambda: any(when < clock.time + 1 for when, _ in clock.sleepers))
    clock.advance(3600)
    await until(lambda: any(when > clock.time for when, _ in clock.sleepers))
    assert rig.status().pid == status.pid
    assert rig.replicas._replicas["r1"]._verdict is None


async def test_says_what_hung(rig):
    """Exit 79 after a `hung` line: Unresponsive with the process's own words."""
    status = await rig.ready()
    await tell(status.address, "hung")
    status = await rig.until_status(lambda s: s.restarts == 1)
    assert (status.reason, status.message) == ("Unresponsive", "predict took too long")
    assert status.exit_code == 79


async def test_is_killed_when_it_never_gets_ready(make_rig):
    """The startup deadline ends a load that never ends."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    rig.start(toy="never-ready")
    await rig.until_status(lambda s: s.pid is not None)
    rig.replicas._replicas["r1"].check(clock.monotonic() + 301)
    status = await rig.until_status(lambda s: s.reason != "")
    assert (status.reason, status.message) == ("StartTimeout", "was not ready within 300 s")


async def test_stops_by_draining(rig):
    """SIGTERM, the process's own end, Stopped; the socket is gone."""
    status = await rig.ready()
    watch = rig.replicas.watch()
    await rig.replicas.stop("r1")
    assert rig.status().phase is Phase.STOPPED
    assert rig.status().pid is None
    assert gone(status.pid)
    assert not os.path.exists(status.address.partition(":")[2])
    rig.replicas.close()
    assert [c.phase async for c in watch.changes()] == [Phase.READY, Phase.DRAINING, Phase.STOPPED]
    await rig.replicas.stop("r1")  # once more is a no-op
    await rig.replicas.stop("unknown")


async def test_is_killed_when_it_does_not_drain(rig):
    """Past the grace period SIGKILL ends it."""
    status = await rig.ready(toy="stubborn")
    await rig.replicas.stop("r1", 0.1)
    assert rig.status().phase is Phase.STOPPED
    assert gone(status.pid)


async def test_stops_while_it_waits_for_its_next_try(make_rig):
    """A replica in back-off has no process to end, and is not started again."""
    rig = make_rig(clock=FakeClock())
    rig.start(toy="failed")
    await rig.until_phase(Phase.FAILED)
    await rig.replicas.stop("r1")
    assert rig.status().phase is Phase.STOPPED


async def test_stops_while_it_starts(rig):
    """A stop right after the start leaves no process behind."""
    rig.start()
    await rig.replicas.stop("r1")
    assert rig.status().phase is Phase.STOPPED
    await until(lambda: all(z.replicas == 0 for z in rig.zygotes.all()))


async def test_is_forgotten_some_time_after_it_stopped(make_rig):
    """Stopped replicas are listed for a short time; then watchers hear that they are gone."""
    rig = make_rig(policy=ReplicasPolicy(forget_s=0.05))
    await rig.ready()
    watch = rig.replicas.watch()
    await rig.replicas.stop("r1")
    async for change in watch.changes():
        if isinstance(change, ReplicaGone):
            assert change.id == "r1"
            break
    assert rig.replicas.list() == []


async def test_refuses_another_spec_under_the_same_id(rig):
    """The same again is answered; another spec is a conflict; after the stop the id is free."""
    first = await rig.ready()
    assert rig.start().pid == first.pid
    with pytest.raises(Conflict, match="another specification"):
        rig.start(toy="exit:1")
    with pytest.raises(InvalidInput):
        rig.start("../../etc/passwd")
    await rig.replicas.stop("r1")
    rig.start(toy="serve", service="other")
    status = await rig.until_phase(Phase.READY)
    assert status.service == "other"


async def test_a_killed_zygote_is_replaced_and_its_replicas_too(rig):
    """`kill -9` of a zygote: its replicas die with it and come back from a new one."""
    await asyncio.gather(*(rig.ready(f"r{n}") for n in range(3)))
    (zygote,) = rig.zygotes.all()
    old = {s.pid for s in rig.replicas.list()}
    os.kill(zygote.pid, signal.SIGKILL)
    for n in range(3):
        status = await rig.until_status(
            lambda s: s.restarts == 1 and s.phase is Phase.READY, f"r{n}"
        )
        assert status.reason == "ZygoteLost"
        assert "killed by SIGKILL" in status.message
    await until(lambda: all(gone(p) for p in old))
    assert rig.zygotes.starts == {"": 2}


async def test_a_framework_that_cannot_be_imported_fails_its_replicas(make_rig):
    """Failed, with the import's own error, and without a try every second."""
    rig = make_rig(clock=FakeClock(), arguments=("--entry=toy_replica:main", "--preload=nosuchmod"))
    rig.start()
    status = await rig.until_phase(Phase.FAILED)
    assert status.reason == "ModelLoadFailed"
    assert status.message == "ModuleNotFoundError: No module named 'nosuchmod'"


async def test_secrets_are_in_no_status_and_no_log(rig):
    """What the environment holds reaches the process and nothing else."""
    status = await rig.ready(env={"TOKEN": "s3cr3t-value"})
    assert json.loads(await tell(status.address, "env TOKEN")) == "s3cr3t-value"
    assert "s3cr3t-value" not in repr(rig.replicas.list())
    for path in rig.data_dir.rglob("*"):
        if path.is_file():
            assert b"s3cr3t-value" not in path.read_bytes()


async def test_specs_larger_than_a_datagram_arrive(rig):
    """A long environment is no obstacle: the spec travels as a descriptor."""
    status = await rig.ready(env={"BIG": "x" * 100_000, "MORE": "y" * 100_000})
    assert len(json.loads(await tell(status.address, "env BIG"))) == 100_000


def test_spec_helper_leaves_the_address_to_the_node():
    """(Of this folder's own tools.)"""
    assert spec().listen == ""
