"""Standard output, whose errors name it; it is always there, and so is standard error."""

import errno
import io
import os
import sys
from typing import Final

NAME: Final = "standard output"


class _Output(io.FileIO):
    """Raises errors that name it.

    What could not be written is dropped, and so is all that follows: whoever holds it back would
    try again at the end of the process, and fail once more.
    """

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as exc:
            exc.filename = NAME
            _point_nowhere(1)
            raise


def open_output() -> None:
    """Have ``sys.stdout`` raise errors with the file name NAME, and say all names as they are.

    Where a process was started without one, or without standard error, what it says there goes
    nowhere; else the next file that it opens would be taken for it.
    """
    if sys.stderr is None:
        _point_nowhere(2)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "wb", closefd=False), write_through=True)
    old = sys.stdout
    if old is None:
        _point_nowhere(1)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "wb", closefd=False)),
        # Names are bytes, and nearly all of them UTF-8: no locale keeps one from being said.
        encoding="utf-8",
        errors="surrogateescape",
        line_buffering=old is not None and old.isatty(),
    )


def is_unread(exc: OSError) -> bool:
    """Say whether ``exc`` says that nobody reads standard output any more."""
    return exc.filename == NAME and exc.errno == errno.EPIPE


def _point_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != fd:
        os.dup2(nowhere, fd)
        os.close(nowhere)
