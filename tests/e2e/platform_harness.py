"""The whole platform as a user starts it: `penstock serve` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

PENSTOCK = [sys.executable, "-m", "penstock.cli"]


class Platform:
    """One `penstock serve` on one data folder, which can be killed and started again."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        """`env` has variables that `penstock serve` gets beyond this process's own."""
        self.folder = folder
        self.data = folder / "data"
        self.options = options
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[str] | None = None
        self.http = ""
        self.api = ""
        self.grpc = ""
        self.pids: set[int] = set()

    def start(self) -> None:
        # The ports of the first start are kept, so that clients find it again.
        ports = [u.rpartition(":")[2] if u else "0" for u in (self.http, self.api)]
        self.process = subprocess.Popen(
            [*PENSTOCK, "serve", "--data-dir", str(self.data), "--http-port", ports[0],
             "--api-port", ports[1], "--gateways", "1", *self.options],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = ""
        while "data  " not in said:
            line = self.process.stdout.readline()
            assert line, f"penstock serve ended: {said}\n{self.node_logs()}"
            said += line
        found = dict(re.findall(r"(inference|control)\s+(https?://\S+)", said))
        self.http, self.api = found["inference"], found["control"]
        self.grpc = re.findall(r"gRPC\s+(\S+)", said)[0]

    def node_logs(self) -> str:
        logs = sorted((self.data / "logs" / "node").glob("*.log"))
        return "\n".join(f"--- {p.name}\n{p.read_text()[-2000:]}" for p in logs)

    def run(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        """Run a command against this platform; its output. Checks the exit code."""
        done = subprocess.run(
            [*PENSTOCK, *args],
            cwd=self.folder,
            env={**os.environ, "PENSTOCK_SERVER": self.api},
            capture_output=True,
            text=True,
            input=stdin,
            timeout=120,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == code, f"{args}: {done.returncode}\n{text}\n{self.node_logs()}"
        return text

    def get(self, path: str) -> Any:
        answer = httpx.get(self.api + path, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def service(self, name: str = "iris") -> dict[str, Any]:
        return self.get(f"/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/{name}")

    def replicas(self) -> list[dict[str, Any]]:
        return self.get("/apis/penstock.dev/v1alpha1/replicas")["items"]

    def descendants(self) -> set[int]:
        """Pids of the node and of all that descends from it, now."""
        assert self.process is not None
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:
                    continue
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
        found, todo = set(), [self.process.pid]
        while todo:
            pid = todo.pop()
            found.add(pid)
            todo += children.get(pid, [])
        return found

    def child(self, module: str) -> int:
        """The pid of the node's process that runs a module, e.g. `penstock.api`."""
        pid = self.running(module)
        assert pid is not None, f"no process runs {module}"
        return pid

    def running(self, module: str) -> int | None:
        """Like `child`, for one that may not be up (yet)."""
        for pid in self.descendants():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in words:
                return pid
        return None

    def kill(self) -> None:
        """kill -9 of the node; everything else has to end by itself."""
        assert self.process is not None
        self.pids = self.descendants()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        until(lambda: not any(alive(p) for p in self.pids), "everything to end")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is not None:
            if self.process.stdout is not None:
                self.process.stdout.close()
            return self.process.returncode
        self.pids = self.descendants()
        self.process.terminate()
        try:
            return self.process.wait(90)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(look: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
    """Poll for what another process does."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def manifest(name: str = "iris", uri: str = "models/iris", **predictor: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"sklearn": {"storageUri": uri}, **predictor}},
        }
    )
