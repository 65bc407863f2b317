"""Directory nodes and trees of them: the format, what is refused, and what trees are made of."""

import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedManifest, NodeMissing
from filesync.manifest import (
    EMPTY_DIRECTORY,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_LINKS,
    MAX_NODE_BYTES,
    Directory,
    Entry,
    Expansion,
    File,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Special,
    Subdirectory,
    Symlink,
    accept,
    canonical_links,
    decode,
    empty_manifest,
    encode,
    group_name,
    grow,
    link_groups,
    missing_nodes,
    put,
    subdirectories,
    subdirectory,
    with_entries,
)
from filesync.manifest.node import differing, header, pieces, sketch

SOME = digest_of(b"some")
GROUP = b"8 bytes!"


def a_file(name: bytes, *, size: int = 1, mtime_ns: int = 0, link: bytes = b"") -> File:
    return File(name, 0o644, 0, 0, mtime_ns, size, SOME, link)


def a_directory(*entries: Entry) -> Directory:
    return Directory(0o755, 0, 0, 0, (), entries)


NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
IDS = st.integers(0, (1 << 32) - 1)
MODES = st.integers(0, 0o7777)
SIZES = st.integers(0, (1 << 63) - 1)
TIMES = st.integers(-(1 << 63), (1 << 63) - 1)
XATTR_NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
XATTRS = st.dictionaries(XATTR_NAMES, st.binary(max_size=20), max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)
TARGETS = st.binary(min_size=1, max_size=60).filter(lambda target: b"\0" not in target)
SPECIAL_MODES = st.builds(
    lambda kind, mode: kind | mode,
    st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK]),
    MODES,
)
ENTRIES = st.one_of(
    st.builds(
        File,
        NAMES,
        MODES,
        IDS,
        IDS,
        TIMES,
        SIZES,
        DIGESTS,
        st.sampled_from([b"", GROUP]),
        XATTRS,
    ),
    st.builds(Subdirectory, NAMES, DIGESTS, DIGESTS, SIZES, SIZES, SIZES),
    st.builds(Symlink, NAMES, IDS, IDS, TIMES, TARGETS, XATTRS),
    st.builds(Special, NAMES, SPECIAL_MODES, IDS, IDS, TIMES, IDS, IDS, XATTRS),
)
DIRECTORIES = st.builds(
    with_entries,
    st.builds(Directory, MODES, IDS, IDS, TIMES, XATTRS, st.just(())),
    st.lists(ENTRIES, max_size=5, unique_by=lambda entry: entry.name),
)


# --- the codec ------------------------------------------------------------------------------


@given(DIRECTORIES)
def test_decoding_takes_back_encoding(directory: Directory) -> None:
    assert decode(encode(directory)) == directory


@given(st.binary(max_size=200))
def test_any_bytes_are_a_directory_or_malformed(data: bytes) -> None:
    try:
        directory = decode(data)
    except MalformedManifest:
        return
    assert encode(directory) == data


@given(DIRECTORIES, st.data())
def test_a_damaged_node_is_another_directory_or_malformed(
    directory: Directory, data: st.DataObject
) -> None:
    encoded = bytearray(encode(directory))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(encoded))
    except MalformedManifest:
        return
    assert found != directory
    assert encode(found) == encoded


@given(DIRECTORIES)
def test_the_subdirectories_are_told_without_the_others(directory: Directory) -> None:
    found = [entry for entry in directory.entries if isinstance(entry, Subdirectory)]
    assert subdirectories(encode(directory)) == found


@given(DIRECTORIES)
def test_a_header_is_told_without_the_entries(directory: Directory) -> None:
    assert header(encode(directory)) == directory.header == with_entries(directory, ())


@given(DIRECTORIES, DIRECTORIES, st.data())
def test_what_differs_of_two_directories_is_found_wherever_it_stands(
    one: Directory, other: Directory, data: st.DataObject
) -> None:
    shared = (
        data.draw(st.lists(st.sampled_from(one.entries), unique=True)) if one.entries else []
    )
    names = {entry.name for entry in shared}
    kept = [entry for entry in other.entries if entry.name not in names]
    other = with_entries(other, [*shared, *kept])
    olds, news = differing(sketch(encode(one)).entries, sketch(encode(other)).entries)
    assert set(one.entries) - set(other.entries) <= set(olds) <= set(one.entries)
    assert set(other.entries) - set(one.entries) <= set(news) <= set(other.entries)


def test_of_two_long_directories_only_what_differs_is_decoded() -> None:
    many = [a_file(b"%04d" % n) for n in range(1000)]
    for others in (
        [*many[:500], a_file(b"0500", size=2), *many[501:]],
        [*many[:500], a_file(b"0499+"), *many[500:]],
        [*many[:500], *many[501:]],
        [*many, a_file(b"1000")],
    ):
        one, other = a_directory(*many), a_directory(*others)
        found = differing(sketch(encode(one)).entries, sketch(encode(other)).entries)
        assert sum(map(len, found)) <= 2


@given(DIRECTORIES, NAMES)
def test_find_gives_the_entry_of_that_name_or_none(directory: Directory, other: bytes) -> None:
    by_name = {entry.name: entry for entry in directory.entries}
    assert all(directory.find(name) == entry for name, entry in by_name.items())
    assert directory.find(other) == by_name.get(other)


@pytest.mark.parametrize(
    "name",
    [b"..foo", b"foo..", b"...", b"\xff\xfe", b"a\nb", b"\x1b[1m", b"\x9b", b"n" * 255, b" "],
)
def test_odd_names_are_names(name: bytes) -> None:
    directory = a_directory(a_file(name))
    assert decode(encode(directory)) == directory


def test_names_that_differ_in_case_or_in_their_normal_form_are_two() -> None:
    names = sorted([b"a", b"A", "é".encode(), "e\u0301".encode()])
    directory = a_directory(*(a_file(name) for name in names))
    assert decode(encode(directory)) == directory


@pytest.mark.parametrize(
    "name", [b"..", b".", b"a/b", b"/etc/passwd", b"/", b"a\0b", b"", b"n" * 256]
)
@pytest.mark.parametrize(
    "make",
    [
        a_file,
        lambda name: Subdirectory(name, SOME, SOME, 0, 0, 0),
        lambda name: Symlink(name, 0, 0, 0, b"t"),
        lambda name: Special(name, stat.S_IFIFO | 0o644, 0, 0, 0),
    ],
    ids=["file", "directory", "symlink", "special"],
)
def test_what_is_no_single_name_is_refused(make: type[File], name: bytes) -> None:
    with pytest.raises(MalformedManifest):
        decode(encode(a_directory(make(name))))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "entries",
    [
        (a_file(b"a"), a_file(b"a")),
        (a_file(b"a"), Subdirectory(b"a", SOME, SOME, 0, 0, 0)),
        (a_file(b"b"), a_file(b"a")),
        (a_file(b"a"), a_file(b"b"), a_file(b"aa")),
    ],
    ids=["twice", "file and directory", "order", "order later"],
)
def test_names_that_do_not_ascend_are_refused(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(MalformedManifest, match="is not after"):
        decode(encode(a_directory(*entries)))


BAD_ENTRIES: dict[str, list[object]] = {
    "size -1": [1, b"f", 0, 0, 0, 0, -1, SOME],
    "size 2^63": [1, b"f", 0, 0, 0, 0, 1 << 63, SOME],
    "size 2^64-1": [1, b"f", 0, 0, 0, 0, (1 << 64) - 1, SOME],
    "a size that is no integer": [1, b"f", 0, 0, 0, 0, 1.5, SOME],
    "a short digest": [1, b"f", 0, 0, 0, 0, 0, SOME[:31]],
    "a long digest": [1, b"f", 0, 0, 0, 0, 0, SOME + b"x"],
    "a digest with the name of its function": [1, b"f", 0, 0, 0, 0, 0, "sha256:abc"],
    "mode 07777777": [1, b"f", 0o7777777, 0, 0, 0, 0, SOME],
    "mode with a type": [1, b"f", stat.S_IFREG | 0o644, 0, 0, 0, 0, SOME],
    "uid 2^32": [1, b"f", 0, 1 << 32, 0, 0, 0, SOME],
    "uid -1": [1, b"f", 0, -1, 0, 0, 0, SOME],
    "mtime 2^63": [1, b"f", 0, 0, 0, 1 << 63, 0, SOME],
    "a name that is text": [1, "f", 0, 0, 0, 0, 0, SOME],
    "a group of 3 bytes": [1, b"f", 0, 0, 0, 0, 0, SOME, b"abc", []],
    "a group of 9 bytes": [1, b"f", 0, 0, 0, 0, 0, SOME, b"123456789", []],
    "a subdirectory of few fields": [2, b"d", SOME, SOME, 0, 0],
    "a subdirectory in a hard-link group": [2, b"d", SOME, SOME, 0, 0, GROUP],
    "a target that is empty": [3, b"l", 0, 0, 0, b"", []],
    "a target with NUL": [3, b"l", 0, 0, 0, b"a\0b", []],
    "a target of 4,096 bytes": [3, b"l", 0, 0, 0, b"t" * 4096, []],
    "a socket": [4, b"s", stat.S_IFSOCK | 0o644, 0, 0, 0, 0, 0, []],
    "a special of no type": [4, b"s", 0o644, 0, 0, 0, 0, 0, []],
    "a special that is a regular file": [4, b"s", stat.S_IFREG, 0, 0, 0, 0, 0, []],
    "an unknown kind": [5, b"x"],
    "a kind that is text": ["file", b"x"],
    "an xattr name with NUL": [3, b"l", 0, 0, 0, b"t", [[b"user.\0", b""]]],
    "an xattr without a name": [3, b"l", 0, 0, 0, b"t", [[b"", b""]]],
    "an xattr twice": [3, b"l", 0, 0, 0, b"t", [[b"user.a", b""], [b"user.a", b""]]],
    "xattrs out of order": [3, b"l", 0, 0, 0, b"t", [[b"user.b", b""], [b"user.a", b""]]],
    "an xattr above 64 KiB": [3, b"l", 0, 0, 0, b"t", [[b"user.a", bytes(65537)]]],
    "70,000 xattrs": [
        3,
        b"l",
        0,
        0,
        0,
        b"t",
        [[b"user.%06d" % i, b""] for i in range(70_000)],
    ],
    "a megabyte of xattrs": [
        3,
        b"l",
        0,
        0,
        0,
        b"t",
        [[b"user.%02d" % i, bytes(65536)] for i in range(16)],
    ],
    "a file's xattrs out of order": [
        *(1, b"f", 420, 0, 0, 0, 5, SOME, b""),
        [[b"user.b", b""], [b"user.a", b""]],
    ],
    "a file's xattr name with NUL": [1, b"f", 420, 0, 0, 0, 5, SOME, b"", [[b"user.\0", b""]]],
    "a FIFO's xattr name with NUL": [
        *(4, b"p", stat.S_IFIFO, 0, 0, 0, 0, 0),
        [[b"user.\0", b""]],
    ],
    "an entry that is a number": [1],
    "an entry that is a list of lists": [[[[]]]],
}


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_an_entry_that_breaks_the_format_is_refused(what: str) -> None:
    data = msgspec.msgpack.encode([0, 0o755, 0, 0, 0, [], [BAD_ENTRIES[what]]])
    with pytest.raises(MalformedManifest):
        decode(data)


def test_xattrs_that_belong_to_a_file_are_kept() -> None:
    xattrs = ((b"security.capability", b"\x01\0"), (b"system.posix_acl_access", b"\x02"))
    entry = File(b"f", 0o7777, 1, 2, 3, 4, SOME, b"", (*xattrs, (b"trusted.x", b"")))
    directory = Directory(0o1777, 0, 0, -1, xattrs, (entry,))
    assert decode(encode(directory)) == directory


NODE = encode(a_directory(a_file(b"f", size=5)))
PLAIN = [0, 0o755, 0, 0, 0, [], []]


@pytest.mark.parametrize(
    "data",
    [
        NODE + b"\0",
        NODE + NODE,
        NODE[:-1],
        b"",
        b"\xc1",
        b"\x97\x00",
        msgspec.msgpack.encode([*PLAIN, 1]),
        msgspec.msgpack.encode(PLAIN[:-1]),
        msgspec.msgpack.encode([1, *PLAIN[1:]]),
        msgspec.msgpack.encode({"mode": 1}),
        # The same array and integers, in longer forms than they need.
        b"\xdc\x00\x07" + encode(EMPTY_DIRECTORY)[1:],
        encode(EMPTY_DIRECTORY).replace(b"\xcd\x01\xed", b"\xce\x00\x00\x01\xed", 1),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ],
)
def test_what_is_not_the_one_encoding_of_a_directory_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedManifest):
        decode(data)


def test_a_file_has_one_encoding_with_and_without_its_last_fields() -> None:
    short = msgspec.msgpack.encode([*PLAIN[:-1], [[1, b"f", 420, 0, 0, 0, 5, SOME]]])
    assert short != encode(a_directory(a_file(b"f", size=5)))
    with pytest.raises(MalformedManifest, match="canonical"):
        decode(short)


def test_a_node_above_the_limit_is_not_looked_at() -> None:
    with pytest.raises(MalformedManifest, match="limit"):
        decode(bytes(MAX_NODE_BYTES + 1))
    with pytest.raises(MalformedManifest, match="limit"):
        subdirectories(bytes(MAX_NODE_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [b"\x97\x02", b"\x91\x97\x02", b"\x97\x02" * 9, b"\x91" * 100_000 + b"\x97\x02"],
)
def test_the_subdirectories_of_what_is_no_node_are_not_told(data: bytes) -> None:
    with pytest.raises(MalformedManifest):
        subdirectories(data)


@given(directory=DIRECTORIES)
def test_the_pieces_of_a_node_are_all_of_it_and_one_for_each_entry(
    directory: Directory,
) -> None:
    data = encode(directory)
    header, *entries = pieces(data)
    assert b"".join([header, *entries]) == data
    assert entries == [msgspec.msgpack.encode(entry) for entry in directory.entries]


def test_what_nobody_would_accept_is_not_put_either() -> None:
    xattrs = tuple((b"user.%d" % i, bytes(65000)) for i in range(4))
    entries = [Symlink(b"%03d" % i, 0, 0, 0, b"t", xattrs) for i in range(130)]
    nodes = MemoryNodes()
    with pytest.raises(MalformedManifest, match="limit"):
        put(nodes, a_directory(*entries))
    assert len(nodes) == 0


# --- accepting ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["content", "entries", "size", "links"])
def test_a_lie_about_a_subdirectory_is_refused(field: str) -> None:
    nodes = MemoryNodes()
    below = put(nodes, a_directory(a_file(b"a", link=GROUP), a_file(b"b", link=GROUP)))
    true = subdirectory(nodes, b"d", below)
    lie: object = digest_of(b"lie") if field == "content" else 1
    data = encode(a_directory(msgspec.structs.replace(true, **{field: lie})))
    with pytest.raises(MalformedManifest, match="is not so"):
        accept(nodes, data)
    assert len(nodes) == 1
    accept(nodes, encode(a_directory(true)))


def test_a_node_cannot_refer_to_itself_or_to_one_that_is_not_there() -> None:
    nodes = MemoryNodes()
    itself = encode(a_directory(Subdirectory(b"d", SOME, SOME, 0, 0, 0)))
    for tree in (SOME, digest_of(itself)):
        data = encode(a_directory(Subdirectory(b"d", tree, SOME, 0, 0, 0)))
        with pytest.raises(NodeMissing):
            accept(nodes, data)
    assert len(nodes) == 0


def chain(nodes: MemoryNodes, depth: int) -> Digest:
    digest = put(nodes, EMPTY_DIRECTORY)
    for _ in range(depth - 1):
        digest = put(nodes, a_directory(subdirectory(nodes, b"d", digest)))
    return digest


def test_a_tree_of_1500_levels_is_accepted_and_walked() -> None:
    nodes = MemoryNodes()
    root = chain(nodes, 1500)
    assert nodes.summary(root).depth == 1500
    other = MemoryNodes()
    for data in missing_nodes(nodes, root, other.__contains__):
        accept(other, data)
    assert sum(1 for _ in Manifest(root, other).walk()) == 1499
    assert canonical_links(other, root) == root


def test_a_tree_deeper_than_the_limit_is_refused() -> None:
    nodes = MemoryNodes()
    deepest = chain(nodes, MAX_DEPTH)
    data = encode(a_directory(subdirectory(nodes, b"d", deepest)))
    with pytest.raises(MalformedManifest, match="inside each other"):
        accept(nodes, data)


@pytest.mark.parametrize(("link", "doublings"), [(b"", 25), (GROUP, 23)])
def test_few_nodes_that_stand_for_more_names_than_anybody_has_are_refused(
    link: bytes, doublings: int
) -> None:
    nodes = MemoryNodes()
    digest = put(nodes, a_directory(a_file(b"a", link=link), a_file(b"b", link=link)))

    def doubled(digest: Digest) -> Digest:
        twice = [subdirectory(nodes, name, digest) for name in (b"a", b"b")]
        return accept(nodes, encode(a_directory(*twice)))

    for _ in range(doublings):
        digest = doubled(digest)
    assert nodes.summary(digest).entries <= MAX_ENTRIES
    assert nodes.summary(digest).links <= MAX_LINKS
    with pytest.raises(MalformedManifest, match="names"):
        doubled(digest)
    assert len(nodes) == doublings + 1


def test_sizes_whose_sum_is_no_size_are_refused() -> None:
    large = (1 << 63) - 1
    data = encode(a_directory(a_file(b"a", size=large), a_file(b"b", size=large)))
    with pytest.raises(MalformedManifest, match="bytes together"):
        accept(MemoryNodes(), data)


# --- the two digests ------------------------------------------------------------------------


def content(directory: Directory) -> Digest:
    nodes = MemoryNodes()
    return Manifest(put(nodes, directory), nodes).content


def test_times_and_groups_are_in_the_tree_digest_only() -> None:
    plain = a_directory(a_file(b"a"), a_file(b"b"))
    for other in (
        a_directory(a_file(b"a", mtime_ns=5), a_file(b"b")),
        a_directory(a_file(b"a", link=GROUP), a_file(b"b", link=GROUP)),
        replace(plain, mode=0o755, uid=0, gid=0, mtime_ns=9),
    ):
        assert content(other) == content(plain)
        assert encode(other) != encode(plain)


@pytest.mark.parametrize(
    "other",
    [
        a_directory(a_file(b"b")),
        a_directory(a_file(b"a", size=2)),
        a_directory(File(b"a", 0o600, 0, 0, 0, 1, SOME)),
        a_directory(File(b"a", 0o644, 1, 0, 0, 1, SOME)),
        a_directory(File(b"a", 0o644, 0, 0, 0, 1, digest_of(b""))),
        a_directory(File(b"a", 0o644, 0, 0, 0, 1, SOME, b"", ((b"user.a", b""),))),
        a_directory(Symlink(b"a", 0, 0, 0, b"t")),
        a_directory(),
        replace(a_directory(a_file(b"a")), mode=0o700, uid=0, gid=0, mtime_ns=0),
        replace(
            a_directory(a_file(b"a")),
            mode=0o755,
            uid=0,
            gid=0,
            mtime_ns=0,
            xattrs=((b"user.a", b""),),
        ),
    ],
)
def test_all_else_is_in_the_content_digest(other: Directory) -> None:
    assert content(other) != content(a_directory(a_file(b"a")))


def test_xattrs_of_other_cuts_have_other_digests() -> None:
    one = replace(
        EMPTY_DIRECTORY, mode=0, uid=0, gid=0, mtime_ns=0, xattrs=((b"user.a", b"bc"),)
    )
    two = replace(
        EMPTY_DIRECTORY, mode=0, uid=0, gid=0, mtime_ns=0, xattrs=((b"user.ab", b"c"),)
    )
    assert content(one) != content(two)


def test_a_time_deep_down_changes_every_tree_digest_above_and_no_content_digest() -> None:
    nodes = MemoryNodes()
    pairs = []
    for mtime_ns in (1, 2):
        below = put(nodes, a_directory(a_file(b"f", mtime_ns=mtime_ns)))
        root = put(nodes, a_directory(subdirectory(nodes, b"d", below)))
        pairs.append((root, nodes.summary(root).content))
    assert pairs[0][0] != pairs[1][0]
    assert pairs[0][1] == pairs[1][1]


# --- trees ----------------------------------------------------------------------------------

Shape = dict[bytes, "Shape | int"]
"""Names to directories, or to the number of the file that they are."""
SHORT = st.sampled_from([b"a", b"b", b"c", b"ab", b"a.b", b"\xff"])
SHAPES = st.recursive(
    st.dictionaries(SHORT, st.integers(0, 3), max_size=4),
    lambda shapes: st.dictionaries(SHORT, st.one_of(st.integers(0, 3), shapes), max_size=4),
    max_leaves=15,
)


def plant(nodes: MemoryNodes | LayeredNodes, shape: Shape, *, groups: str = "abcd") -> Digest:
    """Make a tree in which names of one number are one file; ``groups`` names them first."""

    def expand(at: Shape) -> Expansion[Shape]:
        entries: list[Entry] = [
            a_file(name, link=(groups[value] * 8).encode())
            for name, value in at.items()
            if isinstance(value, int)
        ]
        children = [(name, below) for name, below in at.items() if isinstance(below, dict)]
        return Expansion(EMPTY_DIRECTORY, entries, children)

    return grow(nodes, shape, expand)


def flat(shape: Shape, prefix: bytes = b"") -> list[bytes]:
    """Return the paths of ``shape`` in walk order."""
    paths = []
    for name in sorted(shape):
        paths.append(prefix + name)
        below = shape[name]
        if isinstance(below, dict):
            paths += flat(below, prefix + name + b"/")
    return paths


@given(SHAPES)
def test_a_walk_gives_every_name_once_and_parents_first(shape: Shape) -> None:
    nodes = MemoryNodes()
    manifest = Manifest(plant(nodes, shape), nodes)
    walked = list(manifest.walk())
    assert [path for path, _ in walked] == flat(shape)
    assert all(manifest.find(path) == entry for path, entry in walked)
    assert manifest.summary.entries == len(walked)
    assert manifest.summary.size == sum(isinstance(entry, File) for _, entry in walked)


@given(SHAPES)
def test_group_names_depend_on_nothing_but_the_tree(shape: Shape) -> None:
    nodes = MemoryNodes()
    one = canonical_links(nodes, plant(nodes, shape, groups="abcd"))
    two = canonical_links(nodes, plant(nodes, shape, groups="wxyz"))
    assert one == two
    assert canonical_links(nodes, one) == one
    for group, paths in link_groups(Manifest(one, nodes)).items():
        assert len(paths) > 1
        assert group == group_name(paths[0])
        assert paths == [path for path in flat(shape) if path in paths]


@given(SHAPES, SHAPES)
def test_the_missing_nodes_make_a_tree_whole_elsewhere(old: Shape, new: Shape) -> None:
    here, there = MemoryNodes(), MemoryNodes()
    for data in missing_nodes(here, plant(here, old), there.__contains__):
        accept(there, data)
    before = len(there)
    root = plant(here, new)
    sent = list(missing_nodes(here, root, there.__contains__))
    for data in sent:
        accept(there, data)
    assert list(Manifest(root, there).walk()) == list(Manifest(root, here).walk())
    assert len(there) == before + len(sent)


def test_only_a_new_part_of_a_tree_goes_to_the_upper_layer() -> None:
    lower = MemoryNodes()
    plant(lower, {b"a": {b"b": 1}, b"c": {b"d": 2}})
    layered = LayeredNodes(upper := MemoryNodes(), lower)
    root = plant(layered, {b"a": {b"b": 1}, b"c": {b"e": 2}})
    assert len(upper) == 2
    assert root in layered
    assert len(list(Manifest(root, layered).walk())) == 4


def test_an_empty_directory_is_dropped_where_that_is_asked() -> None:
    nodes = MemoryNodes()

    def expand(depth: int) -> Expansion[int]:
        children = [(b"d", depth + 1), (b"e", 9)] if depth < 2 else []
        return Expansion(EMPTY_DIRECTORY, [], children, drop_if_empty=depth != 1)

    walked = Manifest(grow(nodes, 0, expand), nodes).walk()
    assert [path for path, _ in walked] == [b"d"]


def test_an_empty_tree_has_a_root_and_nothing_in_it() -> None:
    manifest = empty_manifest(MemoryNodes())
    assert manifest.root == EMPTY_DIRECTORY
    assert list(manifest.walk()) == []
    assert manifest.find(b"") is None
    assert manifest.find(b"a/b") is None
