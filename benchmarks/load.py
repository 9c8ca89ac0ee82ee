"""Load from a separate process: wrk or h2load, and what it printed, as numbers."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. Rates per second, latencies in seconds."""

    rate: float
    p50_s: float
    p99_s: float
    requests: int
    #: Answers outside 2xx and 3xx, and requests that failed on the wire.
    failed: int


def wrk(
    url: str,
    *,
    connections: int,
    seconds: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    threads: int = 1,
    unix_host: str | None = None,
) -> Load:
    """Run wrk against `url`; RuntimeError with its output when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "request.lua"
        lines = []
        if body is not None:
            payload = Path(folder) / "body"
            payload.write_bytes(body)
            lines += [
                'wrk.method = "POST"',
                f'local f = io.open("{payload}", "rb")',
                'wrk.body = f:read("*all")',
                "f:close()",
            ]
        for name, value in (headers or {}).items():
            lines.append(f'wrk.headers["{name}"] = "{value}"')
        script.write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "30s",
             "-s", str(script), url],
            capture_output=True, text=True, timeout=seconds + 60, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr or done.stdout}")
    return parse(done.stdout)


def h2load(
    url: str,
    *,
    connections: int,
    streams: int,
    seconds: float,
    body: bytes,
    headers: Mapping[str, str],
) -> Load:
    """Run h2load (HTTP/2 without TLS) against `url`; RuntimeError with its output when it fails.

    It sees HTTP statuses only: that calls succeed is for the caller to check beforehand. Its report has no
    median: `p50_s` is the mean and `p99_s` the longest time of a request.
    """
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "body"
        payload.write_bytes(body)
        argv = ["h2load", f"-c{connections}", f"-m{streams}", f"-D{seconds:g}", "-d", str(payload)]
        for name, value in headers.items():
            argv += ["-H", f"{name}: {value}"]
        done = subprocess.run(
            [*argv, url], capture_output=True, text=True, timeout=seconds + 60, check=False
        )
    rate = re.search(r"finished in [\d.]+\w*, ([\d.]+) req/s", done.stdout)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    times = re.search(
        r"time for request:\s+\S+\s+([\d.]+)(us|ms|s|m)\s+([\d.]+)(us|ms|s|m)", done.stdout
    )
    if done.returncode != 0 or rate is None or counts is None or times is None:
        raise RuntimeError(f"h2load failed: {done.stderr or done.stdout}")
    return Load(
        rate=float(rate.group(1)),
        p50_s=float(times.group(3)) * _UNITS[times.group(4)],
        p99_s=float(times.group(1)) * _UNITS[times.group(2)],
        requests=int(counts.group(1)),
        failed=sum(int(n) for n in counts.groups()[1:]),
    )


def parse(text: str) -> Load:
    """The numbers in wrk's report."""
    found = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if found is None or rate is None:
        raise RuntimeError(f"not a report of wrk: {text}")
    failed = 0
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if errors is not None:
        failed += int(errors.group(1))
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    if sockets is not None:
        failed += sum(int(n) for n in sockets.groups())
    return Load(
        rate=float(rate.group(1)),
        p50_s=_latency(text, "50%"),
        p99_s=_latency(text, "99%"),
        requests=int(found.group(1)),
        failed=failed,
    )


def _latency(text: str, quantile: str) -> float:
    match = re.search(rf"^\s+{quantile}\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if match is None:
        return float("nan")
    return float(match.group(1)) * _UNITS[match.group(2)]
