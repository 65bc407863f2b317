"""Which ranges of a blob to ask for, and what the answer to that brings. Pure."""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final

from worker.registry.errors import BadRegistry

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")

MAX_RANGE_BYTES: Final = 8 << 20
"""The longest range that is asked for at once, where it can be cut: several come at a time."""
MAX_GAP_BYTES: Final = 1 << 20
GAPS_PER_BYTE: Final = 0.03
"""How many bytes that nobody wants may come with each that is wanted, to save requests."""

Span = tuple[int, int]
"""Where bytes begin in a blob, and where they end."""


def ranges(spans: Iterable[Span]) -> list[Span]:
    """Return few ranges that have all of ``spans`` in them, none of which is cut.

    What is close to each other is asked for together: the smallest gaps are taken along first,
    for as long as they are few bytes beside those wanted.
    """
    ordered = _merged(spans)
    gaps = sorted((after[0] - before[1], before[1]) for before, after in pairwise(ordered))
    budget = GAPS_PER_BYTE * sum(end - begin for begin, end in ordered)
    bridged: set[int] = set()
    for size, at in gaps:
        budget -= size
        if budget < 0 or size > MAX_GAP_BYTES:
            break
        bridged.add(at)
    found: list[Span] = []
    for begin, end in ordered:
        last = found[-1] if found else None
        is_close = last is not None and (last[1] in bridged or last[1] == begin)
        if last is not None and is_close and end - last[0] <= MAX_RANGE_BYTES:
            found[-1] = (last[0], end)
        else:
            found.append((begin, end))
    return found


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return ``spans`` in order, those that overlap as one."""
    found: list[Span] = []
    for begin, end in sorted(set(spans)):
        if found and begin < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


class NoRanges(BadRegistry):
    """A registry that gives whole blobs only."""

    code = "registry-no-ranges"


def part_header(begin: int, end: int) -> dict[str, str]:
    """Return the header that asks for the bytes from ``begin`` to before ``end``."""
    return {"Range": f"bytes={begin}-{end - 1}"}


def check_part(status: int, *, content_range: str, begin: int, end: int, size: int) -> None:
    """Refuse an answer that is not the bytes from ``begin`` to before ``end``.

    Raises:
        NoRanges: it is the whole blob, or no range at all.
        BadRegistry: it is something else.
    """
    if status in (200, 416):
        raise NoRanges("it gives whole blobs only, and no ranges")
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if (
        match is None
        or (int(match[1]), int(match[2]) + 1) != (begin, end)
        or match[3] not in ("*", str(size))
    ):
        raise BadRegistry(
            f"bytes {begin}-{end - 1} of {size} were asked for, and {content_range[:80]!r} came"
        )


def range_header(at: int) -> dict[str, str]:
    """Return the header that asks for all from ``at`` on."""
    return {"Range": f"bytes={at}-"} if at else {}


def body_start(status: int, headers: Mapping[str, str], *, at: int, size: int) -> int:
    """Return at which byte of a blob of ``size`` bytes the body of an answer begins.

    That is ``at``, which was asked for, or 0 from a registry that knows no ranges.

    Raises:
        BadRegistry: the answer speaks of another blob than the manifest does.
    """
    start = 0
    content_range = headers.get("content-range", "")
    content_length = headers.get("content-length", "")
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(content_range.strip())
        if match is None:
            raise BadRegistry(f"a part of a blob without its range: {content_range[:80]!r}")
        start, total = int(match[1]), match[3]
        if start != at or int(match[2]) != size - 1 or total not in ("*", str(size)):
            raise BadRegistry(
                f"bytes {at}- of {size} were asked for, and {content_range[:80]!r} came"
            )
    if content_length.isdigit() and int(content_length) != size - start:
        raise BadRegistry(
            f"the answer has {content_length} bytes where the manifest says {size - start}"
        )
    return start
