"""The pool of ephemeral sources: read-only directories filled by syncs, each leased to one user.

A source has one of three states, kept in SQLite. *filling*: somebody changes its directory; what it
holds is not known. *sealed*: its directory holds exactly the tree of its row, for one lease. *idle*:
the same, for whoever takes it next as the basis of a sync. The row is written before the
directory is changed and after it is right, so a crash leaves a source that is known to be unknown, and
start-up removes it.

A source is no ref: nothing here announces, exports or writes to one.
"""

import os
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import remove_tree
from filesync.errors import LocalError
from filesync.manifest import Nodes

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS sources (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, key TEXT NOT NULL, tree BLOB, used_s REAL NOT NULL
) WITHOUT ROWID
"""


class IdleSource(NamedTuple):
    """A source that nobody uses; ``used_s`` is when it last was, in seconds of the epoch."""

    id: str
    tree: Digest
    key: str
    used_s: float


@dataclass(frozen=True, slots=True)
class Filling:
    """A directory that its holder alone may change, until it is sealed or abandoned.

    Attributes:
        tree: what it holds now; None when it is empty.
    """

    id: str
    path: Path
    tree: Digest | None


class SourceLease:
    """A sealed source. It stays as it is until ``release``."""

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

    Args:
        nodes: holds the manifests of all sources, for their sizes.
        max_count: idle sources kept at most.
        max_bytes: content bytes of idle sources kept at most.
    """

    def __init__(
        self, directory: Path, nodes: Nodes, *, max_count: int, max_bytes: int
    ) -> None:
        self._nodes = nodes
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._root = directory / "trees"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "sources.db"
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(_SCHEMA)
        self._recover()

    def close(self) -> None:
        """Close the file; leases are over. Idempotent."""
        with self._lock:
            self._db.close()

    def idle(self) -> list[IdleSource]:
        """Return the idle sources, newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, tree, key, used_s FROM sources WHERE state = 'idle'"
                " ORDER BY used_s DESC, id"
            ).fetchall()
        return [
            IdleSource(source, Digest(tree), key, used_s) for source, tree, key, used_s in rows
        ]

    def take(self, key: str, *, basis: str | None = None) -> Filling:
        """Return a directory to fill: the idle source ``basis``, one last used for ``key``, or new.

        It is the caller's until ``seal`` or ``abandon``.
        """
        with self._lock:
            idle = self.idle()
            chosen = next((one for one in idle if one.id == basis), None)
            chosen = chosen or next((one for one in idle if one.key == key), None)
            source = secrets.token_hex(8) if chosen is None else chosen.id
            self._db.execute(
                "INSERT OR REPLACE INTO sources VALUES (?, 'filling', ?, NULL, ?)",
                (source, key, time.time()),
            )
        path = self._root / source
        if chosen is None:
            path.mkdir(mode=0o700)
        return Filling(source, path, None if chosen is None else chosen.tree)

    def seal(self, filling: Filling, tree: Digest) -> SourceLease:
        """Declare that ``filling`` holds exactly ``tree``, which was verified; lease it."""
        with self._lock:
            done = self._db.execute(
                "UPDATE sources SET state = 'sealed', tree = ?, used_s = ?"
                " WHERE id = ? AND state = 'filling'",
                (tree, time.time(), filling.id),
            )
            if done.rowcount != 1:
                raise LocalError(f"source {filling.id} is not being filled")
        return SourceLease(self, filling.id, filling.path, tree)

    def abandon(self, filling: Filling) -> None:
        """Remove a source whose filling failed: what it holds is not known."""
        with self._lock:
            self._remove(filling.id)

    def give_back(self, source: str) -> None:
        """Make a sealed source idle, and remove the idle ones that are too many.

        For ``SourceLease``; anybody else releases the lease.
        """
        with self._lock:
            self._db.execute(
                "UPDATE sources SET state = 'idle', used_s = ? WHERE id = ? AND state = 'sealed'",
                (time.time(), source),
            )
            size = 0
            for count, one in enumerate(self.idle(), start=1):
                size += self._nodes.summary(one.tree).size
                if count > self._max_count or size > self._max_bytes:
                    self._remove(one.id)

    def clear(self) -> None:
        """Remove every idle source."""
        with self._lock:
            for one in self.idle():
                self._remove(one.id)

    def _recover(self) -> None:
        """Sealed sources are still right; what was being filled is not known and goes."""
        with self._lock:
            self._db.execute("UPDATE sources SET state = 'idle' WHERE state = 'sealed'")
            rows = self._db.execute("SELECT id FROM sources WHERE state = 'filling'").fetchall()
            for (source,) in rows:
                self._remove(source)
            for one in self.idle():
                if one.tree not in self._nodes or not (self._root / one.id).is_dir():
                    self._remove(one.id)
            known = {one.id for one in self.idle()}
            for name in os.listdir(self._root):
                if name not in known:
                    self._remove(name)

    def _remove(self, source: str) -> None:
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(root, os.fsencode(source))
        finally:
            os.close(root)
        self._db.execute("DELETE FROM sources WHERE id = ?", (source,))
