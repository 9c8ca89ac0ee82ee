"""Opening the store's file: checked before it is touched, refused when it cannot be trusted.

A file that fails the check is left as it is, byte for byte: it may be all that is left of somebody's work,
and SQLite's own tools get more out of it than an overwritten one. The check reads through a read-only
connection, which neither checkpoints nor creates anything but SQLite's shared-memory index.
"""

# ruff: noqa: S608 - the schema is a constant

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from penstock.errors import Damaged, PenstockError, Unavailable, Unsupported

#: "PNST", so that a file of some other program is recognised.
APPLICATION_ID = 0x504E5354
SCHEMA_VERSION = 1

_SCHEMA = f"""
CREATE TABLE objects (
  grp TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL,
  labels TEXT,               -- JSON, so that a selector need not read the body
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX objects_key ON objects (grp, kind, namespace, name);
-- One row per version. `previous` makes the state at any kept version readable, for paged lists.
CREATE TABLE changes (
  version INTEGER PRIMARY KEY,
  type TEXT NOT NULL,
  grp TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  body BLOB NOT NULL, previous BLOB
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uid TEXT NOT NULL,
  grp TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  object_uid TEXT NOT NULL, api_version TEXT NOT NULL,
  type TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
  count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
  turn INTEGER NOT NULL      -- what came after what, whatever the clock said
);
CREATE UNIQUE INDEX events_same
  ON events (grp, kind, namespace, name, object_uid, type, reason, message);
CREATE INDEX events_turn ON events (turn);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('version', 0), ('event', 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_MAGIC = b"SQLite format 3\0"
#: How long an open waits for another holder (a control plane that is just ending).
LOCK_WAIT_S = 5.0
_BUSY_S = 5.0


class FileLock:
    """One process has a store open at a time: versions are counted in memory. Unavailable."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise _cannot_open(path.with_suffix(""), e) from e
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
                    os.close(self._fd)
                    raise Unavailable(
                        f"The store {path.with_suffix('')} is in use by process {holder or 'unknown'}."
                    ) from None
                time.sleep(0.02)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _cannot_open(path: Path, error: OSError) -> Unavailable:
    hint = None
    if isinstance(error, PermissionError):
        hint = (
            f"The folder has to be the user's who starts it, now {os.geteuid()}; or name another."
        )
    return Unavailable(f"The store {path} cannot be opened: {error.strerror}.", hint=hint)


def open_file(path: Path) -> sqlite3.Connection:
    """The checked, initialised database in `path`, in WAL mode; Damaged, Unsupported, Unavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check(path)
        if not path.exists():
            _create(path)
        connection = connect(str(path))
    except OSError as e:
        raise _cannot_open(path, e) from e
    except sqlite3.Error as e:
        raise mapped(e, path) from e
    try:
        prepare(connection, wal=True)
    except sqlite3.Error as e:
        connection.close()
        raise mapped(e, path) from e
    return connection


def _create(path: Path) -> None:
    """A new file, whole at once: one that has no content has lost it."""
    new = path.with_name(path.name + ".new")
    for left in (new, *(new.with_name(new.name + end) for end in ("-journal", "-wal", "-shm"))):
        left.unlink(missing_ok=True)  # of a start that was killed
    # Secrets are in it.
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with contextlib.closing(connect(str(new))) as connection:
        prepare(connection, wal=False)
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection for one thread at a time, transactions begun and ended by hand."""
    return sqlite3.connect(
        target, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=uri
    )


def prepare(connection: sqlite3.Connection, *, wal: bool) -> None:
    """Set the connection up and create the tables of a new file, all or nothing."""
    if wal:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    # A committed write survives a power cut; group commit pays for it.
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def check(path: Path) -> None:
    """Read the whole file once; Damaged or Unsupported, with what to do. Changes nothing."""
    wal = path.with_name(path.name + "-wal")
    if not path.exists():
        if wal.exists() and wal.stat().st_size:
            raise _damaged(path, f"{wal.name} is there and {path.name} is not")
        return
    if path.stat().st_size == 0:
        raise _damaged(path, "it is empty")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise _damaged(path, "it does not begin as an SQLite file does")
    # Without a log nothing but the file is read; SQLite would leave an empty log behind otherwise.
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
    try:
        with contextlib.closing(connect(f"file:{quote(str(path))}?{mode}", uri=True)) as connection:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if schema == 0 and owner == 0 and tables == 0:
                return
            if owner != APPLICATION_ID:
                raise _damaged(path, "it is an SQLite file of another program")
            if schema > SCHEMA_VERSION:
                raise Unsupported(
                    f"The store {path} was written by a newer Penstock: it has schema {schema}, and "
                    f"this one knows up to {SCHEMA_VERSION}.",
                    hint="Start that release, or use another --data-dir.",
                )
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _damaged(path, str(found).replace("\n", " "))
    except sqlite3.DatabaseError as e:
        raise mapped(e, path) from e


def mapped(error: sqlite3.Error, path: Path | str) -> PenstockError:
    """An SQLite error as one of ours."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            f"The disk is full: the store {path} could not be written.",
            hint="Nothing that was stored is lost. Free some space and try again.",
        )
    if code == sqlite3.SQLITE_IOERR:
        return Unavailable(
            f"The store {path} could not be read or written ({error}).",
            hint="Nothing that was stored is lost. Look at the disk, its space and its quota.",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(
            f"The store {path} is locked by another program.", hint="End it and try again."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return Unavailable(f"The store {path} cannot be written: {error}.")
    return Unavailable(f"The store {path} failed: {error}.")


def _damaged(path: Path | str, what: str) -> Damaged:
    return Damaged(
        f"The store {path} is damaged: {what}. It was not changed.",
        hint=f"Put a copy of it back; or save what can be saved with: sqlite3 {path} .recover | sqlite3 "
        "NEW; or move it away to begin anew.",
    )
