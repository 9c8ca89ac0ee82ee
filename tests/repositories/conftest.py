"""`penstock run` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.ports import spare_port


@dataclass
class Running:
    """A model process and where it is."""

    process: subprocess.Popen[str]
    said: list[str]
    http: str
    grpc: str


@pytest.fixture(scope="module")
def penstock_run() -> Iterator[Callable[..., Running]]:
    """Start `penstock run FOLDER ...`; all are ended with the module."""
    running: list[subprocess.Popen[str]] = []

    def start(folder: Path, *options: str, env: dict[str, str] | None = None) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", "run", str(folder), "--port", "0",
             "--grpc-port", str(spare_port()), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # What is said shall come through a pipe at once, however the interpreter is set up.
            env={**os.environ, "PYTHONUNBUFFERED": "", **(env or {})},
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith("ready"):
                break
        else:
            raise AssertionError("\n".join(said))
        text = "\n".join(said)
        http = re.search(r"at http://([\d.:]+)", text)
        grpc = re.search(r"gRPC at ([\d.:]+)", text)
        assert http is not None
        return Running(process, said, http[1], grpc[1] if grpc else "")

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
