"""A scan in a process of its own: that of a destination, while this one scans what goes there.

Of one machine's two directories a process would scan one after the other, as its threads take turns.
"""

import os
import select
import signal
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from filesync.digest import WireDigest
from filesync.ending import ENDING
from filesync.manifest import Manifest, MemoryNodes, Nodes, accept
from filesync.manifest.tree import missing_nodes
from filesync.sync.scanning import Found

_LENGTH: Final = struct.Struct("<Q")


class _Said(msgspec.Struct, frozen=True, array_like=True):
    """What was found, but for the nodes."""

    tree: WireDigest
    skipped: Mapping[str, int]
    unreadable: Mapping[bytes, int]


_encode: Final = msgspec.msgpack.Encoder().encode
_said: Final = msgspec.msgpack.Decoder(_Said)
_digests: Final = msgspec.msgpack.Decoder(list[WireDigest])


class AsideScan:
    """One scan that goes on beside this process. Close it, which ends the scan.

    Args:
        scan: what scans, into the store that it is given. It runs in a fork of this process.
    """

    def __init__(self, scan: Callable[[Nodes], Found]) -> None:
        """Begin.

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
                _become(scan, there, mask)
        except OSError:
            here.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            there.close()
        self._line = here

    def found(self, nodes: MemoryNodes) -> Found | None:
        """Wait for what was found, once; of its nodes ``nodes`` gets what it lacks.

        None if nothing was: scan here, which says why.
        """
        try:
            said = _said.decode(self._line.receive())
            if said.tree not in nodes:
                self._line.send(_encode(list(nodes)))
                self._line.flush()
                while node := self._line.receive():
                    accept(nodes, node)
        except (EOFError, OSError):
            return None
        return Found(Manifest(said.tree, nodes), said.skipped, said.unreadable)

    def close(self) -> None:
        """Let go of the other process. Idempotent."""
        if not self._line.closed:
            self._line.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _become(
    scan: Callable[[Nodes], Found], line: "_Line", mask: set[int | signal.Signals]
) -> NoReturn:
    """Scan, in a process that was forked for it, and end. ``mask`` is of signals that it blocks then."""
    try:
        for number in (signal.SIGINT, *ENDING):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # It may have hours to scan, and what nobody else may write to meanwhile.
        threading.Thread(target=_end_with, args=(line,), daemon=True).start()
        nodes = MemoryNodes()
        _tell(line, scan(nodes), nodes)
    finally:
        # Not the parent's way out, whose blocks and files are none of its business.
        os._exit(0)


def _end_with(line: "_Line") -> None:
    """End this process when the other side has."""
    ended = select.poll()
    ended.register(line.fileno(), 0)  # a hang-up is always told
    ended.poll()
    os._exit(0)


def _tell(line: "_Line", found: Found, nodes: Nodes) -> None:
    """Say what was found, and send what of it the other side lacks."""
    line.send(_encode(_Said(found.manifest.tree, found.skipped, found.unreadable)))
    line.flush()
    known = set(_digests.decode(line.receive()))
    for node in missing_nodes(nodes, found.manifest.tree, known.__contains__):
        line.send(node)
    line.send(b"")  # no node is empty
    line.flush()


class _Line:
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


def _lines() -> tuple[_Line, _Line]:
    """Return the two ends of a line."""
    here_in, there_out = os.pipe()
    there_in, here_out = os.pipe()
    return _Line(here_in, here_out), _Line(there_in, there_out)
