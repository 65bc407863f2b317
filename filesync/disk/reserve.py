"""Room that a state directory keeps for when the disk is full.

To remove anything a database has to be opened and written to, which takes room, and files beside
it. So without some of both in reserve nothing could be removed just when it has to be.
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 1 << 20
"""Four databases, opened and written to until what they speak of is removed, take a third of it."""
RESERVE_INODES: Final = 64
"""Those databases take two files each while they are open. A step that is done in this room may leave
some; what is left has to be enough for the next reserve."""
_OTHERS: Final = 4
"""So many may have given up theirs on the same disk just now: a cluster's processes start together."""
_NAME: Final = "reserve"
_INODES_NAME: Final = "reserve-inodes"


def make_room(directory: Path) -> None:
    """Give up the reserve of ``directory``, unless there is more room than that beside it.

    Call it before what needs the room. Where there is plenty, there is a reserve from then on.
    """
    _keep_bytes(directory, spare=1, others=_OTHERS)
    _keep_inodes(directory, spare=1)


def keep_reserve(directory: Path) -> None:
    """Have the reserve of ``directory``, if there is room for it.

    Call it after what makes room.
    """
    _keep_bytes(directory, spare=0, others=0)
    _keep_inodes(directory, spare=0)


def _keep_bytes(directory: Path, *, spare: int, others: int) -> None:
    """``spare``: how many times as much has to be free besides; ``others``: and seem to be free."""
    reserve, part = directory / _NAME, directory / f"{_NAME}.part"
    try:
        is_there = reserve.exists()
        if wanted := spare + (not is_there):
            status = os.statvfs(directory)
            if status.f_bavail * status.f_frsize < (wanted + others) * RESERVE_BYTES:
                # To try would take for a moment what another has just given up, and now needs.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # That knows no quotas.
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, wanted * RESERVE_BYTES)
                file.truncate(RESERVE_BYTES)
            part.replace(reserve)
    except OSError:
        for path in (part, reserve):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _keep_inodes(directory: Path, *, spare: int) -> None:
    """As many as there shall be, or half of what is left: others end now who had given up theirs."""
    reserve = directory / _INODES_NAME
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        if not status.f_files:
            return  # there is no bound to it
        if status.f_favail >= spare * RESERVE_INODES:
            reserve.mkdir(exist_ok=True, mode=0o700)
            there = len(os.listdir(reserve))
            for number in range(there, min(there + status.f_favail // 2, RESERVE_INODES)):
                (reserve / str(number)).touch()
            return
    shutil.rmtree(reserve, ignore_errors=True)
