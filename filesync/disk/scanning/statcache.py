"""The stat cache: what earlier scans saw of directories and files that have not changed since.

One SQLite file, one row a directory (``Seen``), so that a scan holds one directory's entries at
a time. A directory that was renamed is found again by its inode. It is only ever a saving:
damaged, or of another version, it is started anew; locked by another process or without space
it is not used.

All scans of a root share it, whatever they look at: what one leaves out stays as it was noted, so that
who looks at it next reads nothing again that has not changed.

A file that was changed as late as the scan that read it is not noted: it could change again
within the same tick of the clock, and nothing would show it ("racy git"). Nothing shows what is
written to a file through memory either, where the kernel sees no fault: on tmpfs, and in a page that
is still dirty from before the scan. To write out what may be mapped first would cost each scan.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
from xxhash import xxh3_64_digest

from filesync.decoding import DATABASE_ERRORS, UNDECODABLE
from filesync.digest import EMPTY, Digest, WireDigest, digest_of
from filesync.disk.database import remove_database
from filesync.errors import StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    File,
    Known,
    Summary,
    Xattrs,
    encode,
    with_entries,
)
from filesync.manifest.node import decode_trusted
from filesync.process.entropy import random_bits

log = logging.getLogger(__name__)

VERSION: Final = 4
FINE_SLACK_NS: Final = 20_000_000
"""Above the coarsest tick (10 ms) by which kernels stamp files."""
COARSE_SLACK_NS: Final = 2_100_000_000
"""For stamps in whole seconds; FAT's are two apart."""
NOT_NOTED: Final = (0, 0, 0)
"""The stamps of a file of which nothing is known."""
_BATCH_ROWS: Final = 500
_BATCH_BYTES: Final = 4 << 20
_AHEAD_ROWS: Final = 128
_AHEAD_BYTES: Final = 1 << 20
_MAX_ROWS: Final = 1 << 26
_TRIED_ROWS: Final = 256
"""Of those that a scan has left out, looked at after it, from anywhere on, until so many are there: in time,
what is gone goes, however much that is."""
_CHECK_BYTES: Final = 8


class Noted(NamedTuple):
    """What is known of one file: the stat it was read under, and what was read."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    digest: Digest
    xattrs: Xattrs = ()


SeenFile = tuple[File, int, int, int]
"""A file as it was made, and (ctime_ns, inode, device). A plain tuple: there are many.

Of one that no scan has seen yet there are other numbers (``written``).
"""


def noted(file: File, ctime_ns: int, inode: int, device: int) -> Noted:
    """Return what is known of a file's content."""
    return Noted(file.size, file.mtime_ns, ctime_ns, inode, device, file.digest, file.xattrs)


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a scan saw of one directory.

    Attributes:
        node: the directory as it was made, encoded.
        stamps: (ctime_ns, inode, device) of each file in ``node``, one after the other, encoded
            once more; all 0 for a file that is not noted.
        mark: what the directory's listing and its stats came to (``listing.mark``): while they
            come to the same, ``node`` stands for the directory. b"" is never the same.
        summary: belongs to ``node``; not looked at without a mark.
        below: (name, tree digest) of the subdirectories in ``node``.
        hidden_ns: for files that were written in it and no scan has seen (``written``): one with an
            earlier ctime has the attributes that it was given, as nobody else could see it by then.
        others: one like ``node``, of names that are there and were not looked at when that was
            made, as they were when they were; b"" for none.
        others_stamps: as ``stamps``, of those.
    """

    node: bytes
    stamps: bytes
    mark: bytes = b""
    summary: Summary = Summary(EMPTY, 0, 0, 0, 1)
    below: tuple[tuple[bytes, WireDigest], ...] = ()
    hidden_ns: int = 0
    others: bytes = b""
    others_stamps: bytes = b""

    def known(self) -> Known:
        """Return the directory as it was made."""
        return Known(digest_of(self.node), self.node, self.summary, self.below)

    def files(self) -> dict[bytes, SeenFile]:
        """Return what is noted of the files, by name; of the others, too."""
        found = _files(self.node, self.stamps)
        return found | _files(self.others, self.others_stamps) if self.others else found

    def with_files(self, new: Iterable[SeenFile]) -> "Seen":
        """Return the same with other files, in place of those that have their names.

        Of these nobody knows who looks at which: it has no ``others``.
        """
        known = _numbered(self.node, self.stamps) | self._other()
        known.update((one[0].name, (one[0], one[1:])) for one in new)
        return Seen(*_packed(decode_trusted(self.node), known))

    def apart(self, is_other: Callable[[bytes], bool]) -> "Seen":
        """Return the same, where ``is_other`` says whose names are ``others``; this one if that is so.

        Another has no mark.
        """
        ours, others = _numbered(self.node, self.stamps), self._other()
        leaving = [name for name in ours if is_other(name)]
        coming = [name for name in others if not is_other(name)]
        if not leaving and not coming:
            return self
        back = {name: others.pop(name) for name in coming}
        others |= {name: ours.pop(name) for name in leaving}
        node, stamps = _packed(decode_trusted(self.node), ours | back)
        apart = _packed(EMPTY_DIRECTORY, others) if others else (b"", b"")
        return Seen(
            node, stamps, hidden_ns=self.hidden_ns, others=apart[0], others_stamps=apart[1]
        )

    def _other(self) -> "dict[bytes, _Numbered]":
        return _numbered(self.others, self.others_stamps) if self.others else {}

    def noted(self) -> dict[bytes, Noted]:
        """Return the same as what can be known of another name for the same files."""
        return {name: noted(*seen) for name, seen in self.files().items()}


_Numbered = tuple[Entry, tuple[int, ...]]
"""An entry of a node, and the stamps of a file; () of what is none."""


def _files(node: bytes, stamps: bytes) -> dict[bytes, SeenFile]:
    numbers = iter(_stamps_decoder.decode(stamps))
    files = [e for e in decode_trusted(node).entries if isinstance(e, File)]
    found = zip(files, numbers, numbers, numbers, strict=False)
    return {seen[0].name: seen for seen in found if seen[2]}


def _numbered(node: bytes, stamps: bytes) -> dict[bytes, _Numbered]:
    numbers = iter(_stamps_decoder.decode(stamps))
    of_files = zip(numbers, numbers, numbers, strict=True)
    entries = decode_trusted(node).entries
    return {e.name: (e, next(of_files) if isinstance(e, File) else ()) for e in entries}


def _packed(header: Directory, numbered: Mapping[bytes, _Numbered]) -> tuple[bytes, bytes]:
    """Return a node, and its stamps, of what there is by name."""
    ordered = [numbered[name] for name in sorted(numbered)]
    node = with_entries(header, map(itemgetter(0), ordered))
    return encode(node), pack_stamps(chain.from_iterable(map(itemgetter(1), ordered)))


_decoder: Final = msgspec.msgpack.Decoder(Seen)
_stamps_decoder: Final = msgspec.msgpack.Decoder(list[int])
_encoder: Final = msgspec.msgpack.Encoder()


def pack_stamps(stamps: Iterable[int]) -> bytes:
    """Return ``stamps`` as ``Seen`` keeps them.

    One beyond 64 bits, which file systems tell that keep seconds in as many, becomes another: the
    file is read each time.
    """
    numbers = list(stamps)
    try:
        return _encoder.encode(numbers)
    except OverflowError:
        return _encoder.encode([n if -(1 << 63) <= n < 1 << 64 else 0 for n in numbers])


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
        self._queue: list[tuple[bytes, int, bytearray]] = []
        self._queued_bytes = 0
        self._seen = bytearray()
        self._is_empty = False  # or not known to be
        self._ahead: dict[bytes, tuple[int, bytes]] = {}
        self._most_ahead = 1
        self._db: sqlite3.Connection | None = None
        try:
            self._db = self._open()
        except DATABASE_ERRORS as exc:
            self._fail(exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> None:
        """Start a scan: every directory that it loads is one that is still there."""
        self._queue.clear()
        self._queued_bytes = 0
        self._ahead.clear()
        # Which rows were loaded, one byte each; rows that are added later are above its end.
        row = self._row("SELECT max(rowid) FROM directories")
        last = row[0] if row is not None else None
        self._is_empty = last is None
        self._seen = bytearray(min(last or 0, _MAX_ROWS))

    def load(self, directory: bytes, inode: int = 0) -> Seen | None:
        """Return what was seen of ``directory``, under this path or under the one it had before.

        ``inode`` is its number, 0 where that is not to be looked for. A number that another
        directory has had before does no harm: what was seen is compared with what is there.
        """
        if self._is_empty:
            return None
        if directory not in self._ahead:
            self._read_ahead(directory)
        row = self._ahead.pop(directory, None)
        if row is None and inode:
            row = self._row(_BY_INODE, _signed(inode))
            if row is not None:
                self._write(_RENAME, [(directory, row[0])])
        if row is None:
            return None
        rowid, data = row
        if rowid <= len(self._seen):
            self._seen[rowid - 1] = 1
        return _unpack(data)

    def keep(self, directory: bytes, seen: Seen, inode: int = 0) -> None:
        """Keep what was seen of ``directory``, some time before ``end``; see ``load``."""
        row = bytearray(_CHECK_BYTES)
        _encoder.encode_into(seen, row, _CHECK_BYTES)
        row[:_CHECK_BYTES] = xxh3_64_digest(memoryview(row)[_CHECK_BYTES:])
        self._queue.append((directory, _signed(inode), row))
        self._queued_bytes += len(row)
        if len(self._queue) >= _BATCH_ROWS or self._queued_bytes >= _BATCH_BYTES:
            self._flush()

    def store(self, directory: bytes, entries: Mapping[bytes, Noted]) -> None:
        """Keep ``entries`` as all that is known of the files in ``directory``."""
        files: list[File] = []
        stamps: list[int] = []
        for name, noted in sorted(entries.items()):
            size, mtime_ns, ctime_ns, inode, device, digest, xattrs = noted
            files.append(File(name, 0, 0, 0, mtime_ns, size, digest, b"", xattrs))
            stamps += (ctime_ns, inode, device)
        node = encode(with_entries(EMPTY_DIRECTORY, files))
        self.keep(directory, Seen(node, pack_stamps(stamps)))

    def end(self, *, complete: bool, is_there: Callable[[bytes], bool] | None = None) -> None:
        """Write what is queued; after a complete scan also drop directories that are gone.

        Those are all that were not loaded. Where the scan has left some out ``is_there`` is asked
        about some of them.
        """
        self._flush()
        self._is_empty = False
        if complete and 0 in self._seen:
            gone = self._unmet() if is_there is None else self._found_gone(is_there)
            self._write("DELETE FROM directories WHERE rowid = ?", [(row,) for row in gone])

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._db is not None:
            with suppress(sqlite3.DatabaseError):
                self._db.close()
            self._db = None

    def _read_ahead(self, directory: bytes) -> None:
        """Read the row of ``directory``, and those behind it, which a scan is likely to load next."""
        self._ahead.clear()
        size = 0
        if self._db is not None:
            try:
                for row, data, path in self._db.execute(_AHEAD, (directory, self._most_ahead)):
                    self._ahead[path] = row, data
                    size += len(data)
                    if size > _AHEAD_BYTES:
                        break
            except DATABASE_ERRORS as exc:
                self._fail(exc)
        # Where there are none of a new directory there are none of those in it.
        is_there = directory in self._ahead
        self._most_ahead = min(2 * self._most_ahead, _AHEAD_ROWS) if is_there else 1

    def _unmet(self) -> Iterator[int]:
        """Return the rows that were not loaded."""
        return (at for at, seen in enumerate(self._seen, 1) if not seen)

    def _found_gone(self, is_there: Callable[[bytes], bool]) -> Iterator[int]:
        """Return some rows that were not loaded, and of which ``is_there`` says no."""
        at = max(0, random_bits(63) % (len(self._seen) + _TRIED_ROWS) - _TRIED_ROWS)
        left = _TRIED_ROWS
        while left:
            at = self._seen.find(0, at)
            row = self._row(_NEXT, at + 1) if at >= 0 else None  # rows have gone from between
            if row is None or row[0] > len(self._seen):
                return
            at, path = row
            if self._seen[at - 1] or is_there(path):
                left -= 1
            else:
                yield at

    def _flush(self) -> None:
        self._write(_UPSERT, self._queue)
        self._queue.clear()
        self._queued_bytes = 0

    def _row(self, query: str, *arguments: bytes | int) -> tuple[Any, ...] | None:
        rows = self._rows(query, *arguments)
        return rows[0] if rows else None

    def _rows(self, query: str, *arguments: bytes | int) -> list[Any]:
        if self._db is None:
            return []
        try:
            return self._db.execute(query, arguments).fetchall()
        except DATABASE_ERRORS as exc:
            self._fail(exc)
            return []

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        if self._db is None:
            return
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except DATABASE_ERRORS as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
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
        self._ahead.clear()
        with suppress(OSError, *DATABASE_ERRORS):
            remove_database(self._path)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        try:
            if _version(db) != VERSION:
                _make(db)
            db.execute("PRAGMA synchronous = NORMAL")
            # A column that is not there must show now and not in the middle of a scan.
            db.execute("SELECT rowid, path, inode, data FROM directories LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _make(db: sqlite3.Connection) -> None:
    """Make what is in a new file; several scans may come to it at once.

    Raises:
        sqlite3.DatabaseError: it is not new, and of another version.
    """
    db.execute("BEGIN IMMEDIATE")
    if (version := _version(db)) != VERSION:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError(f"version {version}, not {VERSION}")
        db.execute(
            "CREATE TABLE directories (path BLOB UNIQUE NOT NULL, inode INTEGER, data BLOB)"
        )
        db.execute("CREATE INDEX by_inode ON directories (inode)")
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.commit()
    with suppress(sqlite3.OperationalError):  # one who reads just now is in the way
        db.execute("PRAGMA journal_mode = WAL")


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

# What a damaged file has may be of any type.
_NEXT: Final = """
    SELECT rowid, path FROM directories WHERE rowid >= ? AND typeof(path) = 'blob'
    ORDER BY rowid LIMIT 1
"""
_BY_INODE: Final = """
    SELECT rowid, CAST(data AS BLOB) FROM directories WHERE inode = ? AND data NOT NULL
"""
_AHEAD: Final = """
    SELECT rowid, CAST(data AS BLOB), path FROM directories WHERE path >= ? AND data NOT NULL
    ORDER BY path LIMIT ?
"""
# Another process may have noted it meanwhile.
_RENAME: Final = "UPDATE OR REPLACE directories SET path = ? WHERE rowid = ?"
_UPSERT: Final = """
    INSERT INTO directories (path, inode, data) VALUES (?, ?, ?)
    ON CONFLICT (path) DO UPDATE SET inode = excluded.inode, data = excluded.data
"""


def _signed(inode: int) -> int:
    """Return ``inode`` as SQLite can hold it; overlayfs, FUSE and NFS use all of its 64 bits."""
    return inode - (1 << 64) if inode >> 63 else inode


def _unpack(data: bytes) -> Seen | None:
    packed = data[_CHECK_BYTES:]
    if xxh3_64_digest(packed) != data[:_CHECK_BYTES]:
        return None
    try:
        return _decoder.decode(packed)
    except UNDECODABLE:
        return None
