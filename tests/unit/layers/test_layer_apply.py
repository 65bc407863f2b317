import io
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import StoreError
from filesync.manifest import MemoryNodes
from worker.layers import Applied, BadLayer, Limits, apply_layer, apply_tar, limits_of
from worker.layers.member import (
    BLOCK,
    CHARACTER,
    DIRECTORY,
    END,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Member,
    encode,
    padding,
)
from worker.layers.skeleton import Content

Part = tuple[Member, bytes]
root_only = pytest.mark.needs("root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def own(member: Member) -> Member:
    return member._replace(uid=os.geteuid(), gid=os.getegid(), mtime_ns=7)


def file(path: bytes, data: bytes = b"text", mode: int = 0o644) -> Part:
    return own(Member(path, FILE, mode, size=len(data))), data


def directory(path: bytes, mode: int = 0o755) -> Part:
    return own(Member(path, DIRECTORY, mode)), b""


def symlink(path: bytes, target: bytes) -> Part:
    return own(Member(path, SYMLINK, 0o777, link=target)), b""


def link(path: bytes, target: bytes) -> Part:
    return own(Member(path, LINK, 0o644, link=target)), b""


def tar(parts: Iterable[Part]) -> bytes:
    return b"".join(encode(m) + data + bytes(padding(len(data))) for m, data in parts) + END


def apply(root: Path, *parts: Part, limits: Limits | None = None) -> Applied:
    return apply_layer(io.BytesIO(tar(parts)), root, limits=limits or Limits())


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_content_that_is_proved_where_it_stands_is_not_hashed_again(root: Path) -> None:
    parts = [file(b"proved", b"a" * 600), file(b"longer", b"b" * 700), file(b"own", b"c")]
    told = digest_of(b"what only who proved it knows")
    first = len(encode(parts[0][0]))
    second = first + 600 + padding(600) + len(encode(parts[1][0]))
    proved = {first: Content(told, 600), second: Content(told, 600)}
    done = apply_tar([tar(parts)], root, proved=proved)
    assert done.hints == {
        b"proved": (600, told),
        b"longer": (700, digest_of(b"b" * 700)),
        b"own": (1, digest_of(b"c")),
    }


# --- what layers say --------------------------------------------------------------------------


def test_files_are_written_with_their_metadata_and_known_afterwards(root: Path) -> None:
    done = apply(
        root, directory(b"d", 0o750), file(b"d/f", b"bytes", 0o4711), file(b"./e", b"")
    )
    status = (root / "d/f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4711, 7)
    assert (root / "d").stat().st_mtime_ns == 7
    assert done.hints == {b"d/f": (5, digest_of(b"bytes")), b"e": (0, digest_of(b""))}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_files_get_their_modes_whatever_the_umask(root: Path, umask: int) -> None:
    modes = {
        b"f%d" % n: mode for n, mode in enumerate((0o644, 0o777, 0o600, 0, 0o2755, 0o4711))
    }
    before = os.umask(umask)
    try:
        apply(root, *(file(name, mode=mode) for name, mode in modes.items()))
    finally:
        os.umask(before)
    found = {name: (root / name.decode()).stat().st_mode for name in modes}
    assert {name: stat.S_IMODE(mode) for name, mode in found.items()} == modes


def test_a_mode_that_creating_gave_is_not_set_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[int] = []
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: changed.append(mode))
    before = os.umask(0o022)
    try:
        apply(root, *(file(b"f%o" % mode, mode=mode) for mode in (0o644, 0o755, 0o600, 0o664)))
    finally:
        os.umask(before)
    assert changed == [0o664]


def test_missing_parents_are_made_alike_everywhere(root: Path) -> None:
    apply(root, file(b"a/b/c"))
    status = (root / "a/b").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o755, 0)


def test_a_directory_that_no_member_speaks_of_keeps_its_time_and_mode(root: Path) -> None:
    (root / "d").mkdir(mode=0o555)
    os.utime(root / "d", ns=(5, 5))
    os.utime(root, ns=(6, 6))
    apply(root, file(b"d/f"), file(b"g"))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o555
    assert ((root / "d").stat().st_mtime_ns, root.stat().st_mtime_ns) == (5, 6)


def test_the_roots_own_metadata_is_set(root: Path) -> None:
    apply(root, directory(b"./", 0o711))
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert root.stat().st_mtime_ns == 7


def test_a_name_is_replaced_whatever_it_was_and_is(root: Path) -> None:
    (root / "dir" / "below").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("../outside/secret")
    (root / "to-dir").symlink_to("../outside")
    apply(root, file(b"dir"), directory(b"file"), file(b"link"), directory(b"to-dir"))
    assert [(root / n).is_dir() for n in ("dir", "file", "link", "to-dir")] == [
        False,
        True,
        False,
        True,
    ]
    assert not (root / "to-dir").is_symlink()
    assert (root.parent / "outside/secret").read_text() == "secret"


def test_the_last_of_two_members_of_one_name_counts(root: Path) -> None:
    done = apply(
        root,
        directory(b"d"),
        file(b"d/f", b"first"),
        file(b"d", b"now a file"),
        directory(b"d", 0o700),
        file(b"x", b"one"),
        symlink(b"x", b"d"),
    )
    assert listing(root) == ["d", "x"]
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700
    assert b"x" not in done.hints


def test_a_file_with_two_names_is_not_written_through_one(root: Path) -> None:
    (root / "old").write_text("old")
    done = apply(
        root,
        link(b"a", b"old"),
        file(b"b", b"new"),
        link(b"c", b"b"),
        file(b"old", b"replaced"),
        file(b"b", b"newer"),
    )
    assert [(root / n).read_text() for n in ("a", "b", "c")] == ["old", "newer", "new"]
    assert b"a" not in done.hints
    assert done.hints[b"c"] == (3, digest_of(b"new"))


def test_whiteouts_remove_what_was_there_before(root: Path) -> None:
    for name in ("a", "d/x", "d/y/z", "keep"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    apply(root, file(b".wh.a", b""), file(b"d/.wh.y", b""), file(b"e/.wh.f", b""))
    assert listing(root) == ["d", "d/x", "keep"]


def test_whiteouts_leave_alone_what_their_own_layer_made(root: Path) -> None:
    (root / "d/old").mkdir(parents=True)
    (root / "d/sub").mkdir()
    (root / "d/sub/old").touch()
    apply(
        root,
        file(b"d/sub/new"),
        file(b"f"),
        file(b"d/.wh..wh..opq", b""),
        file(b".wh.f", b""),
        file(b".wh.d", b""),
    )
    assert listing(root) == ["d", "d/sub", "d/sub/new", "f"]


@pytest.mark.parametrize("is_first", [True, False])
def test_an_opaque_directory_has_only_what_its_own_layer_puts_there(
    root: Path, is_first: bool
) -> None:
    for name in ("d/old", "d/sub/old", "d/other/old", "e/old"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    parts = [file(b"d/new"), file(b"d/sub/new")]
    parts.insert(0 if is_first else 2, file(b"d/.wh..wh..opq", b""))
    apply(root, *parts, file(b"nothing/.wh..wh..opq", b""))
    assert listing(root) == ["d", "d/new", "d/sub", "d/sub/new", "e", "e/old"]
    apply(root, file(b".wh..wh..opq", b""), file(b"f"))
    assert listing(root) == ["f"]


def test_a_directory_of_its_own_layer_loses_to_a_whiteout_only_what_was_in_it(
    root: Path,
) -> None:
    (root / "d").mkdir()
    (root / "d/old").touch()
    apply(root, directory(b"d"), file(b".wh.d", b""))
    assert listing(root) == ["d"]


def test_of_two_members_of_one_name_the_later_one_stays(root: Path) -> None:
    apply(root, directory(b"d"), file(b"d/x"), file(b"d"), directory(b"l"), symlink(b"l", b"d"))
    assert listing(root) == ["d", "l"]
    assert (root / "l").read_text() == "text"


def test_the_notes_of_old_file_systems_are_passed_over(root: Path) -> None:
    apply(root, file(b".wh..wh.plnk/1"), directory(b".wh..wh.aufs"), file(b"f"))
    assert listing(root) == ["f"]


def test_odd_names_are_kept(root: Path) -> None:
    names = [b"..foo", b"foo..", b"...", b"\xff\xfe", b"new\nline", b"n" * 255, b"a" * 120]
    done = apply(root, *(file(name) for name in names))
    assert sorted(os.listdir(os.fsencode(root))) == sorted(names)
    assert set(done.hints) == set(names)


def test_a_links_text_is_kept_to_the_letter(root: Path) -> None:
    targets = [b"/etc/passwd", b"../../..", b"a//b/", b"\xff", b"t" * 4000]
    apply(root, *(symlink(b"%d" % i, target) for i, target in enumerate(targets)))
    assert [os.readlink(os.fsencode(root / str(i))) for i in range(5)] == targets


def test_links_on_the_way_are_followed_inside_the_root(root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "abs").symlink_to("/usr")
    (root / "up").symlink_to("../../../usr")
    (root / "dangling").symlink_to("made/on/the/way")
    done = apply(
        root,
        file(b"lib/a"),
        file(b"abs/b"),
        file(b"up/lib/c"),
        file(b"dangling/d"),
        file(b"/e"),
    )
    assert set(done.hints) == {b"usr/lib/a", b"usr/b", b"usr/lib/c", b"made/on/the/way/d", b"e"}
    assert (root / "usr/lib/c").exists()
    assert (root / "lib").is_symlink()


def test_a_link_that_changed_leads_to_where_it_leads_now(root: Path) -> None:
    apply(
        root,
        directory(b"one"),
        directory(b"two"),
        symlink(b"l", b"one"),
        file(b"l/f"),
        symlink(b"l", b"two"),
        file(b"l/f"),
        directory(b"l"),
        file(b"l/g"),
    )
    assert listing(root) == ["l", "l/g", "one", "one/f", "two", "two/f"]


def test_large_files_and_their_holes(root: Path) -> None:
    data = bytes(5 << 20) + b"island" + bytes(3 << 20)
    done = apply(root, file(b"f", data))
    assert (root / "f").read_bytes() == data
    assert (root / "f").stat().st_blocks * 512 < len(data) // 2
    assert done.hints[b"f"][1] == digest_of(data)


def test_the_size_and_diff_id_are_those_of_all_the_bytes(root: Path) -> None:
    data = tar([file(b"f")]) + bytes(10_240) + b"tail"
    done = apply_layer(io.BytesIO(data), root)
    assert done.size == len(data)
    import hashlib

    assert done.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_xattrs_are_kept_but_the_machines_own(root: Path) -> None:
    member, data = file(b"f")
    xattrs = (
        (b"security.selinux", b"x"),
        (b"trusted.overlay.opaque", b"y"),
        (b"user.a", b"\0"),
    )
    done = apply(root, (member._replace(xattrs=xattrs), data))
    assert os.listxattr(root / "f") == ["user.a"]
    assert done.not_kept == {}, "nobody misses what belongs to another machine"


@root_only
def test_a_default_acl_is_not_inherited(root: Path) -> None:
    acl = bytes.fromhex("0200000001000700ffffffff02000700e803000004000500ffffffff")
    acl += bytes.fromhex("10000700ffffffff20000500ffffffff")
    (root / "d").mkdir()
    os.setxattr(root / "d", "system.posix_acl_default", acl)
    (root / "e").mkdir()
    os.setxattr(root / "e", "system.posix_acl_default", acl)
    apply(root, file(b"d/f"), directory(b"e"), file(b"e/f"), directory(b"e/sub"))
    assert os.listxattr(root / "d/f") == os.listxattr(root / "e/f") == []
    assert os.listxattr(root / "e/sub") == os.listxattr(root / "e") == []
    assert os.getxattr(root / "d", "system.posix_acl_default") == acl


@root_only
def test_owners_devices_and_fifos_are_kept(root: Path) -> None:
    apply(
        root,
        (Member(b"c", CHARACTER, 0o666, 1, 2, major=1, minor=3), b""),
        (Member(b"b", BLOCK, 0o600, 1, 2, major=7, minor=300), b""),
        (Member(b"p", FIFO, 0o6755, 1, 2), b""),
        (Member(b"l", SYMLINK, 0o777, 3, 4, link=b"x"), b""),
    )
    assert (root / "c").stat().st_rdev == os.makedev(1, 3)
    assert (root / "b").stat().st_rdev == os.makedev(7, 300)
    assert (root / "p").stat().st_mode == stat.S_IFIFO | 0o6755
    assert ((root / "l").lstat().st_uid, (root / "l").lstat().st_gid) == (3, 4)


def test_the_same_layer_gives_the_same_tree_twice(root: Path) -> None:
    nodes = MemoryNodes()
    parts = [file(b"a/b/c"), symlink(b"l", b"a"), file(b"l/d"), link(b"m", b"l/d")]
    apply(root, directory(b"."), *parts)
    (root.parent / "again").mkdir()
    apply(root.parent / "again", directory(b"."), *parts)
    assert scan(root, nodes).tree == scan(root.parent / "again", nodes).tree


# --- what nobody should say -------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([file(b"../outside/f")], id="up"),
        pytest.param([file(b"a/../../f")], id="up-later"),
        pytest.param([directory(b"..")], id="up-alone"),
        pytest.param([file(b"./")], id="root-a-file"),
        pytest.param([symlink(b".", b"/outside")], id="root-a-link"),
        pytest.param([file(b"f"), file(b"f/below")], id="below-a-file"),
        pytest.param([file(b"n" * 256)], id="long-name"),
        pytest.param([file(b"a/" * 4001 + b"f")], id="deep"),
        pytest.param([symlink(b"l", b"")], id="link-to-nothing"),
        pytest.param([symlink(b"l", b"t" * 5000)], id="long-target"),
        pytest.param([symlink(b"l", b"l"), file(b"l/f")], id="link-to-itself"),
        pytest.param([symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/f")], id="loop"),
        pytest.param([link(b"l", b"nothing")], id="hard-link-to-nothing"),
        pytest.param([link(b"l", b"../outside/secret")], id="hard-link-up"),
        pytest.param([file(b"l"), link(b"l", b"l")], id="hard-link-to-itself"),
        pytest.param([directory(b"d"), link(b"l", b"d")], id="hard-link-to-directory"),
        pytest.param([link(b"l", b"")], id="hard-link-to-root"),
        pytest.param(
            [directory(b"d"), file(b"d/f"), link(b"d", b"d/f")], id="hard-link-to-below"
        ),
        pytest.param([file(b".wh...", b"")], id="whiteout-up"),
        pytest.param([file(b".wh..", b"")], id="whiteout-dot"),
        pytest.param([file(b".wh.", b"")], id="whiteout-of-nothing"),
        pytest.param([(Member(b"w", CHARACTER), b"")], id="device-that-hides"),
        pytest.param([(Member(b"f", FILE, size=2000), b"")], id="cut"),
        pytest.param([(Member(b"f", FILE, size=8 << 20), b"")], id="cut-large"),
        pytest.param([(Member(b"f", FILE, size=1 << 60), b"")], id="size-that-no-disk-has"),
    ],
)
def test_a_bad_layer_is_refused_and_nothing_outside_is_touched(
    root: Path, parts: list[Part]
) -> None:
    with pytest.raises(BadLayer):
        apply(root, *parts)
    assert listing(root.parent / "outside") == ["secret"]
    assert (root.parent / "outside/secret").read_text() == "secret"


@pytest.mark.parametrize("size", [2000, 8 << 20])
def test_a_layer_that_ends_in_a_file_names_it(root: Path, size: int) -> None:
    with pytest.raises(BadLayer, match="a layer ends inside 'f'"):
        apply(root, (Member(b"f", FILE, size=size), b""))


@pytest.mark.parametrize("target", [b"../outside", b"/../../outside", b"OUTSIDE"])
def test_a_planted_link_does_not_lead_out(root: Path, target: bytes) -> None:
    target = target.replace(b"OUTSIDE", os.fsencode(root.parent / "outside"))
    apply(root, symlink(b"l", target), file(b"l/secret", b"stolen"), file(b"l/.wh.secret", b""))
    assert (root.parent / "outside/secret").read_text() == "secret"
    with pytest.raises(BadLayer):
        apply(root, symlink(b"m", target), link(b"n", b"m/nothing-there"))


def test_a_hard_link_to_a_link_is_that_link(root: Path) -> None:
    apply(root, symlink(b"l", b"../outside/secret"), link(b"m", b"l"))
    assert os.readlink(root / "m") == "../outside/secret"


@pytest.mark.parametrize(
    ("blob_bytes", "limit"),
    [(0, 4 << 30), (1_000_000, 4 << 30), (10 << 20, 10_000 << 20), (1 << 30, 64 << 30)],
)
def test_a_strangers_layer_may_expand_a_thousandfold_and_no_more(
    blob_bytes: int, limit: int
) -> None:
    assert limits_of(blob_bytes).bytes == limit


@pytest.mark.parametrize("limits", [Limits(bytes=2000), Limits(entries=2)])
def test_a_layer_over_a_limit_is_refused(root: Path, limits: Limits) -> None:
    parts = [file(b"%d" % number) for number in range(3)]
    with pytest.raises(BadLayer, match=r"limit|more than"):
        apply(root, *parts, limits=limits)


def test_a_root_that_is_not_there_is_an_error(root: Path) -> None:
    with pytest.raises(StoreError):
        apply(root / "nowhere", file(b"f"))


@root_only
def test_an_ordinary_user_gets_all_but_the_owners() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        os.chown(root, 65534, 65534)
        os.chmod(name, 0o755)
        parts = [directory(b"d", 0o500), file(b"d/f", mode=0), file(b"d/g"), file(b"h")]
        more = [file(b"d/i"), file(b".wh.h", b"")]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                done = apply(root, *parts, file(b"d/g", b"again"))
                apply(root, *more)
                status = 0 if done.not_kept == {"owner": 4} else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert listing(root) == ["d", "d/f", "d/g", "d/i"]
        assert stat.S_IMODE((root / "d").stat().st_mode) == 0o500
        assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0
