"""The pool of ephemeral sources: read-only directories filled by syncs, each leased to one user.

A source has one of three states, kept in SQLite. *filling*: somebody changes its directory; what it
holds is not known. *sealed*: its directory holds exactly the tree of its row, for one lease. *idle*:
the same, for whoever takes it next as the basis of a sync. The row is on disk before the directory
is changed, and says what is there only after it is right. So a process that is killed leaves
sources that are right or known to be unknown, and start-up removes the latter. After a reboot
nothing is known, since a row may have reached the disk before the files did: all go.

A source is no ref: nothing here announces, exports or writes to one.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from filesync.decoding import DATABASE_ERRORS
from filesync.digest import Digest
from filesync.disk.database import remove_database
from filesync.disk.entries import names_of
from filesync.disk.handles import open_root
from filesync.disk.removing import remove_tree
from filesync.disk.statedir import boot_id
from filesync.errors import LocalError, NodeMissing, StoreError
from filesync.manifest import Nodes
from filesync.process.entropy import random_name

log = logging.getLogger(__name__)

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE sources (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, key TEXT NOT NULL, tree BLOB, used_s REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE boots (id TEXT NOT NULL);
"""


class IdleSource(NamedTuple):
    """A source that nobody uses; ``used_s`` is when it last was, in seconds of the epoch."""

    id: str
    tree: Digest
    key: str
    used_s: float


class Filling(msgspec.Struct, frozen=True):
    """A directory that its holder alone may change, until it is sealed or abandoned.

    Attributes:
        tree: what it holds now; None when it is empty.
    """

    id: str
    path: Path
    tree: Digest | None


class SourceLease:
    """A sealed source. It stays as it is until ``release``; whoever mounts it does so read-only."""

    def __init__(self, pool: "SourcePool", source: str, path: Path, tree: Digest) -> None:
        self._pool = pool
        self._source = source
        self._held = True
        self.path = path
        self.tree = tree

    def release(self) -> None:
        """Give the source back to the pool. Idempotent."""
        if self._held:
            self._held = False
            self._pool.give_back(self._source)


class SourcePool:
    """The sources below one directory, which this process owns. Safe to use from threads.

    Directories are removed by a thread of the pool's own, so that letting go of a source costs
    its holder no more than a row.

    Args:
        nodes: holds the manifests of all sources, for their sizes.
        max_count: idle sources kept at most.
        max_bytes: content bytes of idle sources kept at most.
    """

    def __init__(
        self, directory: Path, nodes: Nodes, *, max_count: int, max_bytes: int
    ) -> None:
        """Open the pool, and remove what a killed process left unknown.

        Raises:
            StoreError: the directory cannot be used.
        """
        self._nodes = nodes
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._closed = False
        self._trees = directory / "trees"
        self._file = directory / "sources.db"
        try:
            self._trees.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise StoreError(f"{self._trees}: {exc.strerror}") from exc
        self._trees_fd = open_root(self._trees)
        try:
            self._db = self._open()
            self._recover()
        except BaseException:
            os.close(self._trees_fd)
            raise
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="source-remover")

    def close(self) -> None:
        """Finish removing and close the file; leases are over. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._remover.shutdown()
        self._db.close()
        os.close(self._trees_fd)

    def idle(self) -> list[IdleSource]:
        """Return the idle sources, newest first."""
        rows = self._execute(
            "SELECT id, tree, key, used_s FROM sources WHERE state = 'idle'"
            " ORDER BY used_s DESC, id"
        )
        return [
            IdleSource(source, Digest(tree), key, used_s) for source, tree, key, used_s in rows
        ]

    def path_of(self, source: IdleSource) -> Path:
        """Return where an idle source is, or was: whoever takes it may change it meanwhile."""
        return self._trees / source.id

    def trees(self) -> list[Digest]:
        """Return the trees of all sources, idle and leased: a sweep of ``nodes`` keeps them."""
        rows = self._execute("SELECT DISTINCT tree FROM sources WHERE tree NOT NULL")
        return [Digest(tree) for (tree,) in rows]

    def take(self, key: str, *, basis: str | None = None) -> Filling:
        """Return a directory to fill: the idle source ``basis``, one last used for ``key``, or new.

        It is the caller's until ``seal`` or ``abandon``. Somebody else may have taken ``basis``
        meanwhile: what is given instead says by its ``tree`` what it holds.
        """
        with self._lock:
            idle = self.idle()
            chosen = next((one for one in idle if one.id == basis), None)
            chosen = chosen or next((one for one in idle if one.key == key), None)
            source = random_name() if chosen is None else chosen.id
            self._execute(
                "INSERT OR REPLACE INTO sources VALUES (?, 'filling', ?, NULL, ?)",
                (source, key, time.time()),
            )
        path = self._trees / source
        if chosen is None:
            try:
                os.mkdir(source, 0o700, dir_fd=self._trees_fd)
            except OSError as exc:
                self._forget([source])
                raise StoreError(f"{path}: {exc.strerror}") from exc
        return Filling(source, path, None if chosen is None else chosen.tree)

    def seal(self, filling: Filling, tree: Digest) -> SourceLease:
        """Declare that ``filling`` holds exactly ``tree``, which was verified; lease it.

        Raises:
            LocalError: it was sealed or abandoned before.
        """
        done = self._execute(
            "UPDATE sources SET state = 'sealed', tree = ?, used_s = ?"
            " WHERE id = ? AND state = 'filling' RETURNING id",
            (tree, time.time(), filling.id),
        )
        if not done:
            raise LocalError(f"source {filling.id} is not being filled")
        return SourceLease(self, filling.id, filling.path, tree)

    def abandon(self, filling: Filling) -> None:
        """Remove a source whose filling failed: what it holds is not known.

        One that was sealed, or abandoned before, is left as it is.
        """
        done = self._execute(
            "DELETE FROM sources WHERE id = ? AND state = 'filling' RETURNING id", (filling.id,)
        )
        if done:
            self._remover.submit(self._remove, filling.id)

    def give_back(self, source: str) -> None:
        """Make a sealed source idle, and remove the idle ones that are too many, oldest first.

        For ``SourceLease``; anybody else releases the lease. After ``close`` nothing is done.
        """
        with self._lock:
            if self._closed:
                return
            self._execute(
                "UPDATE sources SET state = 'idle', used_s = ? WHERE id = ? AND state = 'sealed'",
                (time.time(), source),
            )
            self._discard(self._surplus())

    def remove(self, source: str) -> bool:
        """Remove an idle source; return whether it was there and idle."""
        with self._lock:
            is_idle = any(one.id == source for one in self.idle())
            if is_idle:
                self._discard([source])
            return is_idle

    # --- removing -----------------------------------------------------------------------------

    def _surplus(self) -> list[str]:
        """Return the idle sources beyond the bounds: least recently used ones, and giants."""
        surplus: list[str] = []
        count = size = 0
        for one in self.idle():
            own = self._size(one.tree)
            if own is None or count >= self._max_count or size + own > self._max_bytes:
                surplus.append(one.id)
            else:
                count += 1
                size += own
        return surplus

    def _size(self, tree: Digest) -> int | None:
        try:
            return self._nodes.summary(tree).size
        except NodeMissing:
            return None

    def _discard(self, sources: list[str]) -> None:
        self._forget(sources)
        for source in sources:
            self._remover.submit(self._remove, source)

    def _forget(self, sources: Iterable[str]) -> None:
        """Drop the rows, which comes first: a row must not outlive part of its directory."""
        for source in sources:
            self._execute("DELETE FROM sources WHERE id = ?", (source,))

    def _remove(self, name: str) -> None:
        try:
            remove_tree(self._trees_fd, os.fsencode(name))
        except StoreError as exc:
            log.warning("source not removed id=%s reason=%s", name, exc)

    # --- start-up -----------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """Open the file; one that is damaged or of another version is started anew."""
        try:
            return _open(self._file)
        except DATABASE_ERRORS as exc:
            log.warning("sources started anew path=%s reason=%s", self._file, exc)
        remove_database(self._file)
        try:
            return _open(self._file)
        except DATABASE_ERRORS as exc:
            raise StoreError(f"{self._file}: {exc}") from exc

    def _recover(self) -> None:
        """Keep what was idle, or sealed for a process that is gone; remove all else."""
        boot = boot_id()
        if self._execute("SELECT id FROM boots") != [(boot,)]:
            self._execute("DELETE FROM sources")
            self._execute("DELETE FROM boots")
            self._execute("INSERT INTO boots VALUES (?)", (boot,))
        self._execute("UPDATE sources SET state = 'idle' WHERE state = 'sealed'")
        self._execute("DELETE FROM sources WHERE state != 'idle'")
        there = set(map(os.fsdecode, names_of(self._trees_fd)))
        self._forget(
            one.id for one in self.idle() if one.id not in there or one.tree not in self._nodes
        )
        for name in there - {one.id for one in self.idle()}:
            self._remove(name)

    def _execute(self, statement: str, arguments: tuple[object, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, arguments).fetchall()
        except DATABASE_ERRORS as exc:
            raise StoreError(f"{self._file}: {exc}") from exc


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise sqlite3.DatabaseError(f"version {version}, not {VERSION}")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {VERSION}")
        # A row must be on disk before its directory changes.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("SELECT id, state, key, tree, used_s FROM sources LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db
