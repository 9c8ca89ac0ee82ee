"""A zygote that is stuck, slow or noisy, and a machine that has no process to spare."""

import asyncio
import errno
import os
import signal

import pytest
from backend_harness import FakeClock, gone, spec, until

from penstock.backends.base import Phase
from penstock.backends.local import pipes
from penstock.backends.local.zygotes import CannotLoad, ZygoteLost, ZygotePolicy


async def test_a_stuck_zygote_is_replaced(make_rig):
    """One that answers no fork request is killed, with its replicas, and all come back."""
    rig = make_rig()
    rig.zygotes._policy = ZygotePolicy(fork_s=0.2, arguments=("--entry=toy_replica:main",))
    await rig.ready("r1")
    (zygote,) = rig.zygotes.all()
    os.kill(zygote.pid, signal.SIGSTOP)
    rig.start("r2")
    for name in ("r1", "r2"):
        status = await rig.until_status(lambda s: s.phase is Phase.READY and s.restarts == 1, name)
        assert status.reason == "ZygoteLost"
    assert gone(zygote.pid)


async def test_a_replica_of_a_stuck_zygote_can_be_stopped(make_rig):
    """The signal goes nowhere, so in the end the zygote itself is ended."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    await rig.ready("r1")
    (zygote,) = rig.zygotes.all()
    os.kill(zygote.pid, signal.SIGSTOP)
    stop = asyncio.ensure_future(rig.replicas.stop("r1", 1.0))
    for delay in (1.0, 10.0):
        await until(lambda d=delay: any(w == clock.time + d for w, _ in clock.sleepers))
        clock.advance(delay)
    await asyncio.wait_for(stop, 10)
    assert rig.status().phase is Phase.STOPPED
    assert gone(zygote.pid)


async def test_an_import_that_never_ends_fails(make_rig, tmp_path, monkeypatch):
    """The start has a deadline; replicas say so."""
    (tmp_path / "endless.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    clock = FakeClock()
    rig = make_rig(clock=clock, arguments=("--entry=toy_replica:main", "--preload=endless"))
    rig.start()
    (zygote,) = await until(rig.zygotes.all)
    await until(lambda: any(w == clock.time + 300 for w, _ in clock.sleepers))
    clock.advance(300)
    status = await rig.until_phase(Phase.FAILED)
    assert status.reason == "StartTimeout"
    assert "within 300 s" in status.message
    await until(lambda: gone(zygote.pid))


async def test_replicas_that_wait_for_an_import_can_be_stopped(make_rig, tmp_path, monkeypatch):
    """A stop does not wait for the framework."""
    (tmp_path / "endless.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    rig = make_rig(arguments=("--entry=toy_replica:main", "--preload=endless"))
    rig.start()
    await asyncio.sleep(0)
    await asyncio.wait_for(rig.replicas.stop("r1"), 30)
    assert rig.status().phase is Phase.STOPPED


async def test_threads_of_an_import_are_told_of(make_rig, tmp_path, monkeypatch):
    """A fork does not carry threads over: the zygote's log warns."""
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    rig = make_rig(arguments=("--entry=toy_replica:main", "--preload=threaded"))
    await rig.zygotes.get("").wait_ready()
    log = rig.layout.node_log("zygote")
    await until(lambda: log.exists() and b"started 1 threads on import" in log.read_bytes())


async def test_a_missing_package_names_the_extra(make_rig, tmp_path, monkeypatch):
    """`pip install 'penstock[x]'` is in the replica's message."""
    (tmp_path / "nolib.py").write_text(
        "import types, sys\n"
        "from penstock.runtimes.base import Framework\n"
        "framework = Framework('odd', 'oddextra', ('no_such_library',), load=None)\n"
        "import penstock.runtimes as r\n"
        "r.find = lambda name: framework\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    rig = make_rig(clock=FakeClock(), arguments=("--entry=toy_replica:main", "--preload=nolib"))
    rig.start(framework="odd")
    status = await rig.until_phase(Phase.FAILED)
    assert status.reason == "ModelLoadFailed"
    assert "no_such_library, which is not installed" in status.message
    assert "pip install 'penstock[oddextra]'" in status.message


async def test_no_descriptors_left_is_a_delay_and_no_more(make_rig, monkeypatch):
    """The replica waits and tries again; nobody else is disturbed."""
    clock = FakeClock()
    rig = make_rig(clock=clock)
    await rig.ready("other")

    def refuse(flags):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as m:
        m.setattr(pipes.os, "pipe2", refuse)
        rig.start("r1")
        status = await rig.until_phase(Phase.BACKOFF)
    assert status.reason == "CannotStart"
    assert "Too many open files" in status.message
    rig.replicas.retry("r1")
    await rig.until_phase(Phase.READY)
    assert rig.status("other").restarts == 0


async def test_a_closed_set_starts_nothing(rig):
    """After the stop of the node no zygote comes back."""
    await rig.zygotes.close()
    with pytest.raises(ZygoteLost, match="stopping"):
        rig.zygotes.get("")


async def test_status_lines_that_make_no_sense_are_dropped(caplog):
    """A model that writes to the descriptor by mistake does no harm."""
    events = []
    lines = pipes.StatusLines(events.append)
    for part in (b'{"event":', b'"ready"}\n{"ev', b'ent":1}\nnoise\n[]\n\n{"event":"beat"}\n'):
        lines.feed(part)
    lines.feed(b"x" * 300_000)
    lines.feed(b'{"event":"late"}\n')
    assert [e["event"] for e in events] == ["ready", "beat", "late"]
    assert caplog.text.count("not understood") == 3


def test_errors_of_zygotes_say_what_they_are():
    """(Their reasons go into statuses.)"""
    assert CannotLoad("ModelLoadFailed", "x").reason == "ModelLoadFailed"
    assert spec().service == "toy"
