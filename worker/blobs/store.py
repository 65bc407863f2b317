"""Blobs on this worker's disk, as an OCI image layout: ``blobs/sha256/<hex>``.

Beside the layout stand ``ingest/`` (blobs on their way) and ``facts/<hex>``: the BLAKE3 and size
of each blob, by which the sync engine moves it. A blob is written to ``ingest/``, verified, its
facts are written, and only then is it renamed into place. So a kill at any point leaves a
temporary file, or facts without a blob; ``BlobStore`` removes both when it opens. Nothing is
flushed to the platter: a blob that was written before the machine last started is read and
verified again before it is believed, and so is one that somebody else put there.

``partial/<hex>`` is the beginning of a blob that comes from afar: what was written of it when its
transfer was cut, or its process killed. It is proved with the rest, once that has come.
"""

import hashlib
import io
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
from blake3 import blake3

from filesync.decoding import UNDECODABLE
from filesync.digest import Digest, WireDigest
from filesync.disk.statedir import boot_id
from filesync.errors import LocalError, StoreError
from worker.blobs.blob import Blob, BlobMissing, blocks
from worker.blobs.writer import BlobWriter

KEEP_PARTIAL_S: Final = 7 * 86400.0
"""What nobody has gone on with for so long is removed at the next start."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def _nobody_needs(_: str) -> bool:
    return False


class Partial(NamedTuple):
    """The beginning of a blob, and when it last grew, in seconds since the epoch."""

    digest: str
    size: int
    grown_s: float


class _Facts(msgspec.Struct, frozen=True, array_like=True):
    size: int
    content: WireDigest
    boot: str


class BlobStore:
    """The blobs in one directory, which belongs to one process at a time. Thread-safe; blocks."""

    def __init__(self, directory: Path) -> None:
        """Open or make the store; sweep what a killed process left behind.

        Raises:
            StoreError: the directory cannot be used.
        """
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self._ingest = directory / "ingest"
        self._partial = directory / "partial"
        self._facts = directory / "facts"
        self._held: Counter[str] = Counter()
        self._opened_s: dict[str, float] = {}
        self._boot = boot_id()
        self._lock = threading.Lock()
        self._known: dict[str, Blob] = {}
        try:
            self._make_layout()
            self._sweep()
        except OSError as exc:
            raise StoreError(f"the blob store {directory} cannot be used: {exc}") from exc

    # --- reading --------------------------------------------------------------------------

    def __contains__(self, digest: object) -> bool:
        return digest in self._known

    def find(self, digest: str) -> Blob | None:
        """Return the blob ``digest``, or None where it is not here."""
        return self._known.get(digest)

    def list(self) -> list[Blob]:
        """Return all blobs, by digest."""
        with self._lock:
            return sorted(self._known.values())

    def path(self, digest: str) -> Path:
        """Return where the blob ``digest`` is, or would be."""
        if not _DIGEST.fullmatch(digest):
            raise LocalError(f"{digest!r} is not the digest of a blob")
        return self.blobs / digest.removeprefix("sha256:")

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading; the caller closes it, and may read on after a ``remove``.

        Raises:
            BlobMissing: it is not here.
        """
        try:
            file = self.path(digest).open("rb")
        except FileNotFoundError as exc:
            raise BlobMissing(f"blob {digest} is not in this store") from exc
        self._opened_s[digest] = time.time()
        return file

    # --- writing --------------------------------------------------------------------------

    def writer(self, *, digest: str | None = None, max_size: int | None = None) -> BlobWriter:
        """Return a writer for a blob that comes in pieces."""
        path = self._ingest / secrets.token_hex(8)
        return BlobWriter(self.publish, path, digest=digest, max_size=max_size)

    def resume(self, digest: str, size: int) -> BlobWriter:
        """Return the writer of a blob of ``size`` bytes, after what an earlier one left of it.

        Its ``size`` says how much that is. One writer of a digest at a time. Reads what is there.

        Raises:
            StoreError: this disk cannot take it.
        """
        path = self._partial / self.path(digest).name
        return BlobWriter(self.publish, path, digest=digest, max_size=size, keep=True)

    def ingest(
        self,
        data: Iterable[bytes | memoryview] | BinaryIO,
        *,
        digest: str | None = None,
        max_size: int | None = None,
    ) -> Blob:
        """Write a blob, verify it and keep it; what ``data`` raises leaves nothing behind.

        Raises:
            ContentCorrupt: it is not ``digest``, or is longer than ``max_size``.
            StoreError: this disk cannot take it.
        """
        pieces = blocks(data) if isinstance(data, io.IOBase) else data
        with self.writer(digest=digest, max_size=max_size) as writer:
            for block in pieces:
                writer.write(block)
            return writer.finish()

    @contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep blobs, here or on their way, from being pruned while the block runs."""
        held = Counter(digests)
        with self._lock:
            self._held.update(held)
        try:
            yield
        finally:
            with self._lock:
                self._held -= held

    def is_held(self, digest: str) -> bool:
        """Whether somebody needs a blob now that no ref speaks of yet."""
        return digest in self._held

    def partials(self) -> tuple[Partial, ...]:
        """Return what there is of blobs whose transfer was cut, or is under way, by digest."""
        found = []
        for path in sorted(self._partial.iterdir()):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append(Partial(f"sha256:{path.name}", stat.st_size, stat.st_mtime))
        return tuple(found)

    def drop_partial(self, digest: str) -> bool:
        """Remove what is there of a blob on its way; return False where somebody goes on with it."""
        with self._lock:
            if self.is_held(digest):
                return False
            (self._partial / self.path(digest).name).unlink(missing_ok=True)
            return True

    def used_s(self, digest: str) -> float:
        """Return when a blob was last opened, or came, in seconds since the epoch; 0 for none.

        Of what was opened before this process was there, only that it came is known.
        """
        opened = self._opened_s.get(digest)
        if opened is not None:
            return opened
        try:
            return self.path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self, digest: str, *, is_needed: Callable[[str], bool] = _nobody_needs) -> bool:
        """Forget a blob, here or not; return False where somebody holds or needs it, and it stays.

        Who has made something of a blob that it held is asked: nobody takes hold of it meanwhile.
        """
        with self._lock:
            if self.is_held(digest) or is_needed(digest):
                return False
            self._known.pop(digest, None)
            self._opened_s.pop(digest, None)
            self.path(digest).unlink(missing_ok=True)
            self._facts_of(digest).unlink(missing_ok=True)
            return True

    def adopt(self, path: Path, blob: Blob) -> None:
        """Take the file ``path`` in as ``blob``, whose bytes the caller has proved. Moves it.

        Raises:
            StoreError: this disk cannot take it.
        """
        try:
            path.chmod(0o444)
            self.publish(path, blob)
        except OSError as exc:
            raise StoreError(f"blob {blob.digest} cannot be kept: {exc}") from exc

    def publish(self, temporary: Path, blob: Blob) -> None:
        """Take the verified file ``temporary`` in as ``blob``; for ``BlobWriter``."""
        with self._lock:
            if blob.digest in self._known:
                temporary.unlink()
                return
            self._write_facts(blob)
            temporary.rename(self.path(blob.digest))
            self._known[blob.digest] = blob

    # --- start-up -------------------------------------------------------------------------

    def _make_layout(self) -> None:
        for directory in (self.blobs, self._ingest, self._partial, self._facts):
            directory.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("oci-layout", '{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", '{"schemaVersion":2,"manifests":[]}'),
        ):
            if not (self.directory / name).exists():
                (self.directory / name).write_text(text, encoding="ascii")

    def _sweep(self) -> None:
        for left in self._ingest.iterdir():
            left.unlink()
        for path in self.blobs.iterdir():
            digest = f"sha256:{path.name}"
            if _DIGEST.fullmatch(digest):
                self._adopt(digest, path)
        for path in self._facts.iterdir():
            if f"sha256:{path.name}" not in self._known:
                path.unlink()
        now_s = time.time()
        for left in self._partial.iterdir():
            if now_s - left.stat().st_mtime > KEEP_PARTIAL_S or f"sha256:{left.name}" in self:
                left.unlink()

    def _adopt(self, digest: str, path: Path) -> None:
        facts = self._read_facts(digest)
        size = path.stat().st_size
        if facts is not None and (facts.boot, facts.size) == (self._boot, size):
            self._known[digest] = Blob(digest, size, Digest(facts.content))
            return
        sha256, content = hashlib.sha256(), blake3()
        with path.open("rb") as file:
            for block in blocks(file):
                sha256.update(block)
                content.update(block)
        if f"sha256:{sha256.hexdigest()}" != digest:
            path.unlink()
            return
        blob = Blob(digest, size, Digest(content.digest()))
        self._write_facts(blob)
        self._known[digest] = blob

    def _facts_of(self, digest: str) -> Path:
        return self._facts / digest.removeprefix("sha256:")

    def _read_facts(self, digest: str) -> _Facts | None:
        try:
            return msgspec.json.decode(self._facts_of(digest).read_bytes(), type=_Facts)
        except (*UNDECODABLE, FileNotFoundError):
            return None

    def _write_facts(self, blob: Blob) -> None:
        facts = _Facts(blob.size, blob.blake3, self._boot)
        # A torn write reads as no facts at all, and the blob is verified again.
        self._facts_of(blob.digest).write_bytes(msgspec.json.encode(facts))
