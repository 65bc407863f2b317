"""A process that does one thing beside this one, and the line to it."""

import os
import select
import signal
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from filesync.process.ending import ENDING

_LENGTH: Final = struct.Struct("<Q")


class Process:
    """A fork of this process, for one thing to do. Close it, which ends it.

    Attributes:
        line: leads to it; at its end once the other process has.
    """

    def __init__(self, work: Callable[["Line"], None]) -> None:
        """Have ``work`` done there, with the other end of the line.

        Raises:
            OSError: this machine has no room for another process.
        """
        here, there = _lines()
        # A child that is interrupted here would unwind what the parent has under way.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
        try:
            self._pid = os.fork()
            if not self._pid:
                here.close()
                _become(work, there, mask)
        except OSError:
            here.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            there.close()
        self.line = here

    def close(self) -> None:
        """Let go of the other process. Idempotent."""
        if not self.line.closed:
            self.line.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _become(
    work: Callable[["Line"], None], line: "Line", mask: set[int | signal.Signals]
) -> NoReturn:
    """Work, in a process that was forked for it, and end. ``mask`` is of signals that it blocks then."""
    try:
        for number in (signal.SIGINT, *ENDING):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # It may have hours to work, and what nobody else may write to meanwhile.
        threading.Thread(target=_end_with, args=(line,), daemon=True).start()
        work(line)
    finally:
        # Not the parent's way out, whose blocks and files are none of its business.
        os._exit(0)


def _end_with(line: "Line") -> None:
    """End this process when the other side has."""
    ended = select.poll()
    ended.register(line.fileno(), 0)  # a hang-up is always told
    ended.poll()
    os._exit(0)


class Line:
    """One end of a line: messages, each after its length."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        """Take over two descriptors."""
        self._incoming = os.fdopen(incoming, "rb")
        self._outgoing = os.fdopen(outgoing, "wb")
        self.fileno = self._incoming.fileno

    @property
    def closed(self) -> bool:
        """It was closed."""
        return self._incoming.closed

    def close(self) -> None:
        """Close it, whatever is still to be sent."""
        self._incoming.close()
        with suppress(OSError):
            self._outgoing.close()

    def send(self, message: bytes) -> None:
        """Send a message; it may stay here until ``flush``."""
        self._outgoing.write(_LENGTH.pack(len(message)))
        self._outgoing.write(message)

    def flush(self) -> None:
        """Let all go that was sent."""
        self._outgoing.flush()

    def receive(self) -> bytes:
        """Return the next message.

        Raises:
            EOFError: the other side is gone.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = self._incoming.read(size)
        if len(data) < size:
            raise EOFError
        return data


def _lines() -> tuple[Line, Line]:
    """Return the two ends of a line."""
    here_in, there_out = os.pipe()
    there_in, here_out = os.pipe()
    return Line(here_in, here_out), Line(there_in, there_out)
