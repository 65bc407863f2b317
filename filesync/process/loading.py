"""Loading the modules of a command, while nothing is under way yet."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Have SIGINT end the process at once while the block runs, where it would raise an exception.

    Python forgets an exception in some places, as in what it calls when the lock of a module goes:
    it prints a traceback, and the command, which was interrupted, runs.
    """
    handler = signal.getsignal(signal.SIGINT)
    if (
        handler is not signal.default_int_handler
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
