"""A process's state directory: one owner at a time, one version of what is in it."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from filesync.disk.reserve import keep_reserve, make_room
from filesync.errors import StoreError, UsageError
from filesync.process.entropy import random_bytes

VERSION: Final = "1"
LOCK: Final = "lock"
"""The file in it that its owner has locked, for as long as the directory is there."""
_FORMAT: Final = "filesync {kind} state {version}\n"


class StateDirectory(msgspec.Struct, frozen=True):
    """A directory that this process owns while the block that opened it runs.

    Attributes:
        instance: names the directory for as long as it exists.
    """

    path: Path
    instance: str


@contextlib.contextmanager
def open_state(path: Path, *, kind: str) -> Iterator[StateDirectory]:
    """Own the directory ``path``, made if missing, for state of ``kind``.

    Raises:
        StoreError: no permission, not a directory, or state of another kind or version.
        UsageError: another process has it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (path / LOCK).open("ab")
    except OSError as exc:
        raise StoreError(
            f"cannot use {path} for state: {exc.strerror}; give another --state directory"
        ) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process uses {path}; stop it, or give another --state directory"
            ) from None
        _check_version(path, kind)
        make_room(path)
        try:
            yield StateDirectory(path, _instance(path))
        finally:
            keep_reserve(path)


def boot_id() -> str:
    """Return what names this run of the machine: what was not flushed before it may be lost."""
    # As bytes: to find a codec, one who has changed its user may not be able to read any more.
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()


def _check_version(path: Path, kind: str) -> None:
    ours = _FORMAT.format(kind=kind, version=VERSION)
    marker = path / "format"
    try:
        found = marker.read_text()
    except FileNotFoundError:
        if any(child.name != LOCK for child in path.iterdir()):
            raise StoreError(
                f"{path} is not empty and holds no filesync state; give another --state directory"
            ) from None
        marker.write_text(ours)
        return
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreError(f"{marker}: not readable: {exc}") from exc
    if found != ours:
        raise StoreError(
            f"{path} holds {found.strip()!r}, this is {ours.strip()!r}; give another --state"
            " directory, or remove that one"
        )


def _instance(path: Path) -> str:
    file = path / "instance"
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip()
    part = path / "instance.part"
    part.write_text(random_bytes(16).hex() + "\n")
    part.replace(file)
    return file.read_text().strip()
