"""When a command without an event loop ends; ``lifetime`` is for those that have one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from filesync.errors import Ended

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
"""By these a command is ended from outside, and cleans up first."""


@contextmanager
def cleaned_up_when_ended() -> Iterator[None]:
    """Have SIGTERM and SIGHUP, unless they are ignored, raise ``Ended`` while the block runs.

    It is what ``run_command`` does for a loop: who stops a job, or loses its terminal, is left no
    temporary files. A second one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [one for one in ENDING if signal.getsignal(one) == signal.SIG_DFL]

    def end(number: int, _: FrameType | None) -> None:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
        raise Ended(number)

    for one in taken:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
