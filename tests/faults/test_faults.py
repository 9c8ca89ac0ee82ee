"""Parts of the platform are broken under load: which requests fail, and that all is well afterwards.

One platform for all, in this order: the last tests end it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from platform_harness import PENSTOCK, Platform, alive, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
CLIENTS = 8


@contextmanager
def load(platform: Platform, name: str) -> Iterator[Counter[str]]:
    """Requests from `CLIENTS` clients while the block runs; counts by status, or by the kind of error."""
    seen: Counter[str] = Counter()
    stop = threading.Event()
    url = f"{platform.http}/v1/models/{name}:predict"

    def client() -> None:
        with httpx.Client(timeout=20) as c:
            while not stop.is_set():
                try:
                    seen[str(c.post(url, json=V1).status_code)] += 1
                except httpx.TransportError as exc:
                    seen[type(exc).__name__] += 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    try:
        until(lambda: seen["200"] > 50, "load")
        yield seen
        before = seen["200"]
        until(lambda: seen["200"] > before + 50, "answers after the fault")
    finally:
        stop.set()
        for t in threads:
            t.join()


def failed(seen: Counter[str]) -> int:
    return sum(n for what, n in seen.items() if what != "200")


def test_a_replica_killed_under_load_costs_at_most_what_it_had(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris", minReplicas=2))
    victim = platform.replicas()[0]["status"]["pid"]
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(lambda: all(r["status"]["phase"] == "Ready" for r in platform.replicas()), "another")
    assert failed(seen) <= CLIENTS, seen
    assert set(seen) <= {"200", "502"}, "a request that was under way there, and no other"


def test_a_gateway_killed_under_load_costs_its_connections(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    victim = platform.child("penstock.gateway")
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")
        until(lambda: platform.child("penstock.gateway") != victim, "another")
    assert failed(seen) <= 2 * CLIENTS, seen
    assert all(what == "200" or not what.isdigit() for what in seen), "connections that broke"


def test_a_control_plane_killed_under_load_costs_nothing(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    victim = platform.child("penstock.api")
    with load(platform, "iris") as seen:
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "its end")

        def back() -> bool:
            try:
                return httpx.get(f"{platform.api}/readyz", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        until(back, "another")
    assert set(seen) == {"200"}, seen


def test_one_flooded_service_takes_nothing_from_the_others(platform: Platform) -> None:
    """More wait than may: those are told to come back; the other service and health are as ever."""
    slow = json.loads(manifest("slow", containerConcurrency=1))
    del slow["spec"]["predictor"]["sklearn"]
    slow["spec"]["predictor"]["python"] = {"storageUri": "models/slow"}
    platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(slow))
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    pids = gateways(platform)
    before = sum(rss(p) for p in pids)
    flood = Flood(platform.http, "slow", 3000)
    try:
        latencies = []
        with httpx.Client(timeout=20) as client:
            for _ in range(50):
                began = time.monotonic()
                answer = client.post(f"{platform.http}/v1/models/iris:predict", json=V1)
                latencies.append(time.monotonic() - began)
                assert answer.status_code == 200
            assert client.get(f"{platform.http}/v2/health/live").status_code == 200
        assert sorted(latencies)[25] < 0.5
        refused = flood.refused()
        assert refused, "no request was told that the line is full"
        assert all(b"retry-after:" in head.lower() for head in refused)
        assert sum(rss(p) for p in pids) - before < 150 * 2**20
    finally:
        flood.close()
    until(
        lambda: (
            httpx.post(f"{platform.http}/v1/models/slow:predict", json=V1, timeout=30).status_code
            == 200
        ),
        "recovery",
    )


def test_a_killed_supervisor_takes_all_with_it_and_the_next_serves_again(
    platform: Platform,
) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    platform.kill()
    platform.start()

    def answered() -> bool:
        try:
            url = f"{platform.http}/v1/models/iris:predict"
            return httpx.post(url, json=V1, timeout=20).status_code == 200
        except httpx.TransportError:
            return False

    until(answered, "an answer without anything being applied again")


def test_a_damaged_store_is_refused_and_never_overwritten(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    platform.stop()
    store = platform.data / "store.db"
    damaged = b"this is no database" + store.read_bytes()[19:]
    store.write_bytes(damaged)
    done = subprocess.run(
        [
            *PENSTOCK,
            "serve",
            "--data-dir",
            str(platform.data),
            "--http-port",
            "0",
            "--api-port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "store.db" in done.stderr + platform.node_logs()
    assert store.read_bytes() == damaged


def gateways(platform: Platform) -> list[int]:
    found = []
    for pid in platform.descendants():
        try:
            if b"penstock.gateway" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Flood:
    """Many requests at once, each on a connection of its own; nothing is read until `refused`."""

    def __init__(self, base: str, name: str, count: int) -> None:
        import socket

        host, _, port = base.removeprefix("http://").rpartition(":")
        body = json.dumps(V1).encode()
        request = (
            f"POST /v1/models/{name}:predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.sockets = []
        for _ in range(count):
            s = socket.create_connection((host, int(port)), timeout=10)
            s.sendall(request)
            s.setblocking(False)
            self.sockets.append(s)

    def refused(self) -> list[bytes]:
        """Answers 503 that are here by now."""
        found = []
        for s in self.sockets:
            try:
                head = s.recv(4096)
            except BlockingIOError:
                continue
            if head.startswith(b"HTTP/1.1 503"):
                found.append(head)
        return found

    def close(self) -> None:
        for s in self.sockets:
            s.close()
