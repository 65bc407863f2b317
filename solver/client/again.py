"""A build that outlives its manager: what was built is kept by the workers, so it is begun again."""

import time
from collections.abc import Callable
from typing import Any, Final

from filesync.keys.files import KeyPair
from solver.client.build import run_once
from solver.client.outputs.outputs import STDOUT
from solver.client.progress import Progress
from solver.client.request import BuildRequest
from solver.errors import CutOff, ManagerLost

TRIES: Final = 5
RETURN_S: Final = 60.0
"""A manager that was there is waited for so long."""


async def run_build(
    request: BuildRequest,
    manager: str,
    show: Callable[[], Progress],
    own: KeyPair | None = None,
) -> dict[str, Any]:
    """Build as ``run_once`` does; where the manager restarts, or the connection is cut, again.

    ``show`` makes the progress of each try.

    Raises:
        FilesyncError: one sentence about what went wrong; nothing is half-written.
    """
    seen: set[str] = set()
    lost_s: float | None = None
    left = TRIES
    while True:
        progress = show()
        try:
            return await run_once(request, manager, progress, own, seen)
        except CutOff as exc:
            left -= 1
            # What has gone to a pipe cannot be taken back.
            if not left or any(output.dest == STDOUT for output in request.outputs):
                raise
            lost_s = time.monotonic()
            progress.note(f"warning: {exc.what}; the build is begun again, with what is built")
        except ManagerLost:
            if lost_s is None or time.monotonic() - lost_s > RETURN_S:
                raise
