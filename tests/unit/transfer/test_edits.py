"""Which edits of small files are told before anybody asks."""

import random
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.manifest import EMPTY_DIRECTORY, MemoryNodes, Nodes, put, with_entries
from filesync.transfer.coding import edit
from filesync.transfer.send import edits as sent
from filesync.transfer.send.edits import Edits
from filesync.transfer.send.recent import Recent
from tests.unit.made import file

NOISE = random.Random(1).randbytes(1 << 20)
SHORT, LONG = NOISE[:1000], NOISE[: 4 * edit.WHOLE_BYTES]


def changed(edits: Edits, old: bytes, new: bytes) -> None:
    """Show ``edits`` a file as a scan does."""
    beside = edits.beside(b"f", digest_of(old), -1, len(new))
    assert beside is not None
    beside.begin(memoryview(new))
    beside.finish()
    beside.end(digest_of(new))


def next_scan(tmp_path: Path, *changes: tuple[bytes, bytes]) -> Edits:
    edits = Edits(tmp_path)
    for old, new in changes:
        changed(edits, old, new)
    edits.end()
    return edits


def test_a_short_content_is_told_whole() -> None:
    edits = Edits()
    changed(edits, b"", SHORT)
    (told,) = edits.files
    assert told == edit.whole(digest_of(SHORT), SHORT)


def test_many_short_contents_are_not_told_at_all() -> None:
    edits = Edits()
    for number in range(sent.MAX_WHOLE_BYTES // len(SHORT) + 1):
        assert edits.files or not number
        changed(edits, b"", SHORT[:-2] + b"%02x" % (number % 256))
    assert edits.files == []


def test_a_longer_one_is_told_from_its_second_edit_on(tmp_path: Path) -> None:
    second, third = LONG + b"2", b"3" + LONG + b"2"
    assert next_scan(tmp_path, (LONG, second)).files == []
    (told,) = next_scan(tmp_path, (second, third)).files
    assert edit.apply(told, second) == third
    assert len(told.delta) < 4 * edit.PIECE_BYTES


def test_copies_that_are_edited_one_after_the_other_are_both_told(tmp_path: Path) -> None:
    next_scan(tmp_path, (b"", LONG))
    for new in (LONG + b"2", LONG + b"3"):
        assert [one.digest for one in next_scan(tmp_path, (LONG, new)).files] == [
            digest_of(new)
        ]


def test_one_that_is_not_told_need_not_be_read_again(tmp_path: Path) -> None:
    for times, is_kept in enumerate((True, False)):
        recent = Recent()
        edits = Edits(tmp_path, recent)
        new = LONG + b"%d" % times
        changed(edits, LONG + b"%d" % (times - 1), new)
        edits.end()
        assert (recent.take(digest_of(new), 0, len(new)) == new) == is_kept
        assert bool(edits.files) != is_kept
        assert not recent.has_missed


def test_without_a_place_for_marks_longer_ones_are_never_told() -> None:
    assert Edits().beside(b"f", digest_of(LONG), -1, len(LONG)) is None
    assert Edits().beside(b"f", digest_of(LONG), -1, edit.WHOLE_BYTES) is not None


def test_of_many_longer_ones_the_first_alone_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent, "MAX_MARKED_BYTES", 2 * len(LONG))
    edits = Edits(tmp_path)
    for number in range(2):
        changed(edits, LONG, LONG + b"%d" % number)
    assert edits.beside(b"f", digest_of(LONG), -1, len(LONG)) is None
    changed(edits, LONG, SHORT)
    assert [one.digest for one in edits.files] == [digest_of(SHORT)]


def test_more_edits_than_go_into_a_message_are_not_told(tmp_path: Path) -> None:
    olds = [b"%d" % number + LONG for number in range(20)]
    news = [NOISE[len(LONG) : 2 * len(LONG)] + b"%d" % number for number in range(20)]
    most = sent.MAX_COMPARED_BYTES // len(LONG) - 1
    for count, told in ((20, 0), (most, most)):
        next_scan(tmp_path, *[(b"", old) for old in olds])
        edits = next_scan(tmp_path, *zip(olds[:count], news[:count], strict=True))
        assert len(edits.files) == told


def test_a_file_that_changed_while_it_was_read_is_not_told() -> None:
    edits = Edits()
    beside = edits.beside(b"f", digest_of(b""), -1, len(SHORT))
    assert beside is not None
    beside.begin(memoryview(SHORT))
    beside.finish()
    beside.end(None)
    assert edits.files == []


def test_an_empty_file_needs_no_telling() -> None:
    edits = Edits()
    changed(edits, SHORT, b"")
    assert edits.files == []


# --- directories --------------------------------------------------------------------------------


def directory(nodes: Nodes, *contents: bytes) -> Digest:
    files = [file(b"%03d" % number, content) for number, content in enumerate(contents)]
    return put(nodes, with_entries(EMPTY_DIRECTORY, files))


def noted(nodes: Nodes, old: Digest, new: Digest, *, below: int = 1) -> Edits:
    """Return what is noted of a root, and of as many directories below it."""
    edits = Edits()
    for path in [*[b"d%d" % number for number in range(below)], b""]:
        edits.directory_changed(path, nodes.read(old), new)
    return edits


def test_directories_are_told_to_who_has_the_tree_as_it_was() -> None:
    nodes = MemoryNodes()
    contents = [b"%d" % number for number in range(100)]
    old = directory(nodes, *contents)
    new = directory(nodes, *contents[:50], b"new", *contents[51:])
    told = noted(nodes, old, new).directories(nodes, old)
    assert [one.digest for one in told] == [new, new]
    for one in told:
        assert edit.apply(one, nodes.read(old)) == nodes.read(new)
        assert len(one.delta) < 1000
    assert noted(nodes, old, new).directories(nodes, new) == []
    assert noted(nodes, old, new).directories(nodes) == told


def test_more_than_some_directories_are_not_told() -> None:
    nodes = MemoryNodes()
    old, new = directory(nodes, b"old"), directory(nodes, b"new")
    most = sent.MAX_DIRECTORIES - 1
    assert noted(nodes, old, new, below=most).directories(nodes, old) != []
    assert noted(nodes, old, new, below=most + 1).directories(nodes, old) == []


def test_of_directories_that_held_very_much_none_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = MemoryNodes()
    old, new = directory(nodes, b"old"), directory(nodes, b"new")
    monkeypatch.setattr(sent, "MAX_DIRECTORIES_BYTES", 3 * len(nodes.read(old)))
    assert len(noted(nodes, old, new, below=2).directories(nodes, old)) == 3
    assert noted(nodes, old, new, below=3).directories(nodes, old) == []


def test_a_directory_that_had_or_has_very_many_names_is_not_told() -> None:
    nodes = MemoryNodes()
    contents = [b"%d" % number for number in range(3000)]
    many, few = directory(nodes, *contents), directory(nodes, *contents[:10])
    assert len(nodes.read(many)) > edit.MAX_BYTES
    for old, new in ((many, few), (few, many)):
        assert noted(nodes, old, new, below=0).directories(nodes, old) == []
