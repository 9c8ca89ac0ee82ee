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
from benchmarks.measure import iris_model, not_measured
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


#: One run of each, ours first.
Duel = tuple[Load, Load]
RUNS = 3
WORK = "iris, gRPC raw tensors, 4 connections with 8 calls each, through the gateway"
CLIENTS: dict[str, Callable[[int, float], Load]] = {"h2load": _by_h2load, "grpcio": _by_grpcio}


def _duel(ours: int, theirs: int, seconds: float, run: Callable[[int, float], Load]) -> Duel:
    """Both ports in turn, so that whatever else the machine does meets both."""
    loads = []
    for port in (ours, theirs):
        run(port, 1)
    for _ in range(RUNS):
        pair = run(ours, seconds), run(theirs, seconds)
        for load in pair:
            if load.failed:
                raise RuntimeError(f"{load.failed} of {load.requests} calls failed")
            if not load.requests:
                raise RuntimeError("no call was answered")
        loads.append(pair)
    loads.sort(key=lambda pair: pair[0].rate / pair[1].rate)
    return loads[len(loads) // 2]


def grpc_rows(seconds: float) -> list[Row]:
    """The platform against MLServer and Triton, by both clients; the run with the median ratio counts."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = iris_model(Path(folder))
        ours = free_port()
        with system("--grpc-port", str(ours), model_dir=Path(folder)) as s:
            s.apply(manifest("iris", "sklearn", "iris"))
            _check(ours)
            for name, peer, goal in (
                ("MLServer 1.7.1", peers.mlserver, 10.0),
                (peers.TRITON, peers.triton, 1.5),
            ):
                theirs = free_port()
                try:
                    with peer(model, theirs):
                        _check(theirs)
                        duels = {c: _duel(ours, theirs, seconds, r) for c, r in CLIENTS.items()}
                except RuntimeError as exc:
                    rows.append(not_measured(WORK, "", name, f"{goal:g} times", exc))
                    continue
                rows += [_row(client, name, goal, duel) for client, duel in duels.items()]
    return rows


def _row(client: str, name: str, goal: float, duel: Duel) -> Row:
    mine, its = duel
    ratio = mine.rate / its.rate
    time = "mean" if client == "h2load" else "p50"
    # Of the grpcio client only the figures: it takes most of a core itself.
    wanted = goal if client == "h2load" else 0.0
    return Row(
        f"{WORK}, {client}",
        f"{mine.rate:,.0f}/s, {time} {mine.p50_s * 1e3:.2f} ms",
        f"{name}: {its.rate:,.0f}/s, {time} {its.p50_s * 1e3:.2f} ms: {ratio:.1f} times",
        f"{wanted:g} times" if wanted else "",
        ratio >= wanted,
        {"ours": mine.rate, "theirs": its.rate, "ratio": ratio},
    )
