"""Tensors in system shared memory, by Triton's clients over REST and gRPC, alone and through a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from grpc_peers import Doubling, Same
from triton_peers import WAYS, Ports, serving
from tritonclient.utils import InferenceServerException

from penstock.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PenstockError,
    TooLarge,
    Unsupported,
)
from penstock.protocols.shared_memory import OBJECTS, Place, SharedMemory

MODELS = {"m": Doubling, "same": Same}
VALUES = np.array([[1, 2], [3, 4]], np.float32)


@contextlib.contextmanager
def region(size: int) -> Iterator[tuple[str, Any]]:
    """A shared memory object: its key, and the client's handle."""
    key = f"/penstock-test-{uuid.uuid4().hex[:12]}"
    handle = shm.create_shared_memory_region("r", key, size)
    try:
        yield key, handle
    finally:
        shm.destroy_shared_memory_region(handle)


def _drive(kind: ModuleType, port: int) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(kind.InferenceServerClient(f"127.0.0.1:{port}"))
        key, handle = stack.enter_context(region(4096))
        # What Triton's own examples begin with.
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        shm.set_shared_memory_region(handle, [VALUES], offset=64)
        client.register_system_shared_memory("r", key, 2048, offset=64)
        client.register_system_shared_memory("r 2 é", key, 1024, offset=2048)
        status = client.get_system_shared_memory_status()
        regions = (
            {r["name"]: r for r in status} if isinstance(status, list) else dict(status.regions)
        )
        assert set(regions) == {"r", "r 2 é"}
        client.get_system_shared_memory_status("r")

        tensor = kind.InferInput("x", [2, 2], "FP32")
        tensor.set_shared_memory("r", VALUES.nbytes)
        answer = client.infer("m", [tensor])
        np.testing.assert_array_equal(answer.as_numpy("y"), VALUES * 2)

        output = kind.InferRequestedOutput("y")
        output.set_shared_memory("r 2 é", VALUES.nbytes, offset=16)
        answer = client.infer("m", [tensor], outputs=[output])
        found = shm.get_contents_as_numpy(handle, np.float32, [2, 2], offset=2048 + 16)
        np.testing.assert_array_equal(found, VALUES * 2)
        # The view holds the object's memory: it goes before the object does.
        del found
        described = answer.get_output("y")
        shape = described["shape"] if isinstance(described, dict) else list(described.shape)
        assert shape == [2, 2]

        # One tensor in shared memory and one beside it, in this order and the other.
        sent = kind.InferInput("z", [1], "FP32")
        sent.set_data_from_numpy(np.array([7], np.float32))
        for inputs in ([tensor, sent], [sent, tensor]):
            outputs = [kind.InferRequestedOutput("X"), kind.InferRequestedOutput("Z")]
            outputs[0].set_shared_memory("r 2 é", VALUES.nbytes)
            answer = client.infer("same", inputs, outputs=outputs)
            assert answer.as_numpy("Z").tolist() == [7]
            found = shm.get_contents_as_numpy(handle, np.float32, [2, 2], offset=2048)
            np.testing.assert_array_equal(found, VALUES)
            del found

        text = kind.InferInput("t", [2], "BYTES")
        raw = np.frombuffer(b"\1\0\0\0a\2\0\0\0\xc3\xa9", np.uint8)
        shm.set_shared_memory_region(handle, [raw], offset=512)
        text.set_shared_memory("r", raw.nbytes, offset=512 - 64)
        assert client.infer("same", [text]).as_numpy("T").tolist() == [b"a", "é".encode()]

        for ask, message in (
            (lambda: client.register_system_shared_memory("r", key, 16), "already in manager"),
            (lambda: client.register_system_shared_memory("b", key, 4097), "Invalid shared memory"),
            (
                lambda: client.register_system_shared_memory("b", key, 16, offset=4090),
                "Invalid shared memory",
            ),
            (lambda: client.register_system_shared_memory("b", "/none", 16), "Unable to open"),
            (lambda: client.register_system_shared_memory("b", "/../x", 16), "no name of a shared"),
            (lambda: client.get_system_shared_memory_status("b"), "Unable to find system shared"),
            (
                lambda: client.register_cuda_shared_memory("c", b"x" * 64, 0, 16),
                "CUDA shared memory is not supported",
            ),
            (lambda: client.get_cuda_shared_memory_status("c"), "Unable to find cuda shared"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                ask()
        assert not list(getattr(client.get_cuda_shared_memory_status(), "regions", []))

        for place, message in (
            (("none", 16, 0), "Unable to find shared memory region: 'none'"),
            (("r", 16, 2040), "Invalid offset"),
            (("r", 15, 0), "that is 16 bytes, but its binary data has 15"),
        ):
            wrong = kind.InferInput("x", [2, 2], "FP32")
            wrong.set_shared_memory(*place)
            with pytest.raises(InferenceServerException, match=message):
                client.infer("m", [wrong])
        output.set_shared_memory("r 2 é", VALUES.nbytes - 1)
        with pytest.raises(InferenceServerException, match="should be at least 16 bytes"):
            client.infer("m", [tensor], outputs=[output])

        client.unregister_system_shared_memory("r")
        client.unregister_system_shared_memory("r")
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
            client.infer("m", [tensor])
        client.unregister_system_shared_memory()
        status = client.get_system_shared_memory_status()
        assert not (status if isinstance(status, list) else status.regions)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_tritons_clients_use_shared_memory(way: str, kind: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, MODELS) as ports:
        if kind == "http":
            await asyncio.to_thread(_drive, triton_http, ports.http)
        else:
            await asyncio.to_thread(_drive, triton_grpc, ports.grpc)


def _refused(ports: Ports) -> None:
    for kind, port in ((triton_http, ports.http), (triton_grpc, ports.grpc)):
        with kind.InferenceServerClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(InferenceServerException, match="allow-shared-memory") as refused:
                client.register_system_shared_memory("r", "/x", 16)
            assert refused.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
            client.unregister_system_shared_memory()
            status = client.get_system_shared_memory_status()
            assert not (status if isinstance(status, list) else status.regions)
            tensor = kind.InferInput("x", [2, 2], "FP32")
            tensor.set_shared_memory("r", 16)
            with pytest.raises(InferenceServerException, match="allow-shared-memory"):
                client.infer("m", [tensor])
            tensor = kind.InferInput("x", [2, 2], "FP32")
            tensor.set_data_from_numpy(VALUES)
            output = kind.InferRequestedOutput("y")
            output.set_shared_memory("r", 16)
            with pytest.raises(InferenceServerException, match="allow-shared-memory"):
                client.infer("m", [tensor], outputs=[output])
            assert "system_shared_memory" not in str(client.get_server_metadata())


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_off_unless_allowed(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, MODELS, shared=False) as ports:
        await asyncio.to_thread(_refused, ports)


# -- the registry by itself


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    return SharedMemory(tmp_path / "regions", most=1000)


@pytest.fixture
def key() -> Iterator[str]:
    """An object of 100 bytes."""
    name = f"penstock-test-{uuid.uuid4().hex[:12]}"
    path = OBJECTS / name
    path.write_bytes(bytes(range(100)))
    yield f"/{name}"
    path.unlink(missing_ok=True)


def test_what_one_registers_another_knows(tmp_path: Path, memory: SharedMemory, key: str) -> None:
    """The gateways and the model processes of a machine, which share a folder."""
    other = SharedMemory(tmp_path / "regions", most=1000)
    memory.register("r", key, 10, 50)
    assert bytes(other.read(Place("r", 3, 1), "x")) == bytes([11, 12, 13])
    memory.unregister("r")
    memory.register("r", key, 20, 50)
    assert bytes(other.read(Place("r", 3, 1), "x")) == bytes([21, 22, 23])
    other.write(Place("r", 3, 0), b"abc", "y")
    assert (OBJECTS / key[1:]).read_bytes()[19:24] == b"\x13abc\x17"
    memory.unregister()
    with pytest.raises(NotFound):
        other.read(Place("r", 3, 1), "x")
    assert not list((tmp_path / "regions").iterdir())


BAD_KEYS: dict[str, str] = {
    "a path": "/a/b",
    "a path that climbs": "/../etc/passwd",
    "the folder itself": "/.",
    "its parent": "..",
    "nothing": "",
    "a slash": "/",
    "a NUL": "/a\0b",
    "too long": "/" + "x" * 256,
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_is_a_name_and_no_path(memory: SharedMemory, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name of a shared memory object"):
        memory.register("r", BAD_KEYS[name], 0, 1)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_an_object_is_a_plain_file(memory: SharedMemory, key: str, kind: str) -> None:
    """A link would lead out of the folder, and a pipe would hold whoever opens it."""
    path = OBJECTS / key[1:]
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    try:
        with pytest.raises(InvalidInput, match="Unable to open"):
            memory.register("r", key, 0, 1)
    finally:
        if kind == "folder":
            path.rmdir()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m, k: m.register("", k, 0, 1), InvalidInput, "name has 1 to"),
        (lambda m, k: m.register("x" * 300, k, 0, 1), InvalidInput, "name has 1 to"),
        (lambda m, k: m.register("r", k, 0, 0), InvalidInput, "1 byte or more"),
        (lambda m, k: m.register("r", k, -1, 1), InvalidInput, "offset of 0 or more"),
        (lambda m, k: m.register("r", k, 0, 101), InvalidInput, "Invalid shared memory region"),
        (lambda m, k: m.register("r", k, 2**63, 2**63), InvalidInput, "Invalid shared memory"),
        (lambda m, k: m.register("ok", k, 0, 1), Conflict, "already in manager"),
        (lambda m, k: m.read(Place("ok", 101), "input 'x'"), InvalidInput, "Invalid offset"),
        (lambda m, k: m.read(Place("ok", 1, 2**63), "input 'x'"), InvalidInput, "Invalid offset"),
        (lambda m, k: m.write(Place("ok", 5), b"123456", "y"), InvalidInput, "at least 6 bytes"),
        (lambda m, k: m.status("nope"), NotFound, "Unable to find"),
    ],
)
def test_what_is_wrong_is_said(
    memory: SharedMemory,
    key: str,
    act: Callable[[SharedMemory, str], Any],
    error: type[PenstockError],
    message: str,
) -> None:
    memory.register("ok", key, 0, 100)
    with pytest.raises(error, match=message):
        act(memory, key)


def test_an_object_that_is_cut_short_or_removed_fails_the_request_only(
    memory: SharedMemory, key: str
) -> None:
    """A mapping of it would end the process by SIGBUS."""
    memory.register("r", key, 0, 100)
    os.truncate(OBJECTS / key[1:], 50)
    for act in (
        lambda: memory.read(Place("r", 100), "x"),
        lambda: memory.write(Place("r", 100), bytes(100), "y"),
    ):
        with pytest.raises(InvalidInput, match="Invalid shared memory region"):
            act()
    assert (OBJECTS / key[1:]).stat().st_size == 50
    (OBJECTS / key[1:]).unlink()
    with pytest.raises(InvalidInput, match="Unable to open"):
        memory.read(Place("r", 1), "x")
    assert not [f for f in os.listdir("/proc/self/fd") if key in os.path.realpath(f)]


def test_a_region_that_is_larger_than_any_tensor_may_be_is_not_read(
    memory: SharedMemory, key: str
) -> None:
    """An object may claim a terabyte and take no memory at all."""
    os.truncate(OBJECTS / key[1:], 1 << 40)
    memory.register("r", key, 0, 1 << 40)
    with pytest.raises(TooLarge, match="over 1000 bytes"):
        memory.read(Place("r", 1 << 40), "input 'x'")


def test_without_a_folder_there_is_none() -> None:
    memory = SharedMemory(None, most=1)
    assert memory.status() == []
    memory.unregister("r")
    with pytest.raises(Unsupported):
        memory.register("r", "/x", 0, 1)
