"""What is decided about a registry's answers, without any registry."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.registry.challenge import Challenge, parse_challenges, pick_challenge
from worker.registry.errors import BadRegistry
from worker.registry.ranges import body_start, range_header
from worker.registry.retry import (
    ATTEMPTS,
    CONNECT_ATTEMPTS,
    MAX_WAIT_S,
    Failure,
    is_transient,
    retry_after_s,
    wait_before_retry,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)

# --- challenges -----------------------------------------------------------------------------


def test_a_bearer_challenge_has_a_realm_a_service_and_a_scope() -> None:
    header = (
        'Bearer realm="https://auth.io/token",service="a.io",scope="repository:a/b:pull,push"'
    )
    assert parse_challenges(header) == [
        Challenge(
            "bearer",
            {
                "realm": "https://auth.io/token",
                "service": "a.io",
                "scope": "repository:a/b:pull,push",
            },
        )
    ]


def test_several_challenges_in_one_header_are_told_apart() -> None:
    header = 'Negotiate, Basic realm="a, b=\\"c\\"", BEARER Realm=x , error="insufficient"'
    assert parse_challenges(header) == [
        Challenge("negotiate", {}),
        Challenge("basic", {"realm": 'a, b="c"'}),
        Challenge("bearer", {"realm": "x", "error": "insufficient"}),
    ]


def test_a_token_is_preferred_to_a_password() -> None:
    found = pick_challenge('Basic realm="a", Bearer realm="b"')
    assert found == Challenge("bearer", {"realm": "b"})


@pytest.mark.parametrize("header", ["", "Negotiate", "Bearer", "Digest realm=a", "=", '"'])
def test_what_cannot_be_met_is_no_challenge(header: str) -> None:
    assert pick_challenge(header) is None


@given(st.text(max_size=200))
def test_any_header_is_read_without_failing(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


# --- ranges ---------------------------------------------------------------------------------


def start(status: int, at: int, content_range: str = "", length: str = "") -> int:
    headers = {"content-range": content_range, "content-length": length}
    return body_start(status, headers, at=at, size=100)


def test_a_range_is_asked_for_only_after_something_has_come() -> None:
    assert range_header(0) == {}
    assert range_header(7) == {"Range": "bytes=7-"}


def test_a_part_goes_on_where_it_was_asked_to() -> None:
    assert start(206, 40, "bytes 40-99/100", "60") == 40
    assert start(206, 40, "bytes 40-99/*") == 40


def test_a_registry_without_ranges_begins_anew() -> None:
    assert start(200, 40, length="100") == 0


@pytest.mark.parametrize(
    ("status", "content_range", "length"),
    [
        (206, "", "60"),
        (206, "bytes 39-99/100", "61"),
        (206, "bytes 40-98/100", "59"),
        (206, "bytes 40-99/101", "60"),
        (206, "bytes 40-99/100", "59"),
        (206, "bytes */100", ""),
        (206, "nonsense", ""),
        (200, "", "99"),
        (200, "", "101"),
    ],
)
def test_an_answer_about_another_blob_is_refused(
    status: int, content_range: str, length: str
) -> None:
    with pytest.raises(BadRegistry):
        start(status, 40, content_range, length)


# --- retries --------------------------------------------------------------------------------


def test_waits_grow_and_end() -> None:
    waits = [
        wait_before_retry(Failure.CUT, failed=failed, asked_s=None)
        for failed in range(1, ATTEMPTS + 1)
    ]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, None]


def test_a_host_that_was_never_reached_is_given_up_sooner() -> None:
    assert wait_before_retry(Failure.UNREACHED, failed=CONNECT_ATTEMPTS, asked_s=None) is None


def test_a_wait_that_the_registry_asks_for_is_kept_if_it_is_short() -> None:
    wait = wait_before_retry(Failure.ANSWERED, failed=1, asked_s=5.0)
    assert wait == 5.0
    too_long = wait_before_retry(Failure.ANSWERED, failed=1, asked_s=MAX_WAIT_S + 1)
    assert too_long is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("9" * 400, None),
        ("\u00b2", None),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Thu, 01 Jan 999999999999 00:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_s(header, now=NOW) == seconds


def test_only_what_may_pass_is_asked_again() -> None:
    statuses = (400, 401, 403, 404, 408, 416, 429, 500, 503, 599, 600)
    assert [one for one in statuses if is_transient(one)] == [408, 429, 500, 503, 599]
