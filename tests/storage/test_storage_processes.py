"""What happens when processes are killed, meet, or run out of disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from storage_fakes import File, Files

from penstock.storage import Cache, Settings, fetch

BIG = os.urandom(1024) * 12 * 1024

PROGRAM = """
import asyncio, sys
from penstock.errors import PenstockError
from penstock.storage import Cache, Settings, fetch
uri, root = sys.argv[1:]
def progress(done, total, _):
    print("done", done, flush=True)
async def main():
    try:
        found = await fetch(uri, cache=Cache(root, 10**8, grace_s=0), progress=progress,
                            settings=Settings(deadline_s=60, backoff_s=0.01, attempts=3))
        print("fetched", found.digest, flush=True)
    except PenstockError as error:
        print("failed", type(error).__name__, error, flush=True)
asyncio.run(main())
"""


def start(uri: str, root: Path, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM, uri, str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def lines_until(process: subprocess.Popen[str], wanted: Any) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if wanted(line):
            return line
    raise AssertionError("the process ended before")


async def test_a_killed_download_is_resumed_by_the_next_process(
    web: Files, tmp_path: Path, settings: Settings
) -> None:
    """kill -9 in the middle: the rest is asked for, and the result is whole."""
    file = web.files["/m.bin"] = File(BIG, stall_after=8_000_000)
    assert isinstance(file, File)
    process = start(f"{web.url}/m.bin", tmp_path / "cache")
    try:
        await asyncio.to_thread(
            lines_until, process, lambda s: s.startswith("done") and int(s.split()[1]) >= 6_000_000
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.communicate()
    file.go.set()
    cache = Cache(tmp_path / "cache", 10**8)
    assert cache.usage().models == 0
    found = await fetch(f"{web.url}/m.bin", cache=cache, settings=settings)
    assert (found.path / "m.bin").read_bytes() == BIG
    assert cache.verify(found.digest) is None
    asked = web.seen[-1].range
    assert asked is not None
    assert int(asked.removeprefix("bytes=").rstrip("-")) >= 6_000_000
    assert cache.usage().partial_bytes == 0


async def test_two_processes_share_one_download(web: Files, tmp_path: Path) -> None:
    """The second waits for the first and finds the model."""
    file = web.files["/m.bin"] = File(BIG, stall_after=6_000_000)
    assert isinstance(file, File)
    one = start(f"{web.url}/m.bin", tmp_path / "cache")
    two = None
    try:
        await asyncio.to_thread(lines_until, one, lambda s: s.startswith("done"))
        two = start(f"{web.url}/m.bin", tmp_path / "cache")
        while len(web.seen) < 2:  # until the second has listed it
            await asyncio.sleep(0.01)
        file.go.set()
        first = await asyncio.to_thread(lines_until, one, lambda s: s.startswith("fetched"))
        second = await asyncio.to_thread(lines_until, two, lambda s: s.startswith("fetched"))
        assert first == second
    finally:
        for process in (one, two):
            if process is not None:
                process.kill()
                process.communicate()
    assert len(web.seen) == 2
    assert Cache(tmp_path / "cache", 10**8).usage().models == 1


async def test_one_that_waits_takes_over_from_one_that_dies(web: Files, tmp_path: Path) -> None:
    """The lock dies with its owner, and what has arrived is used."""
    file = web.files["/m.bin"] = File(BIG, stall_after=6_000_000)
    assert isinstance(file, File)
    one = start(f"{web.url}/m.bin", tmp_path / "cache")
    two = None
    try:
        await asyncio.to_thread(
            lines_until, one, lambda s: s.startswith("done") and int(s.split()[1]) >= 4_000_000
        )
        two = start(f"{web.url}/m.bin", tmp_path / "cache")
        while len(web.seen) < 2:
            await asyncio.sleep(0.01)
        one.kill()
        file.go.set()
        assert await asyncio.to_thread(lines_until, two, lambda s: s.startswith("fetched"))
    finally:
        for process in (one, two):
            if process is not None:
                process.kill()
                process.communicate()
    assert web.seen[-1].range is not None


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize("lengthless", [False, True], ids=["known", "unknown"])
async def test_a_full_disk_is_said_and_nothing_half_is_left(
    web: Files, tmp_path: Path, lengthless: bool
) -> None:
    """Before the download where the length is known, in the middle of it where it is not."""
    web.files["/m.bin"] = File(BIG, lengthless=lengthless)
    root = tmp_path / "tiny"
    root.mkdir()
    script = f'mount -t tmpfs -o size=4m none "{root}" && "$@"; find "{root}/partial" -type f'
    process = start(f"{web.url}/m.bin", root, "unshare", "-rm", "sh", "-c", script, "sh")
    out, _ = await asyncio.to_thread(process.communicate)
    last = [line for line in out.splitlines() if not line.startswith("done")]
    assert len(last) == 1, out
    assert last[0].startswith("failed Unavailable The disk is full: ")
    assert f"{web.url}/m.bin" in last[0]
