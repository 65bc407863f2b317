"""Large files that go to another machine while they are still being read here.

Their digest is known when all of it was read. Until then one stands for it that both sides know: of
size and mtime, so that what has come of the file is found again after a cut.
"""

from typing import Final

from filesync.digest import Digest, digest_of

EARLY_BYTES: Final = 64 << 20
"""A smaller file is read so soon that it can wait for its digest."""


def stand_in_of(size: int, mtime_ns: int) -> Digest:
    """Return what stands for the content of a file of this size and mtime."""
    return digest_of(b"early %d %d" % (size, mtime_ns))
