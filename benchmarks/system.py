"""`penstock serve` as a user starts it, for the length of a benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True, slots=True)
class System:
    """A running platform."""

    url: str
    api: str
    data_dir: Path
    pid: int

    def cli(self, *args: str, stdin: str | None = None) -> str:
        """Run a penstock command; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *args],
            input=stdin, capture_output=True, text=True, timeout=600,
            env={**os.environ, "PENSTOCK_SERVER": self.api}, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"penstock {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, manifests: str, *, wait: bool = True) -> None:
        self.cli("apply", "-f", "-", *(("--wait",) if wait else ()), stdin=manifests)


@contextlib.contextmanager
def system(
    *options: str, model_dir: Path | None = None, data_dir: Path | None = None
) -> Iterator[System]:
    """Start `penstock serve`, in a folder of its own if none is given, and end it afterwards."""
    http_port, api_port = free_port(), free_port()
    with (
        contextlib.nullcontext(str(data_dir))
        if data_dir is not None
        else tempfile.TemporaryDirectory(prefix="pb-")
    ) as folder:
        log = open(Path(folder) / "serve.log", "wb")  # noqa: SIM115 - closed below
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", "serve", "--data-dir", folder, "--http-port",
             str(http_port), "--api-port", str(api_port), *options],
            cwd=model_dir or ROOT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        api = f"http://127.0.0.1:{api_port}"
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if httpx.get(f"{api}/readyz", timeout=1).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((Path(folder) / "serve.log").read_text())
                time.sleep(0.02)
            yield System(f"http://127.0.0.1:{http_port}", api, Path(folder), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def manifest(name: str, framework: str, uri: str, **fields: object) -> str:
    """An InferenceService of the penstock dialect."""
    extra = "".join(f"    {key}: {value}\n" for key, value in fields.items())
    return (
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceService\n"
        f"metadata:\n  name: {name}\nspec:\n  predictor:\n{extra}"
        f"    {framework}:\n      storageUri: {uri}\n"
    )
