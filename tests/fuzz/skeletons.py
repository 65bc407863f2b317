"""Layers without their contents, and the tars that they are of."""

import io
import random
from collections.abc import Iterable
from itertools import islice
from typing import Final

import zstandard

from filesync.digest import digest_of
from tests.fuzz.mutation import Mutate
from worker.layers.errors import BadLayer, BadSkeleton
from worker.layers.member import DIRECTORY, END, FILE, LINK, SYMLINK, Member, encode, padding
from worker.layers.skeleton import (
    MAGIC,
    Content,
    Part,
    SkeletonLimits,
    SkeletonWriter,
    read_skeleton,
)
from worker.layers.source import Source
from worker.layers.tarread import read_members

PACKED: Final = b"z"
PLAIN: Final = b"p"
LIMITS: Final = SkeletonLimits(1 << 24, 1 << 20, 1000)
CONTENT: Final = b"some content"
MEMBERS: Final = (
    Member(b"a/", DIRECTORY, 0o755, mtime_ns=5),
    Member(b"a/file", FILE, 0o4755, 1, 2, 1 << 60, len(CONTENT), xattrs=((b"user.a", b"1"),)),
    Member(b"a/" + b"long/" * 60 + b"name", FILE, 0o644, 1 << 31, 0, -5, len(CONTENT)),
    Member(b"a/link", SYMLINK, 0o777, link=b"../" * 50),
    Member(b"a/hard", LINK, link=b"a/file"),
)


def fuzz(data: bytes) -> None:
    """Take ``data`` as a skeleton; what is in it as the parts of a tar."""
    kind, data = data[:1], data[1:]
    if kind == PLAIN:
        # Whoever guesses at compressed bytes seldom gets at what is in them.
        data = zstandard.ZstdCompressor(level=1).compress(data)
    elif kind != PACKED:
        return
    try:
        parts = list(read_skeleton(io.BytesIO(data), limits=LIMITS))
    except BadSkeleton:
        return
    literals = sum(len(part) for part in parts if isinstance(part, bytes))
    contents = [part for part in parts if isinstance(part, Content)]
    size = literals + sum(part.size for part in contents)
    assert literals <= LIMITS.literal_bytes
    assert len(contents) <= LIMITS.contents
    assert size <= LIMITS.tar_bytes
    again = list(read_skeleton(io.BytesIO(written(parts)), limits=LIMITS))
    assert tar_of(again) == tar_of(parts)
    read_tar(tar_of(parts))


def tar_of(parts: list[Part]) -> bytes:
    """Return a tar whose contents are zeros."""
    return b"".join(part if isinstance(part, bytes) else bytes(part.size) for part in parts)


def read_tar(tar: bytes) -> None:
    """Read the members of a tar that somebody made up."""
    source = Source([tar], max_bytes=len(tar))
    try:
        for member in islice(read_members(source), 1000):
            assert b"\0" not in member.path + member.link
            assert member.size >= 0
    except BadLayer:
        pass


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something changed; a tar's checksums follow, more often than not."""
    kind, data = data[:1], data[1:]
    if kind == PACKED and rng.random() < 0.9:
        return kind + mutate(data)
    parts = _parts(data) if rng.random() < 0.7 else []
    literals = [at for at, part in enumerate(parts) if isinstance(part, bytes)]
    if literals:
        at = rng.choice(literals)
        part = parts[at]
        assert isinstance(part, bytes)
        changed = bytearray(mutate(part))
        for header in range(0, len(changed) - 511, 512):
            _sum(changed, header)
        parts[at] = bytes(changed)
        return PLAIN + _plain(written(parts))
    changed = bytearray(mutate(data))
    if rng.random() < 0.8:
        for at in range(len(MAGIC) + 5, len(changed) - 511, 512):
            _sum(changed, at)
    return PLAIN + changed


def _sum(data: bytearray, at: int) -> None:
    """Make a header's checksum right, where one seems to be."""
    if data[at + 257 : at + 262] == b"ustar":
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def seeds() -> list[bytes]:
    """Return skeletons of a small tar, with references and without."""
    with_contents: list[Part] = []
    for member in MEMBERS:
        with_contents.append(encode(member))
        if member.size:
            with_contents.append(Content(digest_of(CONTENT), member.size))
            with_contents.append(bytes(padding(member.size)))
    all_literal: list[Part] = [tar_of([*with_contents, END])]
    found = []
    nothing: list[Part] = []
    for parts in (with_contents, [*with_contents, END], all_literal, nothing):
        packed = written(parts)
        found += [PACKED + packed, PLAIN + _plain(packed)]
    return found


def _plain(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


def _parts(plain: bytes) -> list[Part]:
    try:
        packed = zstandard.ZstdCompressor(level=1).compress(plain)
        return list(read_skeleton(io.BytesIO(packed), limits=LIMITS))
    except BadSkeleton:
        return []


def written(parts: Iterable[Part]) -> bytes:
    """Return the skeleton that has these parts."""
    out = io.BytesIO()
    writer = SkeletonWriter(out.write)
    for part in parts:
        if isinstance(part, Content):
            writer.content(*part)
        else:
            writer.literal(part)
    writer.finish()
    return out.getvalue()
