"""Readings of gauges become trials for a sequential test: intervals in which one was worse, or not.

A reading tells much of the next one, so a spike that lasts a minute would count as sixty pieces of evidence
were each reading one. What is compared instead is the mean over an interval (batch means, as in the analysis
of simulations), paired with the stable revision's mean in the same interval, so that what moves both of them
cancels; and of the difference only the sign counts, so that one wild reading is no more than one interval.
The test is honest where an interval is longer than the gauge's own memory, which only its owner knows:
`every`. A small steady difference between two processes is a difference for ever, and harmless: `tolerance`.

Next: `progress.decide`, which counts the trials.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from penstock.control.rollouts.evidence import Tally
from penstock.domain.traffic import GaugeLimit


@dataclass
class _Mean:
    total: float = 0.0
    readings: int = 0

    def add(self, value: float | None) -> None:
        if value is not None and isfinite(value):
            self.total += value
            self.readings += 1

    @property
    def value(self) -> float:
        return self.total / self.readings


@dataclass
class Intervals:
    """The intervals of one gauge since its rollout began."""

    limit: GaugeLimit
    #: Intervals in which it was worse, of those that ended.
    tally: Tally = field(default_factory=Tally)
    since: float | None = None
    new: _Mean = field(default_factory=_Mean)
    stable: _Mean = field(default_factory=_Mean)

    def read(self, now: float, new: float | None, stable: float | None) -> None:
        """Take in a reading of each revision at `now` (monotonic seconds); None: it has none."""
        if self.since is None:
            self.since = now
        self.new.add(new)
        self.stable.add(stable)
        if now - self.since < self.limit.every_s:
            return
        # Without one of them there is nothing to compare: the interval is no trial.
        if self.new.readings and (self.limit.bound is not None or self.stable.readings):
            self.tally = self.tally.plus(Tally(int(self._worse()), 1))
        self.since, self.new, self.stable = now, _Mean(), _Mean()

    def _worse(self) -> bool:
        limit, value = self.limit, self.new.value
        if limit.bound is not None:
            return value < limit.bound if limit.lower_is_worse else value > limit.bound
        other = self.stable.value
        room = limit.tolerance * abs(other)
        return value < other - room if limit.lower_is_worse else value > other + room
