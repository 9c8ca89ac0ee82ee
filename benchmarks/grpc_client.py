"""Load by the grpcio package, in a process of its own: `python -m benchmarks.grpc_client PORT SECONDS`.

Four channels with eight calls in flight each, as futures of the C core. Prints one JSON object: calls per
second, median and 99th percentile in seconds, calls, failures. The client itself takes most of a core, so
rates are less far apart than servers are.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np

import grpc

CHANNELS, IN_FLIGHT = 4, 8


def message(point: Any) -> bytes:
    """A ModelInferRequest with one raw FP64 tensor."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="iris", raw_input_contents=[point.tobytes()])
    request.inputs.add(name="input-0", datatype="FP64", shape=point.shape)
    data: bytes = request.SerializeToString()
    return data


def load(port: int, seconds: float) -> dict[str, float]:
    """Run it."""
    body = message(np.array([[5.1, 3.5, 1.4, 0.2]]))
    times: list[float] = []
    failed = 0
    stop_at = time.perf_counter() + seconds
    idle = threading.Semaphore(0)

    def start(call: Any) -> None:
        began = time.perf_counter()

        def done(future: Any) -> None:
            nonlocal failed
            now = time.perf_counter()
            if future.exception() is None:
                times.append(now - began)
            else:
                failed += 1
            if now < stop_at:
                start(call)
            else:
                idle.release()

        call.future(body).add_done_callback(done)

    channels = [
        # Without the option, channels to one address share a connection.
        grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CHANNELS)
    ]
    began = time.perf_counter()
    for channel in channels:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(IN_FLIGHT):
            start(call)
    for _ in range(CHANNELS * IN_FLIGHT):
        idle.acquire()
    took = time.perf_counter() - began
    for channel in channels:
        channel.close()
    times.sort()
    count = len(times)
    return {
        "rate": count / took,
        "p50_s": times[count // 2] if count else 0.0,
        "p99_s": times[min(count - 1, count * 99 // 100)] if count else 0.0,
        "requests": count + failed,
        "failed": failed,
    }


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), float(sys.argv[2]))))
