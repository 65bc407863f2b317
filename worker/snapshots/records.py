"""What is written down of snapshots: one row each, in one SQLite file.

A row exists before its directory does and until its directory is gone, so that every directory
that matters is found from a row. Numbers name directories and are never used twice.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.database import using
from filesync.errors import StoreError

VERSION: Final = 1
_REMEDY: Final = "give another --state directory, or remove that one"


class State(StrEnum):
    """Where in its life a snapshot is."""

    ACTIVE = "active"
    COMMITTED = "committed"
    REMOVING = "removing"


class Record(NamedTuple):
    """One snapshot's row.

    Attributes:
        number: names its directory.
        parent: the number of the snapshot below it.
        parent_id: its id.
        tree: its manifest, once committed.
        bytes: what it takes on disk, about.
        boot: which run of the machine it was committed in, until that has been flushed to
            disk; then empty.
    """

    number: int
    id: str
    parent: int | None
    parent_id: str | None
    state: State
    tree: Digest | None
    bytes: int
    boot: str


_SCHEMA: Final = """
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (number),
    state TEXT NOT NULL,
    tree BLOB,
    bytes INTEGER NOT NULL DEFAULT 0,
    boot TEXT NOT NULL DEFAULT '',
    created_s REAL NOT NULL
) STRICT;
CREATE INDEX children ON snapshots (parent);
CREATE TABLE about (kind TEXT NOT NULL) STRICT;
"""
_SELECT: Final = """
SELECT s.number, s.id, s.parent, p.id, s.state, s.tree, s.bytes, s.boot
FROM snapshots AS s LEFT JOIN snapshots AS p ON p.number = s.parent
"""


class Records:
    """The rows. Thread-safe; each method is one transaction, and raises ``StoreError`` for this disk."""

    def __init__(self, path: Path, *, kind: str) -> None:
        """Open or make the file for snapshots of ``kind``.

        Raises:
            StoreError: it cannot be opened, is of another version, or of another kind.
        """
        self._lock = threading.Lock()
        self._path = path
        with self._using():
            self._db = sqlite3.connect(path, check_same_thread=False)
            try:
                self._open(kind)
            except BaseException:
                self._db.close()
                raise

    @staticmethod
    def kind_of(path: Path) -> str | None:
        """Return the kind of snapshots that the file is for; None if there is none.

        Raises:
            StoreError: it is damaged.
        """
        if not path.exists():
            return None
        with using(path, remedy=_REMEDY), closing(sqlite3.connect(path)) as db:
            try:
                row = db.execute("SELECT kind FROM about").fetchone()
            except sqlite3.OperationalError:
                return None  # a kill came between making the file and filling it
        return str(row[0])

    def _open(self, kind: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(
                f"BEGIN; {_SCHEMA} INSERT INTO about VALUES ('{kind}');"
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )
        elif version != VERSION:
            raise StoreError(f"{self._path} is of version {version}; this is for {VERSION}")
        (found,) = db.execute("SELECT kind FROM about").fetchone()
        if found != kind:
            raise StoreError(f"{self._path} holds snapshots of kind {found!r}, not {kind!r}")

    def add(self, id: str, parent: int | None) -> int | None:
        """Add an active snapshot and return its number; None when the id is taken."""
        with self._lock, self._using(), self._db as db:
            try:
                row = db.execute(
                    "INSERT INTO snapshots (id, parent, state, created_s) VALUES (?, ?, ?, ?)",
                    (id, parent, State.ACTIVE, time.time()),
                )
            except sqlite3.IntegrityError:
                return None
            return row.lastrowid

    def commit(self, number: int, *, tree: Digest, bytes: int, boot: str) -> None:
        """Make an active snapshot a committed one."""
        self._change(
            "UPDATE snapshots SET state = ?, tree = ?, bytes = ?, boot = ? WHERE number = ?",
            (State.COMMITTED, tree, bytes, boot, number),
        )

    def doom(self, numbers: Iterable[int]) -> None:
        """Note that snapshots are being removed."""
        with self._lock, self._using(), self._db as db:
            db.executemany(
                "UPDATE snapshots SET state = ? WHERE number = ?",
                [(State.REMOVING, number) for number in numbers],
            )

    def unflushed(self, boot: str) -> list[int]:
        """Return the numbers of what was committed in this run of the machine, and may not be on disk."""
        with self._lock, self._using():
            rows = self._db.execute("SELECT number FROM snapshots WHERE boot = ?", (boot,))
            return [number for (number,) in rows]

    def flushed(self, numbers: Iterable[int]) -> None:
        """Note that snapshots that were committed are on disk."""
        with self._lock, self._using(), self._db as db:
            db.executemany(
                "UPDATE snapshots SET boot = '' WHERE number = ?",
                [(number,) for number in numbers],
            )

    def delete(self, number: int) -> None:
        """Forget a snapshot whose directory is gone."""
        self._change("DELETE FROM snapshots WHERE number = ?", (number,))

    def find(self, id: str) -> Record | None:
        """Return the row of ``id``."""
        rows = self._rows(f"{_SELECT} WHERE s.id = ?", id)
        return rows[0] if rows else None

    def all(self) -> list[Record]:
        """Return all rows, parents first."""
        return self._rows(f"{_SELECT} ORDER BY s.number")

    def has_children(self, number: int) -> bool:
        """Say whether any row stands on ``number``."""
        return bool(self._rows(f"{_SELECT} WHERE s.parent = ?", number))

    def chain(self, number: int | None) -> list[int]:
        """Return ``number`` and those below it, topmost first."""
        with self._lock, self._using():
            rows = self._db.execute(_CHAIN, (number,)).fetchall()
        return [row[0] for row in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _using(self) -> AbstractContextManager[None]:
        return using(self._path, remedy=_REMEDY)

    def _change(self, statement: str, arguments: tuple[object, ...]) -> None:
        with self._lock, self._using(), self._db as db:
            db.execute(statement, arguments)

    def _rows(self, query: str, *arguments: str | int) -> list[Record]:
        with self._lock, self._using():
            rows = self._db.execute(query, arguments).fetchall()
        return [Record._make(row)._replace(state=State(row[4])) for row in rows]


_CHAIN: Final = """
WITH RECURSIVE below (number, depth) AS (
    SELECT ?, 0
    UNION ALL
    SELECT parent, depth + 1 FROM snapshots JOIN below USING (number) WHERE parent NOT NULL
)
SELECT number FROM below WHERE number NOT NULL ORDER BY depth
"""
