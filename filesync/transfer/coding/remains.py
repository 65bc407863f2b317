"""Remains: what a large content still has of an older one, told at once by who has cut both.

A recipe answers whoever has old files, whichever. Who is told what remains of the very content that
it has needs no names of chunks: of 256 MiB in which 1,000 bytes have changed they are 330 kB and two
round trips, and what remains is told in 12 kB.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from filesync.digest import WireDigest
from filesync.transfer.coding.matching import Copy

MAX_RUNS: Final = 16_384
"""Of one content; where there are more, nothing is told of it."""
MAX_BYTES: Final = 64 << 30
"""Of a content of which anything is told: what is to be copied is listed, 8 MiB at a time."""
MAX_REST_BYTES: Final = 2 << 30
"""Of what it does not have of the older one: that is listed in smaller pieces."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class Run(NamedTuple):
    """``length`` bytes that the old content has at ``start`` are at ``offset`` now."""

    offset: Count
    start: Count
    length: Annotated[int, msgspec.Meta(ge=1)]


class Remains(msgspec.Struct, frozen=True, array_like=True):
    """Of one content.

    Attributes:
        digest: BLAKE3 of it.
        old: that of the older one.
        runs: what it has of that, ascending; the rest of it is something else.
    """

    digest: WireDigest
    old: WireDigest
    runs: Annotated[tuple[Run, ...], msgspec.Meta(min_length=1, max_length=MAX_RUNS)]

    def may_be_of(self, size: int) -> bool:
        """Say whether a content of ``size`` bytes is such that it can be made of these."""
        rest = size - sum(run.length for run in self.runs)
        return size <= MAX_BYTES and rest <= MAX_REST_BYTES


def joined(runs: list[Run], run: Run) -> None:
    """Add ``run`` to ``runs``, which end before it."""
    if runs:
        offset, start, length = runs[-1]
        if (offset + length, start + length) == run[:2]:
            runs[-1] = Run(offset, start, length + run.length)
            return
    runs.append(run)


def copies_of(runs: Sequence[Run], size: int, old_size: int) -> list[Copy]:
    """Return what is to be copied from the old content, the first basis; none if that cannot be.

    Args:
        runs: what somebody says.
        size: of the new content.
        old_size: of the old one.
    """
    end = 0
    copies: list[Copy] = []
    for offset, start, length in runs:
        if offset < end or start + length > old_size:
            return []
        end = offset + length
        copies.append(Copy(offset, 0, start, length))
    return copies if end <= size else []


def between(copies: Sequence[Copy], size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of what of a content of ``size`` bytes is in none of ``copies``."""
    at = 0
    for offset, _, _, length in copies:
        if at < offset:
            yield at, offset - at
        at = offset + length
    if at < size:
        yield at, size - at
