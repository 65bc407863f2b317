"""One connection of ZeroMQ's, carried over pipes: what a remote shell offers."""

import logging
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final

from filesync.errors import UnexpectedMessage
from filesync.transfer.connection.guard import SILENT_S
from filesync.transfer.connection.listener_zmq import LIMITS
from filesync.transfer.connection.zmtp import Framing
from filesync.transfer.stats import Moved
from filesync.transfer.timeouts import LEAST_BYTES

log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 256 << 10
_LEAVING_BYTES: Final = 16 << 10
"""Written at once: over a slow link a pipe takes a large piece in minutes, and nobody sees it move."""
_END_S: Final = 5.0
LOOK_S: Final = 5.0
"""How often is looked whether anything moves."""


class Relay:
    """Carries bytes between a connected socket and two descriptors, until either side ends.

    Or until nothing moves any more: both sides say something every few seconds, and a remote shell
    whose connection is dead may wait for hours. What comes from ``source`` is not believed: a message of it that never ends ends the relay.

    Args:
        own: the socket; closed at the end.
        source: what is read from here goes to the socket.
        sink: what the socket brings goes here; closed when it brings no more.
        before: what has come from ``source`` already.
        on_end: called by a thread when no more comes from ``source``.
    """

    def __init__(
        self,
        own: socket.socket,
        source: int,
        sink: int,
        *,
        before: bytes = b"",
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._own = own
        self._source = source
        self._sink = sink
        self._before = before
        self._on_end = on_end
        self._came = self._gone = 0
        self._threads = [
            Thread(target=work, name="filesync-relay", daemon=True)
            for work in (self._bring, self._take)
        ]

    @property
    def moved(self) -> Moved:
        """How much it has carried."""
        return Moved(self._came, self._gone)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the socket's side; ``sink`` is closed when all is there that it had brought."""
        with suppress(OSError):
            self._own.shutdown(socket.SHUT_RDWR)
        self._threads[1].join(_END_S)
        self._own.close()

    def _bring(self) -> None:
        framing = Framing(LIMITS.message_bytes)
        data = self._before
        try:
            while data or (data := self._read()):
                self._came += len(data)
                framing.take(data)
                self._own.sendall(data)
                data = b""
        except UnexpectedMessage as exc:
            log.warning("peer dropped: reason=%s", exc)
        except OSError as exc:
            log.debug("no more is carried: reason=%s", exc)
        with suppress(OSError):
            self._own.shutdown(socket.SHUT_RDWR)
        self._on_end()

    def _read(self) -> bytes:
        """Return what comes next; nothing at the end, which is too when nothing has moved for SILENT_S.

        In turns, as the clock goes on while this process is suspended. A few bytes can always go: what
        is said every few seconds finds room in a dead shell's pipe for hours.
        """
        coming = select.poll()
        coming.register(self._source, select.POLLIN)
        silent_s, gone = 0.0, self._gone
        while not coming.poll(1000 * LOOK_S):
            silent_s += LOOK_S
            if self._gone - gone >= LEAST_BYTES:
                silent_s, gone = 0.0, self._gone
            if silent_s >= SILENT_S:
                log.warning("no more is carried: reason=the remote shell has fallen silent")
                return b""
        return os.read(self._source, _PIECE_BYTES)

    def _take(self) -> None:
        with suppress(OSError):
            while data := self._own.recv(_PIECE_BYTES):
                view = memoryview(data)
                while view:
                    gone = os.write(self._sink, view[:_LEAVING_BYTES])
                    self._gone += gone
                    view = view[gone:]
        with suppress(OSError):
            os.close(self._sink)
