"""Nodes on disk: one SQLite file that holds every directory node of one process.

Nodes are written children first and in that order, so whatever a crash cuts off, a node that
is there has all of its tree. A process has one store per file and may use it from threads.
"""

import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import zstandard

from filesync.decoding import DATABASE_ERRORS
from filesync.digest import Digest, digest_of, short
from filesync.errors import NodeMissing, StoreError
from filesync.manifest.node import MAX_NODE_BYTES, Subdirectory, Summary, decode_trusted
from filesync.manifest.tree import LayeredNodes, Nodes
from filesync.process.wanted import check_wanted

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE nodes (
    number INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    content BLOB NOT NULL,
    entries INTEGER NOT NULL,
    size INTEGER NOT NULL,
    links INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    packed INTEGER NOT NULL,
    data BLOB NOT NULL
)
"""
_INSERT: Final = """
INSERT OR IGNORE INTO nodes (digest, content, entries, size, links, depth, packed, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

SLICE_NODES: Final = 1000
"""Nodes that a sweep removes at once: some 10 ms in which others wait."""
BETWEEN_SLICES_S: Final = 0.002
_PENDING_NODES: Final = 2000
_PENDING_BYTES: Final = 4 << 20
_HOT_BYTES: Final = 16 << 20
_HOT_NODE_BYTES: Final = 256 << 10
_HOT_SUMMARIES: Final = 1 << 16


class SqliteNodes:
    """Nodes in the file ``path``; a ``Nodes``.

    Who makes a tree holds a ``transaction`` open until whatever keeps the tree alive knows its
    root: it batches the writes, and ``sweep`` removes nothing meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: it cannot be used, or is of another version; says what to do.
        """
        self._path = path
        # Held for one statement or one short batch at a time, so that an event loop may wait
        # for it while threads make trees.
        self._lock = threading.RLock()
        self._open_transactions = 0
        self._pending: dict[Digest, tuple[bytes, Summary]] = {}
        self._pending_bytes = 0
        self._hot = _Hot()
        self._summaries: OrderedDict[Digest, Summary] = OrderedDict()
        self._vouched: set[Digest] | None = None
        self._packer = zstandard.ZstdCompressor(level=3)
        self._unpacker = zstandard.ZstdDecompressor()
        try:
            self._db = _open(path)
        except DATABASE_ERRORS as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        """Write what is pending and close the file. Idempotent."""
        with self._lock:
            try:
                self._flush()
            finally:
                self._db.close()

    # --- Nodes --------------------------------------------------------------------------------

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self._find(Digest(digest)) is not None

    def read(self, digest: Digest) -> bytes:
        """Return a node's bytes.

        Raises:
            NodeMissing: it is not here.
            StoreError: the file is damaged.
        """
        with self._lock:
            self._vouch(digest)
            data = self._hot.get(digest)
            if data is None and digest in self._pending:
                data = self._pending[digest][0]
            if data is not None:
                return data
            row = self._row("SELECT packed, data FROM nodes WHERE digest = ?", digest)
            if row is None:
                raise NodeMissing(f"directory node {short(digest)} is not in this store")
            data = self._unpack(digest, *row)
            self._hot.add(digest, data)
            return data

    def summary(self, digest: Digest) -> Summary:
        """Return what a parent's entry must say of ``digest``.

        Raises:
            NodeMissing: it is not here.
        """
        summary = self._find(digest)
        if summary is None:
            raise NodeMissing(f"directory node {short(digest)} is not in this store")
        return summary

    def write(self, digest: Digest, data: bytes, summary: Summary) -> None:
        """Keep a node that has been checked; on disk at once, or when a transaction ends."""
        with self._lock:
            self._vouch(digest)
            if digest not in self._pending:
                self._pending[digest] = (data, summary)
                self._pending_bytes += len(data)
            if (
                not self._open_transactions
                or len(self._pending) >= _PENDING_NODES
                or self._pending_bytes >= _PENDING_BYTES
            ):
                self._flush()

    # --- batches and sweeping -----------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Batch the writes of this block; all are on disk when it ends, also when it fails.

        Blocks may overlap, within a thread and among threads. Everybody sees what is written at
        once. There is no roll-back: a node that was written is a true one.
        """
        with self._lock:
            self._open_transactions += 1
        try:
            yield
        finally:
            with self._lock:
                self._open_transactions -= 1
                self._flush()

    def sweep(self, live: Iterable[Digest]) -> int:
        """Remove every node that no root in ``live`` reaches; return how many. Blocks.

        Does nothing while a transaction is open or another sweep runs: call again later. Trees
        that are made or asked for meanwhile stay, though ``live`` does not name them. Others
        wait for one slice of it at most.

        Raises:
            StoreError: the file is damaged.
        """
        rest = self.begin_sweep(live)
        return 0 if rest is None else rest()

    def begin_sweep(self, live: Iterable[Digest]) -> Callable[[], int] | None:
        """Begin what ``sweep`` does; return the rest, which blocks, to be called in any case.

        For who knows what is live in one thread and sweeps in another: what is asked for in
        between stays, too. None where nothing can be done now.
        """
        with self._lock:
            if self._open_transactions or self._vouched is not None:
                return None
            self._vouched = set()
        return partial(self._sweep, live)

    def _sweep(self, live: Iterable[Digest]) -> int:
        marks = bytearray()
        try:
            for digest in live:
                self._mark(digest, marks)
            return self._remove_unmarked(marks)
        finally:
            with self._lock:
                self._vouched = None

    def _mark(self, root: Digest, marks: bytearray) -> None:
        """Mark the rows of all nodes below ``root``; one that is not here has none."""
        stack = [root]
        while stack:
            check_wanted()
            digest = stack.pop()
            row = self._row("SELECT number, packed, data FROM nodes WHERE digest = ?", digest)
            if row is None:
                continue
            number, packed, data = row
            if number >= len(marks):
                marks.extend(bytes(number + 4096 - len(marks)))
            if not marks[number]:
                marks[number] = 1
                with self._lock:
                    node = decode_trusted(self._unpack(digest, packed, data))
                stack += [e.tree for e in node.entries if isinstance(e, Subdirectory)]

    def _remove_unmarked(self, marks: bytearray) -> int:
        """Remove rows a slice at a time, so that nobody waits for long; return how many.

        A directory's row comes after those of what is below it. So going backwards no parent
        outlives what is below it, wherever a crash cuts this off; and of a tree that is asked
        for between two slices, and is still here, all is here.
        """
        with self._lock:
            self._flush()
            rows = self._rows("SELECT number FROM nodes ORDER BY number DESC")
        left = [number for (number,) in rows if not _is_marked(marks, number)]
        removed = 0
        for at in range(0, len(left), SLICE_NODES):
            check_wanted()
            self._mark_vouched(marks)
            with self._lock:
                # From here on nobody can ask for a tree that is about to go.
                self._mark_vouched(marks)
                some = left[at : at + SLICE_NODES]
                gone = [(number,) for number in some if not _is_marked(marks, number)]
                self._execute_all("DELETE FROM nodes WHERE number = ?", gone)
                self._summaries.clear()
                self._hot.clear()
            removed += len(gone)
            time.sleep(BETWEEN_SLICES_S)
        return removed

    def _mark_vouched(self, marks: bytearray) -> None:
        """Mark the trees that somebody was told of since this was last done."""
        with self._lock:
            self._flush()
            vouched, self._vouched = self._vouched or set(), set()
        for digest in vouched:
            self._mark(digest, marks)

    def usage(self) -> tuple[int, int]:
        """Return how many nodes are on disk, and what they take there in bytes."""
        with self._lock:
            ((count,),) = self._rows("SELECT COUNT(*) FROM nodes")
            pages, free, size = (
                self._rows(f"PRAGMA {name}")[0][0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return count, (pages - free) * size

    # --- inside -------------------------------------------------------------------------------

    def _find(self, digest: Digest) -> Summary | None:
        with self._lock:
            self._vouch(digest)
            summary = self._summaries.get(digest)
            if summary is not None:
                self._summaries.move_to_end(digest)
                return summary
            if digest in self._pending:
                return self._pending[digest][1]
            row = self._row(
                "SELECT content, entries, size, links, depth FROM nodes WHERE digest = ?",
                digest,
            )
            if row is None:
                return None
            summary = self._summaries[digest] = Summary(*row)
            if len(self._summaries) > _HOT_SUMMARIES:
                self._summaries.popitem(last=False)
            return summary

    def _vouch(self, digest: Digest) -> None:
        """Note that somebody is told that ``digest`` is here: a running sweep must keep it."""
        if self._vouched is not None:
            self._vouched.add(digest)

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = [
            (digest, *summary, *self._pack(data))
            for digest, (data, summary) in self._pending.items()
        ]
        self._execute_all(_INSERT, rows)
        self._pending.clear()
        self._pending_bytes = 0

    def _pack(self, data: bytes) -> tuple[int, bytes]:
        packed = self._packer.compress(data)
        return (1, packed) if len(packed) < len(data) else (0, data)

    def _unpack(self, digest: Digest, packed: int, data: bytes) -> bytes:
        try:
            if packed:
                data = self._unpacker.decompress(data, max_output_size=MAX_NODE_BYTES)
        except zstandard.ZstdError as exc:
            raise self._failed(exc) from exc
        if digest_of(data) != digest:
            raise self._failed(f"node {short(digest)} has other bytes")
        return data

    def _row(self, query: str, digest: Digest) -> tuple[Any, ...] | None:
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._db.execute(query, (digest,)).fetchone()
        except DATABASE_ERRORS as exc:
            raise self._failed(exc) from exc
        return row

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query).fetchall()
        except DATABASE_ERRORS as exc:
            raise self._failed(exc) from exc

    def _execute_all(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._lock, self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(statement, rows)
        except DATABASE_ERRORS as exc:
            raise self._failed(exc) from exc

    def _failed(self, why: object) -> StoreError:
        return StoreError(
            f"the manifests in {self._path} cannot be used: {why}; free space if the disk is "
            "full, else stop this process and remove the file: what is lost is scanned again"
        )


def _is_marked(marks: bytearray, number: int) -> bool:
    return number < len(marks) and bool(marks[number])


def batched(nodes: Nodes) -> AbstractContextManager[None]:
    """Return a transaction of ``nodes``, or of what it writes to, where it has any."""
    match nodes:
        case SqliteNodes():
            return nodes.transaction()
        case LayeredNodes():
            return batched(nodes.upper)
        case _:
            return nullcontext()


class _Hot:
    """The bytes of nodes that were read last, bounded in bytes."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[Digest, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, digest: Digest) -> bytes | None:
        data = self._nodes.get(digest)
        if data is not None:
            self._nodes.move_to_end(digest)
        return data

    def add(self, digest: Digest, data: bytes) -> None:
        if len(data) > _HOT_NODE_BYTES:
            return
        self._nodes[digest] = data
        self._bytes += len(data)
        while self._bytes > _HOT_BYTES:
            self._bytes -= len(self._nodes.popitem(last=False)[1])

    def clear(self) -> None:
        self._nodes.clear()
        self._bytes = 0


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {_SCHEMA}; PRAGMA user_version = {VERSION}; COMMIT")
        elif version != VERSION:
            raise StoreError(
                f"{path} holds manifests of version {version}, and this program knows "
                f"{VERSION}: use the program that made it, or remove it and scan again"
            )
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db
