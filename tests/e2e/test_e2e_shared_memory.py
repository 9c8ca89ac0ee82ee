"""Shared memory and a decoupled model through the whole platform: gateways and replicas, old and new."""

from __future__ import annotations

import os
import queue
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from platform_harness import Platform, manifest, until
from tritonclient.utils import InferenceServerException

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
GENERATOR = """
import numpy as np
import penstock


class Countdown(penstock.Model):
    def predict(self, payload):
        for i in range(int(payload.inputs["n"][0]), 0, -1):
            yield {"i": np.array([i])}
"""


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Platform]:
    """Two gateways; a client's next connection may reach the other one."""
    p = Platform(folder, "--allow-shared-memory", "--gateways", "2")
    p.data = folder / "shared"
    p.start()
    yield p
    p.stop()


def _input(kind: Any) -> Any:
    tensor = kind.InferInput("input-0", [2, 4], "FP64")
    tensor.set_shared_memory("flowers", FLOWERS.nbytes)
    return tensor


def test_a_region_reaches_every_gateway_and_replica(shared: Platform) -> None:
    shared.run("apply", "-f", "-", "--wait", stdin=manifest("iris", minReplicas=2, maxReplicas=2))
    key = f"/penstock-test-{uuid.uuid4().hex[:12]}"
    region = shm.create_shared_memory_region("flowers", key, 4096)
    try:
        shm.set_shared_memory_region(region, [FLOWERS])
        with triton_http.InferenceServerClient(shared.http.removeprefix("http://")) as client:
            client.register_system_shared_memory("flowers", key, 4096)
        for _ in range(10):  # fresh connections
            for kind, address in (
                (triton_http, shared.http.removeprefix("http://")),
                (triton_grpc, shared.grpc),
            ):
                with kind.InferenceServerClient(address) as client:
                    output = kind.InferRequestedOutput("predict")
                    output.set_shared_memory("flowers", 16, offset=2048)
                    client.infer("iris", [_input(kind)], outputs=[output])
                    found = shm.get_contents_as_numpy(region, np.int64, [2], offset=2048)
                    assert found.tolist() == [0, 2]
                    found[:] = -1
                    del found
        # A replica that takes another's place knows it too.
        pids = {r["status"]["pid"] for r in shared.replicas()}
        for pid in pids:
            os.kill(pid, 9)
        until(
            lambda: not pids & {r["status"].get("pid") for r in shared.replicas()},
            "other processes",
        )
        with triton_grpc.InferenceServerClient(shared.grpc) as client:
            answer = client.infer("iris", [_input(triton_grpc)])
            assert answer.as_numpy("predict").tolist() == [0, 2]
            client.unregister_system_shared_memory("flowers")
            with pytest.raises(InferenceServerException, match="Unable to find shared memory"):
                client.infer("iris", [_input(triton_grpc)])
    finally:
        shm.destroy_shared_memory_region(region)


def test_a_decoupled_model_streams_through_the_platform(shared: Platform, folder: Path) -> None:
    (folder / "models" / "countdown").mkdir()
    (folder / "models" / "countdown" / "model.py").write_text(GENERATOR)
    text = manifest("countdown").replace('"sklearn"', '"python"').replace("iris", "countdown")
    shared.run("apply", "-f", "-", "--wait", stdin=text)
    found: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(shared.grpc) as client:
        assert client.get_model_config("countdown").config.model_transaction_policy.decoupled
        client.start_stream(lambda result, error: found.put((result, error)))
        tensor = triton_grpc.InferInput("n", [1], "INT64")
        tensor.set_data_from_numpy(np.array([3]))
        client.async_stream_infer("countdown", [tensor], enable_empty_final_response=True)
        got = [found.get(timeout=30) for _ in range(4)]
        client.stop_stream()
    assert [e for _, e in got] == [None] * 4
    assert [r.as_numpy("i").tolist() for r, _ in got[:3]] == [[3], [2], [1]]


def test_settings_through_the_platform(shared: Platform) -> None:
    """What one of several gateways or replicas answers alone is not changed."""
    get, post = httpx.get, httpx.post
    assert get(f"{shared.http}/v2/logging").json()["log_info"] is True
    assert post(f"{shared.http}/v2/logging", json={"log_info": True}).status_code == 200
    for path in ("/v2/logging", "/serving/default/iris/v2/logging"):
        answer = post(f"{shared.http}{path}", json={"log_verbose_level": 1})
        assert answer.status_code == 501, path
        assert "level" in answer.json()["error"]
    assert get(f"{shared.http}/v2/models/iris/config").json()["backend"] == "sklearn"
    assert get(f"{shared.http}/v2/trace/setting").json()["trace_level"] == ["OFF"]
    assert "system_shared_memory" in get(f"{shared.http}/v2").json()["extensions"]
