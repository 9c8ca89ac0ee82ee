"""The event log of the SQLite store: what happened and why, counted and bounded.

The same thing happening again raises a count instead of adding a row. Each object keeps its newest
`KEEP_PER_OBJECT` events, so that one that fails in ever new words cannot push out everybody else's.
"""

# ruff: noqa: S608 - every piece of SQL here is a constant of this file; values are bound

from __future__ import annotations

import sqlite3
import uuid
from typing import Any, NamedTuple

from penstock.domain.status import rfc3339
from penstock.store import objects
from penstock.store.base import EVENT, ChangeType, Key, Object, Objects
from penstock.store.sqlite_rows import KEY, Logged, body_of

KEEP = 10_000
KEEP_PER_OBJECT = 100
_ROW = (
    "id, uid, kind, namespace, name, object_uid, api_version, type, reason, message, count, first, "
    "last, turn"
)
_COUNT = _ROW.split(", ").index("count")


class Event(NamedTuple):
    about: Key
    type: str
    reason: str
    message: str
    uid: str


def newest_turn(db: sqlite3.Connection) -> int:
    """The version of the event log: one more with every change of it."""
    return int(db.execute("SELECT value FROM counters WHERE name = 'event'").fetchone()[0])


def record(db: sqlite3.Connection, event: Event, *, now: float) -> list[Logged]:
    """Append, or count up. The object's apiVersion and uid are looked up while it exists."""
    about = event.about
    body = body_of(db, about)
    obj: dict[str, Any] = objects.decode(body) if body is not None else {}
    api_version = obj.get("apiVersion", about.kind.group)
    uid = event.uid or (obj.get("metadata") or {}).get("uid", "")
    key = (*about.kind, about.namespace, about.name)
    turn = newest_turn(db) + 1
    (row,) = db.execute(
        "INSERT INTO events (uid, grp, kind, namespace, name, object_uid, api_version, type, "
        "reason, message, count, first, last, turn) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) "
        "ON CONFLICT (grp, kind, namespace, name, object_uid, type, reason, message) "
        "DO UPDATE SET count = count + 1, last = excluded.last, turn = excluded.turn "
        f"RETURNING {_ROW}",
        (
            str(uuid.uuid4()),
            *key,
            uid,
            api_version,
            event.type,
            event.reason,
            event.message,
            now,
            now,
            turn,
        ),
    ).fetchall()
    kept = _logged(ChangeType.ADDED if row[_COUNT] == 1 else ChangeType.MODIFIED, row, turn)
    gone = db.execute(
        f"DELETE FROM events WHERE id IN (SELECT id FROM events WHERE {KEY} "
        f"ORDER BY turn DESC LIMIT -1 OFFSET ?) RETURNING {_ROW}",
        (*key, KEEP_PER_OBJECT),
    ).fetchall()
    return _turned(db, [kept, *_gone(gone, turn)])


def prune(db: sqlite3.Connection) -> list[Logged]:
    """Remove the oldest beyond `KEEP`."""
    rows = db.execute(
        "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY turn DESC "
        f"LIMIT -1 OFFSET ?) RETURNING {_ROW}",
        (KEEP,),
    ).fetchall()
    return _turned(db, _gone(rows, newest_turn(db)))


def _gone(rows: list[tuple[Any, ...]], turn: int) -> list[Logged]:
    return [_logged(ChangeType.DELETED, row, turn + i) for i, row in enumerate(rows, 1)]


def _turned(db: sqlite3.Connection, changes: list[Logged]) -> list[Logged]:
    if changes:
        newest = (changes[-1].version,)
        db.execute("UPDATE counters SET value = ? WHERE name = 'event'", newest)
    return changes


def _logged(type_: ChangeType, row: tuple[Any, ...], version: int) -> Logged:
    obj = _rendered(*(*row[:-1], version))
    meta = obj["metadata"]
    return Logged(version, type_, EVENT, meta["namespace"], meta["name"], objects.encode(obj))


def select(db: sqlite3.Connection, *, namespace: str | None, about: Key | None) -> Objects:
    """Kubernetes v1 Events, oldest first."""
    where, values = ["1"], []
    if namespace is not None:
        where.append("namespace = ?")
        values.append(namespace)
    if about is not None:
        where.append(KEY)
        values += [*about.kind, about.namespace, about.name]
    rows = db.execute(
        f"SELECT {_ROW} FROM events WHERE {' AND '.join(where)} ORDER BY turn", values
    )
    return [_rendered(*row) for row in rows]


def _rendered(
    id_: int,
    uid: str,
    kind: str,
    namespace: str,
    name: str,
    object_uid: str,
    api_version: str,
    type_: str,
    reason: str,
    message: str,
    count: int,
    first: float,
    last: float,
    turn: int,
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name}.{id_:x}",
            "namespace": namespace or "default",
            "uid": uid,
            "resourceVersion": str(turn),
            "creationTimestamp": rfc3339(first),
        },
        "involvedObject": {
            "apiVersion": api_version,
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "uid": object_uid,
        },
        "type": type_,
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": rfc3339(first),
        "lastTimestamp": rfc3339(last),
        "source": {"component": "penstock"},
    }
