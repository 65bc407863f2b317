"""Gaps: ranges of a new content that no old file has, and what they have most likely replaced."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from filesync.transfer.coding.matching import Copy
from filesync.transfer.coding.recipe import Part
from filesync.transfer.wire import MAX_DELTA_BYTES

SLACK_BYTES: Final = 16 << 10
"""Old bytes that are looked at beyond what a gap should have replaced."""


class Old(NamedTuple):
    """A range of old bytes: those of the basis number ``basis`` from ``start`` to ``end``."""

    basis: int
    start: int
    end: int


def replaced(
    offset: int, size: int, copies: Sequence[Copy], sizes: Sequence[int]
) -> tuple[Old, ...]:
    """Return the old bytes that a gap has most likely replaced; none if there are none.

    They are those between what stands before the gap and what stands after it; where these two
    were no neighbours, what followed the one and what stood in front of the other; or those at
    the same place.

    Args:
        offset: where the gap begins.
        size: its bytes.
        copies: what comes from old files, ascending; none of it overlaps the gap.
        sizes: of the old files.
    """
    if not sizes:
        return ()
    at = bisect_left(copies, (offset, 0, 0, 0))
    before = copies[at - 1] if at else None
    after = copies[at] if at < len(copies) else None
    found: list[Old] = []
    if (
        before is not None
        and after is not None
        and before.basis == after.basis
        and 0 <= after.start - before.start - before.length <= 2 * size + SLACK_BYTES
    ):
        found.append(Old(before.basis, before.start + before.length, after.start))
    else:
        room = size + SLACK_BYTES
        if before is not None and before.offset + before.length == offset:
            start = before.start + before.length
            found.append(Old(before.basis, start, min(start + room, sizes[before.basis])))
        if after is not None and after.offset == offset + size:
            found.append(Old(after.basis, max(after.start - room, 0), after.start))
        if not found:
            end = min(offset + room, sizes[0])
            found.append(Old(0, max(min(offset, end) - SLACK_BYTES, 0), end))
    return tuple([old for old in found if old.start < old.end])


def narrowed(old: Old, at: int, length: int, size: int) -> Old:
    """Return where in ``old`` a part of a long gap may be: in proportion, and around.

    Args:
        old: what the whole gap has replaced.
        at: where the part begins in the gap.
        length: its bytes.
        size: those of the gap.
    """
    if length == size:
        return old
    span = old.end - old.start
    low = old.start + span * at // size - SLACK_BYTES
    high = old.start + span * (at + length) // size + SLACK_BYTES
    return Old(old.basis, max(low, old.start), min(high, old.end))


GapPart = tuple[int, int, list[Part]]
"""(offset in a gap, size, chunks) of a part of at most MAX_DELTA_BYTES; no chunks if not known."""


def cut_evenly(size: int) -> list[GapPart]:
    """Cut a gap of which no chunks are known."""
    return [(at, min(MAX_DELTA_BYTES, size - at), []) for at in range(0, size, MAX_DELTA_BYTES)]


def cut_up(chunks: Iterable[Part]) -> list[GapPart]:
    """Cut a run of chunks."""
    found: list[GapPart] = []
    at = size = 0
    some: list[Part] = []
    for chunk in chunks:
        if some and size + chunk.length > MAX_DELTA_BYTES:
            found.append((at, size, some))
            at, size, some = at + size, 0, []
        some.append(chunk)
        size += chunk.length
    found.append((at, size, some))
    return found
