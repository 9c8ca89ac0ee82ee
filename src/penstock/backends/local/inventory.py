"""Which accelerators this machine has: asked once of the driver, or declared by the operator.

`auto` asks nvidia-smi, else the driver's files below /proc; a machine without a driver costs one look at a
path. A file declares devices instead: JSON, a list of `{"index", "id", "name", "resource", "memory"}`. It is
for what no tool here can list, and is read again when it changes.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from penstock.domain.devices import NVIDIA, Device
from penstock.domain.quantity import parse_bytes
from penstock.errors import InvalidInput

logger = logging.getLogger(__name__)

AUTO: Final = "auto"
OFF: Final = "off"
#: nvidia-smi loads the driver where nothing else has; on large machines that takes seconds.
_ASK_S: Final = 30.0
_QUERY: Final = "index,uuid,name,memory.total,memory.used"
_MIB: Final = 2**20


class Inventory:
    """The machine's devices. `where`: `auto`, `off`, or a file that declares them."""

    def __init__(
        self,
        where: str = AUTO,
        *,
        environment: Mapping[str, str] | None = None,
        root: Path = Path("/"),
    ) -> None:
        """Reads it once; may take seconds with `auto`. InvalidInput for a file that cannot be read."""
        self._file: Path | None = None
        self._mark: tuple[int, int] | None = None
        self.devices: tuple[Device, ...] = ()
        if where == AUTO:
            env = os.environ if environment is None else environment
            self.devices = visible_to(
                discover(env.get("PATH"), root), env.get("CUDA_VISIBLE_DEVICES")
            )
        elif where != OFF:
            self._file = Path(where)
            self._mark = _mark(self._file)
            self.devices = declared(self._file)

    def refresh(self) -> bool:
        """Read the operator's file again if it changed; True when there are other devices now."""
        if self._file is None:
            return False
        mark = _mark(self._file)
        if mark is None or mark == self._mark:
            return False
        self._mark = mark
        try:
            devices = declared(self._file)
        except InvalidInput as e:
            logger.warning("%s The devices stay as they were.", e)
            return False
        changed = devices != self.devices
        self.devices = devices
        return changed


def _mark(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size)


class _Declared(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    index: int | None = None
    name: str = ""
    resource: str = NVIDIA
    memory: str | int = 0


def declared(file: Path) -> tuple[Device, ...]:
    """Devices of an operator's file. InvalidInput."""
    try:
        entries = msgspec.json.decode(file.read_bytes(), type=list[_Declared])
        devices = tuple(
            Device(
                index=i if e.index is None else e.index,
                id=e.id,
                name=e.name,
                resource=e.resource,
                memory_bytes=parse_bytes(e.memory),
            )
            for i, e in enumerate(entries)
        )
    except OSError as e:
        raise InvalidInput(f"The devices in {file} cannot be read: {e.strerror}.") from e
    except (msgspec.DecodeError, ValueError) as e:
        raise InvalidInput(
            f"The devices in {file} are not understood: {e}.",
            hint='It is a list such as [{"id": "GPU-1", "memory": "16Gi"}].',
        ) from e
    for what, values in (("id", [d.id for d in devices]), ("index", [d.index for d in devices])):
        if len(set(values)) < len(values):
            raise InvalidInput(f"Two devices in {file} have the same {what}.")
    return devices


def discover(path: str | None, root: Path = Path("/")) -> tuple[Device, ...]:
    """The NVIDIA devices of this machine. Empty without a driver."""
    if not (root / "proc/driver/nvidia/version").exists() and not (root / "dev/nvidiactl").exists():
        return ()
    tool = shutil.which("nvidia-smi", path=path)
    if tool is not None:
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=_ASK_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as e:
            logger.warning("nvidia-smi does not answer: %s", e)
        else:
            return from_smi(done.stdout)
    return from_proc(root)


def from_smi(text: str) -> tuple[Device, ...]:
    """Devices in nvidia-smi's CSV without units (memory in MiB). Lines that are none are left out."""
    found = []
    for line in text.splitlines():
        words = [w.strip() for w in line.split(",")]
        if len(words) != 5 or not words[0].isdigit() or not words[1]:
            if line.strip():
                logger.warning("nvidia-smi said what is not understood: %s", line.strip())
            continue
        index, uuid, name, total, used = words
        found.append(
            Device(
                index=int(index),
                id=uuid,
                name=name,
                memory_bytes=_mib(total),
                reserved_bytes=_mib(used),
            )
        )
    return tuple(found)


def _mib(word: str) -> int:
    """`[N/A]` where host and device share their memory."""
    return int(word) * _MIB if word.isdigit() else 0


def from_proc(root: Path) -> tuple[Device, ...]:
    """Devices in the driver's files, in the order of their bus addresses; their memory is not told there."""
    found: list[Device] = []
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        try:
            lines = (folder / "information").read_text().splitlines()
        except OSError:
            continue
        facts = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        if uuid := facts.get("GPU UUID"):
            found.append(Device(index=len(found), id=uuid, name=facts.get("Model", "")))
    return tuple(found)


def visible_to(devices: Sequence[Device], variable: str | None) -> tuple[Device, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: whoever starts the platform may keep some for themselves.

    As CUDA reads it: indices or beginnings of UUIDs, up to the first that is none of them.
    """
    if variable is None:
        return tuple(devices)
    found: list[Device] = []
    for word in (w.strip() for w in variable.split(",")):
        fitting = [
            d
            for d in devices
            if (word.isdigit() and d.index == int(word))
            or (word and not word.isdigit() and d.id.startswith(word))
        ]
        if len(fitting) != 1 or fitting[0] in found:
            break
        found.append(fitting[0])
    return tuple(found)
