"""The side that gives."""

import os
from pathlib import Path

import msgspec
import zmq
import zstandard
from blake3 import blake3

from bench.floor.parts import (
    DELTA_BYTES,
    FRAME_BYTES,
    QUEUED,
    SUM_BYTES,
    Edited,
    Stamp,
    Told,
    block_bytes,
    chunks,
    digest_of_file,
    is_directory,
    listing,
    packed,
    sum_of,
)

Socket = zmq.Socket[bytes]


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
        server.send_multipart([b"shape", packed(gone), packed(made)])
        small: list[tuple[str, Stamp]] = []
        edited: list[tuple[str, Stamp]] = []
        for path, stamp in here.items():
            if is_directory(stamp) or there.get(path) == stamp:
                continue
            if stamp[3] < FRAME_BYTES:
                (edited if path in there else small).append((path, stamp))
            elif path in there and there[path][3] >= DELTA_BYTES:
                _give_delta(server, source, path, stamp)
            else:
                _give_large(server, source, path, stamp)
        _give_small(server, source, small)
        if edited:
            _give_edited(server, source, edited)
        times = [(p, s[4]) for p, s in here.items() if is_directory(s)]
        server.send_multipart([b"end", packed(times)])
        if server.recv() != b"done":
            raise SystemExit("the server failed")


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
            server.send_multipart([b"small", packed(told), data], copy=False)
            told, data = [], bytearray()
    server.send_multipart([b"small", packed(told), data])


def _give_edited(server: Socket, source: Path, files: list[tuple[str, Stamp]]) -> None:
    server.send_multipart([b"sign", packed([path for path, _ in files])])  # it reads meanwhile
    contents = [(source / path).read_bytes() for path, _ in files]
    digests = [blake3(content).digest() for content in contents]
    told: Edited = []
    lacking: list[bytes] = []
    signed = msgspec.msgpack.decode(server.recv(), type=list[tuple[int, bytes]])
    for (path, stamp), digest, content, (size, sums) in zip(
        files, digests, contents, signed, strict=True
    ):
        block = block_bytes(size)
        front, back = _alike(content, block, memoryview(sums), size // block)
        told.append((path, stamp, digest, front, back))
        lacking.append(content[front : len(content) - back])
    data = zstandard.compress(b"".join(lacking), 1)
    server.send_multipart([b"edited", packed(told), data])


def _alike(content: bytes, block: int, sums: memoryview, count: int) -> tuple[int, int]:
    """Return how many bytes at the start, and at the end, are as in the file that was signed."""
    most = min(count, len(content) // block)
    front = back = 0
    while front < most and (
        sum_of(content[front * block : (front + 1) * block])
        == sums[front * SUM_BYTES : (front + 1) * SUM_BYTES]
    ):
        front += 1
    end = len(content)
    while front + back < most and (
        sum_of(content[end - (back + 1) * block : end - back * block])
        == sums[(count + back) * SUM_BYTES : (count + back + 1) * SUM_BYTES]
    ):
        back += 1
    return front * block, back * block


def _give_large(server: Socket, source: Path, path: str, stamp: Stamp) -> None:
    hasher = blake3()
    server.send_multipart([b"open", packed((path, stamp))])
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
        server.send_multipart([b"parts", packed((path, stamp)), packed(parts)])
        digest = digest_of_file(fd)
        lacking = msgspec.msgpack.decode(server.recv(), type=list[tuple[int, int]])
        data = b"".join([os.pread(fd, length, offset) for offset, length in lacking])
    server.send_multipart([b"lacking", digest, data], copy=False)
