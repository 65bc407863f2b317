"""Which large new files are compared with old ones that stay, and what the others wait for."""

from filesync.digest import Digest
from filesync.disk.updating.update import WantedFile
from filesync.transfer.receive.guesses import MOST_TRIED, MOST_TRIED_BYTES, Guesses
from filesync.transfer.receive.units import Work
from filesync.transfer.receive.works import Works

SIZE = 1000


def tries(guesses: Guesses, count: int, size: int = 1) -> list[bool | None]:
    return [guesses.begin(b"d", size) for _ in range(count)]


def test_a_few_of_a_directory_are_tried_and_the_others_wait_for_these() -> None:
    guesses = Guesses()
    assert tries(guesses, MOST_TRIED + 1) == [True] * MOST_TRIED + [None]
    assert guesses.begin(b"elsewhere", 1)


def test_where_they_were_good_more_are_tried() -> None:
    guesses = Guesses()
    tries(guesses, MOST_TRIED)
    guesses.end(b"d", 800, 99)
    assert tries(guesses, 1) == [None]
    guesses.end(b"d", 800, 100)
    assert tries(guesses, MOST_TRIED + 1) == [True] * MOST_TRIED + [None]


def test_where_none_was_no_more_are_tried() -> None:
    guesses = Guesses()
    tries(guesses, MOST_TRIED)
    for _ in range(MOST_TRIED):
        guesses.end(b"d", 800, 0)
    assert tries(guesses, 2) == [False, False]


def test_no_more_is_tried_than_can_be_read_soon() -> None:
    guesses = Guesses()
    assert tries(guesses, 3, size=MOST_TRIED_BYTES // 2) == [True, True, None]
    assert guesses.begin(b"elsewhere", 1) is False
    guesses.end(b"d", MOST_TRIED_BYTES // 2, shared=MOST_TRIED_BYTES // 4)
    assert tries(guesses, 2, size=MOST_TRIED_BYTES // 2) == [True, None]


def guessed(number: int) -> Work:
    digest = Digest(bytes([number]) * 32)
    return Work(WantedFile(number, digest, SIZE, SIZE, b"d"), is_delta=True)


def begin(works: Works) -> list[int]:
    return [work.file.ticket for some in works.begin() for work in some]


def test_what_waits_for_what_others_show_is_begun_when_these_were_good() -> None:
    works, files = Works(), [guessed(number) for number in range(MOST_TRIED + 3)]
    for work in files:
        works.add(work)
    assert begin(works) == [*range(MOST_TRIED)]
    assert works.waiting == 0  # others are asked for meanwhile
    files[0].copied = SIZE
    works.end(files[0])
    assert begin(works) == [*range(MOST_TRIED, MOST_TRIED + 3)]
    assert works.take_plain() == []


def test_and_comes_without_old_files_when_they_were_not() -> None:
    works, files = Works(), [guessed(number) for number in range(MOST_TRIED + 3)]
    for work in files:
        works.add(work)
    begin(works)
    for work in files[:MOST_TRIED]:
        works.end(work)
    assert begin(works) == []
    assert works.take_plain() == files[MOST_TRIED:]
    assert works.take_plain() == []
    for work in files[MOST_TRIED:]:
        works.end(work)


def test_what_waits_may_be_let_go_of() -> None:
    works, files = Works(), [guessed(number) for number in range(MOST_TRIED + 2)]
    for work in files:
        works.add(work)
    begin(works)
    assert works.drop(files[-1].file.digest) == [files[-1]]
    files[0].copied = SIZE
    works.end(files[0])
    assert begin(works) == [MOST_TRIED]
