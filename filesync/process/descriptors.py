"""How many files this process may have open at once."""

import errno
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Final, ParamSpec, TypeVar

from filesync.errors import FilesyncError, StoreError

P = ParamSpec("P")
T = TypeVar("T")

NEEDED: Final = 128
"""What every command gets along with, if not at its best. ZeroMQ ends a process that has too few."""
WANTED: Final = 1 << 16
"""More than anything here opens; what is started from here inherits it."""
OUT_OF_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What says nothing of a path, but that this process or machine has no room."""
PATIENCE_S: Final = 5.0
"""How long a server waits for descriptors that strangers' connections have taken, until it has cut
them; a flood on a busy machine has them for tenths of a second."""
AGAIN_S: Final = 0.02
HOW: Final = "raise the limit on open files with `ulimit -n`"


class TooFewDescriptors(StoreError):
    """This process may have too few files open at once; its environment has to be changed."""

    code = "too-few-descriptors"


def may_open() -> int:
    """Return how many files this process may have open at once."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Quota:
    """What all of one kind in this process may take together. For all threads.

    Args:
        share: they are no more than may be open divided by this.
        max_bytes: what they hold is no more than this; None if that is nothing to count.
    """

    def __init__(self, share: int, max_bytes: int | None = None) -> None:
        self._share = share
        self._max_bytes = max_bytes
        self._count = 0
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int = 0) -> bool:
        """Say whether there is room for another, of ``size`` bytes, and take it."""
        with self._lock:
            if self._count >= may_open() // self._share:
                return False
            if self._max_bytes is not None and self._bytes + size > self._max_bytes:
                return False
            self._count += 1
            self._bytes += size
            return True

    def give_back(self, size: int = 0) -> None:
        """One of ``size`` bytes is not there any more."""
        with self._lock:
            self._count -= 1
            self._bytes -= size


def make_room() -> None:
    """Let this process, and those that it starts, have as many files open as they are allowed.

    Raises:
        TooFewDescriptors: that is less than NEEDED.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (wanted := min(hard, WANTED)):
        with suppress(OSError, ValueError):  # it goes with what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if (most := may_open()) < NEEDED:
        raise TooFewDescriptors(
            f"only {most} files may be open at once, and {NEEDED} are needed; raise that limit "
            f"with `ulimit -n {8 * NEEDED}`, as root where that is refused"
        )


def are_used_up(exc: BaseException | None) -> bool:
    """Say whether ``exc`` is there because no more files may be opened."""
    while exc is not None:
        if getattr(exc, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def with_room(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``call`` returns; wait for room while no more files may be opened. Blocks.

    For servers: whoever connects takes one of their descriptors before anything can refuse it.
    ``call`` is called again for ``PATIENCE_S``, so it must leave nothing behind when it fails.
    """
    until = monotonic() + PATIENCE_S
    while True:
        try:
            return call(*args, **kwargs)
        except (OSError, FilesyncError) as exc:
            if not are_used_up(exc) or monotonic() >= until:
                raise
        sleep(AGAIN_S)
