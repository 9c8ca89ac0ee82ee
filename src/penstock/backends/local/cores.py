"""How many cores there are for us: those that this process may run on, not those of the machine."""

from __future__ import annotations

import os


def cores() -> int:
    """At least 1."""
    return max(1, len(os.sched_getaffinity(0)))
