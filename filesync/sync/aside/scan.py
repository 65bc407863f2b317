"""A scan beside this process: that of a destination, while this one scans what goes there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from filesync.digest import WireDigest
from filesync.manifest import Manifest, MemoryNodes, Nodes, accept
from filesync.manifest.tree import missing_nodes
from filesync.sync.aside.process import Line, Process
from filesync.sync.scanning import Found


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What was found, but for the nodes."""

    tree: WireDigest
    skipped: Mapping[str, int]
    unreadable: Mapping[bytes, int]
    mounts: Sequence[bytes]

    @classmethod
    def of(cls, found: Found) -> "Said":
        """Return what to say of what was found."""
        return cls(found.manifest.tree, found.skipped, found.unreadable, found.mounts)

    def found(self, nodes: Nodes) -> Found:
        """Return what was found, of which ``nodes`` has the nodes."""
        return Found(Manifest(self.tree, nodes), self.skipped, self.unreadable, self.mounts)


_encode: Final = msgspec.msgpack.Encoder().encode
_said: Final = msgspec.msgpack.Decoder(Said)
_digests: Final = msgspec.msgpack.Decoder(list[WireDigest])


class AsideScan(Process):
    """One scan that goes on beside this process. Close it, which ends the scan.

    Args:
        scan: what scans, into the store that it is given. It runs in a fork of this process.
    """

    def __init__(self, scan: Callable[[Nodes], Found]) -> None:
        """Begin.

        Raises:
            OSError: this machine has no room for another process.
        """
        super().__init__(partial(_tell, scan))

    def found(self, nodes: MemoryNodes) -> Found | None:
        """Wait for what was found, once; of its nodes ``nodes`` gets what it lacks.

        None if nothing was: scan here, which says why.
        """
        line = self.line
        try:
            said = _said.decode(line.receive())
            if said.tree not in nodes:
                line.send(_encode(list(nodes)))
                line.flush()
                while node := line.receive():
                    accept(nodes, node)
        except (EOFError, OSError):
            return None
        return said.found(nodes)


def _tell(scan: Callable[[Nodes], Found], line: Line) -> None:
    """Scan, say what was found, and send what of it the other side lacks."""
    nodes = MemoryNodes()
    found = scan(nodes)
    line.send(_encode(Said.of(found)))
    line.flush()
    known = set(_digests.decode(line.receive()))
    for node in missing_nodes(nodes, found.manifest.tree, known.__contains__):
        line.send(node)
    line.send(b"")  # no node is empty
    line.flush()
