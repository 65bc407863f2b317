"""The least that a tool of these parts can take: a tree moved without a protocol.

``python -m bench.floor serve ROOT ADDRESS``, then ``python -m bench.floor give SRC ADDRESS NAME``
makes ROOT/NAME hold what SRC holds. One process on either side, Python with the libraries that
filesync uses: ZeroMQ for the bytes, BLAKE3 for the proof, FastCDC for large files that changed. All
that is not needed to get there is left out: there are only files and directories, a peer is
believed, nothing is resumed, written atomically, compressed, cached or told to anybody. Files of the
same size and time are taken for the same, as by rsync. ``bench.sync`` runs it beside the others; a
limit that lies below what it takes cannot be met by a tool that is made of these.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import zmq
from blake3 import blake3
from pyfastcdc import FastCDC

FRAME_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 4 << 20
DELTA_BYTES: Final = 1 << 20
"""A file from this size on that was there before is cut into chunks."""
NAME_BYTES: Final = 16
QUEUED: Final = 6

Stamp = tuple[int, int, int, int, int]
"""(mode, uid, gid, size, mtime_ns)"""
Chunk = tuple[int, bytes]
"""(length, name)"""
Told = list[tuple[str, Stamp, bytes]]
"""(path, stamp, digest of the content) of each whole file in a frame"""
Socket = zmq.Socket[bytes]


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


def chunks(fd: int, size: int) -> Iterator[Chunk]:
    """Yield the chunks of a file."""
    cutter = FastCDC(16 << 10, min_size=4 << 10, max_size=64 << 10, normalized_chunking=2)
    buffer, offset = memoryview(bytearray(BLOCK_BYTES)), 0
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
    hasher, buffer, offset = blake3(), memoryview(bytearray(FRAME_BYTES)), 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()


# --- the side that gives --------------------------------------------------------------------------


def give(source: Path, address: str, name: str) -> None:
    """Make the server's ``name`` hold what ``source`` holds."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as server:
        server.sndhwm = server.rcvhwm = QUEUED
        server.connect(address)
        server.send_multipart([b"list", name.encode()])
        here = listing(source)
        there = msgspec.msgpack.decode(server.recv(), type=dict[str, Stamp])
        gone = [path for path in there if path not in here]
        made = [(p, s) for p, s in here.items() if is_directory(s) and there.get(p) != s]
        server.send_multipart([b"shape", _packed(gone), _packed(made)])
        small: list[tuple[str, Stamp]] = []
        for path, stamp in here.items():
            if is_directory(stamp) or there.get(path) == stamp:
                continue
            if stamp[3] < FRAME_BYTES:
                small.append((path, stamp))
            elif path in there and there[path][3] >= DELTA_BYTES:
                _give_delta(server, source, path, stamp)
            else:
                _give_large(server, source, path, stamp)
        _give_small(server, source, small)
        times = [(p, s[4]) for p, s in here.items() if is_directory(s)]
        server.send_multipart([b"end", _packed(times)])
        if server.recv() != b"done":
            raise SystemExit("the server failed")


def _packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _give_small(server: Socket, source: Path, files: list[tuple[str, Stamp]]) -> None:
    told: Told = []
    data = bytearray()
    for path, stamp in files:
        fd = os.open(source / path, os.O_RDONLY)
        content = os.read(fd, stamp[3] + 1)
        os.close(fd)
        told.append((path, stamp, blake3(content).digest()))
        data += content
        if len(data) >= FRAME_BYTES:
            server.send_multipart([b"small", _packed(told), data], copy=False)
            told, data = [], bytearray()
    server.send_multipart([b"small", _packed(told), data])


def _give_large(server: Socket, source: Path, path: str, stamp: Stamp) -> None:
    hasher = blake3()
    server.send_multipart([b"open", _packed((path, stamp))])
    with (source / path).open("rb", buffering=0) as file:
        while data := file.read(FRAME_BYTES):
            server.send_multipart([b"piece", data], copy=False)
            hasher.update(data)
    server.send_multipart([b"close", hasher.digest()])


def _give_delta(server: Socket, source: Path, path: str, stamp: Stamp) -> None:
    server.send_multipart([b"cut", path.encode()])  # it cuts the old file meanwhile
    with (source / path).open("rb", buffering=0) as file:
        fd = file.fileno()
        parts = list(chunks(fd, stamp[3]))
        server.send_multipart([b"parts", _packed((path, stamp)), _packed(parts)])
        digest = digest_of_file(fd)
        lacking = msgspec.msgpack.decode(server.recv(), type=list[tuple[int, int]])
        data = b"".join([os.pread(fd, length, offset) for offset, length in lacking])
    server.send_multipart([b"lacking", digest, data], copy=False)


# --- the side that is given to --------------------------------------------------------------------


class Server:
    """Takes what one client after another gives."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._at = root
        self._old: dict[bytes, tuple[int, int]] = {}
        self._open: tuple[str, Stamp] = ("", (0, 0, 0, 0, 0))
        self._parts: list[Chunk] = []
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
        return _packed(listing(self._at))

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
            _verify(blake3(content).digest(), digest, path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=root)
            os.write(fd, content)
            _finish(fd, stamp)
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
        return _packed(lacking)

    def take_lacking(self, digest: memoryview, data: memoryview) -> None:
        """Make the new file out of the old one and what it lacked."""
        self._begin()
        buffer, at = memoryview(bytearray(FRAME_BYTES)), 0
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


def _finish(fd: int, stamp: Stamp) -> None:
    mode, uid, gid, _, mtime_ns = stamp
    os.fchown(fd, uid, gid)
    os.fchmod(fd, mode & 0o7777)
    os.utime(fd, ns=(mtime_ns, mtime_ns))
    os.close(fd)


def main(words: list[str]) -> None:
    """Serve, or give."""
    match words:
        case ["serve", root, address]:
            Server(Path(root)).run(address)
        case ["give", source, address, name]:
            give(Path(source), address, name)
        case _:
            raise SystemExit(
                "usage: python -m bench.floor serve ROOT ADDRESS | give SRC ADDRESS NAME"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
