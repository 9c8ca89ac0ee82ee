"""How many replicas a service should have: the decision, as a pure function.

The rules are those of Knative's pod autoscaler (knative/serving, pkg/autoscaler/scaling/autoscaler.go): the
number is load over target, with the load averaged over a stable window (a minute); when the average over a
short panic window asks for twice the replicas there are, the short one counts, and nothing is taken away
until it has been quiet for a stable window. Beyond Knative's rules there is hysteresis, so that a load that
hovers at a boundary does not move the number up and down, and nothing is taken away before a whole window
was listened to.

`loads` measures the signal, `scaler` remembers the state, `control.plan` uses the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock.domain.service import ScaleMetric, Scaling

#: Replicas are taken away only when fewer could bear this many times the load.
HYSTERESIS = 1.1
#: Panic begins when the short window wants this many times the replicas there are.
PANIC = 2.0
#: Knative's defaults where nothing is said.
DEFAULT_CONCURRENCY = 100.0
DEFAULT_RPS = 200.0
#: Share of a hard limit that is aimed at when there is no target: at the limit itself requests wait.
UTILIZATION = 0.7


@dataclass(frozen=True, slots=True)
class Policy:
    """What somebody wants of a service's number of replicas."""

    low: int = 1
    high: int = 1
    #: Load that one replica should have: requests at a time, or requests a second.
    target: float = DEFAULT_CONCURRENCY
    metric: ScaleMetric = ScaleMetric.CONCURRENCY
    window_s: float = 60.0
    panic_window_s: float = 6.0
    scale_down_delay_s: float = 0.0
    #: A service that may have no replica loses its last one after this long without a request.
    zero_grace_s: float = 300.0

    @property
    def fixed(self) -> bool:
        """The number never moves between one and more; it may still be zero."""
        return self.high <= max(1, self.low)


@dataclass(frozen=True, slots=True)
class Signal:
    """What was measured. Averages are in the unit of the policy's metric."""

    stable: float = 0.0
    panic: float = 0.0
    #: Requests under way at this moment, those that wait included; and those that wait.
    in_flight: int = 0
    waiting: int = 0
    #: Seconds since the last sign of use.
    idle_s: float = 0.0
    #: Seconds that have been listened to.
    covered_s: float = math.inf
    #: All gateways are heard. If not, silence means nothing.
    heard: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered between two decisions. Times are monotonic seconds."""

    replicas: int
    panic_until: float | None = None
    #: (time, replicas wanted then), falling, within the scale-down delay.
    peaks: tuple[tuple[float, int], ...] = ()


def policy_of(scaling: Scaling, *, zero_grace_s: float) -> Policy:
    """The policy of a manifest. Without `maxReplicas` nothing grows, as in KServe's Standard mode."""
    low = scaling.min_replicas
    high = max(1, low, scaling.max_replicas or 0)
    metric = scaling.metric
    if metric not in (ScaleMetric.CONCURRENCY, ScaleMetric.RPS):
        high = max(1, low)  # the dialect has said that it is not scaled by this
    target = scaling.target
    if target is None:
        if metric is ScaleMetric.RPS:
            target = DEFAULT_RPS
        elif scaling.container_concurrency:
            target = UTILIZATION * scaling.container_concurrency
        else:
            target = DEFAULT_CONCURRENCY
    if metric is ScaleMetric.CONCURRENCY and scaling.container_concurrency:
        target = min(target, float(scaling.container_concurrency))
    return Policy(
        low=low,
        high=high,
        target=target,
        metric=metric,
        window_s=scaling.window_s,
        panic_window_s=min(scaling.panic_window_s, scaling.window_s),
        scale_down_delay_s=scaling.scale_down_delay_s,
        zero_grace_s=zero_grace_s
        if scaling.scale_to_zero_grace_s is None
        else scaling.scale_to_zero_grace_s,
    )


def decide(policy: Policy, signal: Signal, state: State, *, now: float) -> State:
    """The next state; its `replicas` is the number wanted from `now` on."""
    least = max(1, policy.low)
    used = signal.in_flight > 0 or signal.waiting > 0
    if policy.low == 0 and not used:
        if state.replicas == 0:
            return state if not state.peaks else State(0)
        if signal.heard and signal.idle_s >= policy.zero_grace_s:
            return State(0)
    if policy.fixed:
        return State(least)
    if state.replicas == 0:
        # Nothing was measured while it slept; what waits now says how many to begin with.
        each = policy.target if policy.metric is ScaleMetric.CONCURRENCY else math.inf
        first = _clamp(_needed(max(signal.in_flight, signal.waiting), each), least, policy.high)
        return State(first)

    have = _clamp(state.replicas, least, policy.high)
    stable = _needed(signal.stable, policy.target)
    panic = _needed(signal.panic, policy.target)
    panic_until = state.panic_until
    if panic >= PANIC * have:
        panic_until = now + policy.window_s
    elif panic_until is not None and panic_until <= now:
        panic_until = None
    if panic_until is not None:
        wanted = max(have, stable, panic)
    elif stable >= have:
        wanted = stable
    elif signal.heard and signal.covered_s >= policy.window_s:
        wanted = min(have, _needed(signal.stable * HYSTERESIS, policy.target))
    else:
        wanted = have
    wanted = _clamp(wanted, least, policy.high)
    peaks = _peaks(state.peaks, now, wanted, policy.scale_down_delay_s)
    replicas = max([wanted, *(_clamp(n, least, policy.high) for _, n in peaks)])
    return State(replicas, panic_until, peaks)


def _needed(load: float, each: float) -> int:
    # A sum of floats that should be a whole number is often a little more.
    return math.ceil(load / each - 1e-9)


def _clamp(number: int, low: int, high: int) -> int:
    return max(low, min(high, number))


def _peaks(
    peaks: tuple[tuple[float, int], ...], now: float, wanted: int, delay_s: float
) -> tuple[tuple[float, int], ...]:
    """Those of the delay, without those that a later and larger one makes needless."""
    if delay_s <= 0:
        return ()
    return (*((t, n) for t, n in peaks if now - t < delay_s and n > wanted), (now, wanted))
