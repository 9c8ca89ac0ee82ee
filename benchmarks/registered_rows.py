"""The row of ten thousand registered services: what applying, listing, waking and restarting cost then.

Each of them is started once, since Ready means that a prediction was answered, and sleeps again three seconds
later; so the row takes as long as ten thousand forks, some minutes, and is not part of a whole run.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import iris_model
from benchmarks.report import Row
from benchmarks.system import System, manifest, system

FILE = 1000
PAGE = 500
PATH = "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices"
BODY = json.dumps(
    {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [[5.1, 3.5, 1.4, 0.2]]}]}
).encode()  # fmt: skip


def registered(count: int) -> Callable[[float], list[Row]]:
    """`count` services with `minReplicas: 0`, asleep; the length of a load is not used."""

    def run(_: float) -> list[Row]:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data:
            iris_model(Path(folder))
            with _serve(folder, data) as s:
                began = time.perf_counter()
                for first in range(0, count, FILE):
                    names = range(first, min(count, first + FILE))
                    s.apply("---\n".join(_one(f"iris-{i}") for i in names), wait=False)
                rate = count / (time.perf_counter() - began)
                _until_asleep(s, count)
                ready_s = time.perf_counter() - began
                pages = _pages(s, count)
                applied = _times(5, lambda i: s.cli("apply", "-f", "-", stdin=_one(f"more-{i}")))
                deleted = _times(5, lambda i: s.cli("delete", "isvc", f"more-{i}"))
                woken = _times(50, lambda i: _ask(s, f"iris-{i * count // 50}"))
                memory = _memory(s)
                routes = (s.data_dir / "run" / "routes.json").stat().st_size
                control_s = _control_restarted(s, f"iris-{count - 1}")
            began = time.perf_counter()
            with _serve(folder, data) as s:
                _ask(s, "iris-1", until_s=60)
                restart_s = time.perf_counter() - began
        raw = {
            "rate": rate,
            "ready_s": ready_s,
            "page_s": statistics.median(pages),
            "page_most_s": max(pages),
            "apply_s": applied,
            "delete_s": deleted,
            "wake_s": woken,
            "control_restart_s": control_s,
            "restart_s": restart_s,
            "routes_bytes": routes,
            **{f"{name}_bytes": size for name, size in memory.items()},
        }
        reached = (
            rate >= 100
            and applied < 0.2
            and deleted < 0.2
            and raw["page_s"] < 0.3
            and woken < 0.15
            and restart_s < 20
        )
        return [
            Row(
                f"{count:,} registered services, asleep",
                f"applied {rate:.0f}/s; one applied in {applied * 1e3:.0f} ms, deleted in "
                f"{deleted * 1e3:.0f} ms; a page of {PAGE} in {raw['page_s'] * 1e3:.0f} ms; woken in "
                f"{woken * 1e3:.0f} ms (medians); first answer {control_s:.1f} s after the control plane "
                f"was killed, {restart_s:.1f} s after a whole restart; control plane "
                f"{memory['control'] / 1e6:.0f} MB, a gateway {memory['gateway'] / 1e6:.0f} MB",
                "",
                "100/s, 200 ms, 200 ms, 300 ms, 150 ms, 20 s",
                reached,
                raw,
            )
        ]

    return run


def _serve(folder: str, data: str) -> Any:
    return system("--sleep-after", "3s", model_dir=Path(folder), data_dir=Path(data))


def _one(name: str) -> str:
    return manifest(name, "sklearn", "iris", minReplicas=0)


def _times(turns: int, what: Callable[[int], object]) -> float:
    """Median seconds."""
    times = []
    for turn in range(turns):
        began = time.perf_counter()
        what(turn)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _until_asleep(s: System, count: int, timeout_s: float = 1200) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        text = httpx.get(f"{s.api}/metrics", timeout=60).text
        ready = f'penstock_services{{ready="True"}} {float(count)}' in text
        if ready and 'phase="Ready"' not in text:
            return
        if time.monotonic() > deadline:
            raise RuntimeError("the services do not become ready and fall asleep")
        time.sleep(1)


def _pages(s: System, count: int) -> list[float]:
    """Seconds of each page of the whole list."""
    times, seen, more = [], 0, ""
    with httpx.Client(base_url=s.api, timeout=60) as client:
        while True:
            began = time.perf_counter()
            answer = client.get(
                PATH, params={"limit": PAGE, **({"continue": more} if more else {})}
            )
            times.append(time.perf_counter() - began)
            listed = answer.raise_for_status().json()
            seen += len(listed["items"])
            more = listed["metadata"].get("continue", "")
            if not more:
                break
    if seen != count:
        raise RuntimeError(f"{seen} of {count} are listed")
    return times


def _ask(s: System, name: str, *, until_s: float = 0.0) -> None:
    """One request on a connection of its own, repeated for `until_s` seconds while nobody answers."""
    deadline = time.monotonic() + until_s
    while True:
        connection = http.client.HTTPConnection(s.url.removeprefix("http://"), timeout=60)
        try:
            connection.request(
                "POST", f"/v2/models/{name}/infer", BODY, {"content-type": "application/json"}
            )
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return
        except OSError as exc:
            text = str(exc).encode()
        finally:
            connection.close()
        if time.monotonic() >= deadline:
            raise RuntimeError(f"{name}: {text[:200]!r}")
        time.sleep(0.02)


def _children(s: System) -> dict[str, psutil.Process]:
    """The control plane and a gateway."""
    found = {}
    for child in psutil.Process(s.pid).children():
        command = " ".join(child.cmdline())
        for name, module in (("control", "penstock.api"), ("gateway", "penstock.gateway")):
            if module in command:
                found[name] = child
    return found


def _memory(s: System) -> dict[str, float]:
    return {name: float(p.memory_info().rss) for name, p in _children(s).items()}


def _control_restarted(s: System, asleep: str) -> float:
    """Seconds from the end of the control plane to the answer of a service that has to be woken."""
    os.kill(_children(s)["control"].pid, signal.SIGKILL)
    began = time.perf_counter()
    _ask(s, asleep, until_s=60)
    return time.perf_counter() - began
