"""What is counted while trees move."""

from typing import NamedTuple

import msgspec


class Counters(msgspec.Struct):
    """What one process has sent and received since it started.

    Attributes:
        data_in: bytes of file data, as they came over the wire.
        data_out: the same, sent.
        wire_in: bytes of all messages that came, data and all.
        wire_out: the same, sent.
    """

    data_in: int = 0
    data_out: int = 0
    wire_in: int = 0
    wire_out: int = 0


class Moved(NamedTuple):
    """Bytes that a connection has carried, be the messages whole or not.

    Attributes:
        came: that came here.
        gone: that arrived at its other end.
    """

    came: int = 0
    gone: int = 0


class Progress(NamedTuple):
    """How far a pull is.

    Attributes:
        files: contents in place.
        content_bytes: bytes of content on disk, fetched or copied from an old file.
        wire_bytes: bytes of messages that it took so far, both ways.
    """

    files: int
    content_bytes: int
    wire_bytes: int


class ReplicaStats(msgspec.Struct):
    """What one replica gave."""

    wire_in: int = 0
    wire_out: int = 0
    content_bytes: int = 0
    error: str | None = None


class PullStats(msgspec.Struct):
    """What a pull took.

    Attributes:
        files: contents that were fetched.
        content_bytes: bytes of content fetched, before compression.
        copied_bytes: bytes that came from the files being replaced instead.
        seconds: from ``prepare`` to ``finish``.
        replicas: one for each replica that was tried, in order.
    """

    files: int = 0
    content_bytes: int = 0
    copied_bytes: int = 0
    seconds: float = 0.0
    replicas: list[ReplicaStats] = []

    @property
    def wire_in(self) -> int:
        """Bytes of all messages that came."""
        return sum(replica.wire_in for replica in self.replicas)

    @property
    def wire_out(self) -> int:
        """Bytes of all messages sent."""
        return sum(replica.wire_out for replica in self.replicas)

    def progress(self) -> Progress:
        """Return how far the pull is by now."""
        moved = self.content_bytes + self.copied_bytes
        return Progress(self.files, moved, self.wire_in + self.wire_out)
