"""What bandits have learned: counted once, kept over a kill, told to every gateway."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from control_fakes import FakeClock
from tests.control.control_world import ControlWorld, sklearn_service

from penstock.control.bandits import BanditKeeper
from penstock.control.clock import Clock
from penstock.control.routes import RoutePublisher
from penstock.domain.bandit import Arm
from penstock.domain.learning import (
    Credit,
    Credited,
    Feedback,
    Learned,
    Outcome,
    Pulls,
    Reward,
    bandit_key,
)
from penstock.domain.routes import Snapshot, ToGateway
from penstock.errors import Unavailable
from penstock.store import learned
from penstock.store.learned import LearnedStore
from penstock.store.sqlite import SqliteStore

KEY = "default/iris@u1"
UIDS = {("default", "iris"): "u1"}
SOON = 1e12


def reward(
    id: int,
    value: float = 1.0,
    *,
    attempt: int | None = None,
    arm: str = "a",
    expires: float = SOON,
) -> Reward:
    return Reward(id, attempt or id * 10, expires, value, (Credit(KEY, arm),))


async def test_a_reward_counts_once_whoever_sends_it_again(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    first = await store.credit([reward(1), reward(2, 0.5), reward(1, attempt=99)], 0)
    assert [o for _, o in first.outcomes] == [Outcome.COUNTED, Outcome.COUNTED, Outcome.DOUBLE]
    again = await store.credit([reward(1), reward(2, attempt=98)], 0)
    assert [o for _, o in again.outcomes] == [Outcome.COUNTED, Outcome.DOUBLE]
    (arm,) = (await store.load()).arms[KEY].values()
    assert (arm.rewards, arm.total, arm.squares) == (2, 1.5, 1.25)
    await store.close()


async def test_what_was_counted_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "learned.db"
    store = await LearnedStore.open(path)
    features = (1.0, 2.0, 1.0)
    await store.credit([Reward(1, 1, SOON, 1.0, (Credit(KEY, "a", features),))], 0)
    await store.pulled("gateway-1", [(KEY, "a", 7)], 0)
    # Another process reads what is on the disk now; the first has not been closed.
    other = await LearnedStore.open(path)
    (arm,) = (await other.load()).arms[KEY].values()
    assert (arm.pulls, arm.rewards) == (7, 1)
    assert arm.response == [1.0, 2.0, 1.0]
    assert arm.products == [1.0, 2.0, 1.0, 4.0, 2.0, 1.0]
    await other.credit([Reward(2, 2, SOON, 0.5, (Credit(KEY, "a", features),))], 0)
    assert (await other.load()).arms[KEY]["a"].response == [1.5, 3.0, 1.5]
    await other.close()
    await store.close()


async def test_pulls_are_sums_that_never_go_back(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    for count in (5, 3, 9, 9):
        await store.pulled("g1", [(KEY, "a", count)], 0)
    await store.pulled("g2", [(KEY, "a", 2)], 0)
    assert (await store.load()).arms[KEY]["a"].pulls == 11
    # Those of gateways that are long gone become one number.
    await store.fold({"g2"}, learned.FOLD_AFTER_S + 1)
    loaded = await store.load()
    assert loaded.arms[KEY]["a"].pulls == 11
    assert loaded.pulls[KEY, "a"] == {"": 9, "g2": 2}
    await store.close()


async def test_an_id_whose_time_is_over_is_late(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    credited = await store.credit([reward(1, expires=100), reward(2, expires=101)], 100)
    assert [o for _, o in credited.outcomes] == [Outcome.LATE, Outcome.COUNTED]
    await store.close()


async def test_ids_are_bounded_and_what_may_be_forgotten_is_late(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db", most_ids=100)
    for first in range(0, 300, 50):
        await store.credit([reward(i + 1, expires=1000 + i) for i in range(first, first + 50)], 0)
    (kept,) = (
        sqlite3.connect(tmp_path / "learned.db").execute("SELECT count(*) FROM ids").fetchone()
    )
    assert kept <= 150
    # The first are forgotten; had they been taken again they would count twice.
    again = await store.credit([reward(i + 1, attempt=7, expires=1000 + i) for i in range(300)], 0)
    assert {o for _, o in again.outcomes} == {Outcome.LATE, Outcome.DOUBLE}
    await store.close()


async def test_a_clock_that_was_ahead_for_a_while_lets_nothing_count_twice(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db", most_ids=5)
    await store.credit([reward(1, expires=100)], 10)
    # A day ahead the time of an id is over, and it is dropped; then the clock is set right.
    await store.credit([reward(i, expires=90_000) for i in range(2, 7)], 86_400)
    again = await store.credit([reward(1, attempt=99, expires=100)], 11)
    assert [o for _, o in again.outcomes] == [Outcome.LATE]
    later = await store.credit([reward(9, expires=101)], 11)
    assert [o for _, o in later.outcomes] == [Outcome.COUNTED]
    await store.close()


async def test_a_damaged_file_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "learned.db"
    path.write_bytes(b"no database at all" * 1000)
    store = await LearnedStore.open(path)
    assert not (await store.load()).arms
    await store.credit([reward(1)], 0)
    await store.close()
    (aside,) = tmp_path.glob("learned.db.damaged-*")
    assert aside.read_bytes().startswith(b"no database")
    assert "learning begins anew" in caplog.text


class Gateway:
    """A gateway's side of the channel."""

    def __init__(self) -> None:
        self.said: list[ToGateway] = []
        self.heard = asyncio.Condition()

    async def connect(self, path: Path) -> Gateway:
        self.reader, self.writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
        self.task = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        decode = msgspec.json.Decoder(ToGateway).decode
        while line := await self.reader.readline():
            self.said.append(decode(line))
            async with self.heard:
                self.heard.notify_all()

    def say(self, message: Any) -> None:
        self.writer.write(msgspec.json.encode(message) + b"\n")

    async def until(self, look: Any) -> Any:
        async def found() -> Any:
            async with self.heard:
                await self.heard.wait_for(lambda: any(look(m) for m in self.said))
            return next(m for m in self.said if look(m))

        return await asyncio.wait_for(found(), 30)

    async def close(self) -> None:
        self.writer.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class World:
    """A keeper behind a publisher, as the control plane has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed: list[tuple[str, str]] = []

    async def start(self) -> World:
        store = await LearnedStore.open(self.folder / "learned.db")
        self.publisher = RoutePublisher(
            file=self.folder / "routes.json",
            on_feedback=lambda *f: self.keeper.rewarded(*f),
            on_pulls=lambda p: self.keeper.pulled(p),
            learned=lambda: self.keeper.all(),
        )
        self.keeper = BanditKeeper(
            store,
            say=self.publisher.say,
            clock=Clock(),
            uid_of=UIDS.get,
            on_change=self.changed.append,
        )
        await self.keeper.load()
        await self.publisher.serve(self.folder / "routes.sock")
        return self

    async def gateway(self) -> Gateway:
        return await Gateway().connect(self.folder / "routes.sock")

    async def close(self) -> None:
        await self.publisher.close()
        await self.keeper.close()


async def test_who_sent_rewards_is_answered_and_everybody_learns(tmp_path: Path) -> None:
    world = await World(tmp_path).start()
    one, other = await world.gateway(), await world.gateway()
    await one.until(lambda m: isinstance(m, Snapshot))
    await other.until(lambda m: isinstance(m, Snapshot))
    one.say(Feedback((reward(1, 1.0), reward(2, 0.0, arm="b"))))
    credited = await one.until(lambda m: isinstance(m, Credited))
    assert dict(credited.outcomes) == {10: Outcome.COUNTED, 20: Outcome.COUNTED}
    # It has learned before it answers its clients.
    assert isinstance(one.said[one.said.index(credited) - 1], Learned)
    told = await other.until(lambda m: isinstance(m, Learned))
    assert {a.name: (a.rewards, a.total) for a in told.arms} == {"a": (1, 1.0), "b": (1, 0.0)}
    # Sent again, because the answer may have been lost: the same answer, and nothing counted.
    other.say(Feedback((reward(1, 1.0), reward(2, 1.0, attempt=3))))
    credited = await other.until(lambda m: isinstance(m, Credited))
    assert dict(credited.outcomes) == {10: Outcome.COUNTED, 3: Outcome.DOUBLE}
    assert {a.name: a.rewards for a in world.keeper.of("default", "iris", "u1")[""]} == {
        "a": 1,
        "b": 1,
    }
    await one.close()
    await other.close()
    await world.close()


async def test_a_control_plane_that_comes_back_knows_and_tells(tmp_path: Path) -> None:
    world = await World(tmp_path).start()
    gateway = await world.gateway()
    gateway.say(Pulls("g1", ((KEY, "a", 4),)))
    gateway.say(Feedback((reward(1),)))
    await gateway.until(lambda m: isinstance(m, Credited))
    await gateway.close()
    await world.close()

    world = await World(tmp_path).start()
    gateway = await world.gateway()
    snapshot = await gateway.until(lambda m: isinstance(m, Snapshot))
    (told,) = snapshot.learned
    assert (told.key, told.arms[0].rewards, told.arms[0].pulls) == (KEY, 1, 4)
    # The same gateway goes on counting where it was.
    gateway.say(Pulls("g1", ((KEY, "a", 6),)))
    gateway.say(Feedback((reward(2),)))
    await gateway.until(lambda m: isinstance(m, Credited))
    assert world.keeper.of("default", "iris", "u1")[""][0].pulls == 6
    kept = (
        json.loads((tmp_path / "routes.json").read_text())
        if (tmp_path / "routes.json").exists()
        else {}
    )
    assert kept.get("learned", []) == [] or kept["learned"][0]["key"] == KEY
    await gateway.close()
    await world.close()


async def test_what_was_learned_goes_with_its_service(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    await store.credit([reward(1)], 0)
    await store.pulled("g1", [(KEY, "a", 1)], 0)
    await store.close()
    for uids in ({}, {("default", "iris"): "u2"}):
        store = await LearnedStore.open(tmp_path / "learned.db")
        keeper = BanditKeeper(store, say=lambda *said: None, clock=Clock(), uid_of=uids.get)
        await keeper.load()
        assert keeper.all() == ()
        await keeper.close()
    store = await LearnedStore.open(tmp_path / "learned.db")
    keeper = BanditKeeper(store, say=lambda *said: None, clock=Clock(), uid_of=UIDS.get)
    await keeper.load()
    assert keeper.all() == (), "it was dropped from the file, too"
    await keeper.close()


async def test_a_manifest_that_lost_its_name_takes_nothing_of_what_was_learned() -> None:
    store = await SqliteStore.in_memory()
    older = await store.create(sklearn_service())
    await store.create({**sklearn_service(), "apiVersion": "serving.kserve.io/v1beta1"})
    learned = await LearnedStore.in_memory()
    key = bandit_key("default", "iris", older["metadata"]["uid"])
    await learned.pulled("g1", [(key, "a", 1)], 0)
    world = ControlWorld(store, learned=learned)
    await world.plane.start()
    assert [m.key for m in world.plane.bandits.all()] == [key]
    await world.plane.close()
    await store.close()


async def test_a_full_disk_is_said_and_nothing_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World(tmp_path).start()
    gateway = await world.gateway()

    async def full(*args: Any) -> Any:
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(world.keeper._store, "credit", full)
    gateway.say(Feedback((reward(1),)))
    credited = await gateway.until(lambda m: isinstance(m, Credited))
    assert credited.outcomes == ((10, Outcome.FAILED),)
    monkeypatch.undo()
    gateway.say(Feedback((reward(1),)))
    counted = await gateway.until(lambda m: isinstance(m, Credited) and m is not credited)
    assert counted.outcomes == ((10, Outcome.COUNTED),)
    await gateway.close()
    await world.close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"feedback"}',
        b'{"type":"feedback","rewards":[[1]]}',
        b'{"type":"feedback","rewards":[["x",1,1,1,[]]]}',
        b'{"type":"pulls","epoch":1}',
        b'{"type":"pulls"}',
    ],
)
async def test_nonsense_about_bandits_is_ignored(tmp_path: Path, line: bytes) -> None:
    world = await World(tmp_path).start()
    gateway = await world.gateway()
    gateway.writer.write(line + b"\n")
    gateway.say(Feedback((reward(1),)))
    await gateway.until(lambda m: isinstance(m, Credited))
    await gateway.close()
    await world.close()


def test_arms_of_two_processes_add_up() -> None:
    """Sums in any order are the same."""
    one, two, both = Arm("a"), Arm("a"), Arm("a")
    for i in range(20):
        arm = one if i % 3 else two
        x = (float(i), 1.0)
        arm.credit(i / 20, x)
        both.credit(i / 20, x)
    one.add(two)
    assert one.rewards == both.rewards
    assert one.total == pytest.approx(both.total)
    assert one.products == pytest.approx(both.products)
    assert one.response == pytest.approx(both.response)


async def test_arms_that_are_no_more_are_forgotten(tmp_path: Path) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    keeper = BanditKeeper(store, say=lambda *said: None, clock=Clock(), uid_of=UIDS.get)
    await keeper.load()
    keeper.pulled(Pulls("g1", ((KEY, "a", 3), (KEY, "b", 2), (f"{KEY}#root.which", "left", 1))))
    told = keeper.status("default", "iris", "u1", {"": {"b", "c"}, "root.which": ("left",)})
    assert [(t.step, t.arm, t.requests) for t in told] == [("", "b", 2), ("root.which", "left", 1)]
    keeper.pulled(Pulls("g1", ((KEY, "b", 4),)))
    await keeper.close()
    store = await LearnedStore.open(tmp_path / "learned.db")
    keeper = BanditKeeper(store, say=lambda *said: None, clock=Clock(), uid_of=UIDS.get)
    await keeper.load()
    assert [a.name for a in keeper.of("default", "iris", "u1")[""]] == ["b"]
    await keeper.close()


@pytest.mark.parametrize("uid", [None, "u2"], ids=["deleted", "replaced by another of its name"])
async def test_what_was_on_its_way_when_its_service_went_is_forgotten(
    tmp_path: Path, uid: str | None
) -> None:
    store = await LearnedStore.open(tmp_path / "learned.db")
    clock = FakeClock()
    there: dict[tuple[str, str], str | None] = {("default", "iris"): "u1"}
    keeper = BanditKeeper(store, say=lambda *said: None, clock=clock, uid_of=there.get)
    await keeper.load()
    running = asyncio.create_task(keeper.run())
    keeper.pulled(Pulls("g1", ((KEY, "a", 3),)))
    await clock.advance(30)
    assert [m.key for m in keeper.all()] == [KEY], "what is there stays"
    there["default", "iris"] = uid
    await keeper.forget("default", "iris")
    keeper.pulled(Pulls("g1", ((KEY, "a", 5),)))
    await keeper._credit(1, Feedback((reward(1),)))
    assert [m.key for m in keeper.all()] == [KEY]
    async with asyncio.timeout(20):
        while keeper.all():
            await clock.advance(2)
            await asyncio.sleep(0.001)  # the store answers from a thread
    running.cancel()
    await keeper.close()
    store = await LearnedStore.open(tmp_path / "learned.db")
    assert not (await store.load()).arms
    await store.close()
