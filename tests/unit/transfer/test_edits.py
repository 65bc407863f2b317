"""Which edits of small files are told before anybody asks."""

import random
from pathlib import Path

from filesync.digest import digest_of
from filesync.transfer.coding import edit
from filesync.transfer.send import edits as sent
from filesync.transfer.send.edits import Edits

NOISE = random.Random(1).randbytes(1 << 20)
SHORT, LONG = NOISE[:1000], NOISE[: 4 * edit.WHOLE_BYTES]


def changed(edits: Edits, old: bytes, new: bytes) -> None:
    """Show ``edits`` a file as a scan does."""
    beside = edits.beside(digest_of(old))
    beside.begin(memoryview(new))
    beside.finish()
    beside.end(digest_of(new))


def next_scan(tmp_path: Path, *changes: tuple[bytes, bytes]) -> Edits:
    edits = Edits(tmp_path / "marks")
    for old, new in changes:
        changed(edits, old, new)
    edits.end()
    return edits


def test_a_short_content_is_told_whole() -> None:
    edits = Edits()
    changed(edits, b"", SHORT)
    (told,) = edits.told
    assert told == edit.whole(digest_of(SHORT), SHORT)


def test_many_short_contents_are_not_told_at_all() -> None:
    edits = Edits()
    for number in range(sent.MAX_WHOLE_BYTES // len(SHORT) + 1):
        assert edits.told or not number
        changed(edits, b"", SHORT[:-2] + b"%02x" % (number % 256))
    assert edits.told == []


def test_a_longer_one_is_told_from_its_second_edit_on(tmp_path: Path) -> None:
    second, third = LONG + b"2", b"3" + LONG + b"2"
    assert next_scan(tmp_path, (LONG, second)).told == []
    (told,) = next_scan(tmp_path, (second, third)).told
    assert edit.apply(told, second) == third
    assert len(told.delta) < 4 * edit.PIECE_BYTES


def test_without_a_place_for_marks_longer_ones_are_never_told() -> None:
    edits = Edits()
    for number in range(3):
        changed(edits, LONG + b"%d" % number, LONG + b"%d" % (number + 1))
    edits.end()
    assert edits.told == []


def test_more_edits_than_go_into_a_message_are_not_told(tmp_path: Path) -> None:
    olds = [b"%d" % number + LONG for number in range(20)]
    next_scan(tmp_path, *[(b"", old) for old in olds])
    news = [NOISE[len(LONG) : 2 * len(LONG)] + b"%d" % number for number in range(20)]
    told = next_scan(tmp_path, *zip(olds, news, strict=True)).told
    assert 0 < sum(len(one.delta) for one in told) <= sent.MAX_COMPARED_BYTES
    assert len(told) < 20


def test_a_file_that_changed_while_it_was_read_is_not_told() -> None:
    edits = Edits()
    beside = edits.beside(digest_of(b""))
    beside.begin(memoryview(SHORT))
    beside.finish()
    beside.end(None)
    assert edits.told == []


def test_an_empty_file_needs_no_telling() -> None:
    edits = Edits()
    changed(edits, SHORT, b"")
    assert edits.told == []
