"""Accelerators and who gets which: the placement, as pure functions.

A replica asks for whole devices, for a fraction of one, or for some memory of one. Where it runs is decided
by whoever owns the devices (the node here, the scheduler on a cluster); both see the same request. Fractions
are counted in thousandths, so that three times a third never is more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NVIDIA = "nvidia.com/gpu"
AMD = "amd.com/gpu"
#: Thousandths in a device.
WHOLE = 1000

#: The variables by which a process is told which devices it may see, by resource.
VISIBLE: Mapping[str, tuple[str, ...]] = {
    NVIDIA: ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    AMD: ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
}


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator. `id` is what the vendor's variables take: a UUID, or an index."""

    index: int
    id: str
    name: str = ""
    resource: str = NVIDIA
    #: 0 where it is not known; then nobody can ask for an amount of it.
    memory_bytes: int = 0
    #: Memory that other programs held when the node started.
    reserved_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        return max(0, self.memory_bytes - self.reserved_bytes)


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What one replica asks for."""

    resource: str = NVIDIA
    #: Thousandths of a device: a multiple of 1000, less than 1000, or 0 when only memory is asked for.
    milli: int = WHOLE
    #: Memory of each device; None takes the fraction's share.
    memory_bytes: int | None = None

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f" with {_gib(self.memory_bytes)}"
        if not self.milli:
            return f"a share of one {self.resource}{memory}"
        return f"{self.milli / WHOLE:g} {self.resource}{memory}"


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A part of one device, or all of it, that one replica holds."""

    index: int
    id: str
    resource: str = NVIDIA
    milli: int = WHOLE
    #: Most memory it may take there; None for a whole device, or where the device's is not known.
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device and its holders, by replica id."""

    device: Device
    holders: Mapping[str, DeviceShare]


def request_of(
    gpu: float | None, resource: str | None, memory_bytes: int | None
) -> DeviceRequest | None:
    """The request in a component's resources; None when it asks for no device."""
    if not gpu and not memory_bytes:
        return None
    return DeviceRequest(resource or NVIDIA, round((gpu or 0) * WHOLE), memory_bytes)


def place(
    devices: Sequence[Device], held: Iterable[DeviceShare], request: DeviceRequest
) -> tuple[DeviceShare, ...] | None:
    """Where a replica goes, or None while there is no room.

    Nothing that is held moves. Whole devices go to untouched ones, the smallest that suffice first. A
    fraction goes where the least is left afterwards, so that devices stay whole for those who need them
    whole. The lowest index decides between equals.
    """
    taken: dict[str, tuple[int, int]] = {}
    for share in held:
        milli, size = taken.get(share.id, (0, 0))
        taken[share.id] = (milli + share.milli, size + (share.memory_bytes or 0))
    usable = [d for d in devices if d.resource == request.resource]
    if request.milli >= WHOLE:
        count, rest = divmod(request.milli, WHOLE)
        least = request.memory_bytes or 0
        free = [d for d in usable if d.id not in taken and d.usable_bytes >= least]
        if rest or len(free) < count:
            return None
        free.sort(key=lambda d: (d.memory_bytes, d.index))
        return tuple(
            DeviceShare(d.index, d.id, d.resource)
            for d in sorted(free[:count], key=lambda d: d.index)
        )
    best: tuple[int, int, int] | None = None
    found: DeviceShare | None = None
    for device in usable:
        part = _share(device, request)
        if part is None:
            continue
        milli, size = taken.get(device.id, (0, 0))
        left = WHOLE - milli - part.milli
        left_bytes = device.usable_bytes - size - (part.memory_bytes or 0)
        rank = (left, left_bytes, device.index)
        if min(left, left_bytes) >= 0 and (best is None or rank < best):
            best, found = rank, part
    return (found,) if found is not None else None


def _share(device: Device, request: DeviceRequest) -> DeviceShare | None:
    """What the request would take of a device; None where that is not known."""
    memory = request.memory_bytes
    if memory is None:
        memory = device.memory_bytes * request.milli // WHOLE or None
    elif not device.memory_bytes:
        return None
    milli = request.milli
    if not milli:
        assert memory is not None  # noqa: S101 - a request without both is none
        # At least a thousandth, rounded up: memory that is asked for is never shared out twice.
        milli = max(1, -(-memory * WHOLE // device.memory_bytes))
    return DeviceShare(device.index, device.id, device.resource, milli, memory)


def visible(devices: Iterable[Device], shares: Iterable[DeviceShare]) -> dict[str, str]:
    """The environment of a replica: it sees its shares, and none of the machine's other devices."""
    by_resource: dict[str, list[str]] = {d.resource: [] for d in devices}
    for share in shares:
        by_resource.setdefault(share.resource, []).append(share.id)
    env: dict[str, str] = {}
    for resource, ids in by_resource.items():
        for name in VISIBLE.get(resource, ()):
            env[name] = ",".join(ids)
        if resource == NVIDIA:
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def why_not(
    devices: Sequence[Device], held: Mapping[str, Sequence[DeviceShare]], request: DeviceRequest
) -> str:
    """The sentence for a replica that waits: what is asked, what there is, who has it."""
    usable = [d for d in devices if d.resource == request.resource]
    if not usable:
        others = sorted({d.resource for d in devices})
        have = f"only {', '.join(others)}" if others else "no accelerator"
        return f"It asks for {request}; this machine has {have}."
    have = ", ".join(f"{d.index}: {d.name or d.id}{_memory(d)}" for d in usable)
    if place(devices, (), request) is None:
        return f"It asks for {request}, more than there is on this machine ({have})."
    holders = [
        f"{replica} has {share.milli / WHOLE:g} of {share.index}"
        for replica, shares in sorted(held.items())
        for share in shares
        if share.resource == request.resource
    ]
    return f"It asks for {request}; of {have}: {', '.join(holders)}."


def _memory(device: Device) -> str:
    if not device.memory_bytes:
        return ""
    kept = f", {_gib(device.reserved_bytes)} in use by others" if device.reserved_bytes else ""
    return f" ({_gib(device.memory_bytes)}{kept})"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.3g} GiB"
