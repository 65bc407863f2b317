"""Trees to measure on: the same bytes for the same seed."""

import random
from pathlib import Path

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


def write_tree(
    root: Path, *, files: int, total: int, seed: int, per_directory: int = 100
) -> None:
    """Write ``files`` files of about ``total`` bytes in all below ``root``, half of them text."""
    rng = random.Random(seed)
    mean = total // files
    for number in range(files):
        directory = root / f"d{number // per_directory:05d}"
        if number % per_directory == 0:
            directory.mkdir(parents=True)
        size = rng.randrange(mean // 2, mean * 3 // 2)
        (directory / f"f{number:06d}").write_bytes(content(rng, size, is_text=number % 2 == 0))
