"""The servers that users come from, installed from their own packages into their own environments."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.peers.environments import NotInstalled, environment
from benchmarks.system import ROOT, free_port

__all__ = [
    "TRITON", "NotInstalled", "environment", "kserve", "kserve_transformer", "mlserver", "triton",
]  # fmt: skip

HERE = Path(__file__).resolve().parent

#: What rows call it: the version that nvidia-pytriton 0.7.0 carries.
TRITON = "Triton 2.51's python backend"


@contextlib.contextmanager
def _running(argv: list[str], ready: str, cwd: Path, env: dict[str, str]) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if httpx.get(ready, timeout=1).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{argv[0]} did not start: {log.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def mlserver(model: Path, grpc_port: int | None = None) -> Iterator[str]:
    """MLServer with the model file as `iris`; its base URL. In-process: faster for it than a worker."""
    binary = environment("mlserver")
    port, grpc, metrics = free_port(), grpc_port or free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "settings.json").write_text(
            json.dumps({"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics,
                        "parallel_workers": 0, "debug": False})
        )  # fmt: skip
        (root / "model-settings.json").write_text(
            json.dumps(
                {
                    "name": "iris",
                    "implementation": "mlserver_sklearn.SKLearnModel",
                    "parameters": {"uri": str(model)},
                }
            )
        )
        base = f"http://127.0.0.1:{port}"
        with _running(
            [str(binary / "mlserver"), "start", folder],
            f"{base}/v2/models/iris/ready",
            root,
            {"PATH": f"{binary}:{os.environ['PATH']}"},
        ):
            yield base


_TRITON_CONFIG = """\
name: "iris"
backend: "python"
max_batch_size: 32
dynamic_batching { }
input [ { name: "input-0" data_type: TYPE_FP64 dims: [ 4 ] } ]
output [ { name: "predict" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters: { key: "model" value: { string_value: "%s" } }
"""


@contextlib.contextmanager
def triton(model: Path, grpc_port: int | None = None) -> Iterator[str]:
    """Triton, with its python backend and the model file as `iris`; its base URL.

    The program is the one that nvidia-pytriton brings. RuntimeError says why it cannot be had here.
    """
    binary = environment("triton")
    packages = next((binary.parent / "lib").glob("python3*")) / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise RuntimeError(f"nvidia-pytriton has no python backend for Python {version}")
    port, grpc, metrics = free_port(), grpc_port or free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backend = root / "backends" / "python"
        shutil.copytree(server / "backends" / "python", backend)
        shutil.copy(stub, backend)
        version_folder = root / "models" / "iris" / "1"
        version_folder.mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", version_folder / "model.py")
        (version_folder.parent / "config.pbtxt").write_text(_TRITON_CONFIG % model)
        for program in (server / "bin" / "tritonserver", backend / stub.name):
            program.chmod(0o755)
        argv = [str(server / "bin" / "tritonserver"), f"--model-repository={root / 'models'}",
                f"--backend-directory={root / 'backends'}", "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1", f"--http-port={port}", f"--grpc-port={grpc}",
                f"--metrics-port={metrics}"]  # fmt: skip
        env = {
            "PATH": f"{binary}:{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        }
        base = f"http://127.0.0.1:{port}"
        with _running(argv, f"{base}/v2/models/iris/ready", root, env):
            yield base


@contextlib.contextmanager
def kserve(model: Path) -> Iterator[str]:
    """KServe's Python server with the model file as `iris`; its base URL."""
    binary = environment("kserve")
    port, grpc = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    argv = [str(binary / "python"), str(HERE / "kserve_sklearn.py"), "--http_port", str(port),
            "--grpc_port", str(grpc), "--enable_latency_logging", "false", str(model)]  # fmt: skip
    with _running(argv, f"{base}/v2/models/iris/ready", ROOT, {}):
        yield base


@contextlib.contextmanager
def kserve_transformer(predictor: str) -> Iterator[str]:
    """KServe's Python server with a transformer before the one at the base URL `predictor`; its base URL."""
    binary = environment("kserve")
    port, grpc = free_port(), free_port()
    base = f"http://127.0.0.1:{port}"
    argv = [str(binary / "python"), str(HERE / "kserve_transformer.py"), "--http_port", str(port),
            "--grpc_port", str(grpc), "--enable_latency_logging", "false",
            "--predictor_host", predictor.removeprefix("http://")]  # fmt: skip
    with _running(argv, f"{base}/v1/models/iris", ROOT, {}):
        yield base
