"""The side that is given to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq
import zstandard
from blake3 import blake3

from bench.floor.parts import (
    FRAME_BYTES,
    QUEUED,
    Chunk,
    Edited,
    Stamp,
    Told,
    block_bytes,
    chunks,
    listing,
    packed,
    read_buffer,
    sum_of,
)


class Server:
    """Takes what one client after another gives."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._at = root
        self._old: dict[bytes, tuple[int, int]] = {}
        self._open: tuple[str, Stamp] = ("", (0, 0, 0, 0, 0))
        self._parts: list[Chunk] = []
        self._contents: list[bytes] = []
        self._fd = -1
        self._hasher = blake3()

    def run(self, address: str) -> None:
        """Serve for ever."""
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.sndhwm = router.rcvhwm = QUEUED
            router.bind(address)
            while True:
                peer, word, *rest = router.recv_multipart(copy=False)
                answer = getattr(self, f"take_{word.bytes.decode()}")(*[f.buffer for f in rest])
                if answer is not None:
                    router.send_multipart([peer.bytes, answer])

    def take_list(self, name: memoryview) -> bytes:
        """Say what is in the directory ``name``."""
        self._at = self._root / bytes(name).decode()
        self._at.mkdir(exist_ok=True)
        return packed(listing(self._at))

    def take_shape(self, gone: memoryview, made: memoryview) -> None:
        """Remove what is gone, make new directories."""
        for path in msgspec.msgpack.decode(gone, type=list[str]):
            target = self._at / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        for path, (mode, uid, gid, _, _) in msgspec.msgpack.decode(
            made, type=list[tuple[str, Stamp]]
        ):
            target = self._at / path
            target.mkdir(exist_ok=True)
            os.chown(target, uid, gid)
            target.chmod(mode & 0o7777)

    def take_small(self, told: memoryview, data: memoryview) -> None:
        """Write small files."""
        root = os.open(self._at, os.O_RDONLY)
        at = 0
        for path, stamp, digest in msgspec.msgpack.decode(told, type=Told):
            content = data[at : at + stamp[3]]
            at += stamp[3]
            _write(root, path, stamp, digest, content)
        os.close(root)

    def take_sign(self, told: memoryview) -> bytes:
        """Return the size of each file, and sums of its blocks from the start, and from the end."""
        signed: list[tuple[int, bytes]] = []
        self._contents = []
        for path in msgspec.msgpack.decode(told, type=list[str]):
            content = (self._at / path).read_bytes()
            self._contents.append(content)
            size, block = len(content), block_bytes(len(content))
            starts = range(0, size - block + 1, block)
            sums = [sum_of(content[at : at + block]) for at in starts]
            sums += [sum_of(content[size - at - block : size - at]) for at in starts]
            signed.append((size, b"".join(sums)))
        return packed(signed)

    def take_edited(self, told: memoryview, data: memoryview) -> None:
        """Write what was signed anew, with what differs."""
        lacking, at = zstandard.decompress(data), 0
        root = os.open(self._at, os.O_RDONLY)
        edited = msgspec.msgpack.decode(told, type=Edited)
        for (path, stamp, digest, front, back), old in zip(edited, self._contents, strict=True):
            length = stamp[3] - front - back
            content = old[:front] + lacking[at : at + length] + old[len(old) - back :]
            at += length
            _write(root, path, stamp, digest, content)
        os.close(root)

    def take_open(self, told: memoryview) -> None:
        """Begin a large file."""
        self._open = msgspec.msgpack.decode(told, type=tuple[str, Stamp])
        self._begin()

    def take_piece(self, data: memoryview) -> None:
        """Write a piece of it."""
        self._hasher.update(data)
        os.write(self._fd, data)

    def take_close(self, digest: memoryview) -> None:
        """Prove it, and put it in place."""
        path, stamp = self._open
        _verify(self._hasher.digest(), bytes(digest), path)
        _finish(self._fd, stamp)
        (self._at / f"{path}.new").rename(self._at / path)

    def take_cut(self, path: memoryview) -> None:
        """Cut an old file."""
        self._old, offset = {}, 0
        with (self._at / bytes(path).decode()).open("rb", buffering=0) as file:
            for length, name in chunks(file.fileno(), os.fstat(file.fileno()).st_size):
                self._old[name] = (offset, length)
                offset += length

    def take_parts(self, told: memoryview, parts: memoryview) -> bytes:
        """Say what the old file lacks of the new one."""
        self._open = msgspec.msgpack.decode(told, type=tuple[str, Stamp])
        self._parts = msgspec.msgpack.decode(parts, type=list[Chunk])
        lacking: list[tuple[int, int]] = []
        offset = 0
        for length, name in self._parts:
            if name not in self._old:
                lacking.append((offset, length))
            offset += length
        return packed(lacking)

    def take_lacking(self, digest: memoryview, data: memoryview) -> None:
        """Make the new file out of the old one and what it lacked."""
        self._begin()
        buffer, at = read_buffer(FRAME_BYTES), 0
        with (self._at / self._open[0]).open("rb", buffering=0) as old:
            for start, length in _joined(self._parts, self._old):
                if start is None:
                    self.take_piece(data[at : at + length])
                    at += length
                    continue
                while length:
                    piece = buffer[: min(length, FRAME_BYTES)]
                    count = os.preadv(old.fileno(), [piece], start)
                    self.take_piece(piece[:count])
                    start, length = start + count, length - count
        self.take_close(digest)

    def take_end(self, times: memoryview) -> bytes:
        """Set directories' times, the deepest first."""
        for path, mtime_ns in reversed(
            msgspec.msgpack.decode(times, type=list[tuple[str, int]])
        ):
            os.utime(self._at / path, ns=(mtime_ns, mtime_ns))
        return b"done"

    def _begin(self) -> None:
        self._hasher = blake3()
        new = self._at / f"{self._open[0]}.new"
        self._fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _joined(
    parts: list[Chunk], old: dict[bytes, tuple[int, int]]
) -> Iterator[tuple[int | None, int]]:
    """Yield (where in the old file, length) of what stands there in one piece; None: it does not."""
    start: int | None = None
    total = 0
    for length, name in parts:
        here = old[name][0] if name in old else None
        follows = here is None if start is None else here == start + total
        if total and not follows:
            yield start, total
            start, total = here, 0
        elif not total:
            start = here
        total += length
    if total:
        yield start, total


def _verify(actual: bytes, expected: bytes, path: str) -> None:
    if actual != expected:
        raise SystemExit(f"{path} is not what was sent")


def _write(
    root: int, path: str, stamp: Stamp, digest: bytes, content: bytes | memoryview
) -> None:
    _verify(blake3(content).digest(), digest, path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=root)
    os.write(fd, content)
    _finish(fd, stamp)


def _finish(fd: int, stamp: Stamp) -> None:
    mode, uid, gid, _, mtime_ns = stamp
    os.fchown(fd, uid, gid)
    os.fchmod(fd, mode & 0o7777)
    os.utime(fd, ns=(mtime_ns, mtime_ns))
    os.close(fd)
