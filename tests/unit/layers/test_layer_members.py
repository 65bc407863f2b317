import bz2
import io
import lzma
import random
import stat
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.manifest import File, Special, Symlink
from worker.layers import BadLayer, NotALayer
from worker.layers.fields import number
from worker.layers.member import (
    BLOCK_BYTES,
    CHARACTER,
    DIRECTORY,
    END,
    FILE,
    LINK,
    SYMLINK,
    Member,
    directory_of,
    encode,
    encoded_size,
    leaf_entry,
    leaf_member,
    padding,
)
from worker.layers.source import Source, decompressed
from worker.layers.tarread import MAX_HEADER_BYTES, read_members

names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name)
times = st.integers(-(1 << 63) + 1, (1 << 63) - 1)
ids = st.integers(0, (1 << 32) - 2)
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"security.capability", b"user.\xff"]), st.binary(max_size=40)
).map(lambda found: tuple(sorted(found.items())))
members = st.builds(
    Member,
    path=names,
    kind=st.sampled_from([FILE, LINK, SYMLINK, CHARACTER, DIRECTORY]),
    mode=st.integers(0, 0o7777),
    uid=ids,
    gid=ids,
    mtime_ns=times,
    size=st.just(0),
    link=names,
    major=st.just(0),
    minor=st.just(0),
    xattrs=xattrs,
    content=st.none(),
    pieces=st.none(),
)


def read(data: bytes) -> list[Member]:
    return list(read_members(Source(decompressed(io.BytesIO(data)), max_bytes=1 << 30)))


@given(members)
@example(Member(b"x" * 100, FILE))
@example(Member(b"x" * 101, FILE))
@example(Member(b"x" * 84, FILE))
def test_what_is_written_is_read(member: Member) -> None:
    data = encode(member)
    assert len(data) == encoded_size(member)
    assert read(data + END) == [member]


@given(members)
def test_pythons_reader_reads_the_same(member: Member) -> None:
    with tarfile.open(
        fileobj=io.BytesIO(encode(member) + END), errors="surrogateescape"
    ) as tar:
        found = tar.next()
    assert found is not None
    assert found.name.encode("utf-8", "surrogateescape").rstrip(b"/") == member.path.rstrip(
        b"/"
    )
    assert (found.uid, found.gid, found.mode) == (member.uid, member.gid, member.mode)
    assert found.linkname.encode("utf-8", "surrogateescape") == member.link


def test_only_what_does_not_fit_costs_a_second_header() -> None:
    assert encoded_size(Member(b"x" * 100, FILE, mtime_ns=10**9)) == BLOCK_BYTES
    assert encoded_size(Member(b"x", FILE, mtime_ns=1)) == 3 * BLOCK_BYTES
    assert b"mtime=-1.5\n" in encode(Member(b"x", FILE, mtime_ns=-1_500_000_000))


def test_a_large_file_has_its_size_in_words() -> None:
    member = Member(b"x", FILE, size=1 << 40)
    assert b"size=1099511627776\n" in encode(member)
    with tarfile.open(fileobj=io.BytesIO(encode(member)), ignore_zeros=True) as tar:
        found = tar.next()
    assert found is not None
    assert found.size == 1 << 40


@pytest.mark.parametrize(
    "member",
    [Member(b"x", FILE, xattrs=((b"user.a=b", b""),)), Member(b"x", CHARACTER, minor=1 << 22)],
)
def test_what_a_layer_cannot_say_is_an_error(member: Member) -> None:
    with pytest.raises(NotALayer):
        encode(member)


@given(st.binary(max_size=2000))
def test_any_bytes_are_members_or_a_bad_layer(data: bytes) -> None:
    try:
        read(data)
    except BadLayer:
        pass


@given(members, st.integers(0, 1023), st.integers(0, 255))
def test_a_header_with_one_byte_changed_is_members_or_a_bad_layer(
    member: Member, at: int, byte: int
) -> None:
    data = bytearray(encode(member) + END)
    data[at % len(data)] = byte
    try:
        read(bytes(data))
    except BadLayer:
        pass


# --- what others write ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_members_of_every_format_are_read(format: int) -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            info = tarfile.TarInfo("d" * 90 + "/" + "f" * 60)
            info.size, info.mtime, info.mode, info.uid = 700, 12, 0o640, 7
            tar.addfile(info, io.BytesIO(b"x" * 700))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * 99
            tar.addfile(link)
        found = read(file.getvalue())
    assert [one.path for one in found] == [b"d" * 90 + b"/" + b"f" * 60, b"link"]
    assert found[0][1:7] == (FILE, 0o640, 7, 0, 12_000_000_000, 700)
    assert found[1].link == b"t" * 99


def test_gnu_names_of_any_length_and_numbers_of_any_size_are_read() -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            info = tarfile.TarInfo("n" * 400)
            info.type, info.linkname = tarfile.LNKTYPE, "l" * 300
            info.uid, info.mtime = 1 << 30, -5
            tar.addfile(info)
        (found,) = read(file.getvalue())
    assert (found.path, found.link) == (b"n" * 400, b"l" * 300)
    assert (found.uid, found.mtime_ns) == (1 << 30, -5_000_000_000)


def test_a_header_of_the_highest_bytes_has_its_sum() -> None:
    high = b"\xff" * 100
    # A symlink's header with a prefix; the checksum's field counts as blanks.
    block = bytearray(encode(Member(b"n" * 100, SYMLINK, link=b"l" * 100)))
    block[:100] = block[157:257] = high
    block[345:500] = b"\xff" * 155
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (member,) = read(bytes(block) + END)
    assert (member.path, member.link) == (b"\xff" * 155 + b"/" + high, high)


def test_an_old_tars_directory_is_known_by_its_slash() -> None:
    header = bytearray(tarfile.TarInfo("dir").tobuf(tarfile.USTAR_FORMAT))
    header[:4], header[156:157], header[257:265] = b"dir/", b"\0", bytes(8)
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    (found,) = read(bytes(header) + END)
    assert found.kind == DIRECTORY


def test_a_header_only_member_has_no_content_whatever_it_says() -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "x", 512
    data = info.tobuf(tarfile.USTAR_FORMAT) + encode(Member(b"next", FILE)) + END
    assert [one.path for one in read(data)] == [b"link", b"next"]


def test_global_headers_change_nothing() -> None:
    with io.BytesIO() as file:
        pax = {"comment": "a commit", "path": "everywhere"}
        with tarfile.open(
            fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax
        ) as tar:
            tar.addfile(tarfile.TarInfo("f"))
        assert [one.path for one in read(file.getvalue())] == [b"f"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b" 644 \0\0\0", 0o644),
        (b"644\0 x\0\0", 0o644),
        (b"\0" * 8, 0),
        (b"        ", 0),
        (b"\x80\0\0\0\0\0\1\0", 256),
        (b"\xff" * 8, -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\0", -256),
    ],
)
def test_numbers_are_read_as_go_and_gnu_write_them(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"0000649\0", b"x", b"6 4\0", b"\x01"])
def test_what_is_no_number_is_refused(field: bytes) -> None:
    with pytest.raises(BadLayer):
        number(field)


# --- what nobody should write -----------------------------------------------------------------


def raw(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    header = encode(Member(b"x", kind, size=len(body) if size is None else size))
    return header + body + bytes(padding(len(body)))


NEXT = encode(Member(b"next", FILE)) + END


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"text" * 200, id="no-tar"),
        pytest.param(encode(Member(b"x", FILE))[:300], id="half-a-header"),
        pytest.param(raw(b"x", b"", MAX_HEADER_BYTES + 1), id="large-pax"),
        pytest.param(raw(b"L", b"", 0o77777777777), id="large-name"),
        pytest.param(raw(b"x", b"", 100), id="cut-pax"),
        pytest.param(raw(b"x", b"8 path=x\n") + NEXT, id="pax-length-short"),
        pytest.param(raw(b"x", b"99 path=x\n") + NEXT, id="pax-length-long"),
        pytest.param(raw(b"x", b"-9 path=x\n") + NEXT, id="pax-length-negative"),
        pytest.param(raw(b"x", b"0 path=x\n") + NEXT, id="pax-length-none"),
        pytest.param(raw(b"x", b"8 pathx\n") + NEXT, id="pax-without-value"),
        pytest.param(raw(b"x", b"12 path=a\0b\n") + NEXT, id="pax-nul"),
        pytest.param(raw(b"x", b"18 uid=4294967295\n") + NEXT, id="owner-nobody-can-be"),
        pytest.param(raw(b"x", b"11 size=-1\n") + NEXT, id="negative-size"),
        pytest.param(raw(b"x", b"14 mtime=soon\n") + NEXT, id="time-in-words"),
        pytest.param(raw(b"x", b"22 GNU.sparse.major=1\n") + NEXT, id="pax-sparse"),
        pytest.param(raw(b"x", b"17 SCHILY.xattr.=\n") + NEXT, id="xattr-no-name"),
        pytest.param(raw(b"D", b""), id="unknown-kind"),
    ],
)
def test_bad_headers_are_refused(data: bytes) -> None:
    data = data if len(data) % BLOCK_BYTES else data + END
    with pytest.raises(BadLayer):
        read(data)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_over_the_limit_is_refused_though_all_of_it_is_there(kind: bytes) -> None:
    with pytest.raises(BadLayer, match="over the limit"):
        read(raw(kind, bytes(MAX_HEADER_BYTES + 1)) + NEXT)


def test_headers_before_a_member_are_bounded_together() -> None:
    def some(count: int) -> bytes:
        record = b"100 x.%04d=" + b"a" * 88 + b"\n"
        numbers = iter(range(10_000))
        bodies = (b"".join(record % next(numbers) for _ in range(1000)) for _ in range(count))
        return b"".join(raw(b"x", body) for body in bodies)

    one = some(10) + encode(Member(b"f", FILE))
    assert [member.path for member in read(one + one + END)] == [b"f", b"f"]
    with pytest.raises(BadLayer, match="over the limit"):
        read(some(10) + raw(b"L", b"n" * 50_000) + NEXT)


def test_a_name_is_taken_up_to_the_limit_and_whole_only() -> None:
    name = b"n" * MAX_HEADER_BYTES
    assert [one.path for one in read(raw(b"L", name) + NEXT)] == [name]
    with pytest.raises(BadLayer, match="ends inside a header"):
        read(raw(b"L", b"n" * 600)[:-BLOCK_BYTES])


@pytest.mark.parametrize(
    "entry",
    [
        File(b"n", 0o4755, 1, 2, 3, 4, digest_of(b"data"), xattrs=((b"user.a", b"b"),)),
        Symlink(b"n", 1, 2, 3, b"target"),
        Special(b"n", stat.S_IFCHR | 0o640, 1, 2, 3, 4, 5),
        Special(b"n", stat.S_IFIFO | 0o600, 1, 2, 3, 0, 0),
    ],
)
def test_an_entry_is_what_its_member_says(entry: File | Symlink | Special) -> None:
    member = leaf_member(b"a/n", entry)
    (back,) = read(encode(member._replace(size=0)) + END)
    assert leaf_entry(back._replace(size=member.size), b"n", digest_of(b"data")) == entry


def test_xattrs_that_are_a_machines_own_are_none_of_an_entrys() -> None:
    own, kept = (b"trusted.overlay.opaque", b"y"), (b"user.a", b"b")
    member = Member(b"n", FILE, xattrs=(own, kept))
    assert leaf_entry(member, b"n", digest_of(b"")).xattrs == (kept,)
    assert directory_of(member).xattrs == (kept,)


@pytest.mark.parametrize(("squeeze", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_a_layer_that_is_compressed_otherwise_is_refused_in_those_words(
    squeeze: Callable[[bytes], bytes], name: str
) -> None:
    for data in (encode(Member(b"x", FILE)) + END, random.Random(1).randbytes(5000)):
        with pytest.raises(BadLayer, match=f"compressed by {name}; gzip and zstd"):
            read(squeeze(data))
