"""What the answer to a ranged request brings. Pure."""

import re
from typing import Final

from worker.registry.errors import BadRegistry

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def range_header(at: int) -> dict[str, str]:
    """Return the header that asks for all from ``at`` on."""
    return {"Range": f"bytes={at}-"} if at else {}


def body_start(
    status: int, *, content_range: str, content_length: str, at: int, size: int
) -> int:
    """Return at which byte of a blob of ``size`` bytes the body of an answer begins.

    That is ``at``, which was asked for, or 0 from a registry that knows no ranges.

    Raises:
        BadRegistry: the answer speaks of another blob than the manifest does.
    """
    start = 0
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
