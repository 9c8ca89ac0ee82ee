"""Memory and CPU limits: held on a real process without cgroups, and the files that cgroups are told by."""

import json
import os
from pathlib import Path

import pytest
from backend_harness import tell

from penstock.backends.base import Phase
from penstock.backends.local import cgroups
from penstock.backends.local.cgroups import CgroupV1, CgroupV2, open_tree
from penstock.backends.local.limits import Limiter
from penstock.errors import Internal

MIB = 2**20


async def test_a_replica_over_its_memory_is_ended(rig):
    """It allocates step by step: killed near the limit, OutOfMemory, and started again."""
    rig.start(toy=f"alloc:{600 * MIB}", memory_limit_bytes=150 * MIB)
    status = await rig.until_status(lambda s: s.reason != "")
    assert status.reason == "OutOfMemory"
    assert status.limits == "rlimit"
    used, limit = (int(w) for w in status.message.replace("MiB", "").split() if w.isdigit())
    assert limit == 150
    assert 150 <= used < 300
    await rig.until_status(lambda s: s.restarts == 1)


async def test_memory_is_held_while_it_serves_too(rig):
    """Not only while it loads."""
    status = await rig.ready(memory_limit_bytes=100 * MIB)
    assert await tell(status.address, f"alloc {400 * MIB}") == ""
    status = await rig.until_status(lambda s: s.restarts == 1 and s.phase is Phase.READY)
    assert status.reason == "OutOfMemory"


async def test_one_huge_allocation_is_refused(rig):
    """RLIMIT_DATA: the process sees MemoryError at once, before the machine feels it."""
    rig.start(toy="huge", memory_limit_bytes=100 * MIB)
    status = await rig.until_status(lambda s: s.reason != "")
    assert (status.reason, status.exit_code) == ("OutOfMemory", 1)
    assert status.message == "went over its memory limit of 100 MiB: MemoryError"


async def test_without_a_limit_nothing_is_held(rig):
    """And the status claims nothing."""
    status = await rig.ready()
    assert status.limits == ""
    assert not rig.replicas._replicas["r1"]._limits.watched


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
async def test_cpu_is_held_by_affinity(rig):
    """One core of several, the next replica on another; a fraction is rounded up and says so."""
    first = await rig.ready("r1", cpu_limit=1)
    second = await rig.ready("r2", cpu_limit=0.5)
    one, other = [json.loads(await tell(s.address, "facts"))["cpus"] for s in (first, second)]
    assert len(one) == len(other) == 1
    assert one != other
    assert first.limits == "rlimit"
    log = b"".join([x async for x in rig.replicas.log("r2").read()])
    assert b"penstock: the cpu limit of 0.5 is held as 1 whole core(s)" in log
    await rig.replicas.stop("r1")
    third = await rig.ready("r3", cpu_limit=1)
    assert json.loads(await tell(third.address, "facts"))["cpus"] == one
    everything = await rig.ready("r4", cpu_limit=512)
    assert json.loads(await tell(everything.address, "facts"))["cpus"] == sorted(
        os.sched_getaffinity(0)
    )


def fake_v2(base, **files):
    base.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "cgroup.controllers": "cpuset cpu io memory pids\n",
        "cgroup.procs": "",
        "cgroup.events": "populated 1\n",
        "cgroup.subtree_control": "",
        **files,
    }.items():
        (base / name.replace("__", ".")).write_text(text)
    return base


def test_v2_groups_get_their_limits(tmp_path):
    """memory.max, swap off, one fate for all its processes, cpu.max; removed with the replica."""
    base = fake_v2(tmp_path / "own")
    tree = open_tree(str(base))
    assert isinstance(tree, CgroupV2)
    assert (base / "cgroup.subtree_control").read_text() == "+memory +cpu"
    group = tree.make("r1", 100 * MIB, 1.5)
    folder = base / "replica-r1"
    assert (folder / "memory.max").read_text() == str(100 * MIB)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert group.procs == (str(folder / "cgroup.procs"),)
    assert not group.out_of_memory()
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    assert group.out_of_memory()
    assert not group.out_of_memory()  # told once: the next ending has a cause of its own


def test_v1_groups_get_their_limits(tmp_path):
    """A folder per controller, each only when that limit is set."""
    for controller in ("memory", "cpu"):
        (tmp_path / controller).mkdir()
    where = ",".join(str(tmp_path / c / "penstock") for c in ("memory", "cpu"))
    tree = open_tree(where)
    assert isinstance(tree, CgroupV1)
    group = tree.make("r1", 64 * MIB, 0.25)
    memory, cpu = (tmp_path / c / "penstock" / "replica-r1" for c in ("memory", "cpu"))
    assert (memory / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (cpu / "cpu.cfs_quota_us").read_text() == "25000"
    assert group.procs == (str(memory / "cgroup.procs"), str(cpu / "cgroup.procs"))
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert group.out_of_memory()
    assert tree.make("r2", None, 1).procs == (
        str(tmp_path / "cpu/penstock/replica-r2/cgroup.procs"),
    )


def test_left_over_groups_are_removed(tmp_path):
    """A node that was killed leaves empty folders; the next one clears them away."""
    base = fake_v2(tmp_path / "own")
    (base / "replica-old").mkdir()
    CgroupV2(base)
    assert not (base / "replica-old").exists()


def test_only_a_folder_that_was_handed_over_is_used(tmp_path):
    """`auto`: the root of a namespace is ours; an undelegated folder, or one without controllers, is not."""
    own = tmp_path / "cgroup"
    mount = tmp_path / "mount"
    fake_v2(mount)
    fake_v2(mount / "user.slice" / "app")
    own.write_text("0::/\n")
    assert cgroups._delegated(own, mount) == mount
    (mount / "cgroup.events").unlink()  # the machine's own root
    assert cgroups._delegated(own, mount) is None
    own.write_text("0::/user.slice/app\n")
    assert cgroups._delegated(own, mount) is None
    own.write_text("4:memory:/x\n0::/\n")
    (mount / "cgroup.controllers").write_text("hugetlb\n")
    assert cgroups._delegated(own, mount) is None
    own.write_text("4:memory:/x\n")
    assert cgroups._delegated(own, mount) is None


def test_named_folders_must_be_usable(tmp_path):
    """A cgroup that was asked for and cannot be had is an error, not a silent fallback."""
    assert open_tree("off") is None
    with pytest.raises(OSError, match="no folder of a memory or cpu"):
        open_tree(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="no folder of a memory or cpu"):
        Limiter(str(tmp_path / "x" / "memory" / "y"))


async def test_a_replica_whose_limits_cannot_be_held_is_not_started(make_rig, tmp_path):
    """It must not run unlimited."""
    (tmp_path / "memory").mkdir()
    rig = make_rig(cgroup=str(tmp_path / "memory" / "penstock"))
    with pytest.raises(Internal, match="cannot be held"):
        rig.start(cpu_limit=1)
    assert rig.replicas.list() == []


async def test_a_child_enters_its_cgroup_before_it_loads(make_rig, tmp_path):
    """It writes itself into cgroup.procs; the status names the means."""
    base = fake_v2(tmp_path / "own")
    rig = make_rig(cgroup=str(base))
    status = await rig.ready(memory_limit_bytes=50 * MIB)
    assert status.limits == "cgroup-v2"
    assert (base / "replica-r1" / "cgroup.procs").read_text() == "0"
    (base / "replica-r1" / "memory.events").write_text("oom_kill 1\n")
    os.kill(status.pid, 9)
    status = await rig.until_status(lambda s: s.restarts == 1)
    assert (status.reason, status.signal) == ("OutOfMemory", 9)


#: Folders that tests may use: named, or handed over to this process as `auto` would see it. Others belong to
#: somebody, even where root could write them.
CGROUP = os.environ.get("PENSTOCK_TEST_CGROUP") or ("auto" if cgroups._delegated() else "")


@pytest.mark.skipif(
    not CGROUP, reason="no cgroup is delegated to tests, and PENSTOCK_TEST_CGROUP names none"
)
class TestTheKernelHolds:
    """On real cgroups; `.ci/run` makes folders for them where it can."""

    @pytest.fixture
    def folders(self):
        """Of this process of the tests alone, where the hierarchy lets folders be made in folders."""
        found = cgroups._delegated() if CGROUP == "auto" else None
        named = [found] if found else [Path(x) for x in CGROUP.split(",")]
        own = not (named[0] / "cgroup.controllers").exists()
        folders = [f / str(os.getpid()) for f in named] if own else named
        yield folders
        assert not [left for f in folders for left in f.glob("replica-*")]
        if own:
            for folder in folders:
                folder.rmdir()

    async def test_memory(self, make_rig, folders):
        """The kernel's own kill is OutOfMemory."""
        rig = make_rig(cgroup=",".join(map(str, folders)))
        rig.start(toy=f"alloc:{600 * MIB}", memory_limit_bytes=150 * MIB)
        status = await rig.until_status(lambda s: s.reason != "")
        assert status.reason == "OutOfMemory"
        assert status.limits.startswith("cgroup-")
        await rig.replicas.stop("r1")

    async def test_cpu(self, make_rig, folders):
        """A quarter of a core: who computes for longer than that is made to wait."""
        rig = make_rig(cgroup=",".join(map(str, folders)))
        status = await rig.ready(cpu_limit=0.25)
        assert status.limits.startswith("cgroup-")
        await tell(status.address, "compute 0.2")
        files = [f / "replica-r1" / "cpu.stat" for f in folders]
        told = dict(
            line.split() for f in files if f.exists() for line in f.read_text().splitlines()
        )
        assert int(told["nr_throttled"]) > 0
        await rig.replicas.stop("r1")
