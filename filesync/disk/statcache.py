"""The stat cache: digests of files that have not changed since they were last read.

One SQLite file, one row a directory, so that a scan holds one directory's entries at a time. It
is only ever a saving: damaged, or of another version, it is started anew; locked by another
process or without space it is not used.

A file that was changed as late as the scan that read it is not noted: it could change again
within the same tick of the clock, and nothing would show it ("racy git").
"""

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, NamedTuple, Self

import msgspec
from xxhash import xxh3_64_digest

from filesync.digest import WireDigest
from filesync.errors import StoreError

log = logging.getLogger(__name__)

VERSION: Final = 1
FINE_SLACK_NS: Final = 20_000_000
"""Above the coarsest tick (10 ms) by which kernels stamp files."""
COARSE_SLACK_NS: Final = 2_100_000_000
"""For stamps in whole seconds; FAT's are two apart."""
_BATCH_ROWS: Final = 500
_MAX_ROWS: Final = 1 << 26
_CHECK_BYTES: Final = 8


class Noted(NamedTuple):
    """What is known of one file: the stat it was read under, and what was read."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    digest: WireDigest
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


Entries = dict[Annotated[bytes, msgspec.Meta(max_length=255)], Noted]
_decoder: Final = msgspec.msgpack.Decoder(Entries)
_encoder: Final = msgspec.msgpack.Encoder()


def is_racy(mtime_ns: int, ctime_ns: int, *, started_ns: int) -> bool:
    """Say whether a file with these stamps may change again without showing it.

    ``started_ns`` is the time at which the scan that read it began.
    """
    coarse = mtime_ns % 1_000_000_000 == 0 and ctime_ns % 1_000_000_000 == 0
    newest = max(mtime_ns, ctime_ns)
    return newest >= started_ns - (COARSE_SLACK_NS if coarse else FINE_SLACK_NS)


class StatCache:
    """What was read before, by directory. One root per cache, one scan at a time."""

    def __init__(self, path: Path) -> None:
        """Open the cache at ``path``, or start one.

        Raises:
            StoreError: no file can be made there.
        """
        self._path = path
        self._queue: list[tuple[bytes, bytes]] = []
        self._seen = bytearray()
        self._db: sqlite3.Connection | None = None
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as exc:
            self._fail(exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def begin(self) -> None:
        """Start a scan: every directory that it loads is one that is still there."""
        self._queue.clear()
        # Which rows were loaded, one byte each; rows that are added later are above its end.
        row = self._row("SELECT max(rowid) FROM directories")
        last = row[0] if row is not None else None
        self._seen = bytearray(min(last or 0, _MAX_ROWS))

    def load(self, directory: bytes) -> Mapping[bytes, Noted]:
        """Return what is noted of the files in ``directory``."""
        row = self._row("SELECT rowid, data FROM directories WHERE path = ?", directory)
        if row is None:
            return {}
        rowid, data = row
        if rowid <= len(self._seen):
            self._seen[rowid - 1] = 1
        return _unpack(data)

    def store(self, directory: bytes, entries: Mapping[bytes, Noted]) -> None:
        """Note ``entries`` as all that is known of ``directory``, some time before ``end``."""
        data = _encoder.encode(entries)
        self._queue.append((directory, xxh3_64_digest(data) + data))
        if len(self._queue) >= _BATCH_ROWS:
            self._write(_UPSERT, self._queue)
            self._queue.clear()

    def end(self, *, complete: bool) -> None:
        """Write what is queued; after a complete scan also drop directories that are gone."""
        self._write(_UPSERT, self._queue)
        self._queue.clear()
        if complete and 0 in self._seen:
            gone = ((at + 1,) for at, seen in enumerate(self._seen) if not seen)
            self._write("DELETE FROM directories WHERE rowid = ?", gone)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._db is not None:
            with suppress(sqlite3.DatabaseError):
                self._db.close()
            self._db = None

    def _row(self, query: str, *arguments: bytes) -> tuple[Any, ...] | None:
        if self._db is None:
            return None
        try:
            row: tuple[Any, ...] | None = self._db.execute(query, arguments).fetchone()
        except sqlite3.DatabaseError as exc:
            self._fail(exc)
            return None
        return row

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        if self._db is None:
            return
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.DatabaseError as exc:
            self._fail(exc)

    def _fail(self, exc: sqlite3.DatabaseError) -> None:
        """Go on without the cache, or with an empty one if the file is damaged.

        Raises:
            StoreError: no file can be made there.
        """
        self.close()
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_CANTOPEN:
            raise StoreError(f"the stat cache {self._path} cannot be opened: {exc}") from exc
        if code in _PASSING:
            log.warning("stat cache not used path=%s reason=%s", self._path, exc)
            return
        log.warning("stat cache started anew path=%s reason=%s", self._path, exc)
        self._seen = bytearray()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        with suppress(sqlite3.DatabaseError):
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError(f"version {version}, not {VERSION}")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("CREATE TABLE directories (path BLOB UNIQUE NOT NULL, data BLOB)")
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("PRAGMA synchronous = NORMAL")
            # A column that is not there must show now and not in the middle of a scan.
            db.execute("SELECT rowid, path, data FROM directories LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db


_PASSING: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
)
"""Codes that say nothing against the file itself."""

_UPSERT: Final = """
    INSERT INTO directories (path, data) VALUES (?, ?)
    ON CONFLICT (path) DO UPDATE SET data = excluded.data
"""


def _unpack(data: bytes) -> Entries:
    packed = data[_CHECK_BYTES:]
    if xxh3_64_digest(packed) != data[:_CHECK_BYTES]:
        return {}
    try:
        return _decoder.decode(packed)
    except msgspec.MsgspecError:
        return {}
