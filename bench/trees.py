"""Trees to measure on: the same bytes for the same seed."""

import os
import random
from pathlib import Path
from typing import Final

PER_DIRECTORY: Final = 100
"""Files in a directory, and directories in one, of a tree of many small files."""

WORDS = [
    "layer",
    "digest",
    "worker",
    "manager",
    "source",
    "basis",
    "lease",
    "chunk",
    "recipe",
    "manifest",
    "entry",
    "node",
    "tree",
    "build",
    "step",
    "input",
    "output",
    "cache",
    "key",
    "record",
    "replica",
    "snapshot",
    "blob",
    "token",
    "order",
]


def text(rng: random.Random, size: int) -> bytes:
    """Return ``size`` bytes of words, which compress about as source text does."""
    pieces: list[str] = []
    length = 0
    while length < size:
        line = " ".join(rng.choices(WORDS, k=12)) + f" {rng.getrandbits(40):x}\n"
        pieces.append(line)
        length += len(line)
    return "".join(pieces).encode()[:size]


def content(rng: random.Random, size: int, *, is_text: bool) -> bytes:
    """Return a file's content: text, or bytes that do not compress."""
    if not is_text:
        return rng.randbytes(size)
    block = text(rng, min(size, 1 << 16))
    # A fresh line between repeats keeps equal blocks from being equal chunks.
    out = bytearray()
    while len(out) < size:
        out += block
        out += b"%x\n" % rng.getrandbits(256)
    return bytes(out[:size])


def write_tree(root: Path, *, files: int, total: int, seed: int) -> None:
    """Write ``files`` files of about ``total`` bytes in all below ``root``, half of them text."""
    rng = random.Random(seed)
    mean = total // files
    for number in range(files):
        directory = root / f"d{number // PER_DIRECTORY:05d}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        size = rng.randrange(mean // 2, mean * 3 // 2)
        (directory / f"f{number:06d}").write_bytes(content(rng, size, is_text=number % 2 == 0))


def write_small_files(root: Path, files: int) -> None:
    """Write ``files`` different files of some 200 bytes, a hundred in each directory."""
    for first in range(0, files, PER_DIRECTORY):
        number = first // PER_DIRECTORY
        path = root / f"d{number // PER_DIRECTORY:03}" / f"s{number % PER_DIRECTORY:02}"
        path.mkdir(parents=True)
        directory = os.open(path, os.O_DIRECTORY)
        for at in range(first, min(first + PER_DIRECTORY, files)):
            fd = os.open(b"f%02d" % (at - first), os.O_WRONLY | os.O_CREAT, dir_fd=directory)
            os.write(fd, b"%d\n" % at * (1 + at % 50))
            os.close(fd)
        os.close(directory)
