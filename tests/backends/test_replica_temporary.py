"""A replica's temporary files: in a folder of its own, which goes when its process has gone."""

import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import pytest
from backend_harness import FakeClock, tell, until

from penstock.backends.base import Phase
from penstock.backends.local.lock import NodeLock, read_holder
from penstock.errors import Internal


@pytest.fixture(autouse=True)
def machines(data_dir, monkeypatch):
    """The machine's temporary folder, for these tests."""
    folder = data_dir / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    monkeypatch.undo()
    tempfile.tempdir = None


async def test_its_files_lie_in_a_folder_of_its_own(rig, machines):
    """Two replicas, two folders, which nobody else can enter."""
    paths = []
    for replica_id in ("r1", "r2"):
        status = await rig.ready(replica_id)
        path = Path(await tell(status.address, "temporary"))
        assert path.parent == rig.layout.replica_temporary(replica_id)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        paths.append(path)
    assert paths[0].parent != paths[1].parent
    assert paths[0].parent.parent.parent == machines


@pytest.mark.parametrize("how", ["killed", "exits", "stopped"])
async def test_goes_with_the_process_however_it_ends(make_rig, how):
    """What a process promised to remove at its end it does not: it ends by a signal, or by _exit."""
    rig = make_rig(clock=FakeClock() if how == "killed" else None)
    status = await rig.ready()
    path = Path(await tell(status.address, "temporary"))
    assert len(list(path.parent.iterdir())) == 2
    if how == "stopped":
        await rig.replicas.stop("r1")
    elif how == "killed":
        os.kill(status.pid, signal.SIGKILL)
        status = await rig.until_status(lambda s: s.phase is Phase.READY and s.restarts == 1)
        after = Path(await tell(status.address, "temporary"))
        assert after.parent == path.parent
        assert len(list(path.parent.iterdir())) == 2, "the new process's own"
        return
    else:
        await tell(status.address, "exit 9")
        await rig.until_status(lambda s: s.restarts == 1)
    assert not path.exists()


async def test_one_that_the_manifest_names_is_used(rig, machines):
    """And is the user's: nothing in it is removed."""
    status = await rig.ready(env={"TMPDIR": str(machines)})
    path = Path(await tell(status.address, "temporary"))
    assert path.parent == machines
    await rig.replicas.stop("r1")
    assert path.exists()


def test_goes_with_the_node(data_dir, machines):
    lock = NodeLock.acquire(data_dir)
    (lock.layout.temporary / "left").write_text("")
    lock.release()
    assert not list(machines.iterdir())


def test_what_a_killed_node_left_goes_when_the_next_starts(data_dir, machines):
    lock = NodeLock.acquire(data_dir)
    left = lock.layout.temporary
    (left / "part").mkdir()
    text = (data_dir / "penstock.lock").read_bytes()
    lock.release()
    (left / "part").mkdir(parents=True)
    left.chmod(0o700)
    (data_dir / "penstock.lock").write_bytes(text)
    lock = NodeLock.acquire(data_dir)
    assert not left.exists()
    lock.release()
    assert not list(machines.iterdir())


def test_a_copied_data_folder_takes_no_living_nodes_files(data_dir):
    """The copy's lock file names the folder of a node that lives."""
    lock = NodeLock.acquire(data_dir)
    kept = lock.layout.temporary / "kept"
    kept.write_text("")
    (data_dir / "copy").mkdir()
    shutil.copy(data_dir / "penstock.lock", data_dir / "copy")
    other = NodeLock.acquire(data_dir / "copy")
    assert other.layout.temporary != lock.layout.temporary
    assert kept.exists()
    other.release()
    assert kept.exists()
    lock.release()


@pytest.mark.parametrize("name", ["penstock-open", "others"])
def test_only_its_own_folder_is_removed(data_dir, machines, name):
    """A lock file that names a folder which others can enter, or of another name, removes nothing."""
    folder = machines / name
    folder.mkdir()
    folder.chmod(0o755 if name == "penstock-open" else 0o700)
    (folder / "file").write_text("")
    NodeLock.acquire(data_dir).release()
    text = (data_dir / "penstock.lock").read_text()
    told = read_holder(data_dir).temporary
    (data_dir / "penstock.lock").write_text(text.replace(str(told), str(folder)))
    assert read_holder(data_dir).temporary == folder
    NodeLock.acquire(data_dir).release()
    assert (folder / "file").exists()


def test_a_full_disk_is_a_sentence(data_dir, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(Internal, match="No space left on device"):
        NodeLock.acquire(data_dir)
    monkeypatch.undo()
    NodeLock.acquire(data_dir).release()


async def test_a_node_that_is_killed_and_started_again_leaves_one_folder(start_node, machines):
    for _ in range(2):
        node = await start_node().ready()
        assert len(list(machines.iterdir())) == 1
        node.process.kill()
        await node.ended()
    node = await start_node().ready()
    node.process.terminate()
    await node.ended()
    await until(lambda: not list(machines.iterdir()), "an empty folder")
