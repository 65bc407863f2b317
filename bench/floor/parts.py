"""What both sides of the floor know: how they say things, list trees, cut and sum contents."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3
from pyfastcdc import FastCDC
from xxhash import xxh3_64_digest

FRAME_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 4 << 20
DELTA_BYTES: Final = 1 << 20
"""A file from this size on that was there before is cut into chunks."""
NAME_BYTES: Final = 16
SUM_BYTES: Final = 4
BLOCKS: Final = 64
LEAST_BLOCK_BYTES: Final = 512
"""A small file that was there before is compared by so many blocks, or by blocks so small."""
QUEUED: Final = 6

Stamp = tuple[int, int, int, int, int]
"""(mode, uid, gid, size, mtime_ns)"""
Chunk = tuple[int, bytes]
"""(length, name)"""
Told = list[tuple[str, Stamp, bytes]]
"""(path, stamp, digest of the content) of each whole file in a frame"""
Edited = list[tuple[str, Stamp, bytes, int, int]]
"""(path, stamp, digest, bytes at the start and at the end that are as they were) of each"""


def listing(root: Path) -> dict[str, Stamp]:
    """Return ``root`` as "" and all below it by path, a directory before what is in it."""
    top = root.stat()
    found = {"": (top.st_mode, top.st_uid, top.st_gid, 0, top.st_mtime_ns)}
    todo = [("", os.fspath(root))]
    while todo:
        prefix, directory = todo.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                st = entry.stat(follow_symlinks=False)
                path = prefix + entry.name
                size = 0 if entry.is_dir() else st.st_size
                found[path] = (st.st_mode, st.st_uid, st.st_gid, size, st.st_mtime_ns)
                if entry.is_dir():
                    todo.append((path + "/", entry.path))
    return found


def is_directory(stamp: Stamp) -> bool:
    """Say whether a stamp is a directory's."""
    return stamp[0] & 0o170000 == 0o040000


def read_buffer(size: int) -> memoryview:
    """Return memory to read into that does not begin just after a page does."""
    # See filesync.disk.content: some processors are slow at that.
    return memoryview(bytearray(48 + size))[48:]


def chunks(fd: int, size: int) -> Iterator[Chunk]:
    """Yield the chunks of a file."""
    cutter = FastCDC(16 << 10, min_size=4 << 10, max_size=64 << 10, normalized_chunking=2)
    buffer, offset = read_buffer(BLOCK_BYTES), 0
    while offset < size:
        block = buffer[: os.preadv(fd, [buffer], offset)]
        done = 0
        for piece in cutter.cut_buf(block):
            if offset + len(block) < size and len(block) - done < 64 << 10 and done:
                break
            name = blake3(block[done : done + piece.length]).digest(NAME_BYTES)
            yield piece.length, name
            done += piece.length
        offset += done


def digest_of_file(fd: int) -> bytes:
    """Return the digest of a whole file."""
    hasher, buffer, offset = blake3(), read_buffer(FRAME_BYTES), 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()


def block_bytes(size: int) -> int:
    """Return in what blocks a small file of ``size`` bytes is compared."""
    return max(size // BLOCKS, LEAST_BLOCK_BYTES)


def sum_of(block: bytes) -> bytes:
    """Return what tells a block from others; the whole file is proved by its digest."""
    return xxh3_64_digest(block)[:SUM_BYTES]


def packed(value: object) -> bytes:
    """Return ``value`` as it is sent."""
    return msgspec.msgpack.encode(value)
