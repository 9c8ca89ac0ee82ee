"""What is remembered of a service between two looks. All of it could be thrown away at any time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from penstock.control.plan import Event
from penstock.domain.service import Service
from penstock.domain.workload import WorkloadId


@dataclass
class ServiceState:
    """One service, as long as its object has this `uid`."""

    uid: str
    #: Counts requests to look at the files again, and which of them each workload has answered.
    refresh: int = 0
    refreshed: dict[WorkloadId, int] = field(default_factory=dict)
    #: Workloads whose revision should run and has lost its files; they are being fetched again.
    missing: set[WorkloadId] = field(default_factory=set)
    #: Those that the manifest asked for at the last look.
    asked: frozenset[WorkloadId] = frozenset()
    #: Labels, annotations and generation, and what the manifest means under them.
    translated: tuple[str, Service, tuple[str, ...]] | None = None
    #: What the workloads of that very service ask for, as `asked_digest` tells it: the same at every look.
    digests: tuple[Service, dict[WorkloadId, str]] | None = None
    #: Events for the next look to record.
    pending: deque[Event] = field(default_factory=lambda: deque(maxlen=50))
    warned: tuple[str, ...] = ()
