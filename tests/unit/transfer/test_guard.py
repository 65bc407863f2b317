from filesync.transfer.connection.guard import (
    PATIENCE_TURNS,
    REFUSAL_S,
    SILENT_S,
    SLACK_BYTES,
    Connections,
    Cut,
    Limits,
)

LIMITS = Limits(
    connections=3,
    greeting_bytes=100,
    message_bytes=1_000,
    queued_bytes=5_000,
    greeting_s=10.0,
    unfinished_bytes=1_500,
)


def greeted(*fds: int, limits: Limits = LIMITS) -> Connections:
    book = Connections(limits)
    for fd in fds:
        book.opened(fd, 0.0)
        book.greeted(fd)
    return book


def after_turns(book: Connections, turns: int = PATIENCE_TURNS) -> list[int]:
    for _ in range(turns):
        book.turned()
    return [cut.fd for cut in book.verdicts(0.0)]


def test_whole_messages_may_bring_any_number_of_bytes() -> None:
    book = greeted(1)
    for came in range(1_000, 100_000, 1_000):
        book.read(1, came)
        book.delivered(1, 1_000)
        assert after_turns(book) == []


def test_more_than_a_message_that_is_none_is_cut_after_some_turns_of_the_loop() -> None:
    book = greeted(1)
    book.read(1, 1_001)
    assert book.awaits_turn
    assert after_turns(book, PATIENCE_TURNS - 1) == []
    assert after_turns(book, 1) == [1]
    assert len(book) == 0


def test_what_seemed_to_be_read_and_was_not_is_no_credit() -> None:
    book = greeted(1)
    book.delivered(1, 1_000)
    book.read(1, 4_000)
    book.read(1, 1_000)
    book.read(1, 2_001)
    assert after_turns(book) == [1]


def test_messages_may_wait_for_a_busy_loop_up_to_a_limit() -> None:
    book = greeted(1)
    book.read(1, 5_000)
    assert book.verdicts(0.0) == []
    book.read(1, 5_001)
    assert [cut.fd for cut in book.verdicts(0.0)] == [1]


def test_a_message_that_is_taken_in_time_saves_its_connection() -> None:
    book = greeted(1)
    book.read(1, 1_001)
    after_turns(book, PATIENCE_TURNS - 1)
    book.delivered(1, 900)
    assert not book.awaits_turn
    assert after_turns(book) == []


def test_what_comes_behind_a_whole_message_counts_whenever_it_is_seen() -> None:
    book = greeted(1)
    book.read(1, 50)
    book.delivered(1, 50)
    book.read(1, 50 + 1_001 + SLACK_BYTES)
    assert after_turns(book) == [1]


def test_a_queue_that_is_always_full_is_fine_as_long_as_it_moves() -> None:
    book = greeted(1, limits=LIMITS._replace(queued_bytes=100_000, unfinished_bytes=100_000))
    for turn in range(100):
        book.read(1, 4 * SLACK_BYTES + turn * 1_000)
        assert after_turns(book, PATIENCE_TURNS - 1) == []
        book.delivered(1, 1_000)
    assert after_turns(book) == [1]


def test_who_was_saved_once_is_cut_when_it_brings_too_much_again() -> None:
    book = greeted(1)
    book.read(1, 1_001)
    book.delivered(1, 1_001)
    book.read(1, 1_001)
    assert not book.awaits_turn
    book.read(1, 2_002)
    assert after_turns(book) == [1]


def test_no_message_is_a_credit_for_more_than_has_come() -> None:
    book = greeted(1)
    book.read(1, 100)
    book.delivered(1, 50_000)
    book.read(1, 100)
    book.read(1, 100 + 1_001)
    assert after_turns(book) == [1]


def test_full_queues_of_many_are_fine_too_and_the_one_that_is_stuck_is_not() -> None:
    book = greeted(1, 2, 3)
    cuts = []
    for turn in range(10):
        for fd in (1, 2):
            book.read(fd, 800 + turn * 800)
        book.read(3, min(900, 300 * turn))
        cuts += after_turns(book, 1)
        for fd in (1, 2):
            book.delivered(fd, 800)
    assert cuts == []
    for fd in (1, 2, 3):
        book.read(fd, 100_000)
    assert set(after_turns(book)) == {1, 2, 3}


def test_heartbeats_are_forgiven_when_a_message_is_taken_and_not_more_than_those() -> None:
    book = greeted(1)
    came = 0
    for _ in range(100):
        came += 100 + SLACK_BYTES
        book.delivered(1, 100)
        book.read(1, came)
    assert not book.awaits_turn
    book.delivered(1, 100)
    book.read(1, came + 100 + SLACK_BYTES + 1)
    assert book.awaits_turn


def test_who_has_not_greeted_may_bring_little() -> None:
    book = Connections(LIMITS)
    book.opened(1, 0.0)
    book.read(1, 101)
    assert after_turns(book) == [1]


def test_who_does_not_greet_in_time_is_cut_however_slowly_it_talks() -> None:
    book = Connections(LIMITS)
    book.opened(1, 0.0)
    book.opened(2, 5.0)
    book.opened(3, 5.0)
    book.greeted(3)
    for second in range(10):
        book.read(1, second)
        assert book.verdicts(float(second)) == []
    assert book.wake_s(9.0) == 1.0
    assert [cut.fd for cut in book.verdicts(10.0)] == [1]
    assert [cut.fd for cut in book.verdicts(60.0)] == [2]
    assert book.wake_s(60.0) == 5.0  # of who has greeted, to say something


def test_who_has_greeted_and_falls_silent_is_cut_and_who_is_heard_is_not() -> None:
    book = greeted(1, 2)
    book.heard(1, 30.0)
    assert book.quiet(0.0) == [2]
    assert book.quiet(30.0) == [2, 1]
    assert book.wake_s(50.0) == SILENT_S - 50.0
    assert book.verdicts(SILENT_S) == [Cut(2, "it fell silent")]
    book.heard(1, SILENT_S)
    assert book.verdicts(2 * SILENT_S - 1.0) == []
    assert book.verdicts(2 * SILENT_S) == [Cut(1, "it fell silent")]


def test_to_be_heard_is_no_greeting() -> None:
    book = Connections(LIMITS)
    book.opened(1, 0.0)
    book.heard(1, 9.0)
    assert [cut.fd for cut in book.verdicts(10.0)] == [1]


def test_who_is_refused_has_a_moment_to_read_why_and_cannot_greet_again() -> None:
    book = greeted(1)
    book.refused(1, 50.0)
    book.greeted(1)
    assert book.wake_s(50.0) == REFUSAL_S
    book.refused(1, 50.0 + REFUSAL_S)
    assert book.verdicts(50.0 + REFUSAL_S) == [Cut(1, "it was refused")]


def test_of_too_many_connections_the_oldest_that_has_not_greeted_goes() -> None:
    book = greeted(1)
    for fd in (2, 3, 4):
        book.opened(fd, 0.0)
    assert [cut.fd for cut in book.verdicts(0.0)] == [2]


def test_of_too_many_connections_one_that_was_refused_goes_first() -> None:
    book = greeted(1, 2)
    book.opened(3, 0.0)
    book.refused(2, 0.0)
    book.opened(4, 0.0)
    assert [cut.fd for cut in book.verdicts(0.0)] == [2]


def test_too_many_that_have_greeted_cost_the_newest_its_place() -> None:
    book = greeted(1, 2, 3, 4)
    assert [cut.fd for cut in book.verdicts(0.0)] == [4]


def test_all_unfinished_messages_together_are_bounded() -> None:
    book = greeted(1, 2, 3)
    book.read(1, 400)
    book.read(2, 600)
    book.read(3, 500)
    assert not book.awaits_turn
    book.read(3, 501)
    assert after_turns(book) == [2]
    assert not book.awaits_turn


def test_to_bring_a_little_more_now_and_then_wins_no_time() -> None:
    book = greeted(1, 2)
    for turn in range(PATIENCE_TURNS):
        book.read(1, 800 + turn)
        book.read(2, 800)
        assert after_turns(book, 1 if turn else 0) == []
    assert after_turns(book, 1) == [1]


def test_what_comes_at_once_behind_a_beginning_has_some_turns_to_be_taken_in() -> None:
    book = greeted(1, 2)
    for fd in (1, 2):
        book.read(fd, 1)
    assert after_turns(book) == []
    for fd in (1, 2):
        book.read(fd, 800)
    assert after_turns(book, PATIENCE_TURNS - 1) == []
    assert after_turns(book, 1) == [2]


def test_who_holds_little_is_not_cut_for_what_moves_by_others() -> None:
    limits = LIMITS._replace(
        message_bytes=10_000, queued_bytes=100_000, unfinished_bytes=15_000
    )
    book = greeted(1, 2, 3, limits=limits)
    book.read(3, 10)
    for turn in range(10):
        for fd in (1, 2):
            book.read(fd, 9_000 * (turn + 2))
        assert book.awaits_turn
        assert after_turns(book, 1) == []
        for fd in (1, 2):
            book.delivered(fd, 9_000)


def test_a_number_that_is_used_again_is_another_connection() -> None:
    book = greeted(1)
    book.read(1, 900)
    book.refused(1, 0.0)
    book.opened(1, 0.0)  # its end was not noticed
    book.read(1, 50)
    assert not book.awaits_turn
    assert book.verdicts(REFUSAL_S) == []
    book.read(1, 101)
    assert after_turns(book) == [1]


def test_what_is_said_of_strangers_is_nothing() -> None:
    book = Connections(LIMITS)
    book.delivered(-1, 1)
    book.greeted(7)
    book.refused(7, 0.0)
    book.read(7, 1 << 40)
    book.closed(7)
    assert book.verdicts(1e9) == []
