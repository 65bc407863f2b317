"""Small things that several tests are made of."""

from collections.abc import Callable

from filesync.digest import digest_of
from filesync.disk.updating.update import WantedFile
from filesync.manifest import File


def file(name: bytes, data: bytes, mtime_ns: int = 0) -> File:
    """Return the entry of a file with this content."""
    return File(name, 0o644, 0, 0, mtime_ns, len(data), digest_of(data))


def wanted(data: bytes, ticket: int = 0, replaces: int = 0) -> WantedFile:
    """Return the wish for this content."""
    return WantedFile(ticket, digest_of(data), len(data), replaces)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    """Return what reads (offset, length) of ``data``."""
    return lambda offset, length: data[offset : offset + length]
