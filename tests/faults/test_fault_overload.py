"""More than can be served: bounded lines, fair to others, no growth, and all is well afterwards."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import httpx
from fault_load import V1, Book
from platform_harness import Platform, manifest, until


def slow(name: str) -> str:
    """20 ms a prediction, one at a time: fifty a second."""
    obj = json.loads(manifest(name, containerConcurrency=1))
    del obj["spec"]["predictor"]["sklearn"]
    obj["spec"]["predictor"]["python"] = {"storageUri": "models/slow"}
    return json.dumps(obj)


def test_one_flooded_service_takes_nothing_from_the_others(platform: Platform, book: Book) -> None:
    """More wait than may: those are told to come back; the other service and health are as ever."""
    platform.run("apply", "-f", "-", "--wait", stdin=slow("slow"))
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    pids = gateways(platform)
    before = sum(rss(p) for p in pids)
    flood = Flood(platform.http, "slow", 3000)
    try:
        latencies, healthy = [], []
        with httpx.Client(timeout=20) as client:
            for _ in range(50):
                began = time.monotonic()
                answer = client.post(f"{platform.http}/v1/models/iris:predict", json=V1)
                latencies.append(time.monotonic() - began)
                assert answer.status_code == 200
                began = time.monotonic()
                for path in ("live", "ready"):
                    health = client.get(f"{platform.http}/v2/health/{path}")
                    assert health.status_code == 200
                healthy.append(time.monotonic() - began)
        # Behind the flood they would wait for a minute.
        assert sorted(latencies)[25] < 3
        assert sorted(healthy)[25] < 3
        refused = flood.refused()
        assert refused, "no request was told that the line is full"
        assert all(b"retry-after:" in head.lower() for head in refused)
        grown = sum(rss(p) for p in pids) - before
        assert grown < 150 * 2**20
    finally:
        flood.close()

    def recovered() -> bool:
        url = f"{platform.http}/v1/models/slow:predict"
        return httpx.post(url, json=V1, timeout=30).status_code == 200

    until(recovered, "recovery")
    book.note(
        "3,000 requests at once for a service that answers fifty a second",
        f"{len(refused)} were told to come back (503, Retry-After); of another service beside it none of 50, "
        f"median {sorted(latencies)[25] * 1000:.0f} ms; gateways grew by {grown / 2**20:.0f} MiB",
        "what the line does not hold",
        "who waits longer than the bound would have given up anyway",
    )


def test_after_a_flood_nothing_is_left_over(platform: Platform) -> None:
    """Floods one after another leave no waiting request, and memory stays where the first left it."""
    platform.run("apply", "-f", "-", "--wait", stdin=slow("again"))
    pids = gateways(platform)
    sizes = []
    for _ in range(4):
        flood = Flood(platform.http, "again", 1500)
        flood.close()

        def calm() -> bool:
            return waiting(platform) == 0

        until(calm, "nobody to wait")
        sizes.append(sum(rss(p) for p in pids))
    assert sizes[-1] - sizes[0] < 50 * 2**20, [s // 2**20 for s in sizes]
    url = f"{platform.http}/v1/models/again:predict"
    began = time.monotonic()
    answer = httpx.post(url, json=V1, timeout=30)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 10


def waiting(platform: Platform) -> float:
    family = platform.get("/metrics.json").get("penstock_gateway_requests_waiting", {})
    return sum(value for _, value in family.get("samples", ()))


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
