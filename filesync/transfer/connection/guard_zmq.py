"""Cuts connections of ZeroMQ's sockets that take too much; see ``guard`` for which those are.

A thread of its own, since a busy event loop must not let a peer fill the memory meanwhile. It sleeps
until a connection brings something, and then looks at most every ``TICK_S``. ZeroMQ says which file
descriptors its connections have and which of them each message came by, and the kernel how many
bytes each has brought; a connection is cut by shutting its descriptor down, which ZeroMQ takes for
the peer's end.
"""

import asyncio
import fcntl
import logging
import os
import select
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Final

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from filesync.process.descriptors import may_open
from filesync.transfer.connection.guard import Connections, Limits
from filesync.transfer.stats import Moved

log = logging.getLogger(__name__)

TICK_S: Final = 0.005
LOOK_S: Final = 5.0
"""While there are connections it looks at least so often at those on which nothing comes."""
_WATCHED: Final = select.EPOLLIN | select.EPOLLET
_TCP_INFO_BYTES: Final = 136
_BYTES_ACKED: Final = 120
"""Where ``tcpi_bytes_acked`` is in ``struct tcp_info``, and behind it ``tcpi_bytes_received``."""

Ends = tuple[object, object]
"""A connection's two addresses: a descriptor's number may be another's the next moment."""


class _Line(msgspec.Struct):
    """A connection, and the bytes that it had brought and delivered at the last look."""

    ends: Ends
    came: int = 0
    acked: int = 0


class SocketGuard:
    """Watches the connections of a listening socket, and those that it is told of.

    What it is told may come from any thread. Close it before the context is terminated.

    Args:
        limits: what connections may take; half of the descriptors that this process may have
            are enough for them.
        loop: the event loop that takes the messages.
    """

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        most = may_open() // 2
        self._book = Connections(limits._replace(connections=min(limits.connections, most)))
        self._lines: dict[int, _Line] = {}
        self._notes: deque[Callable[[], None]] = deque()
        self._epoll = select.epoll()
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._hold = os.dup(self._wake)
        self._monitor: zmq.Socket[bytes] | None = None
        self._unread: set[int] = set()
        self._is_turning = False
        self._untold = 0
        self._tell_at = 0.0
        self._went_on_at = monotonic()
        self._now = self._looked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="filesync-guard", daemon=True)

    def start(self, listener: zmq.asyncio.Socket | None = None) -> None:
        """Begin to watch ``listener``, which is not bound yet, and what it will be told of."""
        if listener is not None:
            self._monitor = _monitor(listener)
            self._epoll.register(self._monitor.FD, select.EPOLLIN)
        self._thread.start()

    def close(self) -> None:
        """Stop. A listener that was given must have been closed, or not be monitored any more."""
        self._stop.set()
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._epoll.close()
        os.close(self._hold)
        os.close(self._wake)

    def moved(self, fd: int) -> Moved:
        """Return what a connection had carried at the last look, some seconds ago at most."""
        line = self._lines.get(fd)
        return Moved() if line is None else Moved(line.came, line.acked)

    # --- what is told -----------------------------------------------------------------------

    def opened(self, fd: int) -> None:
        """A connection that this side has dialled is there."""
        self._notes.append(partial(self._opened, fd))
        os.eventfd_write(self._wake, 1)

    def closed(self, fd: int) -> None:
        """A connection has ended."""
        self._notes.append(partial(self._closed, fd))

    def delivered(self, fd: int, wire_bytes: int) -> None:
        """A whole message of a connection was taken."""
        self._notes.append(partial(self._book.delivered, fd, wire_bytes))

    def greeted(self, fd: int) -> None:
        """A peer has greeted."""
        self._notes.append(partial(self._book.greeted, fd))

    def refused(self, fd: int) -> None:
        """A peer was refused for good."""
        self._notes.append(lambda: self._book.refused(fd, self._now))
        os.eventfd_write(self._wake, 1)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        # ZeroMQ's descriptor says nothing before its socket has been read dry once.
        timeout_s: float | None = 0.0
        while not self._stop.is_set():
            active = {fd for fd, _ in self._epoll.poll(timeout_s)}
            self._go_on()
            if self._wake in active:
                os.eventfd_read(self._wake)
            # What a note is about was seen by the monitor before; not so the other way round.
            notes = len(self._notes)
            self._take_events()
            for _ in range(notes):
                self._notes.popleft()()
            # At once: who has greeted meanwhile is not to be taken for one who has not.
            self._judge()
            self._look(active | self._unread | self._quiet())
            # Bytes come in many small events; one look for all of them.
            self._stop.wait(TICK_S)
            is_waiting = self._book.awaits_turn or self._unread
            timeout_s = TICK_S if is_waiting else self._book.wake_s(self._now)
            if timeout_s is not None:
                timeout_s = min(timeout_s, LOOK_S)

    def _go_on(self) -> None:
        """Let the time go on, but not by what this process was suspended for: it heard nobody."""
        before, self._went_on_at = self._went_on_at, monotonic()
        self._now += min(self._went_on_at - before, 2 * LOOK_S)

    def _quiet(self) -> set[int]:
        """Return, now and then, whose bytes may go out though none come in."""
        if self._now - self._looked_at < LOOK_S:
            return set()
        self._looked_at = self._now
        return set(self._book.quiet(self._now - LOOK_S))

    def _take_events(self) -> None:
        if self._monitor is None:
            return
        while True:
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._opened(event["value"])
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._closed(event["value"])

    @contextmanager
    def _held(self, fd: int) -> Iterator[socket.socket]:
        """Hold on to what ``fd`` is now, for the block: its number may become another's.

        Takes no new descriptor: when there are none left is when connections have to be cut.

        Raises:
            OSError: it is no socket, or not any more.
        """
        os.dup2(fd, self._hold, inheritable=False)
        try:
            own = socket.socket(fileno=self._hold)
            try:
                yield own
            finally:
                own.detach()
        finally:
            os.dup2(self._wake, self._hold, inheritable=False)

    def _opened(self, fd: int) -> None:
        with suppress(OSError), self._held(fd) as own:  # it may have gone again
            self._lines[fd] = _Line(_ends(own))
            self._book.opened(fd, self._now)
        with suppress(OSError):  # or be watched already
            self._epoll.register(fd, _WATCHED)

    def _closed(self, fd: int) -> None:
        self._book.closed(fd)
        self._lines.pop(fd, None)

    def _look(self, fds: set[int]) -> None:
        self._unread.clear()
        for fd in fds:
            if (line := self._lines.get(fd)) is None:
                continue
            with suppress(OSError), self._held(fd) as own:
                if _ends(own) == line.ends:
                    self._look_at(fd, line, own)

    def _look_at(self, fd: int, line: "_Line", own: socket.socket) -> None:
        if own.family == socket.AF_UNIX:
            self._book.heard(fd, self._now)  # who carries it says when it ends
            return
        unread = _waiting(own, termios.FIONREAD)
        came, acked = _moved_bytes(own)
        # Over a slow link a peer hears, and answers, only after all that is under way to it.
        if came != line.came or (acked != line.acked and _waiting(own, termios.TIOCOUTQ)):
            self._book.heard(fd, self._now)
        line.came, line.acked = came, acked
        self._book.read(fd, came - unread)
        if unread:
            # ZeroMQ is about to read it, which nothing will tell.
            self._unread.add(fd)

    def _judge(self) -> None:
        for cut in self._book.verdicts(self._now):
            ends = self._lines.pop(cut.fd).ends
            with suppress(OSError), self._held(cut.fd) as own:
                if _ends(own) == ends:
                    _shut(own)
                    self._tell(ends[1], cut.reason)
        if self._book.awaits_turn and not self._is_turning:
            self._is_turning = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._notes.append, self._turned)

    def _tell(self, peer: object, reason: str) -> None:
        """Log a cut, a line a second at most: strangers must not fill the log."""
        self._untold += 1
        if (now := monotonic()) >= self._tell_at:
            log.warning(
                "connections cut: count=%d last=%s reason=%s", self._untold, peer, reason
            )
            self._untold, self._tell_at = 0, now + 1.0

    def _turned(self) -> None:
        self._is_turning = False
        self._book.turned()


class Unguarded:
    """A connection that nobody guards, by its descriptor ``fd``, which may be another's later."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        self._ends: Ends | None = None
        with suppress(OSError), _copy_of(fd) as own:
            self._ends = _ends(own)

    def moved(self) -> Moved:
        """Return what it has carried; nothing once it has ended, or if it is none over TCP."""
        with suppress(OSError), _copy_of(self._fd) as own:
            if _ends(own) == self._ends:
                return Moved(*_moved_bytes(own))
        return Moved()


@contextmanager
def _copy_of(fd: int) -> Iterator[socket.socket]:
    """Hold on to what ``fd`` is now, for the block.

    Raises:
        OSError: it is no socket, or not any more.
    """
    copy = os.dup(fd)
    try:
        own = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with own:
        yield own


def came_by(frame: zmq.Frame) -> int:
    """Return the descriptor of the connection that brought ``frame``; -1 if that is not known."""
    try:
        fd = frame.get(zmq.SRCFD)
    except zmq.ZMQError:  # not by a socket of the kernel's
        return -1
    assert isinstance(fd, int)
    return fd


def _monitor(listener: zmq.asyncio.Socket) -> "zmq.Socket[bytes]":
    address = f"inproc://filesync-guard-{os.urandom(8).hex()}"
    listener.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
    # The thread's own, of the same context but without asyncio.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(listener.context.underlying)
    monitor = context.socket(zmq.PAIR)
    monitor.connect(address)
    return monitor


def _ends(own: socket.socket) -> Ends:
    return own.getsockname(), own.getpeername()


def _moved_bytes(own: socket.socket) -> tuple[int, int]:
    """Return how many bytes have come by a connection, and how many have arrived at its other end."""
    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    acked, came = struct.unpack_from("QQ", info, _BYTES_ACKED)
    return int(came), int(acked)


def _waiting(own: socket.socket, which: int) -> int:
    """Return how many bytes wait for ZeroMQ to read them, or to arrive at the other end."""
    return int(struct.unpack("i", fcntl.ioctl(own, which, b"\0\0\0\0"))[0])


def _shut(own: socket.socket) -> None:
    # Without lingering the peer learns it at once, and the kernel keeps nothing for it.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    own.shutdown(socket.SHUT_RDWR)
