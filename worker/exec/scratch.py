"""Removing directories that hold whatever a command left in them."""

import os
import stat
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it; one that is not there is fine. Blocks.

    Depth costs neither stack nor descriptors: a directory that holds others gives them to
    the top under fresh names, until the top holds only empty ones. No link is followed.

    Raises:
        OSError: something cannot be removed (a mount, an immutable file).
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        todo, serial = _clear(top, top, 0)
        while todo:
            serial = _dissolve(top, todo.pop(), todo, serial)
    finally:
        os.close(top)
    path.rmdir()


def _dissolve(top: int, name: str, todo: list[str], serial: int) -> int:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        moved, serial = _clear(fd, top, serial)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)
    todo += moved
    return serial


def _clear(fd: int, top: int, serial: int) -> tuple[list[str], int]:
    """Empty the directory ``fd``: files go, directories move to ``top``; returns their names."""
    moved = []
    for name in os.listdir(fd):
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
            continue
        serial += 1
        fresh = f"{serial}.{os.urandom(8).hex()}"
        os.rename(name, fresh, src_dir_fd=fd, dst_dir_fd=top)
        moved.append(fresh)
    return moved, serial
