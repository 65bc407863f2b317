"""The bytes of files: read, written with holes, hashed."""

import errno
import os
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from filesync.digest import Digest

PIECE_BYTES: Final = 1 << 20
HOLE_BYTES: Final = 8192
"""Files smaller than this are written as they are: a hole in them would save next to nothing."""
_PAGE: Final = 4096
_PAST_BYTES: Final = 48
"""glibc has a large object begin 16 bytes after a page does. To copy there what begins where a page does,
as all in a page cache, takes some processors four times as long: AMD's Zen 3, whose ``rep movsb`` looks
at the last 12 bits of both addresses. 256 MiB from tmpfs took 0.18 s, and take 0.04 this far behind."""
_ZERO_PAGE: Final = bytes(_PAGE)
_RUN: Final = 16 * _PAGE
"""Behind a page of zeros this much is looked at at once."""
_ZEROS: Final = bytes(_RUN)


def read_piece(fd: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes, less at the end of the file only."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def read_buffer(size: int) -> memoryview:
    """Return ``size`` bytes of zeros, to read a large file into piece by piece."""
    return memoryview(bytearray(_PAST_BYTES + size))[_PAST_BYTES:]


def reading(fd: int) -> Callable[[int, int], memoryview]:
    """Return what reads (offset, length) of a file; what it returns is good until the next call.

    A fresh buffer for each call would cost as much as the reading.
    """
    buffer = memoryview(bytearray())

    def read(offset: int, length: int) -> memoryview:
        nonlocal buffer
        if len(buffer) < length:
            buffer = read_buffer(length)
        return buffer[: os.preadv(fd, [buffer[:length]], offset)]

    return read


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def write_new(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` to a new file, pages of it that are all zero as holes."""
    view = memoryview(data)
    if any(
        not view[at] and _is_zero(view[at : at + _PAGE])
        for at in range(0, len(view) - _PAGE + 1, _PAGE)
    ):
        os.ftruncate(fd, len(view))
        write_sparse(fd, view, 0)
    else:
        write_all(fd, view, 0)


def write_sparse(fd: int, view: memoryview, offset: int) -> None:
    """Write ``view`` at ``offset`` of a file of zeros, leaving out pages that are all zero.

    And its share of the first and the last page where that is: what comes before or after it may
    be zero, too, and of a long hole that comes chunk by chunk each border would be a page.
    """
    length = len(view)
    first = min(-offset % _PAGE, length)
    start = first if _is_zero(view[:first]) else 0
    # One byte decides for nearly every page.
    heads = view[first : max(first, length - _PAGE + 1) : _PAGE].tobytes()
    at = first
    while (page := heads.find(0, (at - first) // _PAGE)) >= 0:
        at = first + page * _PAGE
        if not _is_zero(view[at : at + _PAGE]):
            at += _PAGE
            continue
        if start < at:
            write_all(fd, view[start:at], offset + start)
        start = at + _PAGE
        while start + _RUN <= length and _ZEROS.startswith(view[start : start + _RUN]):
            start += _RUN
        at = start
    at = first + len(heads) * _PAGE
    if start <= at < length and _is_zero(view[at:]):
        length = at
    write_all(fd, view[start:length], offset + start)


def _is_zero(view: memoryview) -> bool:
    """Say whether a page or less is all zero.

    As a copy: Python 3.11 compares memory views byte by byte, which takes twenty times as long.
    """
    return bytes(view) == _ZERO_PAGE[: len(view)]


def copy_sparse(
    source: int, target: int, size: int, *, on_copied: Callable[[int], None] | None = None
) -> None:
    """Copy ``size`` bytes into a file of zeros, holes and pages of zeros left out.

    ``on_copied`` is told the bytes of each piece, holes not counted; it may wait.
    """
    buffer = read_buffer(PIECE_BYTES)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
        at -= at % _PAGE
        count = os.preadv(source, [buffer[: min(PIECE_BYTES, size - at)]], at)
        if not count:
            return
        write_sparse(target, buffer[:count], at)
        at += count
        if on_copied is not None:
            on_copied(count)


def hash_file(fd: int, size: int) -> Digest:
    """Return the BLAKE3 of the first ``size`` bytes."""
    hasher = blake3()
    buffer = read_buffer(min(PIECE_BYTES, max(size, 1)))
    at = 0
    while at < size and (count := os.preadv(fd, [buffer], at)):
        hasher.update(buffer[: min(count, size - at)])
        at += count
    return Digest(hasher.digest())
