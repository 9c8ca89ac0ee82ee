"""The data folder's disk is full: serving goes on, writes are refused in so many words, nothing is torn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fault_load import CLIENTS, V1, Book, load
from platform_harness import Platform, alive, manifest, until

SIZE_MIB = 24


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = Path(tempfile.mkdtemp(prefix="pdisk"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cramped(folder: Path, small_disk: Path) -> Iterator[Platform]:
    """A platform whose data folder is on it."""
    p = Platform(folder)
    p.data = small_disk / "data"
    p.start()
    yield p
    p.stop()


def fill(disk: Path) -> Path:
    """Leave not one block free."""
    hog = disk / "hog"
    with hog.open("ab") as f:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    os.write(f.fileno(), b"x" * size)
            except OSError:
                continue
    return hog


def test_a_full_disk_costs_no_request_and_refuses_writes_in_so_many_words(
    cramped: Platform, small_disk: Path, book: Book
) -> None:
    cramped.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    with load(cramped, "iris") as seen:
        hog = fill(small_disk)
        refused = cramped.run("apply", "-f", "-", stdin=manifest("another"), code=1)
        assert "disk is full" in refused.lower(), refused
        before = seen.answered
        until(lambda: seen.answered > before + 500, "requests meanwhile")
    book.note(
        "disk of the data folder full",
        f"{seen}; `penstock apply` is refused: the disk is full",
        "none; writes are refused",
        "serving needs no disk",
    )
    assert set(seen.counts) == {"200"}, seen
    assert httpx.get(f"{cramped.api}/readyz", timeout=5).status_code == 200
    assert "iris" in cramped.run("get", "isvc")

    victim = cramped.replicas()[0]["status"]["pid"]
    with load(cramped, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(lambda: ready_pid(cramped) not in (None, victim), "another one, on a full disk")
    book.note(
        "a replica killed while the disk is full",
        seen,
        f"{CLIENTS}: those under way there",
        "a new process needs no disk either",
    )
    assert seen.failed <= CLIENTS, seen

    hog.unlink()
    cramped.run("apply", "-f", "-", "--wait", stdin=manifest("another"))
    answer = httpx.post(f"{cramped.http}/v1/models/another:predict", json=V1, timeout=20)
    assert answer.status_code == 200


def test_what_was_accepted_before_and_after_is_there_after_a_restart(cramped: Platform) -> None:
    """Killed, not stopped: nothing is torn."""
    cramped.kill()
    cramped.start()
    listed = cramped.run("get", "isvc")
    assert "iris" in listed
    assert "another" in listed

    def answered() -> bool:
        try:
            url = f"{cramped.http}/v1/models/iris:predict"
            return httpx.post(url, json=V1, timeout=20).status_code == 200
        except httpx.TransportError:
            return False

    until(answered, "an answer")


def ready_pid(platform: Platform) -> int | None:
    for r in platform.replicas():
        if r["status"]["phase"] == "Ready":
            return int(r["status"]["pid"])
    return None
