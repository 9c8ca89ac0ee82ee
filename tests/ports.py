"""Ports for processes that have to be told one.

A port that the kernel chose and that was closed again may be another process's before it is used. These are
below the range that the kernel chooses from, so nobody gets one by chance.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LEAST = 10_000


def spare_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    ports = range(_LEAST, end) if end > _LEAST else range(1_024, end)
    chance = random.SystemRandom()  # not the one that a test may have seeded
    while True:
        port = chance.choice(ports)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
