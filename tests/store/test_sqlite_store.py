"""What the SQLite store does beyond the contract: bounds, speed of many, two owners, closed stores."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from store_contract import SERVICE, key, names, service, take

from penstock.errors import Conflict, NotFound, Unavailable
from penstock.store import sqlite_events, sqlite_file
from penstock.store.base import Expired
from penstock.store.sqlite import SqliteStore


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "data" / "store.db"
    store = await SqliteStore.open(path)
    made = await store.create(service())
    with_status = await store.update_status({**made, "status": {"ready": True}})
    await store.record_event(key(), type_="Normal", reason="R", message="m")
    await store.close()

    store = await SqliteStore.open(path)
    assert await store.get(key()) == with_status
    assert [e["reason"] for e in await store.events()] == ["R"]
    after = await store.create(service("next"))
    assert (
        int(after["metadata"]["resourceVersion"])
        == int(with_status["metadata"]["resourceVersion"]) + 1
    )
    watch = store.watch(SERVICE, since=int(made["metadata"]["resourceVersion"]))
    assert [c.key.name for c in await take(watch, 2)] == ["iris", "next"]
    await watch.aclose()  # type: ignore[attr-defined]
    await store.close()


async def test_versions_go_on_after_everything_was_deleted(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.create(service())
    gone = await store.delete(key())
    await store.close()
    store = await SqliteStore.open(tmp_path / "store.db")
    new = await store.create(service())
    assert int(new["metadata"]["resourceVersion"]) > int(gone["metadata"]["resourceVersion"])
    await store.close()


async def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.create(service())
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    await store.close()


async def test_the_change_log_is_bounded_and_what_is_gone_has_expired(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", keep_changes=300, ring=10)
    paged = None
    for batch in range(5):
        await asyncio.gather(*(store.create(service(f"s{batch}-{i:03}")) for i in range(200)))
        if batch == 0:
            paged = await store.list(SERVICE, limit=5)
    assert paged is not None
    with pytest.raises(Expired):
        await take(store.watch(SERVICE, since=1), 1)
    with pytest.raises(Expired):
        await store.list(SERVICE, limit=5, continue_=paged.continue_)
    watch = store.watch(SERVICE, since=store.version - 300)
    assert len(await take(watch, 300)) == 300
    await watch.aclose()  # type: ignore[attr-defined]
    rows = await store._read(lambda db: db.execute("SELECT count(*) FROM changes").fetchone()[0])
    assert 300 <= rows < 300 + 256
    await store.close()


async def test_a_watch_that_falls_out_of_the_log_has_expired(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", keep_changes=10, ring=10)
    await store.create(service("first"))
    watch = store.watch(SERVICE)
    await take(watch, 1)
    await asyncio.gather(*(store.create(service(f"s{i:03}")) for i in range(600)))
    with pytest.raises(Expired):
        await take(watch, 600)
    await store.close()


async def test_all_events_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_events, "KEEP", 50)
    store = await SqliteStore.open(tmp_path / "store.db")
    await asyncio.gather(
        *(
            store.record_event(key(f"s{i:03}"), type_="Normal", reason="R", message="m")
            for i in range(512)
        )
    )
    assert len(await store.events()) == 50
    await store.close()


async def test_ten_thousand_objects_are_applied_and_listed_at_once(tmp_path: Path) -> None:
    """Concurrent writes share a commit: far fewer transactions than writes."""
    store = await SqliteStore.open(tmp_path / "store.db")
    statements: list[str] = []
    await store._writer.submit(lambda db: db.set_trace_callback(statements.append))
    await asyncio.gather(*(store.create(service(f"s{i:05}")) for i in range(10_000)))
    await store._writer.submit(lambda db: db.set_trace_callback(None))
    assert statements.count("COMMIT") <= 200
    listing = await store.list(SERVICE)
    assert len(listing.items) == 10_000
    assert names(listing.items[:2]) == ["s00000", "s00001"]
    await store.close()


async def test_the_loop_runs_on_while_the_disk_is_slow(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    entered, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(db: object) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait(10)

    slow_write = asyncio.create_task(store._writer.submit(slow))
    await entered.wait()
    # The writer is busy; reads and the loop are not.
    assert (await store.list(SERVICE)).items == []
    write = asyncio.create_task(store.create(service()))
    await asyncio.wait({write}, timeout=0)
    assert not write.done()
    leave.set()
    await asyncio.gather(slow_write, write)
    await store.close()


async def test_a_cancelled_caller_leaves_the_others_of_its_group_alone(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    tasks = [asyncio.create_task(store.create(service(f"s{i}"))) for i in range(10)]
    await asyncio.wait({tasks[3]}, timeout=0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert sum(isinstance(r, dict) for r in results) == 9
    await store.close()


async def test_a_refused_write_leaves_the_others_of_its_group_alone(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    results = await asyncio.gather(
        *(store.create(service(f"s{i % 5}")) for i in range(10)), return_exceptions=True
    )
    assert sum(isinstance(r, Conflict) for r in results) == 5
    assert len((await store.list(SERVICE)).items) == 5
    await store.close()


async def test_a_group_that_fails_is_rolled_back_whole_and_the_next_one_is_not(
    tmp_path: Path,
) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    before = await store.create(service("before"))
    # Held up, so that both operations after it share a transaction.
    gate, entered, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()

    def hold(db: object) -> None:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(10)

    held = asyncio.create_task(store._writer.submit(hold))
    await entered.wait()
    good = asyncio.create_task(store.create(service("good")))
    broken = asyncio.create_task(store._writer.submit(lambda db: db.execute("no SQL")))
    await asyncio.wait({good, broken}, timeout=0)
    gate.set()
    await held
    for task in (good, broken):
        with pytest.raises(Unavailable):
            await task
    with pytest.raises(NotFound):
        await store.get(key("good"))
    after = await store.create(service("after"))
    assert int(after["metadata"]["resourceVersion"]) == 1 + int(
        before["metadata"]["resourceVersion"]
    )
    watch = store.watch(SERVICE, since=0)
    assert [c.key.name for c in await take(watch, 2)] == ["before", "after"]
    await watch.aclose()  # type: ignore[attr-defined]
    await store.close()


async def test_a_closed_store_says_so_and_may_be_closed_again(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    writes = [asyncio.create_task(store.create(service(f"s{i}"))) for i in range(50)]
    await asyncio.wait({writes[0]}, timeout=0)
    await store.close()
    assert all(isinstance(r, dict) for r in await asyncio.gather(*writes))
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.get(key())


async def test_a_second_process_is_refused_with_the_firsts_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_WAIT_S", 0.05)
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    with pytest.raises(Unavailable, match=f"in use by process {os.getpid()}"):
        await SqliteStore.open(path)
    await store.close()
    await (await SqliteStore.open(path)).close()


# --- killed in the middle

_WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from penstock.store.sqlite import SqliteStore
    from store_contract import service, key

    async def main():
        store = await SqliteStore.open(sys.argv[1], keep_changes=200)

        async def work(n):
            # Both halves of a pair are changed one after the other; said to be done after the commit.
            a, b = await store.get(key(f"a{n}")), await store.get(key(f"b{n}"))
            while True:
                a["spec"] = {"n": a["spec"]["n"] + 1}
                a = await store.update(a)
                b["spec"] = {"n": a["spec"]["n"]}
                b = await store.update(b)
                print(n, b["spec"]["n"], flush=True)

        for n in range(4):
            for half in "ab":
                try:
                    await store.create({**service(f"{half}{n}"), "spec": {"n": 0}})
                except Exception:
                    pass
        await asyncio.gather(*(work(n) for n in range(4)))

    asyncio.run(main())
    """
)


async def test_nothing_that_was_acknowledged_is_lost_by_a_kill_at_any_point(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env=env, text=True
        )
        assert process.stdout is not None
        acknowledged: dict[int, int] = {}
        for line in range(30 + 37 * round_):
            text = process.stdout.readline()
            assert text, f"the writer ended by itself in round {round_}, line {line}"
            pair, count = map(int, text.split())
            acknowledged[pair] = count
        process.kill()
        # What it said before it died counts too.
        *whole, _ = process.stdout.read().split("\n")
        for text in whole:
            pair, count = map(int, text.split())
            acknowledged[pair] = count
        process.stdout.close()
        process.wait()

        store = await SqliteStore.open(path)
        versions = set()
        for pair, count in acknowledged.items():
            a = await store.get(key(f"a{pair}"))
            b = await store.get(key(f"b{pair}"))
            assert count <= b["spec"]["n"] <= a["spec"]["n"] <= b["spec"]["n"] + 1
            versions |= {o["metadata"]["resourceVersion"] for o in (a, b)}
        assert len(versions) == 2 * len(acknowledged)
        assert store.version >= max(map(int, versions))
        # The log is whole: no version is missing.
        logged = await store._read(
            lambda db: [r[0] for r in db.execute("SELECT version FROM changes ORDER BY version")]
        )
        assert logged == list(range(logged[0], store.version + 1))
        await store.close()


async def test_a_kill_during_the_very_first_start_leaves_a_usable_folder(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for left in ("store.db.new", "store.db.new-journal"):
        (tmp_path / left).write_bytes(b"half of it")
    store = await SqliteStore.open(path)
    await store.create(service())
    await store.close()
    assert {f.name for f in tmp_path.iterdir()} == {"store.db", "store.db.lock"}
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_store_opens_again_at_once_with_ten_thousand_objects(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await asyncio.gather(*(store.create(service(f"s{i:05}")) for i in range(10_000)))
    await store.close()
    began = time.monotonic()
    store = await SqliteStore.open(tmp_path / "store.db")
    assert time.monotonic() - began < 20
    await store.close()
