"""Limits by control groups: the kernel's own, exact, and with the model's children counted in.

A cgroup tree has one writer: below a folder that was not handed over to us, another program (systemd, a
container engine) may move or remove what we make. So the node uses cgroups only where it was told to, or
where delegation is visible: systemd marks a delegated folder with an extended attribute, and a container
with its own cgroup namespace sees its folder as the root.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_PERIOD_US: Final = 100_000
_V1_CONTROLLERS: Final = ("memory", "cpu")


class Group:
    """One replica's cgroup (in v1: one folder per controller)."""

    def __init__(self, folders: Sequence[Path], kills_file: Path | None) -> None:
        self._folders = tuple(folders)
        self._kills_file = kills_file
        self._kills = self._count()

    @property
    def procs(self) -> tuple[str, ...]:
        """Files the process writes its pid to, by itself, before it loads anything."""
        return tuple(str(f / "cgroup.procs") for f in self._folders)

    def out_of_memory(self) -> bool:
        """The kernel killed a process of this group since the last call."""
        before, self._kills = self._kills, self._count()
        return self._kills > before

    def _count(self) -> int:
        if self._kills_file is None:
            return 0
        try:
            lines = self._kills_file.read_text().splitlines()
        except OSError:
            return self._kills if hasattr(self, "_kills") else 0
        return sum(int(x.split()[1]) for x in lines if x.startswith("oom_kill "))

    def remove(self) -> None:
        """Remove the folders; a process that is still ending keeps its own for the next node's sweep."""
        for folder in self._folders:
            try:
                folder.rmdir()
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                    logger.warning("cannot remove %s: %s", folder, e.strerror)


class CgroupV2:
    """Groups below a delegated folder of the unified hierarchy."""

    name = "cgroup-v2"

    def __init__(self, base: Path) -> None:
        self._base = base
        _sweep(base)
        leaf = base / "node"
        leaf.mkdir(exist_ok=True)
        # A group that hands controllers to its children may hold no process itself.
        for pid in (base / "cgroup.procs").read_text().split():
            try:
                (leaf / "cgroup.procs").write_text(pid)
            except OSError as e:
                if e.errno != errno.ESRCH:
                    raise
        (base / "cgroup.subtree_control").write_text("+memory +cpu")

    def make(
        self, replica_id: str, memory_limit_bytes: int | None, cpu_limit: float | None
    ) -> Group:
        """The replica's group with its limits set. OSError when the kernel refuses."""
        folder = self._base / f"replica-{replica_id}"
        folder.mkdir(exist_ok=True)
        if memory_limit_bytes is not None:
            (folder / "memory.max").write_text(str(memory_limit_bytes))
            _write_if_there(folder / "memory.swap.max", "0")
            # The model's helpers die with it: half a model answers nothing.
            _write_if_there(folder / "memory.oom.group", "1")
        if cpu_limit is not None:
            (folder / "cpu.max").write_text(
                f"{max(1000, round(cpu_limit * _PERIOD_US))} {_PERIOD_US}"
            )
        return Group([folder], folder / "memory.events" if memory_limit_bytes else None)


class CgroupV1:
    """Groups below one folder per controller. `bases` maps `memory` and `cpu` to folders, either or both."""

    name = "cgroup-v1"

    def __init__(self, bases: dict[str, Path]) -> None:
        self._bases = bases
        for base in bases.values():
            base.mkdir(exist_ok=True)
            _sweep(base)

    def make(
        self, replica_id: str, memory_limit_bytes: int | None, cpu_limit: float | None
    ) -> Group:
        """The replica's groups with their limits set. OSError when the kernel refuses."""
        folders = []
        kills = None
        if memory_limit_bytes is not None:
            memory = self._folder("memory", replica_id)
            (memory / "memory.limit_in_bytes").write_text(str(memory_limit_bytes))
            _write_if_there(memory / "memory.memsw.limit_in_bytes", str(memory_limit_bytes))
            kills = memory / "memory.oom_control"
            folders.append(memory)
        if cpu_limit is not None:
            cpu = self._folder("cpu", replica_id)
            (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (cpu / "cpu.cfs_quota_us").write_text(str(max(1000, round(cpu_limit * _PERIOD_US))))
            folders.append(cpu)
        return Group(folders, kills)

    def _folder(self, controller: str, replica_id: str) -> Path:
        base = self._bases.get(controller)
        if base is None:
            raise OSError(errno.ENOENT, f"no {controller} cgroup was given")
        folder = base / f"replica-{replica_id}"
        folder.mkdir(exist_ok=True)
        return folder


def open_tree(where: str) -> CgroupV1 | CgroupV2 | None:
    """The tree to use. `where`: `auto` finds a delegated v2 folder; `off` is None; else folders to use.

    Folders: one of a v2 hierarchy, or v1 folders joined by commas, each below `.../memory/` or `.../cpu/`.
    OSError when folders that were named cannot be used; with `auto` such a failure means None.
    """
    if where == "off":
        return None
    if where == "auto":
        base = _delegated()
        if base is None:
            return None
        try:
            return CgroupV2(base)
        except OSError as e:
            logger.info("%s looks delegated and is not usable: %s", base, e)
            return None
    folders = [Path(x) for x in where.split(",")]
    if len(folders) == 1 and (folders[0] / "cgroup.controllers").exists():
        return CgroupV2(folders[0])
    bases: dict[str, Path] = {}
    for folder in folders:
        controller = next((c for c in _V1_CONTROLLERS if c in folder.parts), None)
        if controller is None or not folder.parent.is_dir():
            raise OSError(
                errno.EINVAL, f"{folder} is no folder of a memory or cpu cgroup hierarchy"
            )
        bases[controller] = folder
    return CgroupV1(bases)


def _delegated(
    self_cgroup: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Path | None:
    """This process's own v2 folder, if it has the controllers and was handed over to us."""
    try:
        lines = self_cgroup.read_text().splitlines()
        own = next(x[3:] for x in lines if x.startswith("0::"))
        folder = mount / own.lstrip("/")
        controllers = (folder / "cgroup.controllers").read_text().split()
    except (OSError, StopIteration):
        return None
    if not {"memory", "cpu"} <= set(controllers) or not os.access(folder, os.W_OK):
        return None
    if own == "/":
        # The root of a namespace has cgroup.events; the machine's real root has not.
        return folder if (folder / "cgroup.events").exists() else None
    for attribute in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(folder, attribute) == b"1":
                return folder
        except OSError:
            continue
    return None


def _sweep(base: Path) -> None:
    """Remove the groups that a node which was killed left behind."""
    for folder in base.glob("replica-*"):
        try:
            folder.rmdir()
        except OSError:
            continue  # its processes are still ending


def _write_if_there(file: Path, text: str) -> None:
    """For knobs that depend on how the kernel was built (swap accounting)."""
    try:
        file.write_text(text)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP):
            raise
