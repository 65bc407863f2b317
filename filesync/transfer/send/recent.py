"""Contents that need no second reading, or must have none."""

import threading
from typing import TYPE_CHECKING, Final

from filesync.digest import Digest

if TYPE_CHECKING:
    from filesync.transfer.send.copies import Copies

RECENT_BYTES: Final = 32 << 20
REPEATED_BYTES: Final = 16 << 10
"""Of a larger content that several files have one is asked for, and copied to the others there."""
_CONTENT_BYTES: Final = 250
"""What a content takes besides its bytes: of very small files more than they are."""


class Recent:
    """Small contents that were read a moment ago, until they are asked for. For all threads.

    When it is full the oldest stay: they are asked for first. One that several files have is asked for
    as often as it was read.

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
        self._repeated: dict[Digest, int] = {}  # how often it is asked for besides

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
                if len(content) <= REPEATED_BYTES:
                    self._repeated[digest] = self._repeated.get(digest, 0) + 1
                return
            if size <= self._room:
                self._room -= size
                self._contents[digest] = content
            else:
                self.has_missed = True

    def take(self, digest: Digest, offset: int, length: int) -> bytes | None:
        """Return a content, as often as it was read, if it is here and all of it is asked for."""
        with self._lock:
            content = self._contents.get(digest)
            if content is None or offset or length != len(content):
                return None
            if digest in self._repeated:
                if left := self._repeated.pop(digest) - 1:
                    self._repeated[digest] = left
                return content
            del self._contents[digest]
            self._room += length + _CONTENT_BYTES
            return content

    def close(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._room = -1
            self._contents.clear()
            self._repeated.clear()
        if self.copies is not None:
            self.copies.close()
