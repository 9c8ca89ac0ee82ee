"""What the SQLite store reads: single objects, the state of a kind at any kept version, the log of changes.

Functions of a connection, run by the store's threads inside a transaction.
"""

# ruff: noqa: S608 - every piece of SQL here is a constant of this file; values are bound

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from penstock.errors import NotFound
from penstock.store import objects
from penstock.store.base import ChangeType, Expired, Key, Kind

KEY = "grp = ? AND kind = ? AND namespace = ? AND name = ?"


class Logged(NamedTuple):
    """One change, still as JSON: each watch decodes its own copy."""

    version: int
    type: str
    kind: Kind
    namespace: str
    name: str
    body: bytes


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a paged list goes on."""

    version: int
    namespace: str
    name: str


def newest_version(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()[0])


def body_of(db: sqlite3.Connection, key: Key) -> bytes | None:
    row = db.execute(
        f"SELECT body FROM objects WHERE {KEY}",
        (*key.kind, key.namespace, key.name),
    ).fetchone()
    return row[0] if row else None


def existing(db: sqlite3.Connection, key: Key) -> bytes:
    body = body_of(db, key)
    if body is None:
        raise NotFound(f"{objects.show(key)} does not exist.")
    return body


Row = tuple[str, str, bytes | None, bytes]


def state_at(
    db: sqlite3.Connection,
    kind: Kind,
    namespace: str | None,
    version: int,
    newest: int,
    cursor: Cursor | None,
) -> Iterator[Row]:
    """(namespace, name, labels, body) of the objects of a kind as they were at `version`, in order."""
    where, values = ["grp = ? AND kind = ?"], [*kind]
    if namespace is not None:
        where.append("namespace = ?")
        values.append(namespace)
    if cursor is not None:
        where.append("(namespace, name) > (?, ?)")
        values += [cursor.namespace, cursor.name]
    condition = " AND ".join(where)
    present: Iterator[Row] = db.execute(
        f"SELECT namespace, name, labels, body FROM objects WHERE {condition} AND version <= ? "
        "ORDER BY namespace, name",
        (*values, version),
    )
    if version == newest:
        return present
    # What has changed since: the state before the first change after `version`.
    first_changes = db.execute(
        f"SELECT namespace, name, previous, min(version) FROM changes WHERE {condition} "
        "AND version > ? GROUP BY namespace, name ORDER BY namespace, name",
        (*values, version),
    )
    changed: Iterator[Row] = (
        (
            ns,
            name,
            msgspec.json.encode((objects.decode(previous)["metadata"]).get("labels") or {}),
            previous,
        )
        for ns, name, previous, _ in first_changes
        if previous is not None
    )
    return heapq.merge(present, changed, key=lambda row: row[:2])


def everything(db: sqlite3.Connection, kind: Kind | None) -> tuple[list[Logged], int]:
    condition, values = ("grp = ? AND kind = ?", tuple(kind)) if kind else ("1", ())
    rows = db.execute(
        "SELECT version, grp, kind, namespace, name, body FROM objects "
        f"WHERE {condition} ORDER BY version",
        values,
    )
    found = [Logged(v, ChangeType.ADDED, Kind(g, k), ns, n, b) for v, g, k, ns, n, b in rows]
    return found, newest_version(db)


def changes_after(db: sqlite3.Connection, position: int, limit: int) -> list[Logged]:
    """The next `limit` changes after a version; Expired when some of them are gone."""
    check_kept(db, position, newest_version(db))
    rows = db.execute(
        "SELECT version, type, grp, kind, namespace, name, body FROM changes "
        "WHERE version > ? ORDER BY version LIMIT ?",
        (position, limit),
    )
    return [Logged(v, t, Kind(g, k), ns, n, b) for v, t, g, k, ns, n, b in rows]


def check_kept(db: sqlite3.Connection, version: int, newest: int) -> None:
    """Expired when changes after `version` are missing, or it is of a future this store never had."""
    oldest = db.execute("SELECT min(version) FROM changes").fetchone()[0] or newest + 1
    if version > newest or version < oldest - 1:
        raise Expired(f"version {version} is not kept: {oldest - 1} to {newest} are")


def put(
    db: sqlite3.Connection, key: Key, *, version: int, labels: bytes | None, body: bytes
) -> None:
    """Keep the newest state of an object."""
    db.execute(
        "INSERT INTO objects (grp, kind, namespace, name, version, labels, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (grp, kind, namespace, name) DO UPDATE "
        "SET version = excluded.version, labels = excluded.labels, body = excluded.body",
        (*key.kind, key.namespace, key.name, version, labels, body),
    )


def remove(db: sqlite3.Connection, key: Key) -> None:
    db.execute(f"DELETE FROM objects WHERE {KEY}", (*key.kind, key.namespace, key.name))


def log_change(db: sqlite3.Connection, logged: Logged, previous: bytes | None) -> None:
    """Append to the log and move the store's version."""
    db.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            logged.version,
            logged.type,
            *logged.kind,
            logged.namespace,
            logged.name,
            logged.body,
            previous,
        ),
    )
    db.execute("UPDATE counters SET value = ? WHERE name = 'version'", (logged.version,))


def forget_changes(db: sqlite3.Connection, up_to: int) -> None:
    db.execute("DELETE FROM changes WHERE version <= ?", (up_to,))
