"""The end of a command's output, for the sentence that says why it failed. Pure."""

from collections.abc import Callable
from typing import Final

MAX_TAIL_BYTES: Final = 16 << 10
MAX_TAIL_LINES: Final = 20

OnOutput = Callable[[int, bytes], None]
"""Called with 1 or 2 (stdout, stderr) and some bytes as they come. Must not raise."""


class OutputTail:
    """Passes output on and remembers its last lines, both streams in the order they came."""

    def __init__(self, then: OnOutput | None = None) -> None:
        self._then = then
        self._kept = bytearray()

    def __call__(self, stream: int, data: bytes) -> None:
        """Take some output; usable wherever an `OnOutput` is asked for."""
        self._kept += data[-MAX_TAIL_BYTES:]
        del self._kept[:-MAX_TAIL_BYTES]
        if self._then is not None:
            self._then(stream, data)

    def text(self) -> str:
        """Return the last 20 lines, at most 16 KiB; what is no UTF-8 shows as U+FFFD."""
        lines = self._kept.decode(errors="replace").splitlines()
        return "\n".join(lines[-MAX_TAIL_LINES:])
