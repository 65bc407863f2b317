"""Layers with holes in their files: written by GNU's tar in each of its ways, and by nobody."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from filesync.digest import digest_of
from worker.layers import Applied, BadLayer, Limits, apply_layer
from worker.layers.member import BLOCK_BYTES, END, Member, encode, padding
from worker.layers.skeleton import SkeletonWriter, read_skeleton
from worker.layers.source import Source, decompressed
from worker.layers.sparse import MAX_MAP_BYTES, OLD_KIND, content_of
from worker.layers.tarread import read_members

FORMATS = {
    "old": ("--format=gnu",),
    "0.0": ("--format=pax", "--sparse-version=0.0"),
    "0.1": ("--format=pax", "--sparse-version=0.1"),
    "1.0": ("--format=pax", "--sparse-version=1.0"),
}
PAGE = 4096


def with_pieces(path: Path, *offsets: int, size: int) -> bytes:
    """Write a file of ``size`` bytes with a page of data at each offset; return its bytes."""
    with path.open("wb") as file:
        for offset in offsets:
            os.pwrite(file.fileno(), b"%d" % offset * 100, offset)
        os.truncate(file.fileno(), size)
    return path.read_bytes()


def tarred(root: Path, *options: str) -> bytes:
    command = ["tar", "-C", str(root), "-S", *options, "-cf", "-", "--sort=name", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def apply(data: bytes, root: Path, limits: Limits | None = None) -> Applied:
    root.mkdir()
    return apply_layer(io.BytesIO(data), root, limits=limits or Limits())


@pytest.mark.parametrize("way", FORMATS)
def test_files_with_holes_are_what_they_were(tmp_path: Path, way: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    many = range(0, 64 * 4 * PAGE, 4 * PAGE)
    name = "n" * 120
    files = {
        "empty": with_pieces(tree / "empty", size=3 << 20),
        "end": with_pieces(tree / "end", (2 << 20) - PAGE, size=2 << 20),
        "many": with_pieces(tree / "many", *many, size=(1 << 20) + 7),
        name: with_pieces(tree / name, 0, 1 << 20, size=(1 << 20) + PAGE),
        "plain": with_pieces(tree / "plain", 0, size=PAGE),
        "small": with_pieces(tree / "small", 0, size=3 * PAGE),
    }
    data = tarred(tree, *FORMATS[way])
    assert len(data) < 1 << 20
    done = apply(data, tmp_path / "root")
    assert {path.name: path.read_bytes() for path in (tmp_path / "root").iterdir()} == files
    assert done.hints[b"many"] == (len(files["many"]), digest_of(files["many"]))
    assert (tmp_path / "root" / "empty").stat().st_blocks == 0


def test_what_is_skipped_and_what_is_read_end_at_the_same_place(tmp_path: Path) -> None:
    with_pieces(tmp_path / "a", 0, 1 << 20, size=3 << 20)
    with_pieces(tmp_path / "b", 0, size=PAGE)
    for options in FORMATS.values():
        source = Source(decompressed(io.BytesIO(tarred(tmp_path, *options))), max_bytes=9 << 20)
        sizes = {}
        for member in read_members(source):
            if member.path == b"./b":
                sizes[member.path] = b"".join(content_of(source, member))
        assert sizes == {b"./b": (tmp_path / "b").read_bytes()}


def test_the_tar_comes_back_out_of_its_skeleton(tmp_path: Path) -> None:
    with_pieces(tmp_path / "a", 0, 1 << 20, size=3 << 20)
    data = tarred(tmp_path)
    skeleton = io.BytesIO()
    writer = SkeletonWriter(skeleton.write)
    (root := tmp_path / "root").mkdir()
    done = apply_layer(io.BytesIO(data), root, skeleton=writer)
    writer.finish()
    skeleton.seek(0)
    parts = list(read_skeleton(skeleton))
    assert all(isinstance(part, bytes) for part in parts)
    assert b"".join(part for part in parts if isinstance(part, bytes)) == data
    assert done.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


def pax_file(data: bytes, **records: str) -> bytes:
    info = tarfile.TarInfo("f")
    info.size = len(data)
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in records.items()}
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(padding(len(data))) + END


def one(text: str) -> bytes:
    """Return a file of version 1.0 with ``text`` for a map."""
    data = text.encode().ljust(BLOCK_BYTES, b"\0") + b"data"
    return pax_file(data, major="1", minor="0", realsize="100")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (one("1\n50\n99\n"), "not one after the other"),
        (one("2\n50\n4\n20\n4\n"), "not one after the other"),
        (one("1\n0\n50\n"), "more bytes than there are"),
        (one("x\n"), "not a number"),
        (one("-1\n"), "not a number"),
        (one("1\n"), "too many pieces|inside a header"),
        (one("9" * 300), "inside a header|too many pieces"),
        (pax_file(b"", size="9", map="1,2,3"), "half a piece"),
        (pax_file(b"", size="9", map="1,x"), "not a number"),
        (pax_file(b"", major="2", minor="0", size="9"), "version 2"),
        (pax_file(b"", major="1", minor="0"), "without its size"),
        (pax_file(b"", size=str(1 << 62)), "over the limit"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(BadLayer, match=says):
        apply(data, tmp_path / "root")


def test_a_map_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    data = b"%d\n" % (1 << 40) + b"0\n0\n" * MAX_MAP_BYTES
    with pytest.raises(BadLayer, match="too many pieces"):
        apply(pax_file(data, major="1", minor="0", realsize="100"), tmp_path / "root")


def test_an_old_map_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    pieces = b"%011o\0%011o\0" % (0, 0)
    header = bytearray(encode(Member(b"f", OLD_KIND)))
    header[386:495] = pieces * 4 + b"\1" + b"%011o\0" % 9
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = pieces * 21 + b"\1" + bytes(7)
    with pytest.raises(BadLayer, match="too many pieces"):
        apply(bytes(header) + more * (MAX_MAP_BYTES // 100), tmp_path / "root")


def test_holes_count_for_the_limit_of_a_layer(tmp_path: Path) -> None:
    whole = pax_file(b"", size=str(6 << 20)).removesuffix(END)
    limits = Limits(bytes=10 << 20)
    apply(whole + END, tmp_path / "one", limits)
    with pytest.raises(BadLayer, match="over the limit"):
        apply(whole + whole + END, tmp_path / "two", limits)


def test_a_time_that_no_file_system_keeps_is_that_of_1970() -> None:
    info = tarfile.TarInfo("f")
    info.mtime = -62135596800
    for data in (info.tobuf(tarfile.GNU_FORMAT), info.tobuf(tarfile.PAX_FORMAT)):
        (member,) = read_members(Source([data + END], max_bytes=1 << 20))
        assert member.mtime_ns == 0
