"""The rows of `make bench`: one function per claim, each with its own start and end of the platform."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import joblib
import numpy as np
import psutil

from benchmarks import peers
from benchmarks.bandit_rows import bandits, query, regret
from benchmarks.component_rows import anchors, transformers
from benchmarks.graph_rows import graphs
from benchmarks.grpc_rows import grpc_rows
from benchmarks.load import Load, wrk
from benchmarks.manifest_rows import manifests
from benchmarks.measure import best, in_turns, iris_model, middle, not_measured, quickest
from benchmarks.registered_rows import registered
from benchmarks.report import Row
from benchmarks.system import System, free_port, manifest, system
from benchmarks.traffic_rows import rollouts, split

JSON = {"Content-Type": "application/json"}
V2_BODY = json.dumps(
    {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [[5.1, 3.5, 1.4, 0.2]]}]}
).encode()  # fmt: skip


PENSTOCK = "Penstock"
#: Loads of each server, one after the other in each round.
ROUNDS = 5


def iris_32(seconds: float) -> list[Row]:
    """iris, V2 JSON, 32 connections: the platform, MLServer, KServe's server, Triton, in turns."""
    work = "iris, V2 JSON, 32 connections, through the gateway"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        model = iris_model(Path(folder))
        s = running.enter_context(system(model_dir=Path(folder)))
        s.apply(manifest("iris", "sklearn", "iris"))
        servers = {PENSTOCK: s.url}
        missing: dict[str, Exception] = {}
        for name, peer, _ in IRIS_PEERS:
            try:
                servers[name] = running.enter_context(peer(model))
            except RuntimeError as exc:
                missing[name] = exc

        def load(base: str, length: float) -> Load:
            url = f"{base}/v2/models/iris/infer"
            return wrk(url, connections=32, seconds=length, body=V2_BODY, headers=JSON)

        for base in servers.values():
            load(base, 1)
        loads = in_turns(ROUNDS, {name: partial(load, b, seconds) for name, b in servers.items()})
    ours = middle(loads[PENSTOCK])
    measured = f"{ours.rate:,.0f}/s, p50 {ours.p50_s * 1e3:.2f} ms, p99 {ours.p99_s * 1e3:.2f} ms"
    rows = []
    for name, _, goal in IRIS_PEERS:
        if name in missing:
            rows.append(not_measured(work, measured, name, f"{goal} times", missing[name]))
            continue
        theirs = middle(loads[name])
        ratios = [o.rate / t.rate for o, t in zip(loads[PENSTOCK], loads[name], strict=True)]
        ratio = statistics.median(ratios)
        rows.append(
            Row(
                work,
                measured,
                f"{name}: {theirs.rate:,.0f}/s, p50 {theirs.p50_s * 1e3:.1f} ms: {ratio:.1f} times "
                f"(median of {ROUNDS} turns)",
                f"{goal} times",
                ratio >= goal,
                {"ours": ours.rate, "theirs": theirs.rate, "ratio": ratio, "ratios": ratios},
            )
        )
    return rows


#: Name, how it is started, and how many times it is to be outdone.
IRIS_PEERS = (
    ("MLServer 1.7.1", peers.mlserver, 20),
    ("KServe 0.20.0's server", peers.kserve, 20),
    (peers.TRITON, peers.triton, 2),
)


def iris_1(seconds: float) -> list[Row]:
    """iris, one connection, against the bare predict in a loop."""
    with tempfile.TemporaryDirectory() as folder:
        path = iris_model(Path(folder))
        model = joblib.load(path)
        row = np.array([[5.1, 3.5, 1.4, 0.2]])
        for _ in range(1000):
            model.predict(row)
        times = []
        for _ in range(5000):
            start = time.perf_counter()
            model.predict(row)
            times.append(time.perf_counter() - start)
        bare = statistics.median(times)
        with system(model_dir=Path(folder)) as s:
            s.apply(manifest("iris", "sklearn", "iris"))
            url = f"{s.url}/v2/models/iris/infer"
            wrk(url, connections=1, seconds=1, body=V2_BODY, headers=JSON)
            ours = best(
                3, lambda: wrk(url, connections=1, seconds=seconds, body=V2_BODY, headers=JSON)
            )
    ratio = ours.p50_s / bare
    return [
        Row(
            "iris, V2 JSON, one connection, median",
            f"{ours.p50_s * 1e6:.0f} us",
            f"bare predict: {bare * 1e6:.0f} us: {ratio:.2f} times",
            "2.2 times at most",
            ratio <= 2.2,
            {"ours_s": ours.p50_s, "bare_s": bare, "ratio": ratio},
        )
    ]


_MEAN = """\
import numpy as np
import penstock


class Mean(penstock.Model):
    batchable = True

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x[:, :4].copy()
"""


def tensor_600k(seconds: float) -> list[Row]:
    """A 600 kB FP32 tensor by the binary extension at 32 connections."""
    tensor = np.zeros((1, 150_000), np.float32)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(tensor.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": tensor.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = head + tensor.tobytes()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mean").mkdir()
        (Path(folder) / "mean" / "model.py").write_text(_MEAN)
        with system(model_dir=Path(folder)) as s:
            s.apply(manifest("mean", "python", "mean"))
            url = f"{s.url}/v2/models/mean/infer"
            wrk(url, connections=32, seconds=1, body=body, headers=headers)
            ours = best(
                3, lambda: wrk(url, connections=32, seconds=seconds, body=body, headers=headers)
            )
    rate = ours.rate * len(body) / 1e9
    return [
        Row(
            "600 kB FP32 tensor, binary, 32 connections, through the gateway",
            f"{ours.rate:,.0f}/s, {rate:.2f} GB/s",
            "",
            "1.2 GB/s",
            rate >= 1.2,
            {"rate": ours.rate, "gb_per_s": rate},
        )
    ]


def gateway_nginx(seconds: float) -> list[Row]:
    """The gateway against nginx (one worker, keep-alive upstream) before the same model process."""
    with tempfile.TemporaryDirectory() as folder:
        iris_model(Path(folder))
        with system(model_dir=Path(folder)) as s:
            s.apply(manifest("iris", "sklearn", "iris"))
            replica = next((s.data_dir / "run" / "r").glob("*.sock"))
            port = free_port()
            conf = Path(folder) / "nginx.conf"
            conf.write_text(
                f"""worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
keepalive_requests 100000000;
upstream m {{ server unix:{replica}; keepalive 64; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://m; proxy_http_version 1.1;
proxy_set_header Connection ""; }} }} }}
"""
            )
            os.chmod(folder, 0o755)
            nginx = subprocess.Popen(["nginx", "-c", str(conf), "-p", folder, "-g", "user root;"])
            try:
                theirs_url = f"http://127.0.0.1:{port}/v2/models/iris/infer"
                for _ in range(100):
                    try:
                        httpx.get(f"http://127.0.0.1:{port}/v2")
                        break
                    except httpx.HTTPError:
                        time.sleep(0.05)
                ours, theirs = [], []
                ours_url = f"{s.url}/v2/models/iris/infer"
                for _ in range(3):
                    ours.append(
                        wrk(
                            ours_url, connections=32, seconds=seconds, body=V2_BODY, headers=JSON
                        ).rate
                    )
                    theirs.append(
                        wrk(
                            theirs_url, connections=32, seconds=seconds, body=V2_BODY, headers=JSON
                        ).rate
                    )
            finally:
                nginx.terminate()
                nginx.wait()
    a, b = statistics.median(ours), statistics.median(theirs)
    return [
        Row(
            "the gateway before one model process, 32 connections",
            f"{a:,.0f}/s",
            f"nginx, one worker, before the same process: {b:,.0f}/s: {a / b:.2f} times",
            "0.7 times",
            a / b >= 0.7,
            {"ours": a, "nginx": b, "ratio": a / b},
        )
    ]


def apply_to_answer(_: float) -> list[Row]:
    """Eight lines applied to the first answer, warm zygote; command line not counted."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        iris_model(Path(folder))
        with system(model_dir=Path(folder)) as s:
            s.apply(manifest("warm", "sklearn", "iris"))
            with httpx.Client(timeout=30) as client:
                for i in range(10):
                    name = f"iris-{i}"
                    document = {
                        "apiVersion": "penstock.dev/v1alpha1",
                        "kind": "InferenceService",
                        "metadata": {"name": name, "namespace": "default"},
                        "spec": {"predictor": {"sklearn": {"storageUri": "iris"}}},
                    }
                    start = time.perf_counter()
                    client.post(
                        f"{s.api}/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices",
                        json=document,
                    ).raise_for_status()
                    while True:
                        answer = client.post(
                            f"{s.url}/v2/models/{name}/infer", content=V2_BODY, headers=JSON
                        )
                        if answer.status_code == 200:
                            break
                        if time.perf_counter() - start > 30:
                            raise RuntimeError(answer.text)
                    times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return [
        Row(
            "8-line manifest applied to first answer, warm zygote",
            f"median {median * 1e3:.0f} ms, most {max(times) * 1e3:.0f} ms of {len(times)}",
            "",
            "under 1 s",
            median < 1.0,
            {"median_s": median, "most_s": max(times)},
        )
    ]


#: For a median that is compared with another taken a minute later.
ONE_CONNECTION_RUNS = 5


def many(count: int) -> Callable[[float], list[Row]]:
    """`count` iris services live: private memory of one, and the median against that with one."""

    def run(seconds: float) -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            iris_model(Path(folder))
            with system(model_dir=Path(folder)) as s:
                s.apply(manifest("iris", "sklearn", "iris"))
                url = f"{s.url}/v2/models/iris/infer"
                wrk(url, connections=1, seconds=1, body=V2_BODY, headers=JSON)

                def load() -> Load:
                    return wrk(url, connections=1, seconds=seconds, body=V2_BODY, headers=JSON)

                alone = quickest(ONE_CONNECTION_RUNS, load)
                start = time.perf_counter()
                s.apply(
                    "---\n".join(manifest(f"iris-{i}", "sklearn", "iris") for i in range(count - 1))
                )
                ready_s = time.perf_counter() - start
                with httpx.Client(timeout=60) as client:
                    for i in range(count - 1):
                        client.post(
                            f"{s.url}/v2/models/iris-{i}/infer", content=V2_BODY, headers=JSON
                        ).raise_for_status()
                crowded = quickest(ONE_CONNECTION_RUNS, load)
                private = sorted(private_bytes(pid) for pid in replicas(s))
        memory = private[len(private) // 2] / 1e6
        ratio = crowded.p50_s / alone.p50_s
        return [
            Row(
                "private memory of an iris model process, after its first answer",
                f"median {memory:.1f} MB of {len(private)}",
                "",
                "6 MB at most",
                memory <= 6.0,
                {"median_mb": memory, "most_mb": private[-1] / 1e6},
            ),
            Row(
                f"{count} isolated iris services live: one connection, least median of "
                f"{ONE_CONNECTION_RUNS} runs",
                f"{crowded.p50_s * 1e6:.0f} us; all Ready {ready_s:.1f} s after apply",
                f"with one service: {alone.p50_s * 1e6:.0f} us: {ratio:.2f} times",
                "unchanged (within 10%)",
                ratio <= 1.1,
                {"alone_s": alone.p50_s, "crowded_s": crowded.p50_s, "ready_s": ready_s},
            ),
        ]

    return run


def ask(s: System, name: str) -> float:
    """Seconds of one request on a connection of its own; RuntimeError when it is not answered."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection(s.url.removeprefix("http://"), timeout=60)
    connection.request("POST", f"/v2/models/{name}/infer", V2_BODY, JSON)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{name}: {answer.status} {text[:200]!r}")
    return time.perf_counter() - start


def until_asleep(s: System, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while replicas(s):
        if time.monotonic() > deadline:
            raise RuntimeError("the services do not fall asleep")
        time.sleep(0.1)


def from_zero(count: int) -> Callable[[float], list[Row]]:
    """The first request to a sleeping service, one after the other and `count` at once."""

    def run(_: float) -> list[Row]:
        names = [f"iris-{i}" for i in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            iris_model(Path(folder))
            with system("--sleep-after", "3s", model_dir=Path(folder)) as s:
                s.apply("---\n".join(manifest(n, "sklearn", "iris", minReplicas=0) for n in names))
                until_asleep(s)
                single = sorted(ask(s, name) for name in names)
                until_asleep(s)
                start = time.perf_counter()
                with concurrent.futures.ThreadPoolExecutor(count) as pool:
                    together = sorted(pool.map(lambda name: ask(s, name), names))
                whole_s = time.perf_counter() - start
        median, p99 = statistics.median(single), single[int(0.99 * (count - 1))]
        return [
            Row(
                "from zero: first answer of a sleeping scikit-learn service",
                f"median {median * 1e3:.0f} ms, 99% {p99 * 1e3:.0f} ms of {count}",
                "",
                "median 100 ms, 99% 250 ms",
                median < 0.1 and p99 < 0.25,
                {"median_s": median, "p99_s": p99},
            ),
            Row(
                f"{count} sleeping services woken at once",
                f"all answered in {whole_s:.1f} s, median {statistics.median(together):.2f} s",
                "",
                "all answered",
                True,
                {"whole_s": whole_s, "median_s": statistics.median(together)},
            ),
        ]

    return run


def replicas(s: System) -> list[int]:
    """Process ids of the model processes: children of zygotes, which are children of the node."""
    return [
        grandchild.pid
        for child in psutil.Process(s.pid).children()
        for grandchild in child.children()
    ]


def private_bytes(pid: int) -> int:
    """Private memory of a process, from smaps_rollup."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return fields["Private_Clean"] + fields["Private_Dirty"]


#: By the name that `--only` takes.
ROWS: dict[str, Callable[[float], list[Row]]] = {
    "iris-32": iris_32,
    "iris-1": iris_1,
    "gateway": gateway_nginx,
    "tensor": tensor_600k,
    "grpc": grpc_rows,
    "apply": apply_to_answer,
    "many": many(200),
    "zero": from_zero(100),
    "thousand": many(1000),
    "split": split,
    "rollouts": rollouts,
    "transformers": transformers,
    "anchors": anchors,
    "graphs": graphs,
    "regret": regret,
    "bandits": bandits,
    "query": query,
    "manifests": manifests,
    "registered": registered(10_000),
}
#: Rows that take minutes: only when they are asked for.
SLOW = frozenset({"registered"})
