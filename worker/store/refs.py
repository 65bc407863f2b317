"""The refs that a worker holds, and which snapshot holds each: its part of the cluster's memory."""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from filesync.digest import Digest, digest_of
from filesync.disk.database import open_database, using
from filesync.errors import StoreError
from worker.wire.orders import Layer, RefInfo
from worker.wire.urls import UrlFile

SCHEMA_VERSION: Final = 1
SKELETON: Final = "skeleton"
"""The form of a layer that is its tar without the contents (``worker.layers.skeleton``)."""
_SCHEMA: Final = """
CREATE TABLE refs (ref BLOB PRIMARY KEY, snapshot TEXT NOT NULL, info BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE variants (digest TEXT, compression TEXT, layer BLOB NOT NULL,
    PRIMARY KEY (digest, compression)) WITHOUT ROWID;
"""
_USES: Final = """
CREATE TABLE IF NOT EXISTS uses (ref BLOB PRIMARY KEY, used_s REAL NOT NULL) WITHOUT ROWID
"""
USE_STEP_S: Final = 60.0
"""A ref's use is not written down more often: so exactly is it known after a restart."""
_REMEDY: Final = "give another --state directory, or remove that one"
_decoder: Final = msgspec.msgpack.Decoder(RefInfo)


class RefMissing(StoreError):
    """This worker does not hold a ref, whatever the manager believes."""

    code = "ref-missing"

    def __init__(self, ref: Digest) -> None:
        super().__init__(f"this worker does not hold {ref.hex()[:12]} any more")


def ref_name(parent: Digest | None, tree: Digest, imported: str = "") -> Digest:
    """Return the identity of a result: its tree, and the layers that it stands on.

    Of what a layer of an image made, that layer is part: ``imported`` is its digest. Another
    image may have other bytes that make the same tree, and two workers might each have known
    one of them: the ref would have been another layer here than there.
    """
    return digest_of(b"ref\0" + (parent or b"") + tree + imported.encode())


class HeldRef(msgspec.Struct, frozen=True):
    """A ref here and the snapshot that holds it."""

    info: RefInfo
    snapshot: str


class RefStore:
    """All refs of a worker: in memory, and in SQLite so that they outlive it.

    A row is written after its snapshot is committed, so what a crash can leave is a snapshot
    without a ref, which start-up removes, and never a ref without a snapshot.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, made if missing.

        Raises:
            StoreError: it cannot be used, or another version wrote it.
        """
        self._path = path
        self._lock = threading.Lock()
        with self._using():
            self._db = open_database(path, schema=_SCHEMA, version=SCHEMA_VERSION)
            try:
                self._db.execute(_USES)
                rows = self._db.execute("SELECT snapshot, info FROM refs").fetchall()
                used = self._db.execute("SELECT ref, used_s FROM uses").fetchall()
                decoded = [HeldRef(_decoder.decode(info), snapshot) for snapshot, info in rows]
            except BaseException:
                self._db.close()
                raise
        self._held = {held.info.ref: held for held in decoded}
        self._used_s: dict[Digest, float] = dict(used)
        self._written_s = dict(self._used_s)
        self._changes = 0
        self._layer_blobs: tuple[int, frozenset[str]] | None = None

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def infos(self) -> tuple[RefInfo, ...]:
        """Return every ref here, oldest first, but none before its parent: clocks are set back."""
        found: dict[Digest, RefInfo] = {}
        for one in sorted(self._held.values(), key=lambda one: one.info.created_s):
            below: list[RefInfo] = []
            at: HeldRef | None = one
            while at is not None and at.info.ref not in found:
                below.append(at.info)
                at = self._held.get(at.info.parent) if at.info.parent else None
            found.update((info.ref, info) for info in reversed(below))
        return tuple(found.values())

    def snapshots(self) -> set[str]:
        """Return the snapshots that some ref needs."""
        return set(self.by_snapshot())

    def by_snapshot(self) -> dict[str, Digest]:
        """Return the snapshots that refs need, each with its ref."""
        return {held.snapshot: held.info.ref for held in [*self._held.values()]}

    def find(self, ref: Digest) -> HeldRef | None:
        """Return a ref, or None if it is not here."""
        return self._held.get(ref)

    def get(self, ref: Digest) -> HeldRef:
        """Return a ref.

        Raises:
            RefMissing: it is not here.
        """
        held = self._held.get(ref)
        if held is None:
            raise RefMissing(ref)
        return held

    def chain(self, ref: Digest) -> list[HeldRef]:
        """Return ``ref`` and all that it stands on, parents first.

        Raises:
            RefMissing: one of them is not here.
        """
        links: list[HeldRef] = []
        at: Digest | None = ref
        while at is not None:
            held = self.get(at)
            links.append(held)
            at = held.info.parent
        links.reverse()
        return links

    def on(self, parent: Digest | None) -> list[HeldRef]:
        """Return the refs on top of ``parent``, the newest first."""
        found = [held for held in [*self._held.values()] if held.info.parent == parent]
        return sorted(found, key=lambda held: held.info.created_s, reverse=True)

    def find_child(self, parent: Digest | None, layer: Layer) -> RefInfo | None:
        """Return the ref that ``layer`` makes on top of ``parent``, if that was done before."""
        return next((held.info for held in self.on(parent) if held.info.layer == layer), None)

    def add(self, info: RefInfo, snapshot: str) -> HeldRef:
        """Keep a ref. One that is here already keeps its snapshot and gains the keys."""
        with self._lock:
            return self._joined(info, snapshot)

    def add_keys(self, ref: Digest, keys: Iterable[Digest]) -> None:
        """Remember that ``keys`` have the result ``ref``.

        Raises:
            RefMissing: it is not here.
        """
        self._change(ref, keys=tuple(keys))

    def set_layer(self, ref: Digest, layer: Layer) -> None:
        """Record the one layer blob of a ref. Once recorded it is never replaced.

        Raises:
            RefMissing: it is not here.
        """
        self._change(ref, layer=layer)

    def set_file(self, ref: Digest, file: UrlFile) -> RefInfo:
        """Record what is known now of the file from a URL that a ref is.

        Raises:
            RefMissing: it is not here.
        """
        return self._change(ref, file=file).info

    def variant(self, digest: str, form: str) -> Layer | None:
        """Return what is known of a layer's blob ``digest`` in another compression.

        ``form`` names it, and its level where that is not the usual one.
        """
        with self._using():
            row = self._db.execute(
                "SELECT layer FROM variants WHERE digest = ? AND compression = ?",
                (digest, form),
            ).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=Layer)

    def add_variant(self, digest: str, form: str, layer: Layer) -> None:
        """Remember a layer's blob ``digest`` in the compression that ``form`` names."""
        with self._lock, self._using():
            self._db.execute(
                "INSERT OR REPLACE INTO variants VALUES (?, ?, ?)",
                (digest, form, msgspec.msgpack.encode(layer)),
            )
            self._changes += 1

    def variants(self) -> list[tuple[str, str, str]]:
        """Return (digest of a layer, form, digest of it in that form) of all."""
        query = "SELECT digest, compression, layer FROM variants"
        with self._using():
            rows = self._db.execute(query).fetchall()
            decode = msgspec.msgpack.Decoder(Layer).decode
            return [(digest, form, decode(layer).digest) for digest, form, layer in rows]

    def layer_blobs(self) -> frozenset[str]:
        """Return the blobs that are the layers of refs here now, or the skeletons of these."""
        changes = self._changes
        if self._layer_blobs is None or self._layer_blobs[0] != changes:
            held = [*self._held.values()]
            layers = {one.info.layer.digest for one in held if one.info.layer}
            for layer, form, digest in self.variants():
                if form == SKELETON and layer in layers:
                    layers.add(digest)
            self._layer_blobs = changes, frozenset(layers)
        return self._layer_blobs[1]

    def forget_variants(self, is_blob_here: Callable[[str], bool]) -> None:
        """Forget other forms of layers that no ref here has, and whose blobs are not here either."""
        layers = {held.info.layer.digest for held in [*self._held.values()] if held.info.layer}
        gone = [
            (layer, form)
            for layer, form, blob in self.variants()
            if layer not in layers and not is_blob_here(blob)
        ]
        with self._lock, self._using():
            self._db.executemany(
                "DELETE FROM variants WHERE digest = ? AND compression = ?", gone
            )

    def used_s(self, info: RefInfo) -> float:
        """Return when a ref was last used, or made, in seconds since the epoch."""
        return max(info.created_s, self._used_s.get(info.ref, 0.0))

    def touch(self, ref: Digest, now_s: float) -> None:
        """Remember that a ref is used now; one that is not here is fine."""
        held = self._held.get(ref)
        if held is None:
            return
        with self._lock, self._using():
            before_s, self._used_s[ref] = self._written_s.get(ref, 0.0), now_s
            if now_s - max(before_s, held.info.created_s) >= USE_STEP_S:
                self._written_s[ref] = now_s
                self._db.execute("INSERT OR REPLACE INTO uses VALUES (?, ?)", (ref, now_s))

    def remove(self, ref: Digest) -> None:
        """Forget a ref; call it before its snapshot goes. Idempotent."""
        with self._lock, self._using():
            self._db.execute("DELETE FROM refs WHERE ref = ?", (ref,))
            self._db.execute("DELETE FROM uses WHERE ref = ?", (ref,))
            self._held.pop(ref, None)
            self._used_s.pop(ref, None)
            self._written_s.pop(ref, None)
            self._changes += 1

    def _change(self, ref: Digest, **changes: object) -> HeldRef:
        # One that is removed meanwhile must not come back: its snapshot goes next.
        with self._lock:
            held = self.get(ref)
            return self._joined(msgspec.structs.replace(held.info, **changes), held.snapshot)

    def _joined(self, info: RefInfo, snapshot: str) -> HeldRef:
        known = self._held.get(info.ref)
        if known is not None:
            keys = tuple(dict.fromkeys((*known.info.keys, *info.keys)))
            layer = known.info.layer or info.layer
            file = info.file or known.info.file
            info = msgspec.structs.replace(known.info, keys=keys, layer=layer, file=file)
            snapshot = known.snapshot
        held = HeldRef(info, snapshot)
        self._write(held)
        return held

    def _write(self, held: HeldRef) -> None:
        with self._using():
            self._db.execute(
                "INSERT OR REPLACE INTO refs VALUES (?, ?, ?)",
                (held.info.ref, held.snapshot, msgspec.msgpack.encode(held.info)),
            )
        known, self._held[held.info.ref] = self._held.get(held.info.ref), held
        if known is None or known.info.layer != held.info.layer:
            self._changes += 1

    def _using(self) -> AbstractContextManager[None]:
        return using(self._path, remedy=_REMEDY)
