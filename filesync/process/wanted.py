"""Whether anybody still waits for what a thread does that may take years, as a file of 8 EiB does."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Final

_GIVEN_UP: Final[ContextVar[Event | None]] = ContextVar("given_up", default=None)


class NotWanted(Exception):
    """Nobody waits any more for what this thread does."""


def check_wanted() -> None:
    """Return if this is wanted; to be called between pieces of work that may be many.

    Raises:
        NotWanted: whoever waited has said that he does not.
    """
    given_up = _GIVEN_UP.get()
    if given_up is not None and given_up.is_set():
        raise NotWanted


@contextmanager
def until_given_up() -> Iterator[Event]:
    """Yield what is to be set when what is begun in the block, with its context, is wanted no more."""
    given_up = Event()
    token = _GIVEN_UP.set(given_up)
    try:
        yield given_up
    finally:
        _GIVEN_UP.reset(token)
