"""Marks of small files from one run of a command to the next, in one file.

What is wrong in them costs bytes, and nothing else: whatever is made by an edit is proved. Of two
commands at once the last keeps what it knows.
"""

from pathlib import Path
from typing import Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import Digest
from filesync.transfer.coding import kept_disk
from filesync.transfer.coding.edit import Marks

MAX_MARKS: Final = 1024
"""Contents, those that were marked last: 1.5 MB where all of them are of 128 KiB."""
_FORMAT: Final = b"filesync marks 1"
_MAX_BYTES: Final = 8 << 20


class MarksFile:
    """Marks by digest, in the file ``path``; read when it is first asked, for one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed: dict[bytes, bytes] | None = None
        self._is_changed = False

    def find(self, digest: Digest) -> Marks | None:
        """Return the marks of a content, if they are here."""
        packed = self._all.get(digest)
        return None if packed is None else Marks.unpacked(packed)

    def keep(self, digest: Digest, marks: Marks) -> None:
        """Keep the marks of a content, the last of all, until they are saved."""
        self._all.pop(digest, None)
        self._all[digest] = marks.packed()
        self._is_changed = True

    def save(self) -> None:
        """Write what is new, with the rest of what was here. What cannot be written is lost."""
        if not self._is_changed:
            return
        kept = dict(list(self._all.items())[-MAX_MARKS:])
        kept_disk.save(self._path, _FORMAT, msgspec.msgpack.encode(kept))
        self._is_changed = False

    @property
    def _all(self) -> dict[bytes, bytes]:
        if self._packed is None:
            self._packed = self._load()
        return self._packed

    def _load(self) -> dict[bytes, bytes]:
        body = kept_disk.load(self._path, _FORMAT, _MAX_BYTES)
        if body is None:
            return {}
        try:
            return msgspec.msgpack.decode(body, type=dict[bytes, bytes])
        except UNDECODABLE:
            return {}
