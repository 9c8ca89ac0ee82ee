"""One model process alone, without gateway and control plane: `python -m benchmarks.model_process`.

Starts `python -m penstock.server` for iris and loads it with wrk over TCP, beside a server on the same HTTP
engine that answers the same bytes without a model: the difference is what decoding, batching, the model,
encoding and metrics cost. With `--fork`, private memory and time to the first answer of a process forked
from a zygote that has imported scikit-learn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from benchmarks.load import Load, wrk
from benchmarks.report import machine
from penstock.domain.process import ProcessSpec, ServedModel, encode
from penstock.domain.routes import Address
from penstock.http.server import Exchange, HttpServer

ROW = [5.1, 3.5, 1.4, 0.2]
V2 = json.dumps(
    {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": ROW}]}
).encode()
V1 = json.dumps({"instances": [ROW]}).encode()
ANSWER = (
    b'{"model_name":"iris","model_version":"1","outputs":'
    b'[{"name":"predict","shape":[1],"datatype":"INT64","data":[0]}]}'
)


@dataclass(frozen=True)
class Served:
    """A server under test."""

    url: str
    pid: int


def train(folder: Path) -> Path:
    x, y = load_iris(return_X_y=True)
    path = folder / "iris"
    path.mkdir()
    joblib.dump(LogisticRegression(max_iter=1000).fit(x, y), path / "model.joblib")
    return path


def spec(model: Path, listen: str) -> ProcessSpec:
    models = (ServedModel("iris", "sklearn", str(model)),)
    return ProcessSpec(listen=listen, models=models, service="iris", threads=1)


@contextlib.contextmanager
def model_process(model: Path) -> Iterator[Served]:
    """A started, ready process."""
    reader, writer = os.pipe()
    file = model.parent / "spec.json"
    file.write_bytes(encode(spec(model, "tcp:127.0.0.1:0")))
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.server", "--spec", str(file), "--status-fd", str(writer)],
        pass_fds=[writer],
    )
    os.close(writer)
    url = ""
    try:
        with os.fdopen(reader) as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "listening":
                    url = f"http://{event['address'].removeprefix('tcp:')}"
                elif event["event"] == "ready":
                    break
                elif event["event"] == "failed":
                    raise RuntimeError(event["message"])
            yield Served(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def serve_constant(ready: multiprocessing.Queue[int]) -> None:
    import uvloop

    def answer(exchange: Exchange) -> None:
        exchange.send(200, b"content-type: application/json\r\n", ANSWER)

    async def run() -> None:
        address = await HttpServer(answer).listen(Address(host="127.0.0.1", port=0))
        ready.put(address.port)
        await asyncio.Event().wait()

    uvloop.run(run())


@contextlib.contextmanager
def constant() -> Iterator[Served]:
    """A server that answers iris's bytes without a model."""
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=serve_constant, args=(ready,), daemon=True)
    process.start()
    yield Served(f"http://127.0.0.1:{ready.get(timeout=30)}", process.pid or 0)
    process.terminate()
    process.join(10)


def bare_predict_s(model: Path) -> float:
    """Seconds of scikit-learn's own predict for one row: the median of many."""
    estimator = joblib.load(model / "model.joblib")
    x = np.array([ROW])
    times = []
    for _ in range(2000):
        began = time.perf_counter()
        estimator.predict(x)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far. Says more than a rate on a machine that does other things."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(what: str, served: Served, **options: Any) -> Load:
    """Load a server and print what came of it."""
    before = cpu_s(served.pid)
    load = wrk(**options)
    spent_s = (cpu_s(served.pid) - before) / max(1, load.requests)
    print(
        f"{what:36} {load.rate:9,.0f}/s   p50 {load.p50_s * 1e6:7.0f} us   p99 "
        f"{load.p99_s * 1e6:7.0f} us   {spent_s * 1e6:6.1f} us of CPU each   failed {load.failed}"
    )
    return load


def loads(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        model = train(Path(folder))
        print(f"bare predict, one row: {bare_predict_s(model) * 1e6:.0f} us\n")
        json_type = {"Content-Type": "application/json"}
        big = np.zeros((4800, 4), np.float64)
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "input-0",
                        "shape": list(big.shape),
                        "datatype": "FP64",
                        "parameters": {"binary_data_size": big.nbytes},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        with constant() as served:
            for connections in (1, 32):
                show(
                    f"engine alone, {connections} connections",
                    served,
                    url=f"{served.url}/",
                    connections=connections,
                    seconds=seconds,
                    body=V2,
                )
        with model_process(model) as served:
            infer = f"{served.url}/v2/models/iris/infer"
            for connections in (1, 8, 32, 128):
                show(
                    f"V2 JSON, {connections} connections",
                    served,
                    url=infer,
                    connections=connections,
                    seconds=seconds,
                    body=V2,
                    headers=json_type,
                )
            show(
                "V1 JSON, 32 connections",
                served,
                url=f"{served.url}/v1/models/iris:predict",
                connections=32,
                seconds=seconds,
                body=V1,
                headers=json_type,
            )
            load = show(
                f"V2 binary, {big.nbytes // 1000} kB, 32 connections",
                served,
                url=infer,
                connections=32,
                seconds=seconds,
                body=head + big.tobytes(),
                headers={"Inference-Header-Content-Length": str(len(head))},
            )
            print(f"{'':36} {load.rate * big.nbytes / 1e9:9.2f} GB/s")


_PRIVATE = re.compile(r"^Private_\w+:\s+(\d+) kB", re.MULTILINE)


def private_kb(pid: int) -> int:
    return sum(map(int, _PRIVATE.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())))


def ask(path: str) -> None:
    """One answered request, as soon as the process gives one."""
    request = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%b" % (
        len(V2),
        V2,
    )
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
                sock.sendall(request)
                if sock.recv(65536).startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
        time.sleep(0.0002)


def forks(count: int) -> None:
    """Fork model processes as a zygote does, and measure each."""
    from penstock.backends.local.zygote import hold_threads, preload

    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        trained = multiprocessing.get_context("spawn").Pool(1)
        with trained as pool:  # not here: a zygote has never touched a model
            model = pool.apply(train, (Path(folder),))
        hold_threads()
        entry = preload("sklearn", (), "penstock.server.process:main")
        gc.collect()
        gc.disable()
        gc.freeze()
        for i in range(count):
            path = f"{folder}/{i}.sock"
            reader, writer = os.pipe()
            began = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                gc.enable()
                os._exit(entry(spec(model, f"unix:{path}"), writer) or 0)
            ask(path)
            seconds = time.perf_counter() - began
            for _ in range(200):
                ask(path)
            print(f"fork to first answer {seconds * 1e3:5.1f} ms, private {private_kb(pid):,} kB")
            os.kill(pid, 15)
            os.waitpid(pid, 0)
            os.close(reader)
            os.close(writer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_process", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--fork", action="store_true", help="measure forked processes instead")
    options = parser.parse_args()
    if options.fork:
        forks(5)
    else:
        loads(options.seconds)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
