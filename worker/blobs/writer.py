"""A blob on its way into a store: hashed as it is written, and kept when it is what it should be."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from filesync.digest import Digest
from filesync.errors import ContentCorrupt, StoreError
from worker.blobs.blob import Blob, blocks

Publish = Callable[[Path, Blob], None]
"""Takes a verified file in as a blob: it is moved."""


class BlobWriter:
    """A blob on its way in. Use it as a context: what was not finished is removed at its end.

    With ``keep`` it is left for the next writer, unless it is wrong or this disk is full.
    """

    def __init__(
        self,
        publish: Publish,
        path: Path,
        *,
        digest: str | None,
        max_size: int | None,
        keep: bool = False,
    ) -> None:
        self._publish = publish
        self._expected = digest
        self._max_size = max_size
        self._path = path
        self._keep = keep
        self._sha256 = hashlib.sha256()
        self._content = blake3()
        self.size = 0
        try:
            self._file = self._path.open("a+b" if keep else "xb", buffering=0)
        except OSError as exc:
            raise StoreError(f"a blob cannot be written: {exc}") from exc
        if keep:
            self._take_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if isinstance(exc, ContentCorrupt | StoreError):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """End it without its being wrong. Idempotent."""
        self._file.close()
        if not self._keep:
            self._path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget what was written."""
        self._file.truncate(0)
        self._sha256 = hashlib.sha256()
        self._content = blake3()
        self.size = 0

    def _take_up(self) -> None:
        """Go on after what is there already, if that is not too much."""
        try:
            self._file.seek(0)
            for block in blocks(self._file):
                self._sha256.update(block)
                self._content.update(block)
                self.size += len(block)
                if self._max_size is not None and self.size > self._max_size:
                    self.restart()
                    return
        except OSError as exc:
            self._file.close()
            raise StoreError(f"a blob cannot be written: {exc}") from exc

    def write(self, data: bytes | memoryview) -> None:
        """Write the next piece; does not keep it.

        Raises:
            ContentCorrupt: more came than ``max_size``.
            StoreError: this disk cannot take it.
        """
        self.size += len(data)
        if self._max_size is not None and self.size > self._max_size:
            raise ContentCorrupt(f"a blob is longer than {self._max_size} bytes")
        self._sha256.update(data)
        self._content.update(data)
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as exc:
            raise StoreError(f"a blob cannot be written: {exc}") from exc

    def finish(self) -> Blob:
        """Verify what was written and keep it.

        Raises:
            ContentCorrupt: it is not the blob that was expected.
            StoreError: this disk cannot take it.
        """
        digest = f"sha256:{self._sha256.hexdigest()}"
        if self._expected not in (None, digest):
            raise ContentCorrupt(f"a blob should be {self._expected} and is {digest}")
        blob = Blob(digest, self.size, Digest(self._content.digest()))
        try:
            os.fchmod(self._file.fileno(), 0o444)
            self._publish(self._path, blob)
        except OSError as exc:
            raise StoreError(f"blob {digest} cannot be kept: {exc}") from exc
        return blob
