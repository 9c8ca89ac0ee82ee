"""A service that waits for a device, and those that have it: the controllers over a backend with devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.control.control_fakes import FakeBackend
from tests.control.control_world import ControlWorld

from penstock.backends.base import WAITING_FOR_TURN, Phase, ReplicaStatus
from penstock.control.replicas import RESYNC_S
from penstock.control.settings import ControlSettings
from penstock.domain.devices import Device, DeviceStatus, place, why_not
from penstock.domain.process import ProcessSpec
from penstock.domain.routes import Load, ServiceLoad
from penstock.errors import Conflict
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore

ISVC = Kind("penstock.dev", "InferenceService")
GIB = 2**30


class DeviceBackend(FakeBackend):
    """Replicas in memory that need devices, given as the node gives them."""

    def __init__(self, *devices: Device) -> None:
        super().__init__(lambda replica_id, spec: Phase.STARTING)
        self.have = devices

    async def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        await super().start(replica_id, framework, spec)
        self.replicas[replica_id] = replace(
            self.replicas[replica_id], device=spec.device, phase=Phase.WAITING
        )
        self.serve()
        return self.replicas[replica_id]

    def remove(self, replica_id: str) -> None:
        super().remove(replica_id)
        self.serve()

    def serve(self) -> None:
        waiting = [r for r in self.replicas.values() if r.phase is Phase.WAITING]
        for r in sorted(waiting, key=lambda r: -self.specs[r.id].priority):
            held = {x.id: x.devices for x in self.replicas.values()}
            request = self.specs[r.id].device
            shares = (
                place(self.have, [s for x in held.values() for s in x], request) if request else ()
            )
            if shares is not None:
                self.set(r.id, Phase.READY, devices=shares, reason="", message="")
            elif request is not None:
                why = why_not(self.have, held, request)
                self.set(r.id, Phase.WAITING, reason="WaitingForDevice", message=why)

    async def devices(self) -> tuple[DeviceStatus, ...]:
        return tuple(DeviceStatus(d, {}) for d in self.have)


class World(ControlWorld):
    backend: DeviceBackend

    def __init__(self, store: SqliteStore, *devices: Device) -> None:
        super().__init__(
            store,
            DeviceBackend(*devices),
            ControlSettings(cores=4, routes_applied_s=0.0, ready_applied_s=0.0),
        )

    async def ask(self, name: str, gpu: float = 1, **predictor: Any) -> None:
        resources = {"limits": {"nvidia.com/gpu": gpu}}
        await self.store.create(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "predictor": {
                        "pytorch": {"storageUri": "models/x", "resources": resources},
                        **predictor,
                    }
                },
            }
        )

    async def change(self, name: str, **predictor: Any) -> None:
        """Ask for another revision."""
        key = Key(ISVC, "default", name)
        while True:
            obj = await self.store.get(key)
            block = {**obj["spec"]["predictor"]["pytorch"], "env": [{"name": "A", "value": "b"}]}
            spec = {"predictor": {**obj["spec"]["predictor"], "pytorch": block, **predictor}}
            try:
                await self.store.update({**obj, "spec": spec})
            except Conflict:
                continue
            return

    async def reprioritize(self, name: str, priority: int) -> None:
        """Only that; it makes no revision."""
        while True:
            obj = await self.store.get(Key(ISVC, "default", name))
            spec = {"predictor": {**obj["spec"]["predictor"], "priority": priority}}
            try:
                await self.store.update({**obj, "spec": spec})
            except Conflict:
                continue
            return

    async def condition(self, name: str, status: str, reason: str = "") -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            obj = await self.store.get(Key(ISVC, "default", name))
            shown: list[dict[str, Any]] = obj.get("status", {}).get("conditions", [])
            c = next((c for c in shown if c["type"] == "Ready"), None)
            ok = c and c["status"] == status and c.get("reason", "") == reason
            return c if ok else None

        found: dict[str, Any] = await self.until(look)
        return found

    async def events(self, name: str) -> list[str]:
        key = Key(ISVC, "default", name)
        found = await self.store.events(namespace=key.namespace)
        return [
            f"{e['reason']}: {e['message']}" for e in found if e["involvedObject"]["name"] == name
        ]

    def held(self) -> dict[str, list[int]]:
        """Devices by service."""
        found: dict[str, list[int]] = {}
        for r in self.backend.replicas.values():
            for share in r.devices:
                found.setdefault(r.service, []).append(share.index)
        return found


@pytest.fixture
async def start(tmp_path: Any) -> AsyncIterator[Callable[..., Any]]:
    store = await SqliteStore.open(tmp_path / "store.db")
    worlds: list[World] = []

    async def begin(count: int = 1) -> World:
        world = World(
            store, *(Device(i, f"GPU-{i}", "T4", memory_bytes=16 * GIB) for i in range(count))
        )
        worlds.append(world)
        await world.plane.start()
        return world

    yield begin
    for world in worlds:
        await world.plane.close()
    await store.close()


async def test_a_service_without_a_device_says_what_it_asks_for_and_who_has_it(start: Any) -> None:
    w = await start()
    await w.ask("first")
    await w.condition("first", "True")
    await w.ask("second")
    c = await w.condition("second", "False", "WaitingForDevice")
    assert "second-00001 waits for a device" in c["message"]
    assert "It asks for 1 nvidia.com/gpu" in c["message"]
    assert "first-00001-0" in c["message"]
    await w.store.delete(Key(ISVC, "default", "first"))
    await w.condition("second", "True")
    assert w.held() == {"second": [0]}


async def test_on_a_machine_without_devices_it_waits_and_never_runs(start: Any) -> None:
    w = await start(0)
    await w.ask("lonely")
    c = await w.condition("lonely", "False", "WaitingForDevice")
    assert "this machine has no accelerator" in c["message"]
    assert any(e.startswith("WaitingForDevice") for e in await w.events("lonely"))


async def test_a_priority_that_is_changed_while_it_waits_counts(start: Any) -> None:
    """The one that waited second is given the device, though it was started with the lower priority."""
    w = await start()
    await w.ask("has")
    await w.condition("has", "True")
    await w.ask("early", priority=5)
    await w.condition("early", "False", "WaitingForDevice")
    await w.ask("late", priority=1)
    await w.condition("late", "False", "WaitingForDevice")
    await w.reprioritize("late", 9)
    await w.until(
        lambda: [
            r
            for r in w.backend.replicas.values()
            if r.service == "late" and r.phase is Phase.WAITING and r.priority == 9
        ]
    )
    assert not w.held().keys() & {"early", "late"}
    await w.store.delete(Key(ISVC, "default", "has"))
    await w.condition("late", "True")
    assert w.held() == {"late": [0]}


async def test_metrics_say_who_holds_what(start: Any) -> None:
    w = await start()
    await w.ask("a", 0.25)
    await w.condition("a", "True")
    text = (await w.plane.metrics.text()).decode()
    (line,) = [x for x in text.splitlines() if x.startswith("penstock_replica_device_share{")]
    assert all(x in line for x in ('device="0"', 'resource="nvidia.com/gpu"', 'service="a"'))
    assert line.endswith(" 0.25")


async def test_a_transformer_without_a_priority_has_its_predictors(start: Any) -> None:
    w = await start()
    for name, own in (("own", {"priority": 3}), ("shared", {})):
        await w.store.create(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "predictor": {"pytorch": {"storageUri": "x"}, "priority": 7},
                    "transformer": {"python": {"storageUri": "y"}, **own},
                },
            }
        )
        await w.condition(name, "True")
    assert w.plane.scaler.rank(("default", "shared/transformer")).value == 7
    assert w.plane.scaler.rank(("default", "own/transformer")).value == 3
    priorities = {w.backend.specs[r.id].priority for r in w.backend.replicas.values()}
    assert priorities == {3, 7}


async def test_halves_share_a_device(start: Any) -> None:
    w = await start()
    await w.ask("a", 0.5)
    await w.ask("b", 0.5)
    await w.condition("a", "True")
    await w.condition("b", "True")
    assert w.held() == {"a": [0], "b": [0]}


async def test_a_higher_priority_gets_the_device_of_one_that_may_do_without(start: Any) -> None:
    w = await start()
    await w.ask("low", minReplicas=0)
    await w.condition("low", "True")
    await w.ask("high", priority=100)
    await w.condition("high", "True")
    assert w.held() == {"high": [0]}
    assert any(
        "PutToSleep: default/high has a higher priority (100)" in e for e in await w.events("low")
    )
    await w.condition("low", "True", "Asleep")


async def test_one_that_is_at_its_minimum_keeps_its_device_whoever_asks(start: Any) -> None:
    w = await start()
    await w.ask("low", minReplicas=1)
    await w.condition("low", "True")
    await w.ask("high", priority=100)
    await w.condition("high", "False", "WaitingForDevice")
    assert await w.plane.placing.look() == {}
    assert w.held() == {"low": [0]}


@pytest.mark.parametrize(
    "fields", [{"priority": 5}, {"priority": 100, "preemptionPolicy": "Never"}]
)
async def test_an_equal_and_a_polite_one_wait(start: Any, fields: dict[str, Any]) -> None:
    w = await start()
    await w.ask("first", minReplicas=0, priority=5)
    await w.condition("first", "True")
    await w.ask("second", **fields)
    await w.condition("second", "False", "WaitingForDevice")
    assert await w.plane.placing.look() == {}
    assert w.held() == {"first": [0]}


async def test_of_two_the_least_recently_used_gives_way_and_only_that_one(start: Any) -> None:
    w = await start(2)
    for name in ("a", "b"):
        await w.ask(name, minReplicas=0)
        await w.condition(name, "True")
    await w.clock.advance(10.0)
    w.plane.scaler.heard(1, Load(1.0, (ServiceLoad("default/a", 0.1, 1),)))
    await w.ask("high", priority=1)
    await w.condition("high", "True")
    assert sorted(w.held()) == ["a", "high"]


async def test_nothing_is_taken_twice_while_the_first_is_being_drained(start: Any) -> None:
    w = await start(2)
    for name in ("a", "b"):
        await w.ask(name, minReplicas=0)
        await w.condition(name, "True")
    w.backend.slow_stop = True
    await w.ask("high", priority=1)
    await w.condition("high", "False", "WaitingForDevice")
    draining = await w.until(
        lambda: [r for r in w.backend.replicas.values() if r.phase is Phase.DRAINING]
    )
    assert await w.plane.placing.look() == {}
    assert len(draining) == 1
    w.backend.remove(draining[0].id)
    await w.condition("high", "True")
    assert len(w.held()) == 2


async def test_a_class_gives_its_priority_and_one_that_does_not_exist_is_said(start: Any) -> None:
    w = await start()
    await w.ask("low", minReplicas=0)
    await w.condition("low", "True")
    await w.ask("high", priorityClassName="serving")
    await w.condition("high", "False", "WaitingForDevice")
    assert any("no PriorityClass serving" in e for e in await w.events("high"))
    await w.store.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "serving"},
            "value": 1000,
        }
    )
    await w.condition("high", "True")
    assert w.held() == {"high": [0]}


async def test_what_was_just_taken_is_not_taken_again_before_anybody_could_act(start: Any) -> None:
    w = await start(2)
    for name in ("a", "b"):
        await w.ask(name, minReplicas=0)
        await w.condition(name, "True")
    await w.ask("high", priority=1)
    await w.condition("high", "False", "WaitingForDevice")
    assert await w.plane.placing.look() == {("default", "a"): 1}
    assert await w.plane.placing.look() == {}, "its replica was not told to drain yet"


async def test_a_device_that_a_deleted_service_is_about_to_free_is_waited_for(start: Any) -> None:
    w = await start(2)
    for name in ("a", "b"):
        await w.ask(name, minReplicas=0)
        await w.condition(name, "True")
    w.backend.slow_stop = True
    await w.store.delete(Key(ISVC, "default", "a"))
    await w.until(lambda: any(r.phase is Phase.DRAINING for r in w.backend.replicas.values()))
    await w.ask("high", priority=1)
    await w.condition("high", "False", "WaitingForDevice")
    assert await w.plane.placing.look() == {}
    assert "b" in w.held()


async def test_a_change_waits_for_the_device_that_its_own_old_revision_has(start: Any) -> None:
    w = await start()
    await w.ask("only")
    await w.condition("only", "True")
    await w.change("only")
    c = await w.condition("only", "False", "WaitingForDevice")
    assert "only-00001 keeps serving" in c["message"]
    assert {r.revision for r in w.backend.replicas.values() if r.devices} == {"only-00001"}


async def test_with_recreate_the_old_revision_gives_its_device_to_the_new_one(start: Any) -> None:
    w = await start()
    await w.ask("only", deploymentStrategy={"type": "Recreate"})
    await w.condition("only", "True")
    await w.change("only")
    await w.until(
        lambda: {r.revision for r in w.backend.replicas.values() if r.devices} == {"only-00002"}
    )
    await w.condition("only", "True")


async def test_the_answer_to_a_start_is_no_news_beside_what_the_watch_said(start: Any) -> None:
    """It was written before: taken for news, it would hide for half a minute that the replica waits."""
    w = await start(0)
    begin = w.backend.start

    async def late(replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        status: ReplicaStatus = await begin(replica_id, framework, spec)
        while w.plane.replicas.get(replica_id) is None:
            await asyncio.sleep(0)
        return replace(status, phase=Phase.STARTING, reason="", message="")

    w.backend.start = late
    await w.ask("lonely")
    await w.condition("lonely", "False", "WaitingForDevice")
    (known,) = w.plane.replicas.all()
    assert known.phase is Phase.WAITING
    assert w.clock.monotonic() < RESYNC_S


async def test_one_that_waits_for_its_turn_to_load_takes_nobodys_device(start: Any) -> None:
    """It has its own already, whatever its priority is."""
    w = await start(2)
    await w.ask("low", minReplicas=0)
    await w.condition("low", "True")
    await w.ask("high", priority=100)
    await w.condition("high", "True")
    (high,) = (i for i, r in w.backend.replicas.items() if r.service == "high")
    w.backend.set(high, Phase.WAITING, reason=WAITING_FOR_TURN, message="Others load first.")
    await w.until(lambda: w.plane.replicas.get(high).phase is Phase.WAITING)
    assert await w.plane.placing.look() == {}
    await w.plane.loop.settled()
    found = await w.store.get(Key(ISVC, "default", "high"))
    ready = next(c for c in found["status"]["conditions"] if c["type"] == "Ready")
    assert "device" not in ready["message"]
