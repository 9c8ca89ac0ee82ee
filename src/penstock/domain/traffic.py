"""What a service says about its requests beyond percents: rules, copies to try a revision on, stickiness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from penstock.domain.bandit import Bandit

#: Names and values that a metric's series has to have.
Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Shadow:
    """The newest revision gets copies of requests instead of requests; its answers are dropped."""

    #: Of a hundred requests, how many are copied.
    percent: int = 100
    #: The named predictor that gets the copies; empty: the newest revision.
    to: str = ""


@dataclass(frozen=True, slots=True)
class Sticky:
    """A client stays with one revision for as long as that has a share."""

    #: By the hash of this request header, lower case; empty: by a cookie that the first answer sets.
    header: str = ""


class HeaderTest(NamedTuple):
    """What one request header has to be; exactly one kind: `exact`, `prefix` or `regex` (of all of it)."""

    header: str
    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class MatchRule:
    """Requests whose headers pass every test go to one revision, while that answers."""

    tests: tuple[HeaderTest, ...]
    #: `latest`, `previous`, a named canary, or a revision's name.
    to: str


@dataclass(frozen=True, slots=True)
class MetricLimit:
    """A share that a metric of the new revision may reach."""

    #: A counter or a histogram that gateways or model processes keep, with the label `revision`.
    name: str
    #: Most share (0 to 1); None: no more than of the stable revision.
    most: float | None = None
    #: For a histogram: observations above this count.
    above: float | None = None
    #: For a counter: the counter of what its events are a part of; empty: the revision's requests.
    per: str = ""
    #: Only series with these labels, of `name` and of `per`.
    labels: Labels = ()
    per_labels: Labels = ()


@dataclass(frozen=True, slots=True)
class GaugeLimit:
    """What a gauge of the new revision may be, as a mean over its processes and an interval of time.

    A reading of a gauge depends on the one before, so readings are no trials; means of intervals that are
    longer than the gauge's own memory are (`control.rollouts.gauges`). At least one half of the intervals
    have to keep the limit.
    """

    name: str
    #: A number to be kept; None: the stable revision's mean in the same interval.
    bound: float | None = None
    #: Lower is worse, such as accuracy; else higher is, such as memory.
    lower_is_worse: bool = False
    #: Beside the stable revision: this share of its mean does not count as worse.
    tolerance: float = 0.1
    #: Length of an interval, seconds.
    every_s: float = 10.0
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new revision gets its requests by itself, in steps, and what makes it go back."""

    #: Percents, growing; after the last one it takes all.
    steps: tuple[int, ...] = (5, 25, 50)
    #: Each step lasts at least this long, seconds.
    hold_s: float = 60.0
    #: And until the new revision has answered so many requests in it.
    min_requests: int = 100
    #: Most share of requests that may fail (0 to 1); None: no more than of the stable revision.
    error_rate: float | None = None
    #: At least 99% of requests are answered within this, seconds; None: not looked at.
    p99_s: float | None = None
    metrics: tuple[MetricLimit, ...] = ()
    gauges: tuple[GaugeLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """All of it. None is: not wanted."""

    shadow: Shadow | None = None
    sticky: Sticky | None = None
    #: The first rule that fits a request decides.
    match: tuple[MatchRule, ...] = ()
    rollout: Rollout | None = None
    #: Revisions and named predictors with a share are arms; rewards say who gets the requests.
    bandit: Bandit | None = None
