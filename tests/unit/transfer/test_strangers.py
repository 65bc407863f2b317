"""Which refused keys have a line in the log."""

from filesync.keys.files import PublicKey
from filesync.transfer.connection.strangers import EVERY_S, MAX_KEYS, Strangers, Told


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def test_a_key_has_a_line_and_another_that_counts_what_came_since() -> None:
    strangers = Strangers()
    assert strangers.note(key(1), 0.0) == Told(1, 0)
    assert [strangers.note(key(1), n / 10) for n in range(500)] == [None] * 500
    assert strangers.note(key(1), EVERY_S) == Told(501, 0)
    assert strangers.note(key(1), EVERY_S + 1) is None


def test_keys_that_are_made_up_have_few_lines_and_are_counted_in_them() -> None:
    strangers = Strangers()
    told = [strangers.note(key(n), n / 1000) for n in range(5000)]
    assert told[:MAX_KEYS] == [Told(1, 0)] * MAX_KEYS
    assert told[MAX_KEYS:] == [None] * (5000 - MAX_KEYS)
    assert strangers.note(key(0), 7.0) is None
    assert strangers.note(key(9999), EVERY_S) == Told(1, 5000 - MAX_KEYS + 1)
    assert strangers.note(key(9998), EVERY_S) is None


def test_nothing_is_lost_of_the_count_and_lines_stay_few_however_long_it_goes_on() -> None:
    strangers = Strangers()
    lines = [
        told
        for n in range(30_000)
        if (told := strangers.note(key(n * n % 101), n / 100)) is not None
    ]
    assert len(lines) <= MAX_KEYS * (300 / EVERY_S + 1)
    assert sum(told.times + told.others for told in lines) <= 30_000
    others = (strangers.note(key(5000 + n), 10_000.0) for n in range(MAX_KEYS))
    lines += [told for told in others if told is not None]
    assert sum(told.times + told.others for told in lines) == 30_000 + MAX_KEYS
