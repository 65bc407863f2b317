"""Contents that need no second reading, or must have none."""

import threading
from typing import TYPE_CHECKING, Final

from filesync.digest import Digest

if TYPE_CHECKING:
    from filesync.transfer.send.copies import Copies

RECENT_BYTES: Final = 32 << 20
_CONTENT_BYTES: Final = 250
"""What a content takes besides its bytes: of very small files more than they are."""


class Recent:
    """Small contents that were read a moment ago, until they are asked for. For all threads.

    When it is full the oldest stay: they are asked for first.

    Attributes:
        has_missed: something that was read has not been kept.
        is_enough: most likely nothing else will be asked for. For its owner to say.
        copies: of what may change before it is asked for, if such are made.
    """

    def __init__(self, limit_bytes: int = RECENT_BYTES, copies: "Copies | None" = None) -> None:
        self.has_missed = False
        self.is_enough = False
        self.copies = copies
        self._room = limit_bytes
        self._lock = threading.Lock()
        self._contents: dict[Digest, bytes] = {}

    @property
    def has_all(self) -> bool:
        """Something has been kept, and nothing been missed."""
        return bool(self._contents) and not self.has_missed

    def keep(self, digest: Digest, content: bytes) -> None:
        """Keep a content, if there is room, and a copy, if such are made."""
        if self.copies is not None:
            self.copies.keep(digest, content)
        with self._lock:
            size = len(content) + _CONTENT_BYTES
            if digest in self._contents:
                return
            if size <= self._room:
                self._room -= size
                self._contents[digest] = content
            else:
                self.has_missed = True

    def take(self, digest: Digest, offset: int, length: int) -> bytes | None:
        """Return a content, once, if it is here and all of it is asked for."""
        with self._lock:
            content = self._contents.get(digest)
            if content is None or offset or length != len(content):
                return None
            del self._contents[digest]
            self._room += length + _CONTENT_BYTES
            return content

    def close(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._room = -1
            self._contents.clear()
        if self.copies is not None:
            self.copies.close()
