"""Follows new revisions that get their requests in steps, once a second.

What a step needs is in the store (`Stage`, in the revision's status); the evidence of the present step is in
memory, and begins anew in a new control plane: a restart makes a rollout longer, never wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from penstock.control.clock import Clock
from penstock.control.plan import Event
from penstock.control.revisions import Kept, Stage
from penstock.control.rollouts.counting import count_of, problem_of, reading_of
from penstock.control.rollouts.gauges import Intervals
from penstock.control.rollouts.progress import Count, Evidence, decide
from penstock.domain.traffic import Rollout
from penstock.errors import PenstockError

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

TICK_S = 1.0


@dataclass
class _Followed:
    policy: Rollout
    new: Kept
    stable: str
    #: Arms of a bandit beside the stable revision, which may get hardly a request: all are one side then.
    beside: tuple[str, ...] = ()
    #: Ends of the new revision's processes.
    restarts: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    last: dict[str, Count] | None = None
    #: Metrics that are not there were told.
    told: bool = False
    gauges: tuple[Intervals, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.gauges = tuple(Intervals(limit) for limit in self.policy.gauges)


class Progressing:
    """Services whose newest revision goes up in steps."""

    def __init__(
        self,
        total: Callable[[], Awaitable[Mapping[str, Any]]],
        advance: Callable[[ServiceKey, str, Stage, Event], Awaitable[None]],
        *,
        tell: Callable[[ServiceKey, Event], None] = lambda key, event: None,
        clock: Clock,
    ) -> None:
        self._total = total
        self._advance = advance
        self._tell = tell
        self._clock = clock
        self._followed: dict[ServiceKey, _Followed] = {}
        self._ticking = asyncio.Lock()

    def follow(
        self,
        key: ServiceKey,
        policy: Rollout,
        new: Kept,
        stable: str,
        restarts: int,
        beside: tuple[str, ...] = (),
    ) -> None:
        """The service's newest revision is at a step now. No-op when that is known."""
        known = self._followed.get(key)
        if known is None or (known.policy, known.new.name, known.stable) != (
            policy,
            new.name,
            stable,
        ):
            known = self._followed[key] = _Followed(policy, new, stable)
        known.new = new
        known.beside = beside
        known.restarts = max(known.restarts, restarts)

    def forget(self, key: ServiceKey) -> None:
        """Nothing of that service goes up in steps."""
        self._followed.pop(key, None)

    async def tick(self) -> None:
        """Look at every rollout under way."""
        if not self._followed:
            return
        async with self._ticking:
            total = await self._total()
            for key, f in list(self._followed.items()):
                if self._followed.get(key) is f:
                    await self._look(key, f, total)

    async def _look(self, key: ServiceKey, f: _Followed, total: Mapping[str, Any]) -> None:
        now = self._clock.monotonic()
        counts = {
            name: count_of(total, key, name, f.policy.p99_s, f.policy.metrics)
            for name in (f.new.name, f.stable, *f.beside)
        }
        for gauge in f.gauges:
            new, stable = (reading_of(total, key, n, gauge.limit) for n in (f.new.name, f.stable))
            gauge.read(now, new, stable)
        trials = tuple(gauge.tally for gauge in f.gauges)
        counts[f.new.name] = replace(
            counts[f.new.name], metrics=counts[f.new.name].metrics + trials
        )
        self._say_unknown(key, f, total)
        last, f.last = f.last or {}, counts
        # What is seen for the first time begins here.
        since = {name: count.since(last.get(name, count)) for name, count in counts.items()}
        tried = since.pop(f.new.name)
        step = (f.new.stage or Stage()).step
        if step >= len(f.policy.steps):
            return
        decision = decide(
            f.policy,
            step,
            f.evidence,
            tried,
            reduce(Count.plus, since.values(), Count()),
            now=now,
            crashes=f.restarts,
            whose="the arms'" if f.beside else "the stable revision's",
        )
        f.evidence = decision.evidence
        name = f.new.name
        if decision.back:
            event = Event(
                "Warning",
                "RolledBack",
                f"{name} is given up at {f.policy.steps[step]}%: {decision.back}. "
                f"{f.stable} takes all.",
            )
            await self._advance(key, name, Stage(step, decision.back), event)
            self.forget(key)
        elif decision.done:
            event = Event("Normal", "RolloutDone", f"{name} passed every step and takes all.")
            await self._advance(key, name, Stage(len(f.policy.steps)), event)
            self.forget(key)
        elif decision.step != step:
            percent = f.policy.steps[decision.step]
            event = Event("Normal", "RolloutStep", f"{name} takes {percent}% now.")
            await self._advance(key, name, Stage(decision.step), event)

    def _say_unknown(self, key: ServiceKey, f: _Followed, total: Mapping[str, Any]) -> None:
        """Tell once which metrics nobody keeps: their limits hold nothing back."""
        if f.told or f.last is None or f.last[f.new.name].requests < f.policy.min_requests:
            return
        f.told = True
        problems = [
            (
                m.name,
                problem_of(
                    total, key, f.new.name, name, "counter" if m.above is None else "histogram"
                ),
            )
            for m in f.policy.metrics
            for name in (m.name, m.per)
            if name
        ]
        for gauge in f.gauges:
            name = gauge.limit.name
            problem = problem_of(total, key, f.new.name, name, "gauge")
            for revision in (f.new.name, f.stable) if gauge.limit.bound is None else (f.new.name,):
                if not problem and reading_of(total, key, revision, gauge.limit) is None:
                    problem = f"{revision} has no such reading"
            problems.append((name, problem))
        for name, problem in problems:
            if problem:
                said = f"The limit on {name} holds nothing back: {problem}."
                self._tell(key, Event("Warning", "LimitWithoutEffect", said))

    async def run(self) -> None:
        """Tick for ever. Cancelled from outside."""
        while True:
            await self._clock.sleep(TICK_S)
            try:
                await self.tick()
            except PenstockError as exc:
                log.warning("a rollout could not go on and is looked at again: %s", exc)
