"""ADD of an archive: recognised by content, unpacked inside its directory, bounded."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from worker.files import ArchiveRefused, PathInTheWay, archive
from worker.wire.ops import Copy

Listing = Mapping[str, str]
Lay = Callable[[Listing], Path]
Read = Callable[[Path], dict[str, str]]
Run = Callable[..., Mapping[bytes, tuple[int, bytes]]]
TIME_NS = 1_234_567_890_123_456_789
ADD = Copy(0, "a", "/d/", unpack=True)


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def tar(*members: tarfile.TarInfo | tuple[str, str], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar; (name, text) is a file, or a link if the text begins with '-> '."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=kind) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member, io.BytesIO(b"x" * member.size))
            elif member[1].startswith("-> "):
                file.addfile(info(member[0], tarfile.SYMTYPE, linkname=member[1][3:]))
            else:
                data = member[1].encode()
                file.addfile(info(member[0], size=len(data)), io.BytesIO(data))
    return raw.getvalue()


@pytest.fixture
def add(lay: Lay, run: Run) -> Callable[..., Path]:
    def do(data: bytes, base: Listing | None = None, action: Copy = ADD) -> Path:
        source, root = lay({}), lay(base or {})
        (source / "a").write_bytes(data)
        run(root, action, source=source)
        return root

    return do


Add = Callable[..., Path]
PLAIN = tar(info("dir", tarfile.DIRTYPE), ("dir/f", "f"), ("l", "-> dir/f"), ("p/q/r", "r"))
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "two gzip streams": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "two bzip2 streams": lambda data: bz2.compress(data[:1000]) + bz2.compress(data[1000:]),
    "two xz streams": lambda data: (
        lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:])
    ),
    "two zstd frames": lambda data: (
        zstandard.compress(data[:1000]) + zstandard.compress(data[1000:])
    ),
}


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED)
def test_an_archive_is_known_by_its_content(
    add: Add, read: Read, compress: Callable[[bytes], bytes]
) -> None:
    root = add(compress(PLAIN), {"d/old": "o"})

    assert read(root / "d") == {"old": "o", "dir/f": "f", "l": "-> dir/f", "p/q/r": "r"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text",
        bytes(2048),
        gzip.compress(b"not a tar" * 100),
        b"\x1f\x8b\x08 no gzip",
        b"BZh9 no bzip2",
        b"\xfd7zXZ\0 no xz",
        b"\x28\xb5\x2f\xfd no zstd",
        PLAIN[:300],
        b"PK\x03\x04 a zip",
    ],
    ids=range(10),
)
def test_what_is_no_archive_is_copied(add: Add, data: bytes) -> None:
    root = add(data)

    assert (root / "d/a").read_bytes() == data


def test_an_archive_that_is_not_to_be_unpacked_is_copied_as_it_is(add: Add) -> None:
    root = add(PLAIN, action=Copy(0, "a", "/d/"))

    assert (root / "d/a").read_bytes() == PLAIN


def test_the_target_of_an_archive_is_a_directory_slash_or_not(add: Add) -> None:
    root = add(PLAIN, action=Copy(0, "a", "/new", unpack=True))

    assert (root / "new/dir/f").read_text() == "f"
    with pytest.raises(PathInTheWay):
        add(PLAIN, {"new": "file"}, Copy(0, "a", "/new", unpack=True))


@pytest.mark.needs("root")
def test_keeps_numbers_modes_times_and_xattrs(add: Add) -> None:
    headers = {"SCHILY.xattr.user.note": "n\0\udcff", "mtime": "1234567890.123456789"}
    data = tar(
        info("d", tarfile.DIRTYPE, mode=0o1711, uid=1000, pax_headers=headers),
        info("d/f", size=3, mode=0o4755, uid=3_000_000_000, gid=7, pax_headers=headers),
        info("d/l", tarfile.SYMTYPE, linkname="f", uid=5, gid=6, mtime=9),
        info("d/pipe", tarfile.FIFOTYPE, mode=0o600),
        info("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    )

    root = add(data) / "d/d"

    file, link, null = (os.lstat(root / name) for name in ("f", "l", "null"))
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (3_000_000_000, 7, 0o4755)
    assert (file.st_mtime_ns, os.stat(root).st_mtime_ns) == (TIME_NS, TIME_NS)
    assert (os.stat(root).st_uid, stat.S_IMODE(os.stat(root).st_mode)) == (1000, 0o1711)
    assert os.getxattr(root / "f", "user.note") == b"n\0\xff"
    assert (link.st_uid, link.st_gid, link.st_mtime_ns) == (5, 6, 9 * 10**9)
    assert null.st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(os.lstat(root / "pipe").st_mode)


@pytest.mark.needs("root")
def test_xattrs_of_the_machine_that_packed_it_stay_there(add: Add) -> None:
    foreign = ("security.selinux", "trusted.overlay.opaque", "system.other", "user.note")
    headers = {f"SCHILY.xattr.{name}": "y" for name in foreign}
    data = tar(
        info("d", tarfile.DIRTYPE, pax_headers=headers),
        info("d/f", size=1, pax_headers=headers),
    )

    root = add(data) / "d/d"

    assert os.listxattr(root) == os.listxattr(root / "f") == ["user.note"]


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", ["go=", "0640"])
def test_an_owner_is_for_members_too_and_a_mode_is_not(add: Add, mode: str) -> None:
    root = add(PLAIN, action=Copy(0, "a", "/d", unpack=True, owner="4:5", mode=mode))

    for name in ("d", "d/dir", "d/dir/f", "d/l"):
        status = os.lstat(root / name)
        assert (status.st_uid, status.st_gid) == (4, 5)
    modes = [stat.S_IMODE(os.stat(root / name).st_mode) for name in ("d", "d/dir", "d/dir/f")]
    assert modes == [0o755, 0o755, 0o644]


def test_what_is_in_the_way_is_replaced(add: Add, read: Read) -> None:
    data = tar(("f", "new"), info("dir", tarfile.DIRTYPE), ("l", "-> f"), ("t", "new"))

    root = add(
        data,
        {"d/f/deep/x": "x", "d/dir": "file", "d/l/": "", "d/t": "-> ../kept", "kept": "k"},
    )

    assert read(root) == {
        "d/f": "new",
        "d/dir/": "",
        "d/l": "-> f",
        "d/t": "new",
        "kept": "k",
    }


def test_a_directory_keeps_what_is_in_it(add: Add, read: Read) -> None:
    root = add(tar(info("x", tarfile.DIRTYPE), ("x/new", "n")), {"d/x/old": "o"})

    assert read(root) == {"d/x/old": "o", "d/x/new": "n"}


def test_hard_links_and_copies_of_a_name(add: Add) -> None:
    link = info("p/b", tarfile.LNKTYPE, linkname="./p/a")
    same = info("p/a", tarfile.LNKTYPE, linkname="p/a")

    root = add(tar(("p/a", "first"), link, same, ("c", "1"), ("c", "2")))

    assert os.path.samefile(root / "d/p/a", root / "d/p/b")
    assert (root / "d/c").read_text() == "2"


def test_a_hard_link_to_a_link_is_one_more_name_of_the_link(add: Add, outside: Path) -> None:
    root = add(tar(("l", f"-> {outside}/passwd"), info("h", tarfile.LNKTYPE, linkname="l")))

    assert os.readlink(root / "d/h") == os.readlink(root / "d/l") == f"{outside}/passwd"
    assert (outside / "passwd").stat().st_nlink == 1


def test_links_lead_inside_the_directory_only(add: Add, read: Read, outside: Path) -> None:
    members = (
        ("abs", "-> /"),
        ("up", "-> ../../../../.."),
        ("out", f"-> {outside}"),
        ("abs/in-abs", "1"),
        ("up/in-up", "2"),
        ("out/dir/file", "3"),
    )

    root = add(tar(*members))

    found = {name: text for name, text in read(root).items() if not text.startswith("->")}
    assert found == {
        "d/in-abs": "1",
        "d/in-up": "2",
        f"d{outside}/dir/file": "3",
    }


def test_a_link_that_replaces_a_directory_is_seen_at_once(
    add: Add, read: Read, outside: Path
) -> None:
    root = add(tar(("x/f", "1"), ("x", f"-> {outside}/dir"), ("x/file", "2")))

    assert read(root / f"d{outside}") == {"dir/file": "2"}


ESCAPES: list[tuple[str, bytes]] = [
    ("a name that leads up", tar(("ok", "x"), ("../up", "x"))),
    ("one that leads up later", tar(("a/../../up", "x"))),
    ("a hard link that leads up", tar(info("l", tarfile.LNKTYPE, linkname="../../outside/passwd"))),
    ("a hard link to nothing", tar(info("l", tarfile.LNKTYPE, linkname="none"))),
    ("a hard link below nothing", tar(info("l", tarfile.LNKTYPE, linkname="no/ne"))),
    ("a hard link to a directory", tar(("x/f", ""), info("l", tarfile.LNKTYPE, linkname="x"))),
    ("a hard link to the top", tar(info("l", tarfile.LNKTYPE, linkname="."))),
    ("a name below a file", tar(("f", "x"), ("f/g", "x"))),
    ("an impossible owner", tar(info("f", uid=1 << 33))),
    ("a link without a target", tar(info("l", tarfile.SYMTYPE, linkname=""))),
    ("an unknown type", tar(info("f", b"Z"))),
    ("a NUL in a name", tar(info("f", pax_headers={"path": "a\0b"}))),
    ("a time that is none", tar(info("f", pax_headers={"mtime": "nan"}))),
    ("a time in words", tar(info("f", pax_headers={"mtime": "soon"}))),
    ("an impossible group", tar(info("f", gid=1 << 33))),
    ("an endless header", tar(("f", ""), info("g", pax_headers={"comment": "x" * (5 << 20)}))),
    ("an endless name", tar(("f", ""), ("n" * (5 << 20), ""), kind=tarfile.GNU_FORMAT)),
    ("an end in a file", tar(("f", "x" * 5000))[:2000]),
    ("an end in a header", PLAIN[:1300]),
    ("a header that makes no sense", PLAIN[:512] + b"?" * 512 + PLAIN[1024:]),
    ("an end in the compressed stream", gzip.compress(tar(("f", os.urandom(9000).hex())))[:5000]),
    ("a flipped bit in it", gzip.compress(PLAIN)[:-8] + bytes(8)),
]  # fmt: skip


@pytest.mark.parametrize("data", [case[1] for case in ESCAPES], ids=[c[0] for c in ESCAPES])
def test_refuses(add: Add, outside: Path, data: bytes) -> None:
    with pytest.raises(ArchiveRefused):
        add(data)


def test_a_header_of_digits_is_refused_before_the_library_looks_at_it(add: Add) -> None:
    name = "9" * 255
    assert (add(tar(("f", ""), (name, "x"))) / "d" / name).read_text() == "x"
    with pytest.raises(ArchiveRefused, match="digits in a row"):
        add(tar(("f", ""), info("g", pax_headers={"comment": "9" * 1_000_000})))


@pytest.mark.parametrize("time", ["1e999980", "1e99999999", "9" * 200, "inf"])
def test_a_time_after_all_others_is_the_last_one_and_is_known_at_once(
    add: Add, time: str
) -> None:
    root = add(tar(info("f", pax_headers={"mtime": time})))

    assert (root / "d/f").stat().st_mtime_ns == 1 << 62


def test_a_chain_of_headers_is_refused(add: Add) -> None:
    one = tar(info("f", pax_headers={"comment": "x"}))[:1024]

    with pytest.raises(ArchiveRefused):
        add(tar(("f", ""))[:512] + one * 5000 + tar(("g", "")))


def test_what_it_grows_to_is_bounded(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)

    with pytest.raises(ArchiveRefused, match="more than"):
        add(gzip.compress(tar(info("f", size=2 << 20))))


def test_the_number_of_members_is_bounded(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)

    with pytest.raises(ArchiveRefused, match="members"):
        add(PLAIN)


def test_sparse_members_have_their_holes(add: Add) -> None:
    member = info("disk", tarfile.GNUTYPE_SPARSE, size=4)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (1 << 20, 4)
    header[483:495] = b"%011o\0" % (2 << 20)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + b"data".ljust(512, b"\0") + tar(("after", "x"))

    root = add(data)

    assert (root / "d/disk").read_bytes() == bytes(1 << 20) + b"data" + bytes((1 << 20) - 4)
    assert os.stat(root / "d/disk").st_blocks * 512 < 1 << 16
    assert (root / "d/after").read_text() == "x"


@given(
    st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(PLAIN)),
)
def test_any_damage_ends_in_members_or_in_our_own_refusal(
    changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(PLAIN)
    for at, value in changes:
        data[at] = value

    found = archive.open_archive(io.BytesIO(data[:length]))

    if found is None:
        return
    try:
        for member in found.members():
            if member.isreg():
                while found.read(1 << 16):
                    pass
    except ArchiveRefused:
        pass
