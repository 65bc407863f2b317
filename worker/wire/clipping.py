"""What steps print faster than it can be passed on: it is dropped, and that is said."""

from collections import Counter
from typing import Final

STDERR: Final = 2


class Clipped:
    """How much of what steps printed was dropped, by the step's number."""

    def __init__(self) -> None:
        self._bytes = Counter[int]()

    def drop(self, number: int, data: bytes) -> None:
        """Take note that ``data`` is not passed on."""
        self._bytes[number] += len(data)

    def numbers(self) -> tuple[int, ...]:
        """Return the steps of which it was not yet said."""
        return tuple(self._bytes)

    def take(self, number: int) -> bytes:
        """Return the line that says so, once; b"" if nothing was dropped since the last one."""
        size = self._bytes.pop(number, 0)
        if not size:
            return b""
        return b"\n[%d bytes of output were dropped here: they came too fast]\n" % size
