"""The memory budget: who sleeps when model processes hold too much."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from control_fakes import FakeBackend, FakeClock
from hypothesis import given
from hypothesis import strategies as st

from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.replicas import ReplicaCache
from penstock.control.scaling.budget import MemoryBudget, held, machine_bytes, to_sleep
from penstock.control.scaling.scaler import Scaler
from penstock.domain.priority import Rank
from penstock.domain.routes import Load, ServiceLoad
from penstock.domain.service import Scaling

MIB = 2**20


def replica(
    name: str, memory_mib: int | None = 100, phase: Phase = Phase.READY, index: int = 0
) -> ReplicaStatus:
    return ReplicaStatus(
        id=f"default.{name}-{index}",
        namespace="default",
        service=name,
        revision=f"{name}-00001",
        component="predictor",
        phase=phase,
        address="unix:/x",
        memory_bytes=None if memory_mib is None else memory_mib * MIB,
    )


def key(name: str) -> tuple[str, str]:
    return ("default", name)


def test_what_was_not_measured_counts_as_the_mean_and_what_is_gone_not_at_all() -> None:
    memory = held(
        [
            replica("a", 100),
            replica("a", 200, index=1),
            replica("b", None, Phase.STARTING),
            replica("c", 500, Phase.DRAINING),
        ]
    )
    assert memory == {key("a"): 300 * MIB, key("b"): 150 * MIB}
    assert held([]) == {}


def test_components_of_a_service_are_counted_and_put_to_sleep_each_for_itself() -> None:
    transformer = dataclasses.replace(replica("a", 70, index=1), component="transformer")
    memory = held([replica("a", 100), transformer])
    assert memory == {key("a"): 100 * MIB, key("a/transformer"): 70 * MIB}


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 1000), max_size=12),
    st.integers(1, 5000),
    st.data(),
)
def test_no_more_sleep_than_must_and_only_those_that_may(
    memory: dict[str, int], budget: int, data: st.DataObject
) -> None:
    by_key = {key(n): float(m) for n, m in memory.items()}
    sleepers = data.draw(st.permutations(sorted(by_key)))
    sleepers = sleepers[: data.draw(st.integers(0, len(sleepers)))]
    chosen = to_sleep(by_key, sleepers, budget)
    assert chosen == sleepers[: len(chosen)], "the least recently used first"
    left = sum(by_key.values()) - sum(by_key[k] for k in chosen)
    if sum(by_key.values()) <= budget:
        assert not chosen
    elif left > budget:
        assert chosen == sleepers
    if chosen:
        assert left + by_key[chosen[-1]] > 0.95 * budget


class World:
    def __init__(self, budget_mib: int) -> None:
        self.clock = FakeClock()
        self.cache = ReplicaCache(FakeBackend(), lambda old, new: None, clock=self.clock)
        self.scaler = Scaler(lambda key: None, clock=self.clock, zero_grace_s=300.0)
        self.told: list[tuple[tuple[str, str], str]] = []
        self.budget = MemoryBudget(
            budget_mib * MIB,
            self.cache,
            self.scaler,
            clock=self.clock,
            tell=lambda k, why: self.told.append((k, why)),
        )

    async def add(self, name: str, low: int = 0, rank: int = 0, count: int = 1) -> None:
        scaling = Scaling(low, max_replicas=max(1, count))
        self.scaler.want(key(name), scaling, running=count, proven=True, rank=Rank(rank))
        for index in range(count):
            self.cache.put(replica(name, index=index))
        await self.clock.advance(1.0)


async def test_the_least_recently_used_that_may_sleep_goes() -> None:
    w = World(250)
    for name, low in (("a", 0), ("pinned", 1), ("b", 0)):
        await w.add(name, low)
    await w.clock.advance(60.0)
    w.scaler.heard(1, Load(1.0, (ServiceLoad("default/a", 0.1, 1),)))
    await w.clock.advance(10.0)
    assert w.budget.look() == [key("b")]
    assert w.scaler.want(key("b"), Scaling(0), running=1, proven=True) == 0
    assert w.told == [(key("b"), "The memory budget of 250 MiB is used up.")]
    w.cache.drop("default.b-0")
    assert w.budget.look() == []


async def test_what_works_or_was_used_just_now_stays(caplog: pytest.LogCaptureFixture) -> None:
    w = World(50)
    await w.add("a")
    assert w.budget.look() == []
    await w.clock.advance(60.0)
    w.scaler.heard(1, Load(1.0, (ServiceLoad("default/a", 0.1, 0, in_flight=1),)))
    await w.clock.advance(10.0)
    assert w.budget.look() == []
    assert "no idle service may sleep" in caplog.text


def busy(*names: str) -> Load:
    return Load(1.0, tuple(ServiceLoad(f"default/{n}", 0.1, 1, in_flight=1) for n in names))


async def test_an_idle_service_of_a_lower_priority_goes_before_one_that_was_used_longer_ago() -> (
    None
):
    w = World(150)
    await w.add("old", rank=5)
    await w.add("low")
    await w.clock.advance(60.0)
    assert w.budget.look() == [key("low")]


async def test_a_busy_service_gives_what_it_has_above_its_minimum_to_a_higher_priority() -> None:
    """And keeps without it for a while, whatever its load says; never less than it asked for."""
    w = World(250)
    await w.add("low", low=1, count=3)
    await w.add("high", low=1, rank=10)
    w.scaler.heard(1, busy("low", "high"))
    assert w.budget.look() == [key("low")]
    scaling = Scaling(1, max_replicas=3)
    assert w.scaler.want(key("low"), scaling, running=3, proven=True) == 1
    assert "higher priority" in w.told[0][1]
    assert w.budget.look() == [], "two are going already"
    for index in (0, 1):
        w.cache.drop(f"default.low-{index}")
    w.budget.budget_bytes = 50 * MIB
    assert w.budget.look() == [], "what is left is its least"
    w.scaler.tick()
    assert w.scaler.wanted(key("low")) == 1


async def test_memory_that_is_about_to_be_free_is_waited_for() -> None:
    """The first one's replicas are still there at the next look; the second one keeps its own."""
    w = World(350)
    await w.add("first", count=2)
    await w.add("second", count=1)
    await w.add("high", low=1, rank=10)
    w.scaler.heard(1, busy("second", "high"))
    w.scaler.heard(1, busy("first"))
    assert w.budget.look() == [key("first")]
    w.scaler.heard(1, busy("first", "second"))
    assert w.budget.look() == []
    assert w.scaler.wanted(key("second")) == 1


async def test_what_was_taken_comes_back_after_a_while() -> None:
    w = World(150)
    await w.add("low", count=1)
    await w.add("high", low=1, rank=10)
    w.scaler.heard(1, busy("low", "high"))
    assert w.budget.look() == [key("low")]
    assert not w.scaler.wake(key("low"), 1), "it would only be taken again"
    w.scaler.tick()
    assert w.scaler.wanted(key("low")) == 0
    await w.clock.advance(31.0)
    w.scaler.heard(1, busy("low"))
    w.scaler.tick()
    assert w.scaler.wanted(key("low")) == 1


async def test_nobody_gives_way_to_an_equal_or_to_one_that_takes_nothing() -> None:
    w = World(150)
    await w.add("a", rank=5)
    await w.add("b", low=1, rank=5)
    polite = Rank(10, preempts=False)
    w.scaler.want(key("polite"), Scaling(1), running=1, proven=True, rank=polite)
    w.cache.put(replica("polite"))
    w.scaler.heard(1, busy("a", "b", "polite"))
    assert w.budget.look() == []


def test_a_cgroups_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    file = tmp_path / "sys/fs/cgroup/memory.max"
    whole = machine_bytes(tmp_path)
    file.write_text("max\n")
    assert machine_bytes(tmp_path) == whole
    file.write_text(f"{512 * MIB}\n")
    assert machine_bytes(tmp_path) == 512 * MIB
