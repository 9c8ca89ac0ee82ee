"""Replicas follow load, to zero and back, through the real processes."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform, manifest, until

ROWS = [[5.1, 3.5, 1.4, 0.2]]
V1 = {"instances": ROWS}


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[Platform]:
    p = Platform(folder, "--sleep-after", "3s")
    p.start()
    yield p
    p.stop()


def ask(platform: Platform, name: str) -> httpx.Response:
    return httpx.post(f"{platform.http}/v1/models/{name}:predict", json=V1, timeout=30)


def live(platform: Platform, name: str) -> int:
    return sum(
        r["metadata"]["labels"]["penstock.dev/service"] == name
        and r["status"]["phase"] in ("Starting", "Ready")
        for r in platform.replicas()
    )


def test_twenty_sleeping_services_are_woken_at_once_and_all_answer(platform: Platform) -> None:
    names = [f"sleeper-{i}" for i in range(20)]
    platform.run(
        "apply",
        "-f",
        "-",
        "--wait",
        stdin="\n---\n".join(manifest(n, minReplicas=0) for n in names),
    )
    until(lambda: not platform.replicas() or not any(live(platform, n) for n in names), "sleep")
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda n: ask(platform, n), names))
    assert [a.status_code for a in answers] == [200] * len(names)
    shown = platform.service(names[0])["status"]["conditions"]
    assert next(c for c in shown if c["type"] == "Ready")["status"] == "True"


def test_replicas_come_with_the_load_and_go_after_it(platform: Platform) -> None:
    platform.run(
        "apply",
        "-f",
        "-",
        "--wait",
        stdin=manifest(
            "busy",
            maxReplicas=3,
            scaleTarget=1,
            scaling={"window": "6s", "panicWindow": "2s"},
        ),
    )
    assert live(platform, "busy") == 1
    stop = threading.Event()
    failed: list[int] = []

    def load() -> None:
        with httpx.Client(timeout=30) as client:
            url = f"{platform.http}/v1/models/busy:predict"
            while not stop.is_set():
                status = client.post(url, json={"instances": ROWS * 2000}).status_code
                if status != 200:
                    failed.append(status)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for t in threads:
        t.start()
    try:
        until(lambda: live(platform, "busy") == 3, "three replicas")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert failed == []
    until(lambda: live(platform, "busy") == 1, "one replica")
