"""Cache records: which key has which ref, and what is known of each ref.

Kept in SQLite; all of it can be rebuilt from what the workers announce, and is, as they register.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.database import open_database, using
from filesync.errors import StoreError
from worker.wire.orders import RefInfo

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE refs (ref BLOB PRIMARY KEY, created_s REAL NOT NULL, info BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (key BLOB NOT NULL, ref BLOB NOT NULL, PRIMARY KEY (key, ref)) WITHOUT ROWID;
CREATE INDEX keys_by_ref ON keys (ref);
"""
_REMEDY: Final = (
    "remove the manager's --state directory: what is lost is learnt again from the workers"
)
_decoder: Final = msgspec.msgpack.Decoder(RefInfo)


class Records:
    """The store of cache records. Used from one thread; all raise ``StoreError`` for this disk."""

    def __init__(self, path: Path) -> None:
        """Open the file, made if missing.

        Raises:
            StoreError: it cannot be used, or another version wrote it.
        """
        self._path = path
        with self._using():
            self._db = open_database(path, schema=_SCHEMA, version=SCHEMA_VERSION)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def add(self, info: RefInfo) -> None:
        """Keep what is known of a ref, and its keys; a layer once known is not forgotten."""
        known = self.ref(info.ref)
        if known is not None:
            # A copy came later than the result was made, and is as old as that.
            made_s = min(known.created_s, info.created_s)
            layer = info.layer or known.layer
            file = info.file or known.file
            info = msgspec.structs.replace(info, layer=layer, created_s=made_s, file=file)
        bare = msgspec.structs.replace(info, keys=())
        if known is None or bare != known:
            row = (info.ref, info.created_s, msgspec.msgpack.encode(bare))
            with self._using():
                self._db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", row)
        self.add_keys(info.ref, info.keys)

    def add_keys(self, ref: Digest, keys: Iterable[Digest]) -> None:
        """Remember that ``keys`` have the result ``ref``."""
        rows = [(key, ref) for key in keys]
        with self._using():
            self._db.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?)", rows)

    def find(self, key: Digest) -> list[RefInfo]:
        """Return the refs that ``key`` has, newest first; somebody may or may not hold them."""
        return self._infos(
            "SELECT info FROM refs JOIN keys USING (ref) WHERE key = ?"
            " ORDER BY created_s DESC, ref",
            key,
        )

    def keys(self, ref: Digest) -> tuple[Digest, ...]:
        """Return the keys that have the result ``ref``, in order."""
        rows = self._column("SELECT key FROM keys WHERE ref = ? ORDER BY key", ref)
        return tuple(map(Digest, rows))

    def keys_like(self, prefix: str) -> list[Digest]:
        """Return the keys whose hex begins with ``prefix``, in order; a few if there are many."""
        low, high = prefix.ljust(64, "0"), prefix.ljust(64, "f")
        rows = self._column(
            "SELECT DISTINCT key FROM keys WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 10",
            bytes.fromhex(low),
            bytes.fromhex(high),
        )
        return list(map(Digest, rows))

    def ref(self, ref: Digest) -> RefInfo | None:
        """Return what is known of ``ref``, without its keys."""
        found = self._infos("SELECT info FROM refs WHERE ref = ?", ref)
        return found[0] if found else None

    def chain(self, ref: Digest) -> tuple[RefInfo, ...]:
        """Return ``ref`` and what it was made on top of, parents first.

        Raises:
            StoreError: a parent is not known here, or a worker has said that it is its own.
        """
        links: dict[Digest, RefInfo] = {}
        at: Digest | None = ref
        while at is not None:
            info = self.ref(at)
            if info is None:
                raise StoreError(f"the parent {at.hex()[:12]} of a result is not known")
            if at in links:
                raise StoreError(f"the result {at.hex()[:12]} is said to be made of itself")
            links[at] = info
            at = info.parent
        return tuple(reversed(links.values()))

    def forget(self, refs: Iterable[Digest]) -> None:
        """Drop refs that nobody holds any more, with their keys; not what others were made on."""
        rows = [(ref,) for ref in self._needless(refs)]
        with self._using():
            self._db.executemany("DELETE FROM keys WHERE ref = ?", rows)
            self._db.executemany("DELETE FROM refs WHERE ref = ?", rows)

    def trees(self) -> list[Digest]:
        """Return the tree digest of every ref that is known."""
        return [info.tree for info in self._infos("SELECT info FROM refs")]

    def _needless(self, refs: Iterable[Digest]) -> set[Digest]:
        """Return those of ``refs`` that are below no other one."""
        going = set(refs)
        infos = self._infos("SELECT info FROM refs") if going else ()
        parents = {info.ref: info.parent for info in infos}
        for at in parents.keys() - going:
            below = parents[at]
            while below in going:
                going.remove(below)
                below = parents.get(below)
        return going

    def _infos(self, query: str, *arguments: bytes) -> list[RefInfo]:
        with self._using():
            return [_decoder.decode(info) for info in self._column(query, *arguments)]

    def _column(self, query: str, *arguments: bytes) -> list[bytes]:
        with self._using():
            return [value for (value,) in self._db.execute(query, arguments)]

    def _using(self) -> AbstractContextManager[None]:
        return using(self._path, remedy=_REMEDY)
