"""At the terminal: Ctrl-C while something is waited for, a live table, two terminals at once."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from platform_harness import PENSTOCK, Platform, manifest

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
SLOW = """
import time
import penstock

class M(penstock.Model):
    def load(self):
        time.sleep(3600)
    def predict(self, payload):
        return payload
"""


def environment(platform: Platform) -> dict[str, str]:
    return {**os.environ, "PENSTOCK_SERVER": platform.api, "TERM": "xterm", "COLUMNS": "160"}


@contextmanager
def asked(platform: Platform) -> Iterator[None]:
    """Requests for iris, one after another."""
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                client.post(f"{platform.http}/v1/models/iris:predict", json=V1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def until_shown(fd: int, text: bytes) -> bytes:
    shown = b""
    deadline = time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < deadline, shown[-2000:]
        if select.select([fd], [], [], 0.1)[0]:
            shown += os.read(fd, 65536)
    return shown


def test_ctrl_c_while_waiting_ends_the_wait_and_not_the_service(platform: Platform) -> None:
    """Exit code 130, no traceback; what was applied is there."""
    folder = platform.folder / "models" / "slow"
    folder.mkdir()
    (folder / "model.py").write_text(SLOW)
    service = json.loads(manifest("slow"))
    service["spec"]["predictor"] = {"python": {"storageUri": "models/slow"}}
    (platform.folder / "slow.json").write_text(json.dumps(service))
    process = subprocess.Popen(
        [*PENSTOCK, "apply", "-f", "slow.json", "--wait"],
        cwd=platform.folder,
        env=environment(platform),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "0 of 1 replicas" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 130
    assert "Traceback" not in said
    assert "slow" in platform.run("get", "isvc")
    platform.run("delete", "isvc", "slow")


def test_top_shows_the_rate_and_is_left_with_ctrl_c(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    with asked(platform):
        (row,) = [
            line.split()
            for line in platform.run("top", "--once", "--interval", "2s").splitlines()
            if line.startswith("iris")
        ]
        assert float(row[3]) > 1, row
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [*PENSTOCK, "top", "--interval", "0.3s"],
            env=environment(platform),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        until_shown(master, b"iris-00001")
        process.send_signal(signal.SIGINT)
        shown = until_shown(master, b"\x1b[?1049l")  # the terminal is as it was before
        assert process.wait(60) == 130
        assert b"Traceback" not in shown
        os.close(master)


@pytest.mark.parametrize("verb", ["apply", "delete"])
def test_two_terminals_at_once(platform: Platform, verb: str) -> None:
    """Both say what they did, or that the other one was there first; neither breaks."""
    (platform.folder / "twice.json").write_text(manifest("twice"))
    if verb == "delete":
        platform.run("apply", "-f", "twice.json", "--wait")
    commands = [
        subprocess.Popen(
            [*PENSTOCK, verb, "-f", "twice.json"],
            cwd=platform.folder,
            env=environment(platform),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [c.communicate(timeout=90)[0] for c in commands]
    assert not any("Traceback" in s for s in said), said
    codes = sorted(c.returncode for c in commands)
    if verb == "apply":
        assert codes == [0, 0], said
        platform.run("wait", "twice")
    else:
        assert codes in ([0, 0], [0, 4]), said
        platform.run("get", "isvc", "twice", code=4)
