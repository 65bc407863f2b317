"""Which large new files are compared with old ones that stay, and need not have anything in common. Pure.

A wrong guess costs the old file's reading and the new one's recipe. So a few of a directory are tried at
first; the others wait for what these were good for.
"""

from typing import Final

MOST_TRIED: Final = 4
"""Guesses in a directory before one of them was good, and for each that was."""
MOST_TRIED_BYTES: Final = 4 << 30
"""Of new files that are compared with one that stays and was of no use, or nobody knows yet: half a
minute for each side to read them, from a slow disk."""
_GOOD: Final = 8
"""An eighth of a new file that was in the old one is worth the trouble."""


class Guesses:
    """How good old files that stay were for new ones, by the directory of these."""

    def __init__(self) -> None:
        self._tried: dict[bytes, int] = {}
        self._under_way: dict[bytes, int] = {}
        self._good: dict[bytes, int] = {}
        self._room = MOST_TRIED_BYTES

    def begin(self, directory: bytes, size: int) -> bool | None:
        """Say whether to try one for a new file of ``size`` bytes; ``end`` says how that went.

        None while that depends on those under way.
        """
        tried = self._tried.get(directory, 0)
        if tried < MOST_TRIED * (1 + self._good.get(directory, 0)) and size <= self._room:
            self._tried[directory] = tried + 1
            self._under_way[directory] = self._under_way.get(directory, 0) + 1
            self._room -= size
            return True
        return None if self._under_way.get(directory) else False

    def end(self, directory: bytes, size: int, shared: int) -> None:
        """Take note that of the new file's ``size`` bytes ``shared`` were in the one that was tried."""
        self._under_way[directory] -= 1
        if shared * _GOOD >= size:
            self._good[directory] = self._good.get(directory, 0) + 1
            self._room += size
