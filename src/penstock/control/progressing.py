"""Follows new revisions that get their requests in steps, once a second.

What a step needs is in the store (`Stage`, in the revision's status); the evidence of the present step is in
memory, and begins anew in a new control plane: a restart makes a rollout longer, never wrong.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.control.clock import Clock
from penstock.control.evidence import Tally
from penstock.control.plan import Event
from penstock.control.progress import Count, Evidence, decide
from penstock.control.revisions import Kept, Stage
from penstock.domain.traffic import MetricLimit, Rollout
from penstock.errors import PenstockError

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]

TICK_S = 1.0


@dataclass
class _Followed:
    policy: Rollout
    new: Kept
    stable: str
    #: Ends of the new revision's processes.
    restarts: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    last: dict[str, Count] | None = None
    #: Metrics that are not there were told.
    told: bool = False


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
        self, key: ServiceKey, policy: Rollout, new: Kept, stable: str, restarts: int
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
        counts = {
            name: count_of(total, key, name, f.policy.p99_s, f.policy.metrics)
            for name in (f.new.name, f.stable)
        }
        self._say_unknown(key, f, total)
        last, f.last = f.last, counts
        if last is None:
            last = counts
        step = (f.new.stage or Stage()).step
        if step >= len(f.policy.steps):
            return
        decision = decide(
            f.policy,
            step,
            f.evidence,
            counts[f.new.name].since(last[f.new.name]),
            counts[f.stable].since(last[f.stable]),
            now=self._clock.monotonic(),
            crashes=f.restarts,
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
        for metric in f.policy.metrics:
            for name in (metric.name, metric.per):
                problem = name and problem_of(total, name, histogram=metric.above is not None)
                if problem:
                    said = f"The limit on {metric.name} holds nothing back: {problem}."
                    self._tell(key, Event("Warning", "LimitWithoutEffect", said))

    async def run(self) -> None:
        """Tick for ever. Cancelled from outside."""
        while True:
            await self._clock.sleep(TICK_S)
            try:
                await self.tick()
            except PenstockError as exc:
                log.warning("a rollout could not go on and is looked at again: %s", exc)


def count_of(
    total: Mapping[str, Any],
    key: ServiceKey,
    revision: str,
    slower_s: float | None,
    metrics: Sequence[MetricLimit] = (),
) -> Count:
    """What was counted of a revision, by all gateways and model processes together."""
    requests = failed = slow = 0
    family = total.get("penstock_gateway_requests")
    if family is not None:
        for labels, value in family["samples"]:
            namespace, service, _, of, _, status = labels
            if (namespace, service, of) == (*key, revision):
                requests += int(value)
                failed += int(value) if status.isdigit() and int(status) >= 500 else 0
    family = total.get("penstock_gateway_request_seconds")
    if family is not None and slower_s is not None:
        # The bucket that the limit lies in counts as fast enough.
        first = bisect_left(family["bounds"], slower_s) + 1
        for labels, value in family["samples"]:
            if (labels[0], labels[1], labels[3]) == (*key, revision):
                slow += int(sum(value[0][first:]))
    tallies = tuple(_tally(total, key, revision, m, requests) for m in metrics)
    return Count(requests, min(failed, requests), min(slow, requests), tallies)


def _tally(
    total: Mapping[str, Any], key: ServiceKey, revision: str, metric: MetricLimit, requests: int
) -> Tally:
    samples = _samples(total, key, revision, metric.name)
    family = _family(total, metric.name)
    if metric.above is not None:
        if family is None or family["kind"] != "histogram":
            return Tally()
        first = bisect_left(family["bounds"], metric.above) + 1
        return Tally(
            int(sum(sum(value[0][first:]) for value in samples)),
            int(sum(sum(value[0]) for value in samples)),
        )
    if family is None or family["kind"] != "counter":
        return Tally()
    trials = requests
    if metric.per:
        per = _family(total, metric.per)
        if per is None or per["kind"] != "counter":
            return Tally()
        trials = int(sum(_samples(total, key, revision, metric.per)))
    return Tally(min(trials, int(sum(samples))), trials)


def _family(total: Mapping[str, Any], name: str) -> Any:
    """A metric by the name that it is shown under: counters are shown with `_total`."""
    return total.get(name) or total.get(name.removesuffix("_total")) or total.get(f"{name}_total")


def _samples(total: Mapping[str, Any], key: ServiceKey, revision: str, name: str) -> list[Any]:
    family = _family(total, name)
    if family is None or "revision" not in family["labels"]:
        return []
    wanted = {"namespace": key[0], "service": key[1], "revision": revision}
    at = [(i, wanted[n]) for i, n in enumerate(family["labels"]) if n in wanted]
    return [value for labels, value in family["samples"] if all(labels[i] == v for i, v in at)]


def problem_of(total: Mapping[str, Any], name: str, *, histogram: bool) -> str:
    """Why a metric cannot be looked at, or an empty string."""
    family = _family(total, name)
    kind = "histogram" if histogram else "counter"
    if family is None:
        return f"nobody keeps a metric {name}"
    if family["kind"] == "gauge":
        # Readings of one are no independent trials: one spike that lasts would be taken for as much evidence
        # as there are readings of it, whatever bound a test puts on them.
        return f"{name} is a gauge, whose readings depend on each other; count it, or make it a histogram"
    if family["kind"] != kind:
        return f"{name} is a {family['kind']}, not a {kind}"
    return "" if "revision" in family["labels"] else f"{name} is not kept per revision"
