"""The autoscaler's decision: its rules as properties, and a day in its life as tables."""

from __future__ import annotations

import random
from typing import Any

import pytest
from control_fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.scaling.autoscale import Policy, Signal, State, decide, policy_of
from penstock.control.scaling.loads import Loads
from penstock.control.scaling.scaler import Scaler
from penstock.domain.routes import Load, ServiceLoad
from penstock.domain.service import ScaleMetric, Scaling

KEY = ("default", "iris")

policies = st.builds(
    lambda low, more, target, delay_s, grace_s: Policy(
        low=low,
        high=max(1, low + more),
        target=target,
        scale_down_delay_s=delay_s,
        zero_grace_s=grace_s,
    ),
    st.integers(0, 4),
    st.integers(0, 20),
    st.floats(0.5, 100),
    st.sampled_from((0.0, 30.0)),
    st.sampled_from((5.0, 60.0, 300.0)),
)
loads = st.floats(0, 3000)
signals = st.builds(
    Signal,
    stable=loads,
    panic=loads,
    in_flight=st.just(0) | st.integers(0, 200),
    waiting=st.just(0) | st.integers(0, 200),
    idle_s=st.just(1000.0) | st.floats(0, 1000),
    covered_s=st.sampled_from((0.0, 30.0, 60.0, 1e6)),
    heard=st.booleans(),
)
moments = st.lists(signals, min_size=1, max_size=40)


def run(policy: Policy, history: list[Signal], state: State) -> list[int]:
    replicas = []
    for second, signal in enumerate(history):
        state = decide(policy, signal, state, now=float(second))
        replicas.append(state.replicas)
    return replicas


def first(policy: Policy) -> State:
    return State(max(1, policy.low))


# -- properties -------------------------------------------------------------------------------------


@given(policies, moments)
def test_it_stays_within_its_limits(policy: Policy, history: list[Signal]) -> None:
    for n in run(policy, history, first(policy)):
        assert policy.low <= n <= policy.high


@given(policies, moments)
def test_it_never_goes_to_zero_with_work_under_way_or_waiting(
    policy: Policy, history: list[Signal]
) -> None:
    for n, signal in zip(run(policy, history, first(policy)), history, strict=True):
        if signal.in_flight or signal.waiting:
            assert n >= 1


@given(policies, moments)
def test_nothing_is_taken_away_while_not_every_gateway_is_heard(
    policy: Policy, history: list[Signal]
) -> None:
    deaf = [
        Signal(s.stable, s.panic, s.in_flight, s.waiting, s.idle_s, heard=False) for s in history
    ]
    policy = Policy(policy.low, policy.high, policy.target)
    numbers = [first(policy).replicas, *run(policy, deaf, first(policy))]
    assert numbers == sorted(numbers)


@given(policies, moments, signals, loads, loads, st.integers(0, 50), st.integers(0, 50))
def test_more_load_never_means_fewer_replicas(
    policy: Policy,
    history: list[Signal],
    signal: Signal,
    stable: float,
    panic: float,
    in_flight: int,
    waiting: int,
) -> None:
    state = first(policy)
    for second, past in enumerate(history):
        state = decide(policy, past, state, now=float(second))
    more = Signal(
        signal.stable + stable,
        signal.panic + panic,
        signal.in_flight + in_flight,
        signal.waiting + waiting,
        signal.idle_s,
        signal.covered_s,
        signal.heard,
    )
    now = float(len(history))
    assert (
        decide(policy, more, state, now=now).replicas
        >= decide(policy, signal, state, now=now).replicas
    )


@given(policies, loads, st.integers(0, 1000))
def test_a_constant_load_is_answered_once_and_the_number_stays(
    policy: Policy, load: float, seed: int
) -> None:
    """Also when the measurement trembles by four percent."""
    chance = random.Random(seed)
    history = [
        Signal(
            stable=load * chance.uniform(0.96, 1.04),
            panic=load * chance.uniform(0.96, 1.04),
            in_flight=1,
        )
        for _ in range(300)
    ]
    settled = run(policy, history, first(policy))[150:]
    assert settled == sorted(settled), "it goes up, if at all, and never down again"
    assert settled[-1] - settled[0] <= max(1, 0.1 * settled[0])


@given(policies, loads)
def test_replicas_bear_the_load_if_the_limits_let_them(policy: Policy, load: float) -> None:
    history = [Signal(stable=load, panic=load, in_flight=1)] * 3
    n = run(policy, history, first(policy))[-1]
    assert n == policy.high or n * policy.target >= load * 0.999999


# -- the rules one by one -----------------------------------------------------------------------------

POLICY = Policy(low=0, high=10, target=10.0, zero_grace_s=30.0)


def test_the_short_window_counts_when_it_asks_for_twice_the_replicas() -> None:
    assert decide(POLICY, Signal(12, 19, 1), State(1), now=0).replicas == 2
    burst = decide(POLICY, Signal(12, 45, 1), State(2), now=0)
    assert burst.replicas == 5
    assert burst.panic_until == 60


def test_after_a_burst_nothing_is_taken_away_until_it_was_quiet_for_a_window() -> None:
    state = decide(POLICY, Signal(12, 45, 1), State(1), now=0)
    assert decide(POLICY, Signal(12, 12, 1), state, now=59).replicas == 5
    assert decide(POLICY, Signal(12, 12, 1), state, now=61).replicas == 2


def test_a_replica_is_taken_away_only_when_fewer_have_room() -> None:
    assert decide(POLICY, Signal(19.5, 19.5, 1), State(3), now=0).replicas == 3
    assert decide(POLICY, Signal(18.0, 18.0, 1), State(3), now=0).replicas == 2


def test_nothing_is_taken_away_before_a_whole_window_was_heard() -> None:
    assert decide(POLICY, Signal(1, 1, 1, covered_s=59), State(4), now=0).replicas == 4
    assert decide(POLICY, Signal(1, 1, 1, covered_s=60), State(4), now=0).replicas == 1


def test_scale_down_delay_keeps_the_most_that_was_wanted_within_it() -> None:
    policy = Policy(low=1, high=10, target=10.0, scale_down_delay_s=20)
    state = decide(policy, Signal(35, 35, 1), State(4), now=0)
    assert decide(policy, Signal(5, 5, 1), state, now=19).replicas == 4
    assert decide(policy, Signal(5, 5, 1), state, now=20).replicas == 1


def test_the_last_replica_goes_after_the_grace_and_comes_with_the_first_request() -> None:
    assert decide(POLICY, Signal(idle_s=29.9), State(1), now=0).replicas == 1
    asleep = decide(POLICY, Signal(idle_s=30), State(1), now=0)
    assert asleep.replicas == 0
    assert decide(POLICY, Signal(5, 5), asleep, now=1).replicas == 0
    assert decide(POLICY, Signal(in_flight=1, waiting=1), asleep, now=1).replicas == 1
    assert decide(POLICY, Signal(in_flight=41, waiting=41), asleep, now=1).replicas == 5


@pytest.mark.parametrize(
    "signal",
    [
        Signal(in_flight=1, idle_s=1000),
        Signal(waiting=1, idle_s=1000),
        Signal(idle_s=1000, heard=False),
    ],
)
def test_the_last_replica_stays_while_there_may_be_work(signal: Signal) -> None:
    assert decide(POLICY, signal, State(1), now=0).replicas == 1


def test_the_policy_of_a_manifest() -> None:
    assert policy_of(Scaling(), zero_grace_s=9) == Policy(1, 1, zero_grace_s=9)
    assert policy_of(Scaling(2, 5, 3.0), zero_grace_s=9).target == 3.0
    assert policy_of(Scaling(0, 5, container_concurrency=10), zero_grace_s=9).target == 7.0
    assert policy_of(Scaling(0, 5, 20.0, container_concurrency=10), zero_grace_s=9).target == 10.0
    assert policy_of(Scaling(1, 5, metric=ScaleMetric.RPS), zero_grace_s=9).target == 200.0
    assert policy_of(Scaling(1, 5, 80, ScaleMetric.CPU), zero_grace_s=9).fixed
    assert policy_of(Scaling(0, scale_to_zero_grace_s=4), zero_grace_s=9).zero_grace_s == 4


# -- what is measured -----------------------------------------------------------------------------------


def load(request_s: float, requests: int = 1, in_flight: int = 0, waiting: int = 0) -> Load:
    return Load(1.0, (ServiceLoad("default/iris", request_s, requests, in_flight, waiting),))


async def test_averages_do_not_depend_on_when_messages_arrive() -> None:
    clock = FakeClock()
    heard = Loads(clock)
    for late in (0.0, 0.4, -0.4, 0.3, -0.3, 0.0):
        await clock.advance(1.0 + late)
        heard.take(1, Load(1.0 + late, load(3.0 * (1.0 + late)).services))
    assert heard.average(KEY, 6.0).concurrency == pytest.approx(3.0)


async def test_gateways_add_up_and_one_that_ended_fades_out() -> None:
    clock = FakeClock()
    heard = Loads(clock)
    for _ in range(6):
        await clock.advance(1.0)
        heard.take(1, load(2.0, 10))
        heard.take(2, load(1.0, 10, in_flight=1))
    assert heard.average(KEY, 6.0).concurrency == pytest.approx(3.0)
    assert heard.average(KEY, 6.0).rps == pytest.approx(20.0)
    assert heard.under_way(KEY) == (1, 0)
    heard.hung_up(2)
    assert heard.under_way(KEY) == (0, 0)
    await clock.advance(3.0)
    heard.take(1, Load(3.0))
    assert 0 < heard.average(KEY, 6.0).concurrency < 3.0
    await clock.advance(60.0)
    heard.prune()
    assert heard.average(KEY, 60.0).concurrency == 0


async def test_a_silent_gateway_is_not_heard() -> None:
    clock = FakeClock()
    heard = Loads(clock)
    heard.take(1, Load(1.0))
    assert heard.heard(1, 1)
    assert not heard.heard(2, 1), "one that should be there is away"
    await clock.advance(6.0)
    assert not heard.heard(1, 1)


# -- second by second -------------------------------------------------------------------------------------


class World:
    def __init__(self, **scaling: object) -> None:
        self.clock = FakeClock()
        self.looked: list[tuple[str, str]] = []
        self.scaling = Scaling(**scaling)  # type: ignore[arg-type]
        self.scaler = Scaler(
            self.looked.append, clock=self.clock, zero_grace_s=30.0, gateways=lambda: (1, 1)
        )

    def want(self, running: int = 0, proven: bool = True) -> int:
        return self.scaler.want(KEY, self.scaling, running=running, proven=proven)

    async def second(self, concurrency: float, times: int = 1) -> int:
        for _ in range(times):
            await self.clock.advance(1.0)
            busy = load(concurrency, 1, in_flight=round(concurrency))
            self.scaler.heard(1, busy if concurrency else Load(1.0))
            self.scaler.tick()
        return self.want()


async def test_a_day_from_one_to_many_to_none() -> None:
    w = World(min_replicas=0, max_replicas=6, target=4.0)
    assert w.want(proven=False) == 1
    assert await w.second(3.0, 30) == 1
    assert await w.second(15.0, 6) == 4, "the panic window is full of it"
    assert w.looked
    assert await w.second(15.0, 120) == 4
    assert await w.second(3.0, 130) == 1
    assert await w.second(0.0, 29) == 1
    w.scaler.heard(1, load(0, 0))
    assert await w.second(0.0, 32) == 0
    assert w.scaler.wake(KEY, 9)
    assert w.want() == 3
    assert not w.scaler.wake(KEY, 9), "it is awake"


async def test_a_new_control_plane_keeps_the_replicas_it_finds_and_wakes_nobody() -> None:
    w = World(min_replicas=0, max_replicas=6, target=4.0)
    assert w.want(running=3) == 3
    assert await w.second(0.1, 20) == 3
    sleeping = World(min_replicas=0)
    assert sleeping.want(running=0) == 0
    assert World(min_replicas=2).want(running=0) == 2


async def test_a_change_of_bounds_takes_effect_at_once() -> None:
    w = World(min_replicas=3, max_replicas=6)
    assert w.want() == 3
    w.scaling = Scaling(1, 2)
    assert w.want() == 2
    w.scaling = Scaling(5, 8)
    assert w.want() == 5


async def test_the_least_recently_used_may_be_put_to_sleep_unless_it_works() -> None:
    w = World(min_replicas=0)
    other = ("default", "other")
    w.want(proven=False)
    await w.clock.advance(1.0)
    w.scaler.want(other, Scaling(0), running=0, proven=False)
    assert w.scaler.sleepers() == [KEY, other]
    w.scaler.heard(1, load(1.0, 1, in_flight=1))
    assert not w.scaler.put_to_sleep(KEY)
    w.scaler.heard(1, load(1.0, 1, in_flight=0))
    assert w.scaler.put_to_sleep(KEY)
    assert w.want() == 0
    w.scaler.forget(KEY)
    assert w.scaler.sleepers() == [other]


def test_services_that_sleep_cost_a_tick_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand are registered: a tick decides for those that are awake, or that a gateway speaks of."""
    decided = 0

    def counted(*args: Any, **kw: Any) -> State:
        nonlocal decided
        decided += 1
        return decide(*args, **kw)

    monkeypatch.setattr("penstock.control.scaling.scaler.decide", counted)
    clock = FakeClock()
    scaler = Scaler(lambda key: None, clock=clock, zero_grace_s=10.0)
    keys = [("ns", f"s{i}") for i in range(100)]
    for key in keys:
        scaler.want(key, Scaling(0), running=0, proven=True)
    scaler.tick()
    scaler.tick()
    decided = 0
    scaler.tick()
    assert decided == 0
    assert scaler.wake(keys[3], 1)
    service = ServiceLoad("ns/s5", 0.0, 0, 1, 1)
    scaler.heard(1, Load(1.0, (service,)))
    decided = 0
    scaler.tick()
    assert decided == 2
    assert scaler.wanted(keys[5]) == 1, "a load that a gateway tells of wakes as well"
    fixed = ("ns", "fixed")
    scaler.want(fixed, Scaling(1), running=1, proven=True)
    scaler.tick()
    decided = 0
    scaler.tick()
    assert decided == 2
