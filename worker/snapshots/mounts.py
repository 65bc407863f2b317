"""Mounting overlays and finding what is mounted, by system calls.

An overlay of many layers needs more text than the one page that mount(2) takes, so the layers
are given one by one (fsconfig's ``lowerdir+``, Linux 6.7), and by mount(2) where the kernel does
not know that. Either way paths are relative to a directory of short names: the calls are made by
a thread of its own whose working directory is not the process's.
"""

import ctypes
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from filesync.errors import StoreError
from worker.snapshots.errors import SnapshotInUse

_libc: Final = ctypes.CDLL(None, use_errno=True)

# The new mount calls have one number on all architectures but alpha.
_MOVE_MOUNT: Final = 429
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432

_CLOEXEC: Final = 1
_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CREATE: Final = 6
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_AT_FDCWD: Final = -100
_ATTR_READ_ONLY: Final = 1
_MS_READ_ONLY: Final = 1
_MS_BIND: Final = 4096
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_CLONE_FS: Final = 0x200
_PAGE_BYTES: Final = 4096
_MAX_LAYERS: Final = 500
"""Of any kernel; it says no more than that something is invalid."""
BUSY_RETRY_S: Final = 0.01
BUSY_PATIENCE_S: Final = 5.0
"""A process that is being started has what this one had open when it was forked, until it closes it:
milliseconds, or, on a machine with more to do than cores, a tenth of a second."""

_OPTIONS: Final = (("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"))
"""A renamed directory is copied and a changed file is whole, so that an upper directory says
all that changed, by itself. ``xino`` does not matter: all layers are on one file system."""


class Overlay(NamedTuple):
    """An overlay to be mounted; paths are relative to the directory it is mounted from.

    Attributes:
        lowers: topmost first; two at least where there is no ``upper``.
        target: where to.
        upper: takes the writes; without it the mount is read-only.
        work: an empty directory on ``upper``'s file system.
    """

    lowers: Sequence[str]
    target: str
    upper: str = ""
    work: str = ""


def mount_overlay(base: Path, overlay: Overlay) -> None:
    """Mount ``overlay``, whose paths are relative to ``base``.

    Writes to it are not flushed to disk when it is unmounted or when a command calls fsync.

    Raises:
        OSError: what the kernel says.
    """
    _run_in(base, lambda: _mount(overlay))


def mount_bind(base: Path, source: str, target: str) -> None:
    """Show a directory at another place; both are relative to ``base``.

    Raises:
        OSError: what the kernel says.
    """

    def bind() -> None:
        flags = ctypes.c_ulong(_MS_BIND)
        _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None))

    _run_in(base, bind)


def unmount(path: Path, *, force: bool = False) -> None:
    """Unmount what is mounted at ``path``; fine if nothing is. Blocks.

    ``force`` takes it off the tree even while it is in use: its users keep what they have.
    Otherwise it waits ``BUSY_PATIENCE_S`` for them to end.

    Raises:
        SnapshotInUse: it is still in use, and not ``force``.
        StoreError: the kernel refuses otherwise.
    """
    if force:
        if not _is_unmounted(path, 0):
            _is_unmounted(path, _MNT_DETACH)
        return
    deadline_s = time.monotonic() + BUSY_PATIENCE_S
    while not _is_unmounted(path, 0):
        if time.monotonic() > deadline_s:
            raise SnapshotInUse(f"{path} is in use: a process still has files in it open")
        time.sleep(BUSY_RETRY_S)


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points below ``directory``, in the order to unmount them in."""
    prefix = os.fsencode(directory.resolve()) + b"/"
    points = mount_points(Path("/proc/self/mountinfo").read_bytes())
    return [Path(os.fsdecode(point)) for point in reversed(points) if point.startswith(prefix)]


def mount_points(mountinfo: bytes) -> list[bytes]:
    """Return the mount points in the text of ``/proc/self/mountinfo``, in its order."""
    return [_unescape(line.split(b" ")[4]) for line in BytesIO(mountinfo)]


def flush(directory: Path) -> None:
    """Write all of the file system that holds ``directory`` to its disk.

    Raises:
        OSError: the disk fails.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd))
    finally:
        os.close(fd)


def _is_unmounted(path: Path, flags: int) -> bool:
    """Unmount; say whether nothing is mounted there now. False: it is in use."""
    if not _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | flags):
        return True
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOENT, errno.EBUSY):
        raise StoreError(f"{path} cannot be unmounted: {os.strerror(code)}")
    return code != errno.EBUSY  # or it is no mount point


# --- inside the thread ------------------------------------------------------------------------


def _run_in(directory: Path, action: Callable[[], None]) -> None:
    """Run ``action`` with ``directory`` as working directory, which other threads do not see."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _check(_libc.unshare(_CLONE_FS))
            os.chdir(directory)
            action()
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _mount(overlay: Overlay) -> None:
    if len(overlay.lowers) > _MAX_LAYERS:
        advice = "start the worker with --snapshotter copy and another --state"
        raise OSError(
            errno.E2BIG, f"overlayfs takes {_MAX_LAYERS} layers and no more: {advice}"
        )
    try:
        _mount_by_steps(overlay)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        _mount_at_once(overlay)


def _mount_by_steps(overlay: Overlay) -> None:
    with ExitStack() as stack:
        fs = _syscall(_FSOPEN, b"overlay", _CLOEXEC)
        stack.callback(os.close, fs)

        def set_string(key: str, value: str) -> None:
            _syscall(_FSCONFIG, fs, _SET_STRING, key.encode(), os.fsencode(value), 0)

        for lower in overlay.lowers:
            set_string("lowerdir+", lower)
        for key, value in _OPTIONS:
            set_string(key, value)
        if overlay.upper:
            set_string("upperdir", overlay.upper)
            set_string("workdir", overlay.work)
            _syscall(_FSCONFIG, fs, _SET_FLAG, b"volatile", None, 0)
        else:
            _syscall(_FSCONFIG, fs, _SET_FLAG, b"ro", None, 0)
        _syscall(_FSCONFIG, fs, _CREATE, None, None, 0)
        mount = _syscall(_FSMOUNT, fs, _CLOEXEC, 0 if overlay.upper else _ATTR_READ_ONLY)
        stack.callback(os.close, mount)
        target = os.fsencode(overlay.target)
        _syscall(_MOVE_MOUNT, mount, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH)


def _mount_at_once(overlay: Overlay) -> None:
    options = [f"lowerdir={':'.join(overlay.lowers)}"]
    options += [f"{key}={value}" for key, value in _OPTIONS]
    if overlay.upper:
        options += [f"upperdir={overlay.upper}", f"workdir={overlay.work}", "volatile"]
    data = os.fsencode(",".join(options))
    if len(data) >= _PAGE_BYTES:
        raise OSError(errno.E2BIG, f"{len(overlay.lowers)} layers are too many for this kernel")
    flags = 0 if overlay.upper else _MS_READ_ONLY
    target = os.fsencode(overlay.target)
    _check(_libc.mount(b"overlay", target, b"overlay", ctypes.c_ulong(flags), data))


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *wide))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field)
