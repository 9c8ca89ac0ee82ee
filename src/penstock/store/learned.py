"""What bandits have learned, in a file of its own: sums per arm, and the ids of requests that were rewarded.

A reward and the id that it was for are written in one transaction, so a reward counts once whatever ends in
between. Ids are kept until no reward is taken for them any more, and no more than `MOST_IDS`: then the oldest
go, and rewards as old as they are late. What is here can be lost without harm to serving: a file that cannot
be read is put aside, and learning begins anew.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock.domain.bandit import Arm
from penstock.domain.learning import Outcome, Reward
from penstock.errors import PenstockError
from penstock.store.sqlite_file import connect, mapped
from penstock.store.sqlite_threads import DatabaseThread

log = logging.getLogger(__name__)

#: Ids of rewarded requests that are kept.
MOST_IDS: Final = 2_000_000
#: Rewards between two looks for ids whose time is over.
_PRUNE_EVERY: Final = 2_000
#: Requests that a gateway of an earlier run gave out are added to the others' after this long, seconds.
FOLD_AFTER_S: Final = 3_600.0
_SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE arms (
  key TEXT NOT NULL, arm TEXT NOT NULL,
  rewards INTEGER NOT NULL, total REAL NOT NULL, squares REAL NOT NULL,
  linear BLOB,               -- doubles: the response, then the products
  PRIMARY KEY (key, arm)
) WITHOUT ROWID;
CREATE TABLE ids (id INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, expires REAL NOT NULL);
CREATE INDEX ids_expires ON ids (expires);
CREATE TABLE pulls (
  key TEXT NOT NULL, arm TEXT NOT NULL,
  epoch TEXT NOT NULL,       -- of a gateway; empty: of all that are no more
  pulls INTEGER NOT NULL, heard REAL NOT NULL,
  PRIMARY KEY (key, arm, epoch)
) WITHOUT ROWID;
CREATE TABLE marks (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
INSERT INTO marks VALUES ('horizon', 0);
PRAGMA user_version = 1;
"""

_ARM: Final = "SELECT rewards, total, squares, linear FROM arms WHERE key = ? AND arm = ?"
_PUT_ARM: Final = (
    "INSERT INTO arms VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET rewards = excluded.rewards,"
    " total = excluded.total, squares = excluded.squares, linear = excluded.linear"
)
_PUT_PULLS: Final = (
    "INSERT INTO pulls VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " pulls = max(pulls, excluded.pulls), heard = excluded.heard"
)


class Credited(NamedTuple):
    """What became of a batch of rewards, and the arms that changed: (key, arm)."""

    outcomes: tuple[tuple[int, Outcome], ...]
    arms: tuple[tuple[str, Arm], ...]


class Loaded(NamedTuple):
    """All that is known: arms by key and name, with their pulls, and those by (key, name) and epoch."""

    arms: dict[str, dict[str, Arm]]
    pulls: dict[tuple[str, str], dict[str, int]]


class LearnedStore:
    """One file. Made by `open` or `in_memory`, on the loop that uses it."""

    def __init__(self, connection: sqlite3.Connection, where: str, most_ids: int) -> None:
        def map_error(error: sqlite3.Error) -> PenstockError:
            return mapped(error, where)

        self._most_ids = most_ids
        self._since_prune = 0
        self._thread: DatabaseThread[None] = DatabaseThread(
            "learned", connection, begin="BEGIN IMMEDIATE", map_error=map_error
        )

    @classmethod
    async def open(cls, path: Path, *, most_ids: int = MOST_IDS) -> LearnedStore:
        """Open or make the file. One that is damaged is put aside, and that is said. Unavailable."""
        try:
            connection = _opened(path)
        except sqlite3.OperationalError as exc:
            raise mapped(exc, path) from exc
        except sqlite3.DatabaseError as exc:
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            log.error(
                "%s cannot be read (%s); it is now %s, and learning begins anew", path, exc, aside
            )
            _put_aside(path, aside)
            connection = _opened(path)
        return cls(connection, str(path), most_ids)

    @classmethod
    async def in_memory(cls, *, most_ids: int = MOST_IDS) -> LearnedStore:
        """Nothing is kept."""
        connection = connect(":memory:")
        connection.executescript(_SCHEMA)
        return cls(connection, "in memory", most_ids)

    async def close(self) -> None:
        """Write what is queued, then close the file."""
        await self._thread.close()

    async def load(self) -> Loaded:
        """Everything."""
        loaded: Loaded = await self._run(_load)
        return loaded

    async def credit(self, rewards: Sequence[Reward], now: float) -> Credited:
        """Count rewards, each request's once. What was counted is on the disk when this returns."""
        credited: Credited = await self._run(lambda c: self._credit(c, rewards, now))
        return credited

    async def pulled(self, epoch: str, counts: Iterable[tuple[str, str, int]], now: float) -> None:
        """What a gateway gave to arms since it began."""
        rows = [(key, arm, epoch, pulls, now) for key, arm, pulls in counts]
        await self._run(lambda c: c.executemany(_PUT_PULLS, rows) and None)

    async def forget_arms(self, arms: Collection[tuple[str, str]]) -> None:
        """Drop single arms: (key, name) of each."""
        rows = list(arms)

        def run(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM arms WHERE key = ? AND arm = ?", rows)
            connection.executemany("DELETE FROM pulls WHERE key = ? AND arm = ?", rows)

        await self._run(run)

    async def forget(self, keys: Collection[str]) -> None:
        """Drop what is known of bandits."""
        rows = [(key,) for key in keys]

        def run(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM arms WHERE key = ?", rows)
            connection.executemany("DELETE FROM pulls WHERE key = ?", rows)

        await self._run(run)

    async def fold(self, epochs: Collection[str], now: float) -> None:
        """Add up the pulls that gateways told which are not among `epochs` and were long not heard."""

        def run(connection: sqlite3.Connection) -> None:
            old = [
                row
                for row in connection.execute(
                    "SELECT key, arm, epoch, pulls FROM pulls WHERE epoch != '' AND heard < ?",
                    (now - FOLD_AFTER_S,),
                ).fetchall()
                if row[2] not in epochs
            ]
            for key, arm, epoch, pulls in old:
                connection.execute(
                    "INSERT INTO pulls VALUES (?, ?, '', ?, ?) ON CONFLICT DO UPDATE SET"
                    " pulls = pulls + excluded.pulls",
                    (key, arm, pulls, now),
                )
                connection.execute(
                    "DELETE FROM pulls WHERE key = ? AND arm = ? AND epoch = ?", (key, arm, epoch)
                )

        await self._run(run)

    async def _run(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._thread.submit(run)

    # -- on the database's thread -------------------------------------------------------------------

    def _credit(
        self, connection: sqlite3.Connection, rewards: Sequence[Reward], now: float
    ) -> Credited:
        horizon = connection.execute("SELECT value FROM marks WHERE name = 'horizon'").fetchone()[0]
        touched: dict[tuple[str, str], Arm] = {}
        outcomes = [
            (reward.attempt, _take(connection, reward, max(now, horizon), touched))
            for reward in rewards
        ]
        for (key, name), arm in touched.items():
            linear = array("d", (*arm.response, *arm.products)).tobytes() if arm.response else None
            connection.execute(_PUT_ARM, (key, name, arm.rewards, arm.total, arm.squares, linear))
        self._since_prune += len(rewards)
        if self._since_prune >= min(_PRUNE_EVERY, self._most_ids):
            self._since_prune = 0
            self._prune(connection, now)
        return Credited(tuple(outcomes), tuple((key, arm) for (key, _), arm in touched.items()))

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        # Nothing that expires so early is taken from here on: a clock may be set back.
        (over,) = connection.execute(
            "SELECT max(expires) FROM ids WHERE expires <= ?", (now,)
        ).fetchone()
        if over is not None:
            _forget(connection, over)
        count = connection.execute("SELECT count(*) FROM ids").fetchone()[0]
        if count <= self._most_ids:
            return
        # A tenth at a time.
        cut = connection.execute(
            "SELECT expires FROM ids ORDER BY expires LIMIT 1 OFFSET ?",
            (count - self._most_ids + self._most_ids // 10,),
        ).fetchone()[0]
        _forget(connection, cut)


def _forget(connection: sqlite3.Connection, until: float) -> None:
    connection.execute("DELETE FROM ids WHERE expires <= ?", (until,))
    connection.execute("UPDATE marks SET value = max(value, ?) WHERE name = 'horizon'", (until,))


def _take(
    connection: sqlite3.Connection,
    reward: Reward,
    horizon: float,
    touched: dict[tuple[str, str], Arm],
) -> Outcome:
    if reward.expires <= horizon:
        return Outcome.LATE
    kept = connection.execute(
        "INSERT INTO ids VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (reward.id, reward.attempt, reward.expires),
    ).rowcount
    if not kept:
        known = connection.execute("SELECT attempt FROM ids WHERE id = ?", (reward.id,)).fetchone()
        return Outcome.COUNTED if known[0] == reward.attempt else Outcome.DOUBLE
    for credit in reward.credits:
        place = (credit.key, credit.arm)
        arm = touched.get(place)
        if arm is None:
            row = connection.execute(_ARM, place).fetchone()
            arm = touched[place] = _arm(credit.arm, row) if row is not None else Arm(credit.arm)
        arm.credit(reward.reward, credit.features)
    return Outcome.COUNTED


def _arm(name: str, row: tuple[int, float, float, bytes | None]) -> Arm:
    rewards, total, squares, linear = row
    arm = Arm(name, 0, rewards, total, squares)
    if linear:
        numbers = array("d", linear).tolist()
        # d and d (d + 1) / 2 numbers: d of them is the smaller root of n = d (d + 3) / 2.
        d = round((-3 + (9 + 8 * len(numbers)) ** 0.5) / 2)
        arm.response, arm.products = numbers[:d], numbers[d:]
    return arm


def _load(connection: sqlite3.Connection) -> Loaded:
    found: dict[str, dict[str, Arm]] = {}
    for key, name, *row in connection.execute(
        "SELECT key, arm, rewards, total, squares, linear FROM arms"
    ):
        found.setdefault(key, {})[name] = _arm(name, tuple(row))
    pulls: dict[tuple[str, str], dict[str, int]] = {}
    for key, name, epoch, count in connection.execute("SELECT key, arm, epoch, pulls FROM pulls"):
        pulls.setdefault((key, name), {})[epoch] = count
        found.setdefault(key, {}).setdefault(name, Arm(name)).pulls += count
    return Loaded(found, pulls)


def _put_aside(path: Path, aside: Path) -> None:
    path.rename(aside)
    for more in ("-wal", "-shm"):
        path.with_name(path.name + more).unlink(missing_ok=True)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = connect(str(path))
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        # A feedback that was answered survives a power cut; many share one write.
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema {version} is of another release")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))
    except BaseException:
        connection.close()
        raise
    return connection
