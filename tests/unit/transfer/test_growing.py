"""Trees that are offered while they are scanned: what is handed on, found and kept."""

import pytest

from filesync.digest import digest_of
from filesync.disk.updating.settle import COPIED_BYTES
from filesync.manifest import EMPTY_DIRECTORY, MemoryNodes, decode, encode, put, with_entries
from filesync.manifest.pack import pack_directories, unpack_directories
from filesync.transfer.coding.edit import MAX_BYTES, WHOLE_BYTES
from filesync.transfer.send import growing
from filesync.transfer.send.growing import HANDED_DIRECTORIES, MOST_HANDED_BYTES, GrowingTree
from filesync.transfer.send.recent import REPEATED_BYTES, Recent
from tests.unit.made import file


class Grown:
    def __init__(self) -> None:
        self.nodes = MemoryNodes()
        self.told = 0
        self.tree = GrowingTree(self.nodes, self._tell)

    def done(self, name: bytes, files: int = 1) -> None:
        entries = [file(b"%05d" % n, name + b"%d" % n) for n in range(files)]
        tree = put(self.nodes, with_entries(EMPTY_DIRECTORY, entries))
        self.tree.directory_done(name, tree)

    def _tell(self) -> None:
        self.told += 1


def test_little_waits_for_more_and_the_end_waits_for_nothing() -> None:
    grown = Grown()
    grown.done(b"a")
    assert (grown.told, grown.tree.is_ready) == (0, False)
    grown.done(b"b", files=4000)
    assert (grown.told, grown.tree.is_ready) == (1, True)
    assert [path for path, _ in grown.tree.take().directories] == [b"a", b"b"]
    assert not grown.tree.is_ready
    grown.tree.end(digest_of(b"tree"))
    assert (grown.told, grown.tree.is_ready) == (2, True)
    assert grown.tree.take() == ([], digest_of(b"tree"))


def test_few_files_of_many_bytes_do_not_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "HANDED_CONTENT_BYTES", 10)
    grown = Grown()
    for told, name in ((0, b"a"), (0, b"1234"), (1, b"bc")):  # their files have a byte more
        grown.done(name)
        assert (grown.told, grown.tree.is_ready) == (told, bool(told)), name
    assert len(grown.tree.take().directories) == 3
    grown.done(b"c")
    assert (grown.told, grown.tree.is_ready) == (1, False)


def test_more_is_told_of_once_until_it_is_taken() -> None:
    grown = Grown()
    for name in (b"a", b"b", b"c"):
        grown.done(name, files=4000)
    assert grown.told == 1
    assert len(grown.tree.take().directories) == 3
    grown.done(b"d", files=4000)
    assert grown.told == 2


def test_the_tree_is_known_with_the_last_directories_only() -> None:
    grown = Grown()
    for n in range(HANDED_DIRECTORIES + 1):
        grown.done(b"%d" % n)
    grown.tree.end(digest_of(b"tree"))
    first, last = grown.tree.take(), grown.tree.take()
    assert (len(first.directories), first.tree) == (HANDED_DIRECTORIES, None)
    assert (len(last.directories), last.tree) == (1, digest_of(b"tree"))


def test_what_is_handed_on_at_once_goes_into_a_pack_however_far_the_scan_is_ahead() -> None:
    grown = Grown()
    names = [b"%d" % n for n in range(12)]
    for name in names:
        grown.done(name, files=8000)
    assert grown.told == 1
    taken: list[bytes] = []
    while grown.tree.is_ready:
        before = grown.told
        directories = grown.tree.take().directories
        assert sum(len(node) for _, node in directories) < 2 * MOST_HANDED_BYTES
        assert unpack_directories(pack_directories(directories)) == directories
        # What is left nobody might speak of any more.
        assert grown.told == before + grown.tree.is_ready
        taken += [path for path, _ in directories]
    assert taken == names


def test_contents_are_offered_once_their_directory_was_handed_on() -> None:
    grown = Grown()
    for n in range(5):
        grown.done(b"%d" % n, files=10)
        content = digest_of(b"%d7" % n)
        assert grown.tree.contents.find(content) is None
        ((path, node),) = grown.tree.take().directories
        assert (path, len(decode(node).entries)) == (b"%d" % n, 10)
        place = grown.tree.contents.find(content)
        assert place is not None
        assert (place.directory, place.file.name) == (b"%d" % n, b"00007")
    for n in range(5):
        assert grown.tree.contents.find(digest_of(b"%d3" % n)) is not None
    assert grown.tree.contents.find(digest_of(b"none")) is None


def test_what_nobody_will_take_is_not_kept() -> None:
    grown = Grown()
    grown.done(b"a")
    grown.tree.content_read(digest_of(b"x"), b"x")
    grown.tree.close()
    grown.done(b"b", files=4000)
    grown.tree.content_read(digest_of(b"y"), b"y")
    assert grown.told == 0
    assert grown.tree.take().directories == []
    assert grown.tree.recent.take(digest_of(b"x"), 0, 1) is None
    assert grown.tree.recent.take(digest_of(b"y"), 0, 1) is None


def test_what_was_read_stays_recent_though_no_directory_is_taken() -> None:
    grown = Grown()
    grown.done(b"a")
    grown.tree.content_read(digest_of(b"x"), b"x")
    grown.tree.forget()
    assert grown.tree.take().directories == []
    assert grown.tree.recent.take(digest_of(b"x"), 0, 1) == b"x"


OLD = encode(EMPTY_DIRECTORY)


def edited(*sizes: int, room: int = 1 << 20) -> GrowingTree:
    """Return what a scan leaves that found files changed, of which the root was ``OLD``."""
    nodes = MemoryNodes()
    tree = GrowingTree(nodes, lambda: None, recent_bytes=room)
    for number, size in enumerate(sizes):
        content = bytes([number]) * size
        beside = tree.beside(b"f", digest_of(b"old"), -1, size)
        if beside is not None:
            beside.begin(memoryview(content))
            beside.finish()
            beside.end(digest_of(content))
    tree.directory_changed(b"", OLD, put(nodes, EMPTY_DIRECTORY))
    return tree


@pytest.mark.parametrize(
    ("tree", "there", "is_enough"),
    [
        (edited(10, 1000, WHOLE_BYTES), OLD, True),
        (edited(10, 1000), b"another", False),
        (edited(10, WHOLE_BYTES + 1), OLD, False),
        (edited(10, 4 * MAX_BYTES), OLD, False),
        (edited(500, 500, room=1000), OLD, False),
    ],
    ids=["small", "since another tree", "larger", "large", "no room"],
)
def test_recent_contents_are_enough_for_who_has_the_tree_before_if_all_were_kept(
    tree: GrowingTree, there: bytes, is_enough: bool
) -> None:
    assert tree.recent_to(digest_of(there), comes_whole=True).is_enough is is_enough
    assert not tree.recent_to(digest_of(there), comes_whole=False).is_enough


def test_a_recent_content_that_several_files_have_is_given_as_often_as_it_was_read() -> None:
    assert REPEATED_BYTES == COPIED_BYTES
    for size, times in ((REPEATED_BYTES, 3), (REPEATED_BYTES + 1, 1)):
        recent, content = Recent(), bytes(size)
        for _ in range(3):
            recent.keep(digest_of(content), content)
        for _ in range(times):
            assert recent.take(digest_of(content), 0, size) == content
        assert recent.take(digest_of(content), 0, size) is None


def test_a_recent_content_is_given_whole_and_once_and_makes_room() -> None:
    recent = Recent(300)  # a content takes 250 besides its bytes
    recent.keep(digest_of(b"123456"), b"123456")
    recent.keep(digest_of(b"abcdef"), b"abcdef")  # no room
    assert recent.take(digest_of(b"123456"), 1, 5) is None
    assert recent.take(digest_of(b"123456"), 0, 5) is None
    assert recent.take(digest_of(b"abcdef"), 0, 6) is None
    assert recent.take(digest_of(b"123456"), 0, 6) == b"123456"
    assert recent.take(digest_of(b"123456"), 0, 6) is None
    recent.keep(digest_of(b"abcdef"), b"abcdef")
    assert recent.take(digest_of(b"abcdef"), 0, 6) == b"abcdef"
