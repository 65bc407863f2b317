"""A layer that is listed while it streams by."""

import io
from pathlib import Path

import pytest

from worker.layers import BadLayer, Limits
from worker.layers.member import END, FILE, SYMLINK, Member, encode, padding
from worker.parts.errors import NotInParts
from worker.parts.listing import Leaf
from worker.parts.spool import Spool
from worker.parts.streaming import list_stream

ANY = Limits()
LONG = encode(Member(b"link", SYMLINK, link=b"x" * 1_000_000))


def file(path: bytes, data: bytes) -> bytes:
    return encode(Member(path, FILE, size=len(data))) + data + bytes(padding(len(data)))


def listed(spool: Path, *members: bytes, limits: Limits = ANY) -> list[bytes]:
    stream = io.BytesIO(b"".join((*members, END)))

    def keep(leaf: Leaf) -> bool:
        return leaf.member.path == b"kept"

    found = list_stream(
        stream, 0, limits=limits, without=(b"own",), keep=keep, spool=Spool(spool)
    )
    return [member.path for member in found]


def test_members_are_listed_and_only_what_is_wanted_is_kept(tmp_path: Path) -> None:
    members = (file(b"own", b"format's"), file(b"other", b"o" * 5000), file(b"kept", b"data"))
    assert listed(tmp_path, *members) == [b"other", b"kept"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"0-1": b"data"}


def test_more_members_than_the_limit_are_a_bad_layer(tmp_path: Path) -> None:
    two, limits = (file(b"a", b""), file(b"own", b""), file(b"b", b"")), Limits(entries=2)
    assert listed(tmp_path, *two, limits=limits) == [b"a", b"b"]
    with pytest.raises(BadLayer, match="more than 2 members"):
        listed(tmp_path, *two, file(b"c", b""), limits=limits)


def test_a_layer_of_more_names_than_can_be_kept_in_mind_is_not_listed(tmp_path: Path) -> None:
    assert len(listed(tmp_path, *[LONG] * 60)) == 60
    with pytest.raises(NotInParts, match="bytes of names"):
        listed(tmp_path, *[LONG] * 68)
