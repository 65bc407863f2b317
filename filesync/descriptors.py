"""How many files this process may have open at once."""

import errno
import resource
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
