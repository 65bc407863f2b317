"""A scan beside this process, whose watcher is here: that of what is copied meanwhile."""

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from filesync.digest import Digest, WireDigest
from filesync.disk.scanning.watcher import Watcher
from filesync.manifest import MemoryNodes, Nodes, accept
from filesync.sync.aside.process import Line, Process
from filesync.sync.aside.scan import Said
from filesync.sync.scanning import Found
from filesync.transfer.send.growing import HANDED_BYTES

TOLD_CONTENT_BYTES: Final = 1 << 20
"""What is told of at once, about, but for nodes."""
MOST_TOLD: Final = 16
"""Of what has been told and not taken: more, and the scan waits."""


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """What has been done since the last time, and with it the scan."""

    contents: list[tuple[WireDigest, bytes]]
    directories: list[tuple[bytes, bytes]]
    said: Said | None


_encode: Final = msgspec.msgpack.Encoder().encode
_told: Final = msgspec.msgpack.Decoder(_Told)


class WatchedScan(Process):
    """One scan that goes on beside this process, which is told of it. Close it, which ends the scan.

    Args:
        scan: what scans, into the store that it is given, and tells the watcher. It runs in a fork
            of this process.
    """

    def __init__(self, scan: Callable[[Nodes, Watcher], Found]) -> None:
        """Begin.

        Raises:
            OSError: this machine has no room for another process.
        """
        super().__init__(partial(_tell, scan))

    def found(self, nodes: MemoryNodes, watcher: Watcher) -> Found | None:
        """Wait for what was found, once, and have ``watcher`` told meanwhile, by this thread.

        ``nodes`` gets the nodes, each before it is told of. None if the scan failed, at any time:
        scan here, which says why.
        """
        while True:
            try:
                told = _told.decode(self.line.receive())
            except (EOFError, OSError):
                return None
            for digest, content in told.contents:
                watcher.content_read(digest, content)
            for path, node in told.directories:
                watcher.directory_done(path, accept(nodes, node))
            if told.said is not None:
                return told.said.found(nodes)


def _tell(scan: Callable[[Nodes, Watcher], Found], line: Line) -> None:
    nodes = MemoryNodes()
    teller = _Teller(line, nodes)
    teller.end(scan(nodes, teller))


class _Teller(Watcher):
    """Watches a scan, and tells the other side of it, by a thread of its own."""

    def __init__(self, line: Line, nodes: Nodes) -> None:
        self._nodes = nodes
        self._line = line
        self._contents: list[tuple[Digest, bytes]] = []
        self._content_bytes = 0
        self._directories: list[tuple[bytes, bytes]] = []
        self._nodes_bytes = 0
        self._queue: queue.Queue[_Told | None] = queue.Queue(MOST_TOLD)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def directory_done(self, path: bytes, tree: Digest) -> None:
        node = self._nodes.read(tree)
        self._directories.append((path, node))
        self._nodes_bytes += len(path) + len(node)
        if self._nodes_bytes >= HANDED_BYTES:
            self._hand()

    def content_read(self, digest: Digest, content: bytes) -> None:
        self._contents.append((digest, content))
        self._content_bytes += len(content)
        if self._content_bytes >= TOLD_CONTENT_BYTES:
            self._hand()

    def end(self, found: Found) -> None:
        """Tell of the rest, and wait until all is told."""
        self._hand(Said.of(found))
        self._queue.put(None)
        self._thread.join()

    def _hand(self, said: Said | None = None) -> None:
        self._queue.put(_Told(self._contents, self._directories, said))
        self._contents, self._directories = [], []
        self._content_bytes = self._nodes_bytes = 0

    def _send(self) -> None:
        while (told := self._queue.get()) is not None:
            self._line.send(_encode(told))
            self._line.flush()
