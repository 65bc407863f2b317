"""A scan in a process of its own: that of a destination, while this one scans what goes there.

Of one machine's two directories a process would scan one after the other, as its threads take turns.
"""

import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BufferedRWPair
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
        here, there = socket.socketpair()
        with here, there:
            # A child that is interrupted here would unwind what the parent has under way.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
            try:
                self._pid = os.fork()
                if not self._pid:
                    here.close()
                    _become(scan, there, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._line = here.makefile("rwb")

    def found(self, nodes: MemoryNodes) -> Found | None:
        """Wait for what was found, once; of its nodes ``nodes`` gets what it lacks.

        None if nothing was: scan here, which says why.
        """
        try:
            said = _said.decode(_receive(self._line))
            if said.tree not in nodes:
                _send(self._line, _encode(list(nodes)))
                self._line.flush()
                while node := _receive(self._line):
                    accept(nodes, node)
        except (EOFError, OSError):
            return None
        return Found(Manifest(said.tree, nodes), said.skipped, said.unreadable)

    def close(self) -> None:
        """Let go of the other process. Idempotent."""
        if self._line.closed:
            return
        with suppress(OSError):
            self._line.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _become(
    scan: Callable[[Nodes], Found], line: socket.socket, mask: set[int | signal.Signals]
) -> NoReturn:
    """Scan, in a process that was forked for it, and end. ``mask`` is of signals that it blocks then."""
    try:
        for number in (signal.SIGINT, *ENDING):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # It may have hours to scan, and what nobody else may write to meanwhile.
        threading.Thread(target=_end_with, args=(line.fileno(),), daemon=True).start()
        nodes = MemoryNodes()
        found = scan(nodes)
        _tell(line.makefile("rwb"), found, nodes)
    finally:
        # Not the parent's way out, whose blocks and files are none of its business.
        os._exit(0)


def _end_with(line: int) -> None:
    """End this process when the other side has."""
    ended = select.poll()
    ended.register(line, 0)  # a hang-up is always told
    ended.poll()
    os._exit(0)


def _tell(line: BufferedRWPair, found: Found, nodes: Nodes) -> None:
    """Say what was found, and send what of it the other side lacks."""
    _send(line, _encode(_Said(found.manifest.tree, found.skipped, found.unreadable)))
    line.flush()
    known = set(_digests.decode(_receive(line)))
    for node in missing_nodes(nodes, found.manifest.tree, known.__contains__):
        _send(line, node)
    _send(line, b"")  # no node is empty
    line.flush()


def _send(line: BufferedRWPair, message: bytes) -> None:
    line.write(_LENGTH.pack(len(message)))
    line.write(message)


def _receive(line: BufferedRWPair) -> bytes:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    return _exactly(line, length)


def _exactly(line: BufferedRWPair, size: int) -> bytes:
    data = line.read(size)
    if len(data) < size:
        raise EOFError
    return data
