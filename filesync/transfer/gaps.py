"""Gaps: ranges of a new content that no old file has, and what they have most likely replaced."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from filesync.transfer.recipe import Copy, Part
from filesync.transfer.wire import MAX_DELTA_BYTES

SLACK_BYTES: Final = 16 << 10
"""Old bytes that are looked at beyond what a gap should have replaced."""


def replaced(
    offset: int, size: int, copies: Sequence[Copy], sizes: Sequence[int]
) -> tuple[int, int, int] | None:
    """Return (basis, start, end) of the old bytes that a gap has most likely replaced.

    They are those between what stands before the gap and what stands after it; next to the one
    of the two that is known; or those at the same place. None if there are none.

    Args:
        offset: where the gap begins.
        size: its bytes.
        copies: what comes from old files, ascending; none of it overlaps the gap.
        sizes: of the old files.
    """
    if not sizes:
        return None
    at = bisect_left(copies, (offset, 0, 0, 0))
    before = copies[at - 1] if at else None
    after = copies[at] if at < len(copies) else None
    found: tuple[int, int, int]
    if (
        before is not None
        and after is not None
        and before.basis == after.basis
        and 0 <= after.start - before.start - before.length <= 2 * size + SLACK_BYTES
    ):
        found = before.basis, before.start + before.length, after.start
    elif before is not None and before.offset + before.length == offset:
        start = before.start + before.length
        found = before.basis, start, min(start + size + SLACK_BYTES, sizes[before.basis])
    elif after is not None and after.offset == offset + size:
        found = after.basis, max(after.start - size - SLACK_BYTES, 0), after.start
    else:
        end = min(offset + size + SLACK_BYTES, sizes[0])
        found = 0, max(min(offset, end) - SLACK_BYTES, 0), end
    return found if found[1] < found[2] else None


def cut_up(chunks: Sequence[Part]) -> list[tuple[int, int, list[Part]]]:
    """Cut a run of chunks into (offset in it, size, chunks) of at most MAX_DELTA_BYTES each."""
    found: list[tuple[int, int, list[Part]]] = []
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
