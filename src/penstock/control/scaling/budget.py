"""Keeps what model processes hold of the machine's memory under a budget, by putting services to sleep.

What counts is measured: the private memory of each process, as the node reads it. Over the budget, services
that may sleep (`minReplicas: 0`) and are idle lose their replicas, the least recently used first, until the
rest fits. They answer again like any sleeping service: the next request waits for a replica. Where that is
not enough, services that matter less (`priorityClassName`) give what replicas they have above their minimum.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.clock import Clock
from penstock.control.placement.preemption import take_bytes
from penstock.control.replicas import ReplicaCache
from penstock.control.scaling.scaler import Scaler
from penstock.domain.service import Role
from penstock.domain.workload import component_key

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

EVERY_S = 2.0
#: Once over the budget, free down to this share of it, so that it is not over again at once.
AIM = 0.95
#: A service that was used within this is not put to sleep: it would be back at once.
SETTLED_S = 5.0
#: Share of the machine that models may take if nothing is said: the rest is for the system and the platform.
DEFAULT_SHARE = 0.8

_ALIVE = frozenset({Phase.STARTING, Phase.READY})


def machine_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may use: the machine's, or its cgroup's limit where that is lower."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) > 0:
            most = min(most, int(text))
    return most


def held(replicas: Iterable[ReplicaStatus]) -> dict[ServiceKey, float]:
    """Private bytes by service. A process that was not measured yet counts as the mean of the others."""
    alive = [r for r in replicas if r.phase in _ALIVE]
    known = [r.memory_bytes for r in alive if r.memory_bytes is not None]
    mean = sum(known) / len(known) if known else 0.0
    sums: dict[ServiceKey, float] = {}
    for r in alive:
        key = (r.namespace, component_key(r.service, Role(r.component)))
        sums[key] = sums.get(key, 0.0) + (mean if r.memory_bytes is None else r.memory_bytes)
    return sums


def to_sleep(
    memory: Mapping[ServiceKey, float], sleepers: Sequence[ServiceKey], budget_bytes: float
) -> list[ServiceKey]:
    """Which of `sleepers` (the least recently used first) must go for the rest to fit."""
    total = sum(memory.values())
    if total <= budget_bytes:
        return []
    chosen = []
    for key in sleepers:
        if total <= AIM * budget_bytes:
            break
        if memory.get(key):
            chosen.append(key)
            total -= memory[key]
    return chosen


class MemoryBudget:
    """Looks every two seconds."""

    def __init__(
        self,
        budget_bytes: int,
        replicas: ReplicaCache,
        scaler: Scaler,
        *,
        clock: Clock,
        tell: Callable[[ServiceKey, str], None] = lambda key, message: None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._replicas = replicas
        self._scaler = scaler
        self._clock = clock
        self._tell = tell
        self._short = False
        #: Private bytes of all replicas at the last look.
        self.held_bytes = 0.0

    def look(self) -> list[ServiceKey]:
        """Put to sleep what must; the services that were."""
        memory = held(self._replicas.all())
        self.held_bytes = sum(memory.values())
        if self.held_bytes <= self.budget_bytes:
            self._short = False
            return []
        settled = self._clock.monotonic() - SETTLED_S
        loads = self._scaler.loads
        idle = [k for k in self._scaler.sleepers() if loads.used_at(k) <= settled]
        slept = [
            k for k in to_sleep(memory, idle, self.budget_bytes) if self._scaler.put_to_sleep(k)
        ]
        for key in slept:
            self._tell(key, f"The memory budget of {_mib(self.budget_bytes)} is used up.")
        over = self.held_bytes - sum(memory.get(k, 0.0) for k in slept) - self.budget_bytes
        taken = self._take(memory, over, slept) if over > 0 else []
        if not slept and not taken and not self._short:
            self._short = True
            log.warning(
                "model processes hold %s, the budget is %s, and no idle service may sleep "
                "(minReplicas: 0)",
                _mib(self.held_bytes),
                _mib(self.budget_bytes),
            )
        return slept + taken

    def _take(
        self, memory: Mapping[ServiceKey, float], need: float, slept: Sequence[ServiceKey]
    ) -> list[ServiceKey]:
        """No idle service is left that may sleep: who matters less gives replicas that it can spare."""
        counts = Counter(
            (r.namespace, component_key(r.service, Role(r.component)))
            for r in self._replicas.all()
            if r.phase in _ALIVE
        )
        ranks = [self._scaler.rank(k) for k in memory if k not in slept]
        highest = max((r.value for r in ranks if r.preempts), default=0)
        # Of those that are going already, nothing more is gained.
        holders = [h for h in self._scaler.holders() if counts[h.key] <= h.replicas]
        each = {k: memory[k] / n for k, n in counts.items() if k in memory}
        going = sum(
            max(0, n - (self._scaler.wanted(k) or 0)) * each.get(k, 0.0)
            for k, n in counts.items()
            if k not in slept
        )
        found = []
        for key, n in take_bytes(holders, highest, each, need - going).items():
            if self._scaler.take(key, n):
                found.append(key)
                self._tell(
                    key,
                    f"The memory budget of {_mib(self.budget_bytes)} is used up, and services of a "
                    f"higher priority need it.",
                )
        return found

    async def run(self) -> None:
        """Look for ever. Cancelled from outside."""
        while True:
            await self._clock.sleep(EVERY_S)
            self.look()


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
