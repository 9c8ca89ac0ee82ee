"""Who may import next, and how many side by side: the rule, and zygotes of real frameworks that keep it."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from backend_harness import until

from penstock.backends.base import Phase
from penstock.backends.local.turns import Rank, Turns
from penstock.backends.local.zygotes import Zygote, ZygoteLost, ZygotePolicy

WAITED, WARM, WANTED = Rank.WAITED_FOR, Rank.KEPT, Rank.WANTED


class Places:
    """Turns, and who has begun, in order."""

    def __init__(self, most: int) -> None:
        self.turns: Turns[str] = Turns(most)
        self.begun: list[str] = []

    def ask(self, who: str, rank: Rank = WANTED) -> None:
        self.turns.ask(who, lambda: self.begun.append(who), rank)


def test_as_many_run_as_there_are_places_and_the_others_in_their_order():
    p = Places(2)
    for who in "abcd":
        p.ask(who)
    assert p.begun == ["a", "b"]
    p.turns.leave("b")
    assert p.begun == ["a", "b", "c"]
    p.turns.leave("b")
    assert p.begun == ["a", "b", "c"], "who has left has no place to give"
    p.turns.leave("a")
    p.turns.leave("c")
    assert p.begun == ["a", "b", "c", "d"]


def test_those_kept_warm_go_before_those_that_nobody_waits_for():
    p = Places(1)
    for who, rank in (("a", WANTED), ("b", WANTED), ("warm", WARM), ("c", WANTED)):
        p.ask(who, rank)
    for who in ("a", "warm", "b", "c"):
        p.turns.leave(who)
    assert p.begun == ["a", "warm", "b", "c"]


def test_who_is_waited_for_needs_no_place_of_the_others():
    p = Places(2)
    for who in "abcdefg":
        p.ask(who)
    p.turns.hurry("f")
    assert p.begun == ["a", "b", "f"]
    p.turns.hurry("e")
    p.turns.hurry("d")
    assert p.begun == ["a", "b", "f", "e"], "their own places are bounded, too"
    p.turns.leave("a")
    assert p.begun == ["a", "b", "f", "e"], "and nobody else gets one while they run"
    p.turns.leave("f")
    assert p.begun == ["a", "b", "f", "e", "d"]
    for who in "bed":
        p.turns.leave(who)
    assert p.begun == ["a", "b", "f", "e", "d", "c", "g"]


def test_one_that_runs_already_and_is_waited_for_makes_room_among_the_others_for_nobody():
    p = Places(1)
    p.ask("a")
    p.ask("b")
    p.turns.hurry("a")
    p.turns.hurry("b")
    p.turns.hurry("nobody")
    assert p.begun == ["a"]
    p.turns.leave("a")
    assert p.begun == ["a", "b"]


def test_who_no_longer_wants_is_passed_over():
    p = Places(1)
    for who in "abc":
        p.ask(who)
    p.turns.leave("b")
    p.turns.leave("a")
    assert p.begun == ["a", "c"]


FRAMEWORKS = ("xgboost", "lightgbm", "onnx", "sklearn")


@pytest.fixture
def events(monkeypatch):
    """`+NAME` when an import begins, `-NAME` when it has ended."""
    found: list[str] = []
    begin, leave = Zygote._start, Turns.leave

    def begun(zygote):
        found.append(f"+{zygote.framework}")
        return begin(zygote)

    def left(turns, zygote):
        if f"-{zygote.framework}" not in found:
            found.append(f"-{zygote.framework}")
        leave(turns, zygote)

    monkeypatch.setattr(Zygote, "_start", begun)
    monkeypatch.setattr(Turns, "leave", left)
    return found


@pytest_asyncio.fixture
async def narrow(make_rig):
    """One import at a time."""
    rig = make_rig()
    rig.zygotes._policy = ZygotePolicy(arguments=("--entry=toy_replica:main",), at_once=1)
    rig.zygotes._turns = Turns(1)
    return rig


@pytest.mark.timeout(240)
async def test_frameworks_in_use_are_imported_in_turns_and_what_is_waited_for_first(narrow, events):
    """As after a restart: replicas of four frameworks are asked for, and a request waits for the last."""
    rig = narrow
    rig.zygotes.warm(("skops",))
    for name in FRAMEWORKS:
        rig.start(name, framework=name)
    await until(lambda: len(rig.zygotes.all()) == 5)
    assert events == ["+skops"]
    rig.replicas.hurry("sklearn")
    rig.replicas.hurry("nobody")
    assert events == ["+skops", "+sklearn"], "it waits for nobody's import"
    await rig.until_phase(Phase.READY, "sklearn")
    assert set(events) <= {"+skops", "-skops", "+sklearn", "-sklearn", "+xgboost"}
    for name in FRAMEWORKS:
        await rig.until_phase(Phase.READY, name)
    others = [e for e in events if e[1:] not in ("skops", "sklearn")]
    assert others == ["+xgboost", "-xgboost", "+lightgbm", "-lightgbm", "+onnx", "-onnx"]


async def test_a_zygote_whose_turn_never_came_is_given_up_with_the_node(narrow):
    """Its replicas are told, and nothing is left that could begin."""
    first, second = narrow.zygotes.get(""), narrow.zygotes.get("custom")
    assert first.pid
    assert not second.pid
    waiting = asyncio.ensure_future(second.wait_ready())
    await asyncio.sleep(0)
    await narrow.zygotes.close()
    with pytest.raises(ZygoteLost, match="not begun"):
        await waiting
    assert not second.pid


async def test_replicas_whose_zygote_waits_for_its_turn_can_be_stopped(narrow):
    narrow.zygotes.get("")
    narrow.start("r1", framework="custom")
    await asyncio.sleep(0)
    await asyncio.wait_for(narrow.replicas.stop("r1"), 30)
    assert narrow.status("r1").phase is Phase.STOPPED


async def test_a_machine_without_a_process_to_spare_is_asked_again(narrow, monkeypatch):
    """Also where the refusal comes long after the zygote was asked for."""
    first = narrow.zygotes.get("")
    narrow.start("r1", framework="custom")
    await asyncio.sleep(0)

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as m:
        m.setattr(narrow.reaper, "spawn", refuse)
        await first.wait_ready()
        status = await narrow.until_status(lambda s: s.reason == "CannotStart", "r1")
        assert "Resource temporarily unavailable" in status.message
    narrow.replicas.retry("r1")
    await narrow.until_phase(Phase.READY, "r1")
