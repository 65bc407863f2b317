"""Who uses the state of this machine's cluster: one process at a time, and whether others share it.

A build has the state for itself, and others wait for it. What ``filesync up`` runs says where its
manager is, in a file beside the state; the file counts while it is locked, so that whatever ends
that process ends this too.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import click

from filesync.errors import StoreError

_ADDRESS: Final = "address"
_MAX_ADDRESS_BYTES: Final = 4096
_LOOK_EACH_S: Final = 0.05
_TELL_AFTER_S: Final = 1.0


@contextmanager
def occupied(state: Path) -> Iterator[str | None]:
    """Have ``state`` for this process alone; or give the address of the manager that shares it.

    Blocks while another build has it, and says so on standard error, once. The children of this process that are made
    meanwhile have it with it: it is free when the last of them has ended.

    Raises:
        StoreError: nothing can be kept there.
    """
    with _lock_file(state) as lock:
        began_s, told = time.monotonic(), False
        while not _lock(lock, fcntl.LOCK_EX):
            if (address := shared_at(state)) is not None:
                yield address
                return
            if not told and time.monotonic() - began_s > _TELL_AFTER_S:
                click.echo(
                    f"waiting for another build, which has {state}; builds that use `filesync up` "
                    "need not wait",
                    err=True,
                )
                told = True
            time.sleep(_LOOK_EACH_S)
        yield None


@contextmanager
def shared(state: Path, address: str) -> Iterator[None]:
    """Let others use the manager at ``address``. The caller has ``state``, and its children are made.

    Raises:
        StoreError: it cannot be written down.
    """
    place = state / _ADDRESS
    with _announced(place, address):
        try:
            yield
        finally:
            with suppress(OSError):
                place.unlink()


def shared_at(state: Path) -> str | None:
    """Return the address of the manager that shares ``state``; None where none does."""
    try:
        file = (state / _ADDRESS).open("rb")
    except OSError:
        return None
    with file:
        if _lock(file, fcntl.LOCK_SH):
            return None
        return os.fsdecode(file.read(_MAX_ADDRESS_BYTES))


@contextmanager
def sharer(state: Path) -> Iterator[Callable[[], bool]]:
    """Give what says whether the process that shares ``state`` now still does."""
    try:
        file = (state / _ADDRESS).open("rb")
    except OSError:
        yield lambda: False
        return
    with file:  # held open: to look again takes no descriptor
        yield lambda: not _lock(file, fcntl.LOCK_SH)


def _announced(place: Path, address: str) -> IO[bytes]:
    """Return the file at ``place``, which counts until it is closed."""
    made = place.with_suffix(".new")
    try:
        file = made.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(os.fsencode(address))
        file.flush()
        # It is never there without its lock; what a process that was killed has left is replaced.
        made.rename(place)
    except OSError as exc:
        raise StoreError(f"cannot write {place}: {exc.strerror}") from exc
    return file


def _lock_file(state: Path) -> IO[bytes]:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (state / "lock").open("ab")
    except OSError as exc:
        raise StoreError(
            f"cannot keep state in {state}: {exc.strerror}; make it writable, or set XDG_CACHE_HOME"
        ) from exc


def _lock(file: IO[bytes], how: int) -> bool:
    """Lock ``file``, unless another process has a lock that forbids it; say whether it is."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
