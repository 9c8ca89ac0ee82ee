"""Accelerators of a node: found or declared, given to replicas, waited for, given back."""

import asyncio
import json
import os

import pytest
from backend_harness import tell

from penstock.backends.base import Phase
from penstock.backends.local.client import LocalBackend
from penstock.backends.local.devices import Devices
from penstock.backends.local.inventory import (
    Inventory,
    declared,
    discover,
    from_proc,
    from_smi,
    visible_to,
)
from penstock.domain.devices import NVIDIA, Device, DeviceRequest
from penstock.errors import InvalidInput

GIB = 2**30
MIB = 2**20
HALF = DeviceRequest(milli=500)


def inventory(tmp_path, *devices):
    file = tmp_path / "devices.json"
    file.write_text(json.dumps([{"memory": "16Gi", **d} for d in devices]))
    return file


@pytest.fixture
def one(tmp_path):
    """One device, declared in a file."""
    return inventory(tmp_path, {"id": "GPU-1", "name": "T4"})


# -- what there is ---------------------------------------------------------------------------------


def test_nvidia_smi_is_understood():
    """As `--format=csv,noheader,nounits` prints it, a device without memory of its own among them."""
    text = (
        "0, GPU-6f1bd6c4-0000-0000-0000-000000000000, NVIDIA H100 80GB HBM3, 81559, 512\n"
        "1, GPU-77777777-0000-0000-0000-000000000000, NVIDIA GB10, [N/A], [N/A]\n"
    )
    first, second = from_smi(text)
    assert first.index == 0
    assert first.id == "GPU-6f1bd6c4-0000-0000-0000-000000000000"
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert (first.memory_bytes, first.reserved_bytes) == (81559 * MIB, 512 * MIB)
    assert (second.index, second.memory_bytes) == (1, 0)


def test_what_nvidia_smi_says_besides_is_no_device(caplog):
    assert from_smi("Unable to determine the device handle for GPU 0000:01:00.0\n\n") == ()
    assert "is not understood" in caplog.text


def fake_driver(tmp_path, script):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").write_text("")
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return f"{tmp_path / 'bin'}:/usr/bin:/bin"


def test_the_driver_is_asked_where_there_is_one(tmp_path):
    path = fake_driver(tmp_path, "echo '0, GPU-a, T4, 15360, 0'")
    assert [d.id for d in discover(path, tmp_path)] == ["GPU-a"]


def test_without_a_driver_nobody_is_asked(tmp_path):
    path = fake_driver(tmp_path, "exit 9")
    (tmp_path / "dev" / "nvidiactl").unlink()
    assert discover(path, tmp_path) == ()


def test_the_drivers_own_files_do_when_its_tool_fails(tmp_path, caplog):
    path = fake_driver(tmp_path, "exit 9")
    for n, bus in enumerate(("0000:01:00.0", "0000:02:00.0")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t T4\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{n}\n"
        )
    assert discover(path, tmp_path) == from_proc(tmp_path)
    assert [(d.index, d.id, d.name) for d in from_proc(tmp_path)] == [
        (0, "GPU-0", "T4"),
        (1, "GPU-1", "T4"),
    ]
    assert "does not answer" in caplog.text


@pytest.mark.parametrize(
    ("variable", "left"),
    [(None, "abc"), ("", ""), ("-1", ""), ("1", "b"), ("2,0", "ca"), ("GPU-b", "b"), ("0,7,1", "a"),
     ("0,0", "a")],
)  # fmt: skip
def test_the_operators_own_choice_is_kept(variable, left):
    devices = [Device(i, f"GPU-{c}") for i, c in enumerate("abc")]
    assert "".join(d.id[-1] for d in visible_to(devices, variable)) == left


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not understood"), ('[{"name": "x"}]', "id"), ('[{"id": "a", "memory": "8Gb"}]', "8Gb"),
     ('[{"id": "a"}, {"id": "a"}]', "same id"), ('[{"id": "a", "memori": 1}]', "memori")],
)  # fmt: skip
def test_a_file_that_declares_nonsense_is_refused(tmp_path, text, words):
    file = tmp_path / "devices.json"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=words):
        declared(file)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        Inventory(str(tmp_path / "none"))


def test_a_file_that_becomes_nonsense_changes_nothing(one, caplog):
    found = Inventory(str(one))
    one.write_text("no list")
    assert not found.refresh()
    assert [d.id for d in found.devices] == ["GPU-1"]
    assert "stay as they were" in caplog.text


# -- who gets it -----------------------------------------------------------------------------------


async def test_a_replica_sees_what_it_was_given(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    env = {"CUDA_VISIBLE_DEVICES": "7"}
    status = await rig.ready(device=HALF, env=env)
    assert [(d.index, d.milli, d.memory_bytes) for d in status.devices] == [(0, 500, 8 * GIB)]
    assert await tell(status.address, "env CUDA_VISIBLE_DEVICES") == '"GPU-1"'
    other = await rig.ready("r2", env=env)
    assert await tell(other.address, "env CUDA_VISIBLE_DEVICES") == '""', "it asked for none"


async def test_without_devices_nothing_is_hidden(rig):
    status = await rig.ready(env={"CUDA_VISIBLE_DEVICES": "7"})
    assert await tell(status.address, "env CUDA_VISIBLE_DEVICES") == '"7"'


async def test_who_finds_no_device_waits_says_so_and_starts_when_one_is_free(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    await rig.ready("r1", device=DeviceRequest())
    rig.start("r2", device=HALF)
    waits = await rig.until_phase(Phase.WAITING, "r2")
    assert waits.reason == "WaitingForDevice"
    assert "asks for 0.5 nvidia.com/gpu" in waits.message
    assert "r1 has 1 of 0" in waits.message
    assert waits.pid is None
    await rig.replicas.stop("r1")
    status = await rig.until_phase(Phase.READY, "r2")
    assert (status.reason, status.message, status.restarts) == ("", "", 0)


async def test_a_replica_that_is_started_again_keeps_its_device(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    status = await rig.ready("r1", device=DeviceRequest())
    rig.start("r2", device=DeviceRequest())
    await rig.until_phase(Phase.WAITING, "r2")
    assert await tell(status.address, "exit 3") == ""
    again = await rig.until_status(lambda s: s.restarts == 1 and s.phase is Phase.READY)
    assert again.devices == status.devices
    assert rig.status("r2").phase is Phase.WAITING


async def test_one_that_cannot_load_gives_its_device_back(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    rig.start("r1", toy="failed", device=DeviceRequest())
    await rig.until_phase(Phase.FAILED, "r1")
    assert rig.status("r1").devices == ()
    await rig.ready("r2", device=DeviceRequest())


async def test_one_that_waits_can_be_stopped(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    await rig.ready("r1", device=DeviceRequest())
    rig.start("r2", device=DeviceRequest())
    await rig.until_phase(Phase.WAITING, "r2")
    await rig.replicas.stop("r2")
    assert rig.status("r2").phase is Phase.STOPPED
    await rig.replicas.stop("r1")
    assert [s.holders for s in rig.replicas.devices()] == [{}]


async def test_a_device_that_is_declared_later_is_given_out(make_rig, one, tmp_path):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    rig.start("r1", device=DeviceRequest(milli=2000))
    waits = await rig.until_phase(Phase.WAITING)
    assert "more than there is" in waits.message
    new = inventory(tmp_path, {"id": "GPU-1"}, {"id": "GPU-2", "name": "another"})
    os.utime(new, ns=(1, 1))
    await rig.until_phase(Phase.READY)


async def test_the_higher_priority_gets_it_first_and_the_older_among_equals(one):
    devices = Devices(Inventory(str(one)))
    await devices.acquire("holder", DeviceRequest())
    got = []

    async def wait(name, priority, request=HALF):
        await devices.acquire(name, request, priority=priority)
        got.append(name)

    tasks = []
    for name, priority in (("low", 0), ("first", 5), ("second", 5), ("high", 9)):
        tasks.append(asyncio.create_task(wait(name, priority)))
        await asyncio.sleep(0)
    devices.release("holder")
    await asyncio.sleep(0)
    assert got == ["high", "first"]
    devices.release("high")
    await asyncio.gather(tasks[2])
    devices.release("first")
    await asyncio.gather(*tasks)
    assert got == ["high", "first", "second", "low"]


async def test_after_a_start_the_order_of_arrival_decides_nothing(one):
    """Everything is asked for again, in any order: who has the higher priority has it first."""
    devices = Devices(Inventory(str(one)), settle_s=0.05)
    said = []
    low = asyncio.create_task(devices.acquire("low", DeviceRequest(), tell=said.append))
    await asyncio.sleep(0)
    high = asyncio.create_task(devices.acquire("high", DeviceRequest(), priority=1))
    assert await asyncio.wait_for(high, 10)
    assert not low.done()
    assert said[0] == "The node has just started; devices are given out in a moment."
    assert "high has 1 of 0" in said[-1]
    devices.release("high")
    assert await asyncio.wait_for(low, 10)


async def test_one_that_does_not_fit_holds_up_none_that_does(one):
    devices = Devices(Inventory(str(one)))
    await devices.acquire("half", HALF)
    big = asyncio.create_task(devices.acquire("big", DeviceRequest(), priority=9))
    await asyncio.sleep(0)
    assert await devices.acquire("other half", HALF)
    big.cancel()
    await asyncio.gather(big, return_exceptions=True)


async def test_a_wait_given_up_in_the_moment_it_is_granted_leaves_nothing_held(one):
    devices = Devices(Inventory(str(one)))
    await devices.acquire("holder", DeviceRequest())
    task = asyncio.create_task(devices.acquire("late", DeviceRequest()))
    await asyncio.sleep(0)
    devices.release("holder")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert devices.list()[0].holders == {}


async def test_the_control_plane_sees_devices_and_holders(make_rig, one):
    rig = make_rig(devices=Devices(Inventory(str(one))))
    await rig.endpoint.listen(rig.layout.node_socket)
    backend = LocalBackend(rig.data_dir)
    try:
        await rig.ready(device=HALF)
        (status,) = await backend.devices()
        assert (status.device.id, status.device.resource) == ("GPU-1", NVIDIA)
        assert {r: s.milli for r, s in status.holders.items()} == {"r1": 500}
    finally:
        await backend.aclose()
