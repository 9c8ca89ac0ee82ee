"""Files that cannot be trusted, disks that are full: refused with what to do, and nothing overwritten."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from store_contract import SERVICE, key, service

from penstock.errors import Damaged, PenstockError, Unavailable, Unsupported
from penstock.store.sqlite import SqliteStore


async def filled(path: Path, count: int = 300) -> None:
    store = await SqliteStore.open(path)
    for i in range(count):
        await store.create(service(f"s{i:03}", annotations={"filling": "x" * 200}))
    await store.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that holds data; the lock and SQLite's index of the WAL hold none."""
    return {
        f.name: f.read_bytes() for f in folder.iterdir() if not f.name.endswith((".lock", "-shm"))
    }


async def refused(path: Path) -> PenstockError:
    before = contents(path.parent)
    with pytest.raises(PenstockError) as caught:
        await SqliteStore.open(path)
    assert contents(path.parent) == before
    assert str(path) in caught.value.message
    assert caught.value.hint
    # Refused again, not taken for new the second time.
    with pytest.raises(type(caught.value)):
        await SqliteStore.open(path)
    assert contents(path.parent) == before
    return caught.value


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"apiVersion: v1\n" * 100)
    assert isinstance(await refused(path), Damaged)


async def test_a_file_that_lost_all_it_had_is_refused(tmp_path: Path) -> None:
    """Taken for new, it would end every service that runs."""
    path = tmp_path / "store.db"
    await filled(path)
    os.truncate(path, 0)
    found = await refused(path)
    assert isinstance(found, Damaged)
    assert "it is empty" in found.message


async def test_a_file_whose_head_was_overwritten_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    with path.open("r+b") as file:
        file.write(b"\0" * 100)
    assert isinstance(await refused(path), Damaged)


async def test_a_file_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    with path.open("r+b") as file:
        for page in range(2, os.path.getsize(path) // 4096, 3):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(4096))
    error = await refused(path)
    assert isinstance(error, Damaged)
    assert "recover" in (error.hint or "")


async def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    os.truncate(path, os.path.getsize(path) // 2 // 4096 * 4096)
    assert isinstance(await refused(path), Damaged)


async def test_a_log_without_its_file_is_refused(tmp_path: Path) -> None:
    """SQLite would throw the log away; somebody's writes may be in it."""
    path = tmp_path / "store.db"
    (tmp_path / "store.db-wal").write_bytes(b"\x37\x7f\x06\x82" + b"\0" * 4096)
    assert isinstance(await refused(path), Damaged)


async def test_a_damaged_file_with_a_log_is_left_with_its_log(tmp_path: Path) -> None:
    path = tmp_path / "live" / "store.db"
    store = await SqliteStore.open(path)
    for i in range(50):
        await store.create(service(f"s{i:03}"))
    # As a kill leaves them: the log not yet written back.
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    await store.close()
    assert (copy / "store.db-wal").stat().st_size > 0
    with (copy / "store.db").open("r+b") as file:
        file.write(b"garbage, not SQLite")
    assert isinstance(await refused(copy / "store.db"), Damaged)


async def test_a_copy_of_a_living_store_with_its_log_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "live" / "store.db"
    store = await SqliteStore.open(path)
    for i in range(50):
        await store.create(service(f"s{i:03}"))
    shutil.copytree(path.parent, tmp_path / "copy")
    await store.close()
    copy = await SqliteStore.open(tmp_path / "copy" / "store.db")
    assert len((await copy.list(SERVICE)).items) == 50
    await copy.close()


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    error = await refused(path)
    assert "another program" in error.message


async def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    error = await refused(path)
    assert isinstance(error, Unsupported)
    assert "schema 7" in error.message
    assert "newer Penstock" in error.message


@pytest.mark.ordinary_rights
async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o500)
    with pytest.raises(Unavailable, match="cannot be"):
        await SqliteStore.open(folder / "store.db")


async def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(Unavailable, match="cannot be opened"):
        await SqliteStore.open(tmp_path / "store.db")


async def test_damage_while_running_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    store = await SqliteStore.open(path)
    with path.open("r+b") as file:
        for page in range(2, os.path.getsize(path) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(Damaged):
        await store.list(SERVICE)
    await store.close()


async def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    """SQLite's own page limit answers exactly as a full disk does."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    first = await store.create(service("first"))
    pages = await store._writer.submit(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await store._writer.submit(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}"))

    async def fill() -> None:
        for i in range(100):
            await store.create(service(f"s{i:03}", annotations={"a": "x" * 2000}))

    with pytest.raises(Unavailable, match="disk is full") as caught:
        await fill()
    assert "Free some space" in (caught.value.hint or "")
    # Reading goes on, and writing too as soon as there is space.
    assert await store.get(key("first")) == first
    version = store.version
    await store._writer.submit(lambda db: db.execute("PRAGMA max_page_count = 100000"))
    made = await store.create(service("after"))
    assert int(made["metadata"]["resourceVersion"]) == version + 1
    watch = store.watch(SERVICE, since=version)
    assert (await anext(watch)).key.name == "after"
    await watch.aclose()  # type: ignore[attr-defined]
    await store.close()
    store = await SqliteStore.open(path)
    await store.get(key("after"))
    await store.close()


_LIMITED = textwrap.dedent(
    """
    import asyncio, sys
    from penstock.errors import Unavailable
    from penstock.store.sqlite import SqliteStore
    from store_contract import service

    async def main():
        store = await SqliteStore.open(sys.argv[1])
        done = 0
        try:
            for i in range(10_000):
                await store.create(service(f"s{i:05}", annotations={"a": "x" * 2000}))
                done += 1
        except Unavailable as e:
            print(done, e, flush=True)
        await store.close()

    asyncio.run(main())
    """
)


async def test_a_file_that_may_not_grow_is_said_and_what_was_acknowledged_is_there(
    tmp_path: Path,
) -> None:
    """A quota, by way of the process's own file size limit: a write error of the real system."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    path = tmp_path / "store.db"
    result = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path)],
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    done, _, message = result.stdout.partition(" ")
    assert "Nothing that was stored is lost" in message, result.stderr
    store = await SqliteStore.open(path)
    assert len((await store.list(SERVICE)).items) == int(done)
    await store.close()
