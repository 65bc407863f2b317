"""Room that a state directory keeps for when the disk is full.

To remove anything a database has to be opened and written to, which takes room. So without some in
reserve nothing could be removed just when it has to be.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 1 << 20
"""Four databases, opened and written to until what they speak of is removed, take a third of it."""
_NAME: Final = "reserve"


def keep_reserve(directory: Path) -> None:
    """Have the reserve of ``directory`` if there is room for it twice, and else give it up.

    Call it before what needs the room, and again after what makes room.
    """
    reserve, another = directory / _NAME, directory / f"{_NAME}.part"
    # What statvfs says knows neither of quotas nor of inodes.
    try:
        with another.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        another.replace(reserve)
    except OSError:
        for path in (another, reserve):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
