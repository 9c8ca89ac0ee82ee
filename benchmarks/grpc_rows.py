"""The rows for gRPC: iris with raw tensors, 4 connections with 8 calls in flight each.

Two clients: h2load, which costs little, and the grpcio package, which is what users have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.grpc_client import message
from benchmarks.load import Load, h2load
from benchmarks.measure import best, iris_model, not_measured
from benchmarks.report import Row
from benchmarks.system import ROOT, free_port, manifest, system

POINT = np.array([[5.1, 3.5, 1.4, 0.2]])
HEADERS = {"content-type": "application/grpc", "te": "trailers"}


def _check(port: int) -> None:
    """h2load sees HTTP statuses only: that calls are answered, and rightly, is looked at first."""
    from tritonclient import grpc as triton

    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = triton.InferInput("input-0", [1, 4], "FP64")
        tensor.set_data_from_numpy(POINT)
        answer = client.infer("iris", [tensor]).as_numpy("predict")
        if answer is None or answer.ravel().tolist() != [0]:
            raise RuntimeError(f"a wrong answer: {answer}")


def _by_h2load(port: int, seconds: float) -> Load:
    data = message(POINT)
    body = b"\0" + len(data).to_bytes(4, "big") + data
    url = f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer"
    return h2load(url, connections=4, streams=8, seconds=seconds, body=body, headers=HEADERS)


def _by_grpcio(port: int, seconds: float) -> Load:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.grpc_client", str(port), f"{seconds:g}"],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the grpcio client failed: {done.stderr[-1000:]}")
    return Load(**json.loads(done.stdout))


CLIENTS: dict[str, Callable[[int, float], Load]] = {"h2load": _by_h2load, "grpcio": _by_grpcio}


def _measure(port: int, seconds: float) -> dict[str, Load]:
    _check(port)
    found = {}
    for name, run in CLIENTS.items():
        run(port, 1)
        found[name] = best(3, lambda run=run: run(port, seconds))  # type: ignore[misc]
    return found


def grpc_rows(seconds: float) -> list[Row]:
    """The platform, MLServer and Triton, each by both clients."""
    with tempfile.TemporaryDirectory() as folder:
        model = iris_model(Path(folder))
        port = free_port()
        with system("--grpc-port", str(port), model_dir=Path(folder)) as s:
            s.apply(manifest("iris", "sklearn", "iris"))
            ours = _measure(port, seconds)
        rows = []
        for name, peer, goals in (
            ("MLServer 1.7.1", peers.mlserver, {"h2load": 10.0, "grpcio": 0.0}),
            (peers.TRITON, peers.triton, {"h2load": 1.5, "grpcio": 0.0}),
        ):
            port = free_port()
            theirs: dict[str, Load] = {}
            failure: Exception | None = None
            try:
                with peer(model, port):
                    theirs = _measure(port, seconds)
            except (RuntimeError, subprocess.CalledProcessError) as exc:
                failure = exc
            for client, goal in goals.items():
                mine = ours[client]
                work = f"iris, gRPC raw tensors, 4 connections with 8 calls each, {client}"
                measured = f"{mine.rate:,.0f}/s, {_time(client)} {mine.p50_s * 1e3:.2f} ms"
                wanted = f"{goal:g} times" if goal else ""
                if failure is not None:
                    rows.append(not_measured(work, measured, name, wanted, failure))
                    continue
                its = theirs[client]
                ratio = mine.rate / its.rate
                against = (
                    f"{name}: {its.rate:,.0f}/s, {_time(client)} {its.p50_s * 1e3:.2f} ms:"
                    f" {ratio:.1f} times"
                )
                raw = {"ours": mine.rate, "theirs": its.rate, "ratio": ratio}
                rows.append(Row(work, measured, against, wanted, ratio >= goal, raw))
    return rows


def _time(client: str) -> str:
    return "mean" if client == "h2load" else "p50"
