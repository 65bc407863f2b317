"""Unix sockets that no other user can reach, nor a container on this machine's network."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Final

from filesync.errors import UsageError

_MAX_PATH_BYTES: Final = 100
"""Of a socket; the kernel takes 107."""
_MAX_NAME_BYTES: Final = 16
_OWN_NAME: Final = "socket"


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Give an empty directory for sockets, whose names have at most 16 bytes.

    Raises:
        UsageError: there is no place for it.
    """
    try:
        made = Path(_short_directory())
    except OSError as exc:
        where = tempfile.gettempdir()
        raise UsageError(
            f"no directory for sockets can be made in {where}: {exc.strerror}; set TMPDIR to "
            "where there is room"
        ) from exc
    try:
        yield made
    finally:
        remove_sockets(made)


def own_socket(state: Path) -> str:
    """Return the address of the socket in a state directory, for who binds it ``privately``.

    Raises:
        UsageError: its path is too long for a socket.
    """
    path = state.absolute() / _OWN_NAME
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise UsageError(
            f"{path} is too long for a socket: give a shorter --state, or say where to --listen"
        )
    return f"ipc://{path}"


def state_of(address: str) -> Path | None:
    """Return the state directory that has ``address`` as its own socket; None if it is none."""
    path = Path(address.removeprefix("ipc://"))
    return path.parent if path.is_absolute() and path.name == _OWN_NAME else None


@contextmanager
def privately(address: str) -> Iterator[None]:
    """Have nobody but this user, and the superuser, open what is bound at ``address`` in the block.

    That is for a Unix socket, of which no other thread may make files meanwhile. What can dial any
    other address can dial it as before.

    Raises:
        UsageError: somebody listens there, whose socket ZeroMQ would remove without a word.
    """
    if not address.startswith("ipc://"):
        yield
        return
    if _is_listened_at(address.removeprefix("ipc://")):
        raise UsageError(
            f"cannot listen on {address}: another process does; give another --listen"
        )
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def remove_sockets(directory: Path) -> None:
    """Remove what ``socket_directory`` gave, once all are connected who shall be. Idempotent.

    Who is killed from then on leaves nothing.
    """
    rmtree(directory, ignore_errors=True)


def _is_listened_at(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:  # too many wait to be let in
            return True
        except OSError:  # nothing is there, or what somebody who was killed has left
            return False
    return True


def _short_directory() -> str:
    made = tempfile.mkdtemp(prefix="filesync-")
    if len(os.fsencode(made)) + 1 + _MAX_NAME_BYTES > _MAX_PATH_BYTES:
        os.rmdir(made)
        made = tempfile.mkdtemp(prefix="filesync-", dir="/tmp")
    return made
