"""Waiting for descriptors that others have taken."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from filesync.errors import StoreError
from filesync.process import descriptors
from filesync.process.descriptors import with_room

FEW = 256


@pytest.fixture
def taken() -> Iterator[ExitStack]:
    """Every descriptor that this process may have; closing the stack lets go of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(2))
        yield stack


def refused(code: int) -> StoreError:
    error = StoreError("it cannot be opened")
    error.__cause__ = OSError(code, os.strerror(code))
    return error


def test_what_needs_a_descriptor_waits_until_one_is_free(taken: ExitStack) -> None:
    with pytest.raises(OSError, match="Too many open files"):
        os.open("/", os.O_RDONLY)
    later = threading.Timer(0.2, taken.close)
    later.start()
    os.close(with_room(os.open, "/", os.O_RDONLY))
    later.join()


def test_a_refusal_for_want_of_descriptors_is_told_by_its_cause() -> None:
    answers: list[StoreError | str] = [refused(errno.EMFILE), refused(errno.ENFILE), "open"]

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    assert with_room(call) == "open"


def test_any_other_refusal_is_raised_at_once() -> None:
    calls = []

    def call(name: str) -> None:
        calls.append(name)
        raise refused(errno.EACCES)

    with pytest.raises(StoreError):
        with_room(call, "name")
    assert calls == ["name"]


def test_room_that_never_comes_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, taken: ExitStack
) -> None:
    monkeypatch.setattr(descriptors, "PATIENCE_S", 0.1)
    with pytest.raises(OSError, match="Too many open files"):
        with_room(os.open, "/", os.O_RDONLY)
