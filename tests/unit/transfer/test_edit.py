"""Edits: what comes of an old content by what is told of a new one."""

from operator import ne

from hypothesis import assume, given
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.errors import MalformedMessage
from filesync.transfer.coding import edit
from filesync.transfer.coding.edit import Edit, Marks

TEXT = b"".join(b"line %d of a text\n" % number for number in range(5000))
KEY = 7


def edited(old: bytes, new: bytes) -> Edit:
    return edit.compare(digest_of(new), new, edit.mark(old, KEY))[0]


@given(data=st.data())
def test_what_an_edit_makes_of_the_old_bytes_are_the_new_ones(data: st.DataObject) -> None:
    old = TEXT[: data.draw(st.integers(1, len(TEXT)))]
    new = old
    for _ in range(data.draw(st.integers(0, 5))):
        at, gone = data.draw(st.integers(0, len(new))), data.draw(st.integers(0, 5000))
        new = new[:at] + data.draw(st.binary(max_size=50)) + new[at + gone :]
    assume(new)
    made, marks = edit.compare(digest_of(new), new, edit.mark(old, KEY))
    assert edit.apply(made, old) == new
    assert marks == edit.mark(new, KEY)


def test_a_line_costs_the_pieces_around_it_and_names_few_of_the_others() -> None:
    made = edited(TEXT, TEXT.replace(b"line 2000 ", b"line 2oo0 "))
    assert len(made.delta) < 6 * edit.PIECE_BYTES
    assert len(made.ends) <= 4


def test_pieces_that_moved_and_are_there_twice_are_found() -> None:
    half = len(TEXT) // 2
    new = TEXT[half:] + TEXT[:half] + TEXT[half:]
    made = edited(TEXT, new)
    assert edit.apply(made, TEXT) == new
    assert len(made.delta) < 12 * edit.PIECE_BYTES


Pieces = st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=30)


@given(old=Pieces, new=Pieces)
def test_an_edit_between_pieces_makes_the_new_ones_of_the_old(
    old: list[bytes], new: list[bytes]
) -> None:
    content = b"".join(new)
    made = edit.between(digest_of(content), old, new)
    assert made is not None
    assert edit.apply(made, b"".join(old)) == content


def test_of_pieces_that_are_as_they_were_nothing_is_told() -> None:
    old = [b"%04d" % number for number in range(1000)]
    new = [*old[:500], b"new!", *old[501:]]
    made = edit.between(digest_of(b"".join(new)), old, new)
    assert made is not None
    assert made.delta.count(b"new!") == 1
    assert len(made.delta) < 30


def test_more_pieces_or_bytes_than_an_edit_can_tell_are_not_told() -> None:
    digest = digest_of(b"")
    many = [b"%05d" % number for number in range(9000)]
    assert edit.between(digest, many, many[::2]) is None
    assert edit.between(digest, many, many[::5]) is not None
    long = [b"x" * edit.MAX_BYTES]
    assert edit.between(digest, long, long) is not None
    for old, new in (([b"old"], [*long, b"y"]), ([b"y", *long], long)):
        assert edit.between(digest, old, new) is None


@given(old=st.binary(min_size=1, max_size=2000), data=st.data())
def test_an_edit_in_place_makes_the_new_bytes_of_as_many_old_ones(
    old: bytes, data: st.DataObject
) -> None:
    new = bytearray(old)
    for _ in range(data.draw(st.integers(0, 10))):
        at = data.draw(st.integers(0, len(old) - 1))
        piece = data.draw(st.binary(max_size=20))[: len(old) - at]
        new[at : at + len(piece)] = piece
    made = edit.in_place(digest_of(new), old, bytes(new))
    differ = sum(map(ne, old, new))
    assert made is not None or differ > len(old) / 36  # eight equal ones may stand between two
    if made is not None:
        assert edit.apply(made, old) == new
        assert list(made.ends) == sorted(set(made.ends))


def test_an_edit_in_place_tells_no_more_than_the_bytes_that_differ() -> None:
    old = bytes(10_000)
    new = old[:4090] + b"0123456789" + old[4100:9999] + b"!"
    made = edit.in_place(digest_of(new), old, new)
    assert made is not None
    assert edit.apply(made, old) == new
    assert len(made.delta) - 11 < 5 * 8  # of five operations


def test_bytes_that_have_moved_or_differ_in_many_places_are_not_told_in_place() -> None:
    names = [b"%08d" % number for number in range(1000)]
    old, moved = b"".join([b"long", *names]), b"".join([*names, b"long"])
    many = old.replace(b"2", b"?")
    for new in (moved, many):
        assert edit.in_place(digest_of(new), old, new) is None
    long = bytes(edit.MAX_BYTES + 1)
    assert edit.in_place(digest_of(long), long, long) is None


def test_a_whole_content_is_made_of_any_old_one() -> None:
    made = edit.whole(digest_of(b"new"), b"new")
    assert edit.apply(made, b"") == edit.apply(made, TEXT) == b"new"


@given(old=st.binary(max_size=3000))
def test_of_another_old_content_comes_something_else_of_the_size_or_nothing(old: bytes) -> None:
    made = edited(TEXT, TEXT[:3000] + b"?" + TEXT[3000:])
    try:
        assert len(edit.apply(made, old)) == made.size
    except MalformedMessage:
        pass


@given(
    ends=st.lists(st.integers(0, edit.MAX_BYTES), max_size=5),
    delta=st.binary(max_size=40),
    size=st.integers(1, edit.MAX_BYTES),
)
def test_any_edit_makes_its_size_or_is_malformed(
    ends: list[int], delta: bytes, size: int
) -> None:
    try:
        assert len(edit.apply(Edit(digest_of(b""), size, tuple(ends), delta), TEXT)) == size
    except MalformedMessage:
        pass


def test_marks_are_kept_as_they_are() -> None:
    marks = edit.mark(TEXT, (1 << 64) - 1)
    assert Marks.unpacked(marks.packed()) == marks
    assert edit.mark(TEXT, KEY).marks != marks.marks


@given(noise=st.binary(max_size=100))
def test_any_bytes_are_marks_or_none(noise: bytes) -> None:
    marks = Marks.unpacked(noise)
    assert marks is None or marks.packed() == noise


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_marks_that_are_wrong_are_none_or_make_a_content_of_the_size(at: int, bit: int) -> None:
    packed = bytearray(edit.mark(TEXT, KEY).packed())
    packed[at % len(packed)] ^= 1 << bit
    marks = Marks.unpacked(bytes(packed))
    if marks is None:
        return
    made, _ = edit.compare(digest_of(TEXT), TEXT, marks)
    assert max(made.ends, default=0) <= edit.MAX_BYTES
    try:
        assert len(edit.apply(made, TEXT)) == len(TEXT)
    except MalformedMessage:
        pass
