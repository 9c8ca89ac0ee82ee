"""The loop: one look at a time per key, coalescing, retries, deadlines."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from control_fakes import FakeClock

from penstock.control.loop import NEW_EVERY, SWEEP_EVERY, Backoff, Loop
from penstock.errors import Conflict, Unavailable


async def test_a_burst_about_one_key_is_one_look() -> None:
    looks: list[str] = []

    async def look(key: str) -> None:
        looks.append(key)

    loop = Loop(look)
    for _ in range(100):
        loop.enqueue("a")
    await loop.settled()
    assert looks == ["a"]


async def test_a_key_enqueued_while_it_runs_is_looked_at_once_more() -> None:
    started = asyncio.Event()
    release = asyncio.Event()
    looks = 0

    async def look(key: str) -> None:
        nonlocal looks
        looks += 1
        started.set()
        await release.wait()

    loop = Loop(look)
    loop.enqueue("a")
    await started.wait()
    for _ in range(5):
        loop.enqueue("a")
    assert looks == 1
    release.set()
    await loop.settled()
    assert looks == 2


async def test_one_key_is_never_looked_at_twice_at_a_time_and_keys_run_side_by_side() -> None:
    running: Counter[str] = Counter()
    together = 0

    async def look(key: str) -> None:
        nonlocal together
        running[key] += 1
        assert running[key] == 1
        together = max(together, sum(running.values()))
        for _ in range(3):
            await asyncio.sleep(0)
        running[key] -= 1

    loop = Loop(look, concurrency=4)
    for round_ in range(20):
        for key in "abcdefgh":
            loop.enqueue(key)
        if round_ % 3 == 0:
            await asyncio.sleep(0)
    await loop.settled()
    assert together == 4


async def test_a_failed_look_is_repeated_with_growing_delays_and_forgiven_after_success(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    at: list[float] = []
    fail = True

    async def look(key: str) -> None:
        at.append(clock.monotonic())
        if fail:
            raise Unavailable("away")

    loop = Loop(look, clock=clock, backoff=Backoff(1.0, 8.0))
    loop.enqueue("a")
    for _ in range(40):
        await loop.settled()
        await clock.advance(0.5)
    assert [b - a for a, b in pairwise(at)] == [1.0, 2.0, 4.0, 8.0]
    assert sum("away" in r.message for r in caplog.records) == 1  # said once, not at each try
    fail = False
    await clock.advance(8.0)
    await loop.settled()
    fail = True
    loop.enqueue("a")
    await loop.settled()
    before = len(at)
    await clock.advance(1.0)
    await loop.settled()
    assert len(at) == before + 1


async def test_a_lost_compare_and_swap_is_no_failure() -> None:
    clock = FakeClock()
    tries = 0

    async def look(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Conflict("somebody else wrote first")

    loop = Loop(look, clock=clock)
    loop.enqueue("a")
    await loop.settled()
    await clock.advance(1.0)
    await loop.settled()
    assert tries == 2
    assert loop.failed == 0


async def test_a_look_that_hangs_ends_at_its_deadline_and_holds_up_no_other_key() -> None:
    done = []

    async def look(key: str) -> None:
        if key == "hangs" and not done:
            done.append("tried")
            await asyncio.Event().wait()
        done.append(key)

    loop = Loop(look, concurrency=2, deadline_s=0.05, backoff=Backoff(0.0, 0.0))
    loop.enqueue("hangs")
    loop.enqueue("b")
    while "hangs" not in done:
        await asyncio.sleep(0.01)
    assert done == ["tried", "b", "hangs"]
    await loop.close()


async def test_a_timer_is_overtaken_by_a_reason_and_the_sooner_timer_wins() -> None:
    clock = FakeClock()
    at: list[float] = []

    async def look(key: str) -> float | None:
        at.append(clock.monotonic())
        return 10.0 if len(at) == 1 else None

    loop = Loop(look, clock=clock)
    loop.enqueue("a")
    await loop.settled()
    loop.enqueue_after("a", 50.0)  # later than the 10 s the look asked for
    await clock.advance(9.0)
    assert at == [0.0]
    await clock.advance(1.0)
    await loop.settled()
    assert at == [0.0, 10.0]
    loop.enqueue_after("a", 5.0)
    loop.enqueue("a")
    await loop.settled()
    await clock.advance(60.0)
    assert at == [0.0, 10.0, 10.0]


async def test_close_cancels_what_runs_and_forgets_what_waits() -> None:
    cancelled = asyncio.Event()

    async def look(key: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    loop = Loop(look, concurrency=1)
    loop.enqueue("a")
    loop.enqueue("b")
    await asyncio.sleep(0)
    await loop.close()
    assert cancelled.is_set()
    loop.enqueue("c")
    assert loop.depth == 0


async def test_a_key_that_somebody_waits_for_goes_before_the_others() -> None:
    """Once, also when it was waiting already, and without waiting for a slot; the others keep their order."""
    looks: list[int] = []
    begin = asyncio.Event()

    async def look(key: int) -> None:
        await begin.wait()
        looks.append(key)

    loop = Loop(look, concurrency=1)
    for key in range(6):
        loop.enqueue(key)
    loop.hurry(4)
    loop.hurry(4)
    loop.hurry(9)
    assert loop.depth == 4
    begin.set()
    await loop.settled()
    assert looks == [0, 4, 9, 1, 2, 3, 5]
    loop.enqueue(4)
    await loop.settled()
    assert looks[7:] == [4]


async def test_a_key_that_is_hurried_while_it_runs_is_looked_at_again_before_the_others() -> None:
    """A replica that was waited for reports in the middle of a look: what is next is to say so."""
    looks: list[int] = []
    steps: asyncio.Queue[None] = asyncio.Queue()

    async def look(key: int) -> None:
        looks.append(key)
        await steps.get()

    loop = Loop(look, concurrency=1)
    for key in range(4):
        loop.enqueue(key)
    await asyncio.sleep(0)
    loop.hurry(0)
    loop.enqueue(0)
    for _ in range(5):
        steps.put_nowait(None)
    await loop.settled()
    assert looks == [0, 0, 1, 2, 3]


async def test_a_sweep_goes_behind_news_and_alone_beside_those_who_hurry() -> None:
    looks: list[object] = []
    open_: dict[object, asyncio.Event] = defaultdict(asyncio.Event)

    async def look(key: object) -> None:
        looks.append(key)
        await open_[key].wait()

    loop: Loop[object] = Loop(look, concurrency=8)
    loop.sweep(range(10))
    await asyncio.sleep(0)
    assert looks == [0, 1, 2, 3], "few at a time"
    loop.hurry("hurried")
    await asyncio.sleep(0)
    assert looks[4:] == ["hurried"]
    for key in range(3):
        open_[key].set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert looks[5:] == [], "one of the sweep runs, and that is enough while somebody waits"
    open_[3].set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert looks[5:] == [4], "but it goes on"
    loop.enqueue(8)
    loop.enqueue("news")
    await asyncio.sleep(0)
    assert looks[6:] == [8, "news"], "what something happened to is of the sweep no more"
    for key in (*range(10), "hurried", "news"):
        open_[key].set()
    await loop.settled()
    assert looks[8:] == [5, 6, 7, 9], "each once"


async def test_a_sweep_goes_on_under_a_stream_of_news() -> None:
    looks: list[int] = []

    async def look(key: int) -> None:
        looks.append(key)
        if key < 0 and len(looks) < 1000:
            loop.enqueue(key)  # there is always something

    loop = Loop(look, concurrency=1)
    loop.enqueue(-1)
    loop.sweep(range(20))
    async with asyncio.timeout(20):
        await loop.settled()
    swept = [at for at, key in enumerate(looks) if key >= 0]
    assert len(swept) == 20
    assert all(b - a <= SWEEP_EVERY + 1 for a, b in pairwise(swept))
    assert swept[-1] < 1000


async def test_what_is_new_goes_behind_what_is_known_and_before_a_sweep() -> None:
    looks: list[str] = []

    async def look(key: str) -> None:
        looks.append(key)

    loop = Loop(look, concurrency=1)
    with_slot = ["first"]
    loop.enqueue("first")
    for key in ("new1", "new2", "moved"):
        loop.begin(key)
    loop.sweep(("swept", "new1"))
    for key in ("known1", "known2", "moved"):
        loop.enqueue(key)
    loop.begin("known1")
    loop.hurry("hurried")
    await loop.settled()
    assert looks == [*with_slot, "hurried", "known1", "known2", "moved", "new1", "new2", "swept"]


async def test_what_is_new_goes_on_under_a_stream_of_news() -> None:
    """So does a sweep behind it: thousands of manifests do not hold it up."""
    looks: list[int] = []

    async def look(key: int) -> None:
        looks.append(key)
        if key < 0 and len(looks) < 2000:
            loop.enqueue(key)  # there is always something

    loop = Loop(look, concurrency=1)
    loop.enqueue(-1)
    for key in range(100):
        loop.begin(key)
    loop.sweep(range(100, 140))
    async with asyncio.timeout(20):
        await loop.settled()
    new = [at for at, key in enumerate(looks) if 0 <= key < 100]
    swept = [at for at, key in enumerate(looks) if key >= 100]
    assert len(new) == 100
    assert len(swept) == 40
    assert all(b - a <= NEW_EVERY + 1 for a, b in pairwise(new))
    assert all(b - a <= SWEEP_EVERY + 2 for a, b in pairwise(swept))
    assert swept[0] < new[-1] < 2000


async def test_few_looks_run_while_somebody_waits_for_an_answer() -> None:
    """And all that can, at once, when the last answer was given."""
    running = 0
    most = 0
    release = asyncio.Event()

    async def look(key: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    loop = Loop(look, concurrency=8)
    with loop.giving_way():
        with loop.giving_way():
            for key in range(20):
                loop.enqueue(key)
            await asyncio.sleep(0)
            assert running == 2
        await asyncio.sleep(0)
        assert running == 2
        loop.hurry(99)
        await asyncio.sleep(0)
        assert running == 3
    await asyncio.sleep(0)
    assert running == 8
    release.set()
    await loop.settled()
    assert most == 8
