"""What a scan finds new is told of once, and offered from then on."""

from filesync.digest import Digest, digest_of
from filesync.early import EARLY_BYTES, stand_in_of
from filesync.manifest import EMPTY_DIRECTORY, MemoryNodes, encode, put, with_entries
from filesync.sync.remote.fields import MAX_BEGUN
from filesync.transfer.send.fresh import MOST_BEGUN, MOST_PATH_BYTES, MOST_WAITING, Fresh
from filesync.transfer.send.recent import Recent
from tests.unit.made import file


class Scanned:
    """A scan's findings."""

    def __init__(self) -> None:
        self.nodes = MemoryNodes()
        self.fresh = Fresh(self.nodes, Recent())

    def directory(self, *names: bytes) -> Digest:
        """Return a directory of files that hold their names."""
        entries = [file(name, name) for name in names]
        return put(self.nodes, with_entries(EMPTY_DIRECTORY, entries))


def test_a_directory_that_was_not_noted_is_told_of_and_then_its_contents_are_offered() -> None:
    scanned = Scanned()
    tree = scanned.directory(b"f")
    scanned.fresh.note(b"d", None, tree)
    assert scanned.fresh
    assert scanned.fresh.contents.find(digest_of(b"f")) is None
    assert scanned.fresh.take(10) == [(b"d", tree)]
    found = scanned.fresh.contents.find(digest_of(b"f"))
    assert found is not None
    assert found.path == b"d/f"
    assert not scanned.fresh
    assert scanned.fresh.take(10) == []


def test_of_one_that_was_it_is_told_if_it_has_more_names() -> None:
    scanned = Scanned()
    old = encode(with_entries(EMPTY_DIRECTORY, [file(b"f", b"old")]))
    scanned.fresh.note(b"edited", old, scanned.directory(b"f"))
    assert not scanned.fresh
    more = scanned.directory(b"f", b"g")
    scanned.fresh.note(b"more", old, more)
    assert scanned.fresh.take(10) == [(b"more", more)]


def test_they_come_in_order_and_not_all_at_once() -> None:
    scanned = Scanned()
    tree = scanned.directory()
    for number in range(3):
        scanned.fresh.note(b"%d" % number, None, tree)
    assert [path for path, _ in scanned.fresh.take(2)] == [b"0", b"1"]
    assert [path for path, _ in scanned.fresh.take(2)] == [b"2"]


def test_no_more_wait_than_there_is_room_for() -> None:
    scanned = Scanned()
    tree = scanned.directory()
    scanned.fresh.note(b"n" * (MOST_PATH_BYTES + 1), None, tree)
    for number in range(MOST_WAITING + 1):
        scanned.fresh.note(b"%d" % number, None, tree)
    assert len(scanned.fresh.take(2 * MOST_WAITING)) == MOST_WAITING


def test_a_large_file_that_is_read_is_offered_by_what_stands_for_its_digest() -> None:
    scanned = Scanned()
    assert not scanned.fresh.begin(b"d/small", EARLY_BYTES - 1, 5)
    assert scanned.fresh.begin(b"d/large", EARLY_BYTES, 5)
    assert scanned.fresh.contents.find(stand_in_of(EARLY_BYTES, 5)) is None
    assert scanned.fresh.take_begun() == [(b"d/large", EARLY_BYTES, 5)]
    found = scanned.fresh.contents.find(stand_in_of(EARLY_BYTES, 5))
    assert found is not None
    assert (found.path, found.file.size, found.file.mtime_ns) == (b"d/large", EARLY_BYTES, 5)
    assert scanned.fresh.take_begun() == []


def test_a_large_one_that_turns_out_to_be_like_another_is_offered_no_more() -> None:
    scanned = Scanned()
    told = [scanned.fresh.begin(b"d/%d" % number, EARLY_BYTES, number) for number in range(3)]
    scanned.fresh.take_begun()
    for one, content in zip(told, (b"one", b"one", b"other"), strict=True):
        assert one is not None
        one(digest_of(content))
    found = [
        scanned.fresh.contents.find(stand_in_of(EARLY_BYTES, number)) for number in range(3)
    ]
    assert [one is not None for one in found] == [True, False, True]


def test_copies_with_the_same_time_are_offered_as_one() -> None:
    scanned = Scanned()
    told, other = (scanned.fresh.begin(name, EARLY_BYTES, 5) for name in (b"a", b"b"))
    scanned.fresh.take_begun()
    assert told is not None
    assert other is None
    for _ in range(2):
        told(digest_of(b"one"))
    assert scanned.fresh.contents.find(stand_in_of(EARLY_BYTES, 5)) is not None


def test_of_many_large_ones_the_first_are_told_of_as_they_are_read_first() -> None:
    scanned = Scanned()
    for number in range(MOST_BEGUN + 1):
        scanned.fresh.begin(b"%d" % number, EARLY_BYTES, number)
    assert [one.path for one in scanned.fresh.take_begun()] == [
        b"%d" % number for number in range(MOST_BEGUN)
    ]


def test_as_many_large_ones_are_told_of_at_once_as_a_message_takes() -> None:
    assert MOST_BEGUN <= MAX_BEGUN
